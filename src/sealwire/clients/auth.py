"""The client of auth: the contract in this process or across HTTP, and the calls a program makes with tokens."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from random import Random
from typing import Final

from sealwire.clients.guarded import Guarded, guarded
from sealwire.clients.http import Remote, Transport, remote
from sealwire.contracts.auth import OPERATIONS, Auth
from sealwire.contracts.logins import LoginResult
from sealwire.contracts.revocations import Revocation
from sealwire.contracts.sessions import RefreshRequest, SessionQuery, SessionState
from sealwire.contracts.tokens import Introspection, TokenQuery
from sealwire.contracts.users import Profile, UserNotFound, UserQuery
from sealwire.kit.caller import ANONYMOUS, SYSTEM_TENANT, Caller, service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.problem import Unauthenticated
from sealwire.resilience.breaker import BreakerSnapshot
from sealwire.resilience.cache import TtlCache
from sealwire.resilience.guard import Guard

MAX_TOKEN_CHARS: Final = 8_192
MAX_STALE_S: Final = 0.5
"""How old an answer about a token or session may be; with the way to auth, a revocation holds within a second."""


def local_auth(service: Auth, guard: Guard) -> Auth:
    """Return the service in this process behind its guard."""
    return guarded(service, OPERATIONS, guard)


def remote_auth(transport: Transport, guard: Guard) -> Auth:
    """Return the service at the other end of `transport`. `guard` needs a timeout."""
    client: Auth = remote(OPERATIONS, transport, guard)
    return client


class AuthClient:
    """Validates tokens and looks up sessions and profiles, with short caches in front of the contract.

    What it caches is never older than `stale_s`, and goes at once when `follow` is given auth's feed. Refusals are not
    cached. For one event loop.
    """

    def __init__(
        self,
        *,
        auth: Auth,
        service: str,
        clock: Clock,
        rng: Random,
        stale_s: float = MAX_STALE_S,
        profile_ttl_s: float = 30.0,
        max_entries: int = 20_000,
    ) -> None:
        """`auth` as `local_auth` or `remote_auth` gives it; `service` is who asks. `profile_ttl_s` counts only while
        `follow` is called, so a caller without the feed gives `stale_s` for it too."""
        self.contract = auth
        self._caller = service_caller(service, SYSTEM_TENANT)
        self._service = service
        self._clock = clock
        self._tokens: TtlCache[bytes, Introspection] = TtlCache(
            max_entries=max_entries, ttl_s=stale_s, jitter=0.0, clock=clock, rng=rng
        )
        self._sessions: TtlCache[str, SessionState] = TtlCache(
            max_entries=max_entries, ttl_s=stale_s, jitter=0.0, clock=clock, rng=rng
        )
        self._profiles: TtlCache[tuple[str, str], Profile] = TtlCache(
            max_entries=max_entries, ttl_s=profile_ttl_s, clock=clock, rng=rng
        )

    async def validate_token(self, token: str) -> Introspection:
        """Return what auth says of a live token. Raises: Unauthenticated for any other; Unavailable."""
        if not 0 < len(token) <= MAX_TOKEN_CHARS:
            raise Unauthenticated
        key = sha256(token.encode("utf-8", "replace")).digest()
        found = await self._tokens.get_or_load(key, lambda: self._introspect(token))
        if found.exp * US_PER_S <= self._clock.now_us():
            self._tokens.invalidate(key)
            raise Unauthenticated
        return found

    async def _introspect(self, token: str) -> Introspection:
        found = await self.contract.introspect(self._caller, TokenQuery(token=token))
        if not found.active:
            raise Unauthenticated
        return found

    async def get_session(self, session_id: str) -> SessionState:
        """Return the state of a session. Raises: SessionNotFound, Unavailable."""
        query = SessionQuery(session_id=session_id)
        return await self._sessions.get_or_load(session_id, lambda: self.contract.session(self._caller, query))

    async def get_user_profile(self, tenant_id: str, user_id: str) -> Profile:
        """Return a user of the tenant. Raises: UserNotFound, Unavailable."""

        async def load() -> Profile:
            caller = service_caller(self._service, tenant_id)
            found = (await self.contract.profiles(caller, UserQuery(user_ids=[user_id]))).items
            if not found:
                raise UserNotFound("There is no such user.")
            return found[0]

        return await self._profiles.get_or_load((tenant_id, user_id), load)

    async def refresh_token(self, refresh_token: str, *, ip: str = "", user_agent: str = "") -> LoginResult:
        """Exchange a refresh token for a new pair. Raises: RefreshInvalid, RefreshReused, Unavailable."""
        caller = Caller(principal=ANONYMOUS, ip=ip, user_agent=user_agent)
        return await self.contract.refresh(caller, RefreshRequest(refresh_token=refresh_token))

    async def revoke_token(self, caller: Caller, token: str) -> None:
        """Revoke a token of the caller; what this client knew of it is forgotten. Raises: Unavailable."""
        await self.contract.revoke(caller, TokenQuery(token=token))
        self._tokens.invalidate(sha256(token.encode("utf-8", "replace")).digest())
        self._sessions.invalidate(caller.principal.session_id)

    def follow(self, revocations: Iterable[Revocation]) -> None:
        """Forget at once whatever the entries of auth's feed are about."""
        for entry in revocations:
            self._forget(entry)

    def _forget(self, entry: Revocation) -> None:
        self._tokens.invalidate_where(lambda _, token: _concerns(entry, token.tid, token.sub, token.sid))
        self._sessions.invalidate_where(
            lambda _, state: _concerns(entry, state.tenant_id, state.user_id, state.session_id)
        )
        self._profiles.invalidate_where(lambda key, _: entry.tenant_id == key[0] and entry.subject in ("", key[1]))

    def is_healthy(self) -> bool:
        """Whether calls go through at the moment."""
        return self._guarded.is_healthy()

    def get_circuit_breaker_state(self) -> BreakerSnapshot:
        """Return the breaker's state, counts and last transitions."""
        return self._guarded.get_circuit_breaker_state()

    def clear_cache(self) -> None:
        """Forget all answers."""
        self._tokens.clear()
        self._sessions.clear()
        self._profiles.clear()
        self._guarded.clear_cache()

    @property
    def _guarded(self) -> Guarded | Remote:
        if not isinstance(self.contract, Guarded | Remote):
            raise TypeError("the client needs a contract behind a guard: local_auth or remote_auth")
        return self.contract


def _concerns(entry: Revocation, tenant_id: str, user_id: str, session_id: str) -> bool:
    """Whether an entry may be about this session; one that may is asked about again, so too many is no harm."""
    if entry.tenant_id != tenant_id:
        return False
    if entry.kind in ("session", "token"):
        return entry.session_id == session_id
    return entry.kind == "tenant" or entry.subject == user_id
