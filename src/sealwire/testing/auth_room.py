"""An auth service on a folder, with the crypto service it needs: for tests that restart and race it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Final

import pyotp

from sealwire.adapters.distributed.outward import HttpOutward
from sealwire.adapters.embedded.auth import SqliteAuth
from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.mail import FolderMailer
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.auth_terms import UserRole
from sealwire.contracts.identity import OPERATIONS, Identity
from sealwire.contracts.logins import Login, LoginResult
from sealwire.contracts.opened import Opened, OpenedQuery
from sealwire.contracts.sessions import SessionQuery
from sealwire.contracts.users import NewUser, Registration
from sealwire.kit.caller import ANONYMOUS, Caller, Principal, service_caller
from sealwire.kit.clock import US_PER_S, Clock, SystemClock
from sealwire.kit.permission import Permission
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.openid_ports import Outward
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.routes import routes
from sealwire.services.auth.service import AuthService
from sealwire.services.auth.tokens import AccessTokens
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock
from sealwire.testing.wirings import open_wiring

CHEAP: Final = AuthConfig(password_memory_kib=64, password_passes=1)
"""Passwords hashed at a cost for tests."""
PASSWORD: Final = "kettle walrus tin"  # noqa: S105 - of people in tests
BOUNDARY: Final = service_caller("gateway", "default")


@asynccontextmanager
async def open_auth_stores(family: str, folder: Path) -> AsyncIterator[AuthStores]:
    """Give auth's stores of a family that keep their state in `folder`. Raises: ValueError for a family not there."""
    if family != "embedded":
        raise ValueError(f"no family {family!r}")
    auth = SqliteAuth.open(folder / "auth.db")
    try:
        yield auth.stores
    finally:
        await auth.close()


class AuthRoom:
    """Auth with its crypto. Opening it again on the same folder is a restart."""

    def __init__(
        self,
        folder: Path,
        *,
        config: AuthConfig = CHEAP,
        wiring: str = "direct",
        clock: Clock | None = None,
        outward: Outward | None = None,
        public_url: str = "",
    ) -> None:
        self.folder = folder
        self.config = config
        self.wiring = wiring
        self.public_url = public_url
        self.outward: Outward = outward or HttpOutward(networks=config.outward_networks)
        # It stands still, but near the real time: the edge measures the age of a step-up by the machine's clock.
        self.clock: Clock = clock or ManualClock(now_us=SystemClock().now_us() // US_PER_S * US_PER_S)

    async def open(self) -> Identity:
        """Start everything and return the service as its callers see it."""
        self._crypto_db = Database.open(self.folder / "crypto.db", MIGRATIONS)
        self.crypto = CryptoService(
            store=SqliteKeyStore(self._crypto_db),
            provider=FileKeyProvider.open(self.folder / "kek"),
            clock=self.clock,
            config=CryptoConfig(),
        )
        await self.crypto.start()
        self.storage = SqliteAuth.open(self.folder / "auth.db")
        self.ring = KeyRing(crypto=self.crypto, service="auth", clock=self.clock)
        self.outbox = self.folder / "outbox"
        self.service = AuthService(
            stores=self.storage.stores,
            sealer=self.ring,
            mailer=FolderMailer(self.outbox, sender=self.config.mail_from),
            clock=self.clock,
            config=self.config,
            outward=self.outward,
            public_url=self.public_url,
        )
        await self.service.start()
        self.auth: Identity = open_wiring(self.wiring, self.service, OPERATIONS, routes, clock=self.clock)
        return self.auth

    async def close(self) -> None:
        """Stop everything in order."""
        await self.service.stop()
        await self.storage.close()
        await self.crypto.stop()
        await self._crypto_db.close()

    async def hush(self) -> None:
        """Stop what writes on its own, some while after what was asked: for tests that count what a call writes."""
        service = self.service
        for part in (service.openid.courier, service.herald, service.postman, service.upkeep):
            await part.stop()

    async def letters(self) -> list[EmailMessage]:
        """Write and hand over what is due; return all letters that went out, in order."""
        await self.service.herald.tell()
        await self.service.postman.deliver()
        files = sorted(self.outbox.glob("*.eml"))
        return [message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]

    async def events(self) -> list[str]:
        """Return the kinds of all events, in order."""
        return [event.kind for event in await self.service.events.read(0, 10_000)]

    async def opened(self) -> list[Opened]:
        """Return what is told of logins, in order."""
        return (await self.auth.opened(BOUNDARY, OpenedQuery(after=0, limit=1_000))).items

    # ---- time

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(seconds)

    def app_code(self, secret: str) -> str:
        """Return what an authenticator app shows, half a minute later: a code is good once."""
        self.advance(30)
        return pyotp.TOTP(secret).generate_otp(self.clock.now_us() // 30_000_000)

    # ---- people

    async def register(self, name: str, *, tenant: str | None = None, password: str = PASSWORD) -> str:
        """Register a person and return the user id."""
        registration = Registration(
            email=f"{name}@example.org", password=password, display_name=name.title(), tenant=tenant
        )
        return (await self.auth.register(somebody(), registration)).user.user_id

    async def log_in(self, name: str, *, tenant: str | None = None, password: str = PASSWORD) -> LoginResult:
        """Log a person in with the password."""
        return await self.auth.login(somebody(), Login(email=f"{name}@example.org", password=password, tenant=tenant))

    async def enter(self, name: str, *, tenant: str | None = None) -> tuple[Caller, LoginResult]:
        """Register and log in; return the caller they are then, and their tokens."""
        await self.register(name, tenant=tenant)
        granted = await self.log_in(name, tenant=tenant)
        return self.caller(granted), granted

    async def add(self, by: Caller, name: str, role: UserRole = "member") -> str:
        """Have an administrator make a user; return the user id."""
        new = NewUser(email=f"{name}@example.org", password=PASSWORD, display_name=name.title(), role=role)
        return (await self.auth.add_user(by, new)).user_id

    def caller(self, granted: LoginResult) -> Caller:
        """Return the caller that the boundary would make of a granted access token."""
        tokens = AccessTokens(signing=self.service.signing, clock=self.clock, config=self.config)
        claims = tokens.read(granted.access_token)
        principal = Principal(
            kind="user",
            tenant_id=claims.tid,
            subject=claims.sub,
            role=claims.role,
            session_id=claims.sid,
            email=claims.email,
            epoch=claims.epoch,
            auth_time_s=claims.auth_time,
            amr=tuple(claims.amr),
            expires_at_s=claims.exp,
            token_id=claims.jti,
            scopes=(Permission.OWN_PROFILE,) if claims.enrol_only else None,
        )
        return Caller(principal=principal, ip="192.0.2.7", user_agent="test/1.0")

    async def is_live(self, granted: LoginResult) -> bool:
        """Whether the session of a grant lives and accepts its access token."""
        state = await self.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))
        return state.active and self.caller(granted).principal.epoch >= state.epoch


def somebody(ip: str = "192.0.2.7") -> Caller:
    """Return a caller without a credential."""
    return Caller(principal=ANONYMOUS, ip=ip, user_agent="test/1.0")
