"""What a browser holds between pages: the cookie of its session here, and requests in work, sealed and bound to it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import Final

import msgspec

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.envelopes import EnvelopeRefused
from sealwire.services.auth.openid_requests import AuthorizationRequest
from sealwire.services.auth.ports import SessionStore
from sealwire.services.auth.records import Record, SessionRecord, UserRecord
from sealwire.services.auth.vault import Vault

REQUEST_LIFE_S: Final = 900
_COOKIE: Final = re.compile(r"sws1\.([0-9a-f-]{36})\.([A-Za-z0-9_-]{43})")
_RECORD: Final = "openid-request"


class Present(Record):
    """Who is signed in in a browser."""

    session: SessionRecord
    user: UserRecord

    def caller(self, by: Caller) -> Caller:
        """Return the caller that this person is in a request that came as `by`."""
        principal = Principal(
            kind="user",
            tenant_id=self.user.tenant_id,
            subject=self.user.user_id,
            role=self.user.role,
            session_id=self.session.session_id,
            epoch=self.user.epoch,
            auth_time_s=self.session.auth_us // US_PER_S,
            amr=self.session.amr,
        )
        return msgspec.structs.replace(by, principal=principal)


class Interaction(Record):
    """A request in work. `browser` is the hash of the cookie it is for; `session_id` whose consent is asked for.

    `challenge` is the one of the passkey that its page offers: no other is answered there, and it nowhere else.

    Exactly one of `request` and `logout_uri` is there, or `consents`: the page of one's apps; with `account` it was
    shown to a session of the API, which its forms do not carry.
    """

    browser: str
    started_us: int
    session_id: str = ""
    request: AuthorizationRequest | None = None
    logout_uri: str | None = None
    consents: bool = False
    account: bool = False
    challenge: str = ""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Interaction).decode


class BrowserState:
    """Makes and reads both."""

    def __init__(self, *, sessions: SessionStore, vault: Vault, clock: Clock) -> None:
        self._sessions = sessions
        self._vault = vault
        self._clock = clock

    # ---- who is signed in

    def cookie(self, session_id: str) -> str:
        """Return the cookie of a session: good for these pages only, never for the API."""
        return f"sws1.{session_id}.{self._mac(session_id)}"

    async def present(self, cookie: str) -> Present | None:
        """Return who is signed in, while session, person and tenant live."""
        match = _COOKIE.fullmatch(cookie)
        if match is None or not hmac.compare_digest(self._mac(match[1]), match[2]):
            return None
        return await self.session(match[1])

    async def session(self, session_id: str) -> Present | None:
        """Return a session that lives."""
        found = await self._sessions.get(session_id)
        if found is None:
            return None
        session, user, tenant = found
        lives = session.ended_us == 0 and session.expires_us > self._clock.now_us()
        if not lives or user.status != "active" or tenant.status != "active":
            return None
        return Present(session=session, user=user)

    def _mac(self, session_id: str) -> str:
        mac = self._vault.derive("openid-browser", session_id)
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode("ascii")

    # ---- requests in work

    async def seal(self, interaction: Interaction) -> str:
        """Return what stands in a form's hidden field."""
        sealed = await self._vault.seal("", _RECORD, _encode(interaction))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")

    async def open(self, text: str, browser: str) -> Interaction | None:
        """Read a form's hidden field; None unless we sealed it for this very browser, and not long ago."""
        try:
            sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            interaction = _decode(await self._vault.open("", _RECORD, sealed))
        except (binascii.Error, ValueError, EnvelopeRefused, DecryptionFailed, KeyUnusable, msgspec.MsgspecError):
            return None
        if not browser or not hmac.compare_digest(interaction.browser, browser_hash(browser)):
            return None
        if self._clock.now_us() > interaction.started_us + REQUEST_LIFE_S * US_PER_S:
            return None
        return interaction


def browser_hash(cookie: str) -> str:
    """Hash the random cookie by which a browser is known again."""
    return hashlib.sha256(cookie.encode("utf-8", "replace")).hexdigest()
