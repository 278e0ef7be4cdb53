"""Auth for tests of what stands around it: real keys, real tokens, sessions and a numbered feed in memory.

It answers `jwks`, `session`, `profiles`, `revocations`, `opened` and `seen` as contracts/auth.py says. `outage` makes
every answer fail with that error; `hang` makes it never come.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec

from sealwire.contracts.auth import Auth
from sealwire.contracts.auth_terms import ACCESS_TYP
from sealwire.contracts.legacy import LegacyUse, LegacyUses
from sealwire.contracts.opened import Opened, OpenedQuery, OpenedSessions
from sealwire.contracts.revocations import FeedQuery, Revocation, Revocations
from sealwire.contracts.sessions import Seen, SessionNotFound, SessionQuery, SessionState
from sealwire.contracts.tokens import AccessClaims, Jwks
from sealwire.contracts.users import Profile, Profiles, UserQuery
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.ids import new_id
from sealwire.kit.jose import Algorithm, Key, KeySet, sign
from sealwire.kit.permission import Role

ISSUER = "https://sealwire.test"
AUDIENCE = "sealwire"
TTL_S = 600


class MemoryAuthority:
    """Users, sessions and revocations. Use `contract` where an Auth is wanted."""

    def __init__(self, *, clock: Clock) -> None:
        self.clock = clock
        self.keys = [Key.generate(Algorithm.EDDSA, kid="auth.1")]
        self.users: dict[str, Profile] = {}
        self.sessions: dict[str, SessionState] = {}
        self.feed: list[Revocation] = []
        self.logins: list[Opened] = []
        self.outage: Exception | None = None
        self.hang = False
        self.asked: list[str] = []
        self.legacy_uses: list[LegacyUse] = []
        self.seen_sessions: dict[str, int] = {}
        self.run = new_id()
        self._changed = asyncio.Event()

    @property
    def contract(self) -> Auth:
        """The same, as the contract that parts of the system ask for."""
        return cast(Auth, self)

    # -- what a test does

    def add_user(self, user_id: str, *, tenant_id: str = "t", role: Role = Role.MEMBER, epoch: int = 1) -> Profile:
        """Register a person."""
        self.users[user_id] = Profile(
            user_id=user_id,
            tenant_id=tenant_id,
            display_name=user_id,
            email=f"{user_id}@example.org",
            role=role,
            active=True,
            epoch=epoch,
        )
        return self.users[user_id]

    def log_in(self, user_id: str) -> SessionState:
        """Open a session."""
        user = self.users[user_id]
        session_id = new_id()
        self.sessions[session_id] = SessionState(
            session_id=session_id,
            tenant_id=user.tenant_id,
            user_id=user_id,
            role=user.role,
            email=user.email,
            epoch=user.epoch,
            active=True,
            expires_at_s=self.clock.now_us() // US_PER_S + 86_400,
        )
        login = Opened(
            number=len(self.logins) + 1,
            change_id=new_id(),
            tenant_id=user.tenant_id,
            subject=user_id,
            session_id=session_id,
            at_us=self.clock.now_us(),
        )
        self.logins.append(login)
        return self.sessions[session_id]

    def token(self, session: SessionState, **changes: Any) -> str:
        """Sign an access token of the session, with claims changed (None leaves one out)."""
        user = self.users[session.user_id]
        now_s = self.clock.now_us() // US_PER_S
        claims = AccessClaims(
            iss=ISSUER,
            aud=AUDIENCE,
            sub=user.user_id,
            client_id="sealwire",
            email=user.email,
            role=user.role,
            tid=user.tenant_id,
            sid=session.session_id,
            jti=new_id(),
            iat=now_s,
            exp=now_s + TTL_S,
            auth_time=now_s,
            amr=["pwd"],
            epoch=user.epoch,
        )
        said = {name: value for name, value in (msgspec.to_builtins(claims) | changes).items() if value is not None}
        return sign(said, KeySet(self.keys).signing_key(), ACCESS_TYP)

    def log_out(self, session_id: str) -> Revocation:
        """End one session."""
        session = self.sessions[session_id]
        self.sessions[session_id] = msgspec.structs.replace(session, active=False)
        return self.revoke(
            "session", tenant_id=session.tenant_id, subject=session.user_id, session_id=session_id, reason="logout"
        )

    def cut(self, user_id: str, *, keep: str = "", reason: str = "password_changed") -> Revocation:
        """End every session of a person but `keep`, and raise the epoch."""
        user = msgspec.structs.replace(self.users[user_id], epoch=self.users[user_id].epoch + 1)
        self.users[user_id] = user
        for session_id, session in self.sessions.items():
            if session.user_id == user_id and session_id != keep:
                self.sessions[session_id] = msgspec.structs.replace(session, active=False)
        return self.revoke(
            "subject", tenant_id=user.tenant_id, subject=user_id, session_id=keep, epoch=user.epoch, reason=reason
        )

    def end_tenant(self, tenant_id: str) -> Revocation:
        """End every session of a tenant, and raise the epochs of its people."""
        for user in [user for user in self.users.values() if user.tenant_id == tenant_id]:
            self.users[user.user_id] = msgspec.structs.replace(user, epoch=user.epoch + 1)
        for session in [session for session in self.sessions.values() if session.tenant_id == tenant_id]:
            self.sessions[session.session_id] = msgspec.structs.replace(session, active=False)
        return self.revoke("tenant", tenant_id=tenant_id, reason="tenant_suspended")

    def change_role(self, user_id: str, role: Role) -> Revocation:
        """Give a person another role; sessions go on."""
        user = msgspec.structs.replace(self.users[user_id], role=role, epoch=self.users[user_id].epoch + 1)
        self.users[user_id] = user
        for session_id, session in self.sessions.items():
            if session.user_id == user_id:
                self.sessions[session_id] = msgspec.structs.replace(session, role=role)
        return self.revoke("role", tenant_id=user.tenant_id, subject=user_id, epoch=user.epoch, reason="role_changed")

    def revoke(self, kind: Any, **fields: Any) -> Revocation:
        """Put an entry into the feed."""
        now_us = self.clock.now_us()
        entry = Revocation(
            number=len(self.feed) + 1,
            change_id=new_id(),
            kind=kind,
            at_us=now_us,
            expires_at_s=now_us // US_PER_S + 86_400,
            **fields,
        )
        self.feed.append(entry)
        self._changed.set()
        return entry

    # -- the contract

    async def jwks(self, caller: Caller) -> Jwks:
        await self._enter("jwks")
        return Jwks(keys=[{name: str(value) for name, value in key.public_jwk().items()} for key in self.keys])

    async def session(self, caller: Caller, query: SessionQuery) -> SessionState:
        await self._enter("session")
        found = self.sessions.get(query.session_id)
        if found is None:
            raise SessionNotFound
        return found

    async def profiles(self, caller: Caller, query: UserQuery) -> Profiles:
        await self._enter("profiles")
        wanted = [self.users[user_id] for user_id in query.user_ids if user_id in self.users]
        return Profiles(items=[user for user in wanted if user.tenant_id == caller.tenant_id])

    async def revocations(self, caller: Caller, query: FeedQuery) -> Revocations:
        await self._enter("revocations")
        if query.last and (len(self.feed) < query.after or self.feed[query.after - 1].change_id != query.last):
            return Revocations(items=[], newest=len(self.feed), broken=True, run=self.run)
        if len(self.feed) <= query.after and query.wait_ms:
            self._changed.clear()
            try:
                async with asyncio.timeout(query.wait_ms / 1000):
                    await self._changed.wait()
            except TimeoutError:
                pass
            await self._enter("")
        return Revocations(
            items=self.feed[query.after : query.after + query.limit], newest=len(self.feed), run=self.run
        )

    async def opened(self, caller: Caller, query: OpenedQuery) -> OpenedSessions:
        await self._enter("opened")
        newest = len(self.logins)
        if not 0 <= query.after <= newest:
            return OpenedSessions(items=[], upto=newest, newest=newest)
        items = self.logins[query.after : query.after + query.limit]
        return OpenedSessions(items=items, upto=query.after + len(items), newest=newest)

    async def seen(self, caller: Caller, seen: Seen) -> None:
        await self._enter("seen")
        self.seen_sessions |= {item.session_id: item.at_us for item in seen.items}

    async def note_legacy(self, caller: Caller, uses: LegacyUses) -> None:
        await self._enter("note_legacy")
        self.legacy_uses += uses.items

    async def _enter(self, name: str) -> None:
        if name:
            self.asked.append(name)
        if self.hang:
            await asyncio.Event().wait()
        if self.outage is not None:
            raise self.outage
