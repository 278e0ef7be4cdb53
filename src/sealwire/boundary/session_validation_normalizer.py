"""Session validation normaliser: one shape of answer, whoever it came from (R6.2), and degraded never weaker (R6.6).

Who is asked, in this order: the revocations known here (they always win), memory, the shared cache, auth. What memory
and cache say counts only while the revocation feed is young, and only if it was said after the newest entry about that
person. When nobody who knows can be asked, the fallback provider's copy serves low-risk operations for a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter, deque
from random import Random
from typing import Any, Final, Protocol

import msgspec

from sealwire.boundary.fallback_session_provider import FallbackSessionProvider
from sealwire.boundary.legacy_log import LegacyLog
from sealwire.boundary.model import ComponentHealth, Health, Source, Status, Validation, VerifiedToken
from sealwire.boundary.ports import KnownSession
from sealwire.boundary.revocation_book import NOTHING, UNSETTLED
from sealwire.contracts.auth import Auth
from sealwire.contracts.revocations import Revocation
from sealwire.contracts.sessions import SessionNotFound, SessionQuery, SessionState
from sealwire.contracts.users import UserQuery
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.envelopes import EnvelopeRefused, SealingKey
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Role, lower
from sealwire.kit.problem import Problem
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.cache import CacheFault, SharedCache
from sealwire.resilience.breaker import Breaker, State, Transition
from sealwire.resilience.cache import TtlCache
from sealwire.resilience.failure import CircuitOpen

_LOG = logging.getLogger("sealwire.boundary")
CACHE_BREAKER: Final = "session_cache"
WATCH_EVERY_S: Final = 0.5
CLOCKS_DIFFER_US: Final = 5 * US_PER_S
BEACON_TTL_S: Final = 3_600.0
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KnownSession).decode


class Feed(Protocol):
    """What the normaliser needs of the revocation feed's reader (the coordinator)."""

    @property
    def fresh(self) -> bool:
        """Whether the feed was read within its bound."""

    async def ensure_fresh(self) -> bool:
        """Try to read the feed now if it is not fresh; return whether it is."""


class SessionValidationNormalizer:
    """Answers whether a verified token's session lives, and as whom."""

    def __init__(
        self,
        *,
        auth: Auth,
        legacy_log: LegacyLog,
        feed: Feed,
        fallback: FallbackSessionProvider,
        cache: SharedCache,
        cache_breaker: Breaker,
        key: SealingKey,
        clock: Clock,
        rng: Random,
        service: str = "gateway",
        memory_ttl_s: float = 30.0,
        cache_ttl_s: float = 60.0,
        unconfirmed_s: int = 900,
        max_sessions: int = 100_000,
    ) -> None:
        self._auth = auth
        self._legacy_log = legacy_log
        self._feed = feed
        self._fallback = fallback
        self._book = fallback.book
        self._cache = cache
        self._breaker = cache_breaker
        self._key = key
        self._clock = clock
        self._service = service
        self._cache_ttl_s = cache_ttl_s
        self._memory_ttl_s = memory_ttl_s
        self._unconfirmed_s = unconfirmed_s
        self._memory: TtlCache[str, KnownSession] = TtlCache(
            max_entries=max_sessions, ttl_s=memory_ttl_s, clock=clock, rng=rng
        )
        self._heard: deque[tuple[float, int]] = deque()  # where the feed stood, one time to live back
        self._turns = 0
        self._beacon_key = f"beacon:{new_id()}"
        self._beacon: bytes | None = None
        self._cache_lost_at: int | None = NOTHING  # what it missed before this process was there is not known
        self._missed = 0
        self._reconciling = False
        self._task: asyncio.Task[None] | None = None
        self.answers: Counter[tuple[Status, Source]] = Counter()
        cache_breaker.listen(self._on_cache)

    async def start(self) -> None:
        """Begin to watch for a shared cache that came back."""
        self._task = asyncio.create_task(self._watch(), name="session-cache-watch")

    async def stop(self) -> None:
        """Stop watching. Safe to call twice."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    @property
    def degraded(self) -> bool:
        """Whether sessions are validated without one of the parts that should be asked."""
        return self._breaker.state is not State.CLOSED or not self._feed.fresh

    def holds(self, token: VerifiedToken, principal: Principal) -> bool:
        """Whether memory alone confirms the session and who the principal is, as of now, while the feed is young."""
        known = self._memory.get(token.session_id)
        return (
            known is not None
            and known.state.role is principal.role
            and known.state.email == principal.email
            and self._book.against(token) in ("", UNSETTLED)
            and not self._stale(known)
            and not self._fault(token, known.state)
        )

    def cached(self, token: VerifiedToken) -> Validation | None:
        """Answer from memory, without waiting; None when somebody has to be asked."""
        reason = self._book.against(token) or self._outlived(token)
        if reason not in ("", UNSETTLED):
            return self._answer(Status.REVOKED, None, Source.REVOCATIONS, reason)
        if not self._feed.fresh:
            return None
        known = self._memory.get(token.session_id)
        if known is None or self._stale(known):
            return None
        return self._judge(token, known, Source.MEMORY)

    async def validate(self, token: VerifiedToken) -> Validation:
        """Answer, asking whoever has to be asked. Never raises for an outage: that is an answer too."""
        if not self._feed.fresh:
            await self._feed.ensure_fresh()
        answer = self.cached(token)
        if answer is not None:
            return answer
        if self._feed.fresh and not token.legacy:
            known = await self._from_cache(token.session_id)
            if known is not None and not self._stale(known):
                self._memory.put(token.session_id, known)
                return self._judge_again(token, known, Source.CACHE)
        number, run = self._fallback.position, self._fallback.run
        try:
            state = await (self._ask_legacy(token) if token.legacy else self._ask(token))
        except SessionNotFound:
            return self._answer(Status.REVOKED, None, Source.AUTH, "session_unknown")
        except Exception as error:
            if not isinstance(error, Problem):
                _LOG.exception("auth could not say whether a session lives")
            return self._unconfirmed(token)
        known = KnownSession(state, number, self._clock.now_us(), run)
        if state.active:
            if not token.legacy:
                await self._keep(known, shared=True)
            elif token.kid:  # verified here; another service's word is not kept, under an id that it may have chosen
                self._legacy_log.note(token)
                await self._keep(known, shared=False)
        return self._judge_again(token, known, Source.AUTH)

    async def apply(self, revocation: Revocation) -> None:
        """Take a revocation out of memory and of the shared cache. Raises: what the cache raises."""
        if revocation.kind == "session":
            self._memory.invalidate(revocation.session_id)
            try:
                await self._breaker.call(self._cache.delete, _cache_key(revocation.session_id))
                await self._light_beacon()  # after it, so whoever has the beacon has done the other, too
            except BaseException:  # a call that was given up counts too: nobody knows what became of it
                self._note_lost(revocation.number - 1)
                raise

    async def reconcile(self) -> int:
        """Bring the shared cache up to date after it was away; return how many entries were written."""
        if self._cache_lost_at is None or self._reconciling or self._breaker.state is not State.CLOSED:
            return 0
        since, missed = self._cache_lost_at, self._missed
        self._reconciling = True
        try:
            written = await self._fallback.reconcile(
                since=since,
                put=self._put_in_cache,
                delete=lambda session_id: self._breaker.call(self._cache.delete, _cache_key(session_id)),
            )
        except (CircuitOpen, ConnectionError, TimeoutError):
            return 0  # away again; what is left is done the next time
        finally:
            self._reconciling = False
        if self._missed == missed:  # else something failed meanwhile: once more, from the earliest
            self._cache_lost_at = None
        return written

    def health(self) -> ComponentHealth:
        """Degraded while sessions are validated without the cache or the feed."""
        details: dict[str, Any] = {
            "degraded_mode": self.degraded,
            "session_cache": self._breaker.state.value,
            "sessions_in_memory": len(self._memory),
            "memory_hits": self._memory.hits,
            "memory_misses": self._memory.misses,
            "answers": {f"{status}/{source}": count for (status, source), count in self.answers.items()},
        }
        return ComponentHealth(status=Health.DEGRADED if self.degraded else Health.HEALTHY, details=details)

    def forget(self) -> None:
        """Forget what is in memory; the next question of each session is asked anew."""
        self._memory.clear()

    # -- who is asked

    async def _ask(self, token: VerifiedToken) -> SessionState:
        query = SessionQuery(session_id=token.session_id)
        return await self._auth.session(self._caller(token.tenant_id), query)

    async def _ask_legacy(self, token: VerifiedToken) -> SessionState:
        """Resolve a legacy token by its `id`: it must be that user's address now. Raises: SessionNotFound."""
        found = await self._auth.profiles(self._caller(token.tenant_id), UserQuery(user_ids=[token.subject]))
        for profile in found.items:
            if profile.user_id == token.subject and profile.email.casefold() == token.email.casefold():
                return SessionState(
                    session_id=token.session_id,
                    tenant_id=profile.tenant_id,
                    user_id=profile.user_id,
                    role=profile.role,
                    email=profile.email,
                    epoch=0,
                    active=profile.active,
                    expires_at_s=token.expires_at_s,
                    enrol_only=profile.needs_mfa,
                )
        raise SessionNotFound

    async def _from_cache(self, session_id: str) -> KnownSession | None:
        """Read the shared cache; a fault, or what is not sealed by us for this session, is as good as nothing."""
        key = _cache_key(session_id)
        try:
            return await self._breaker.call(self._read, key)
        except (CircuitOpen, ConnectionError, TimeoutError):
            return None

    async def _read(self, key: str) -> KnownSession | None:
        """Read an entry. Raises: CacheFault, also for what we did not seal for this session: no good cache has that."""
        sealed = await self._cache.get(key)
        try:
            return None if sealed is None else _decode(self._key.open(sealed, key.encode()))
        except (EnvelopeRefused, msgspec.MsgspecError) as error:
            raise CacheFault("the cache holds what is not ours") from error

    async def _keep(self, known: KnownSession, *, shared: bool) -> None:
        state = known.state
        self._fallback.remember(state, known.number, known.run)
        left_s = state.expires_at_s - self._clock.now_us() / US_PER_S
        self._memory.put(state.session_id, known, ttl_s=left_s)
        if shared:
            # The breaker has counted a fault; `reconcile` brings the session there later.
            with contextlib.suppress(CircuitOpen, ConnectionError, TimeoutError):
                await self._put_in_cache(known)

    async def _put_in_cache(self, known: KnownSession) -> None:
        key = _cache_key(known.state.session_id)
        now_us = self._clock.now_us()
        age_s = max(now_us - known.confirmed_at_us, 0) / US_PER_S
        left_s = min(self._cache_ttl_s - age_s, known.state.expires_at_s - now_us / US_PER_S)
        if left_s > 0:
            sealed = self._key.seal(_encode(known), key.encode())
            try:
                await self._breaker.call(_put, self._cache, key, sealed, left_s)
            except BaseException:
                self._note_lost(self._fallback.number_of(known))
                raise

    # -- what is made of it

    def _judge(self, token: VerifiedToken, known: KnownSession, source: Source) -> Validation:
        """Hold a token, against which nothing is known, against what is known of its session."""
        if reason := self._fault(token, known.state):
            return self._answer(Status.REVOKED, None, source, reason)
        state = known.state
        principal = token.principal(role=state.role, email=state.email, enrol_only=state.enrol_only)
        return self._answer(Status.VALID, principal, source, "", ends_at_s=state.expires_at_s)

    def _judge_again(self, token: VerifiedToken, known: KnownSession, source: Source) -> Validation:
        """Judge after somebody was asked: the session may have ended while the answer was on its way."""
        reason = self._book.against(token)
        if reason and (reason != UNSETTLED or self._stale(known)):
            return self._answer(Status.REVOKED, None, Source.REVOCATIONS, reason)
        return self._judge(token, known, source)

    def _fault(self, token: VerifiedToken, state: SessionState) -> str:
        """Return why the session does not bear the token, or an empty string."""
        if state.user_id != token.subject or state.tenant_id != token.tenant_id or state.kind not in (None, token.kind):
            return "not_its_session"
        if not state.active or state.expires_at_s * US_PER_S <= self._clock.now_us():
            return "session_ended"
        return "epoch_passed" if token.epoch < state.epoch and not token.legacy else ""

    def _outlived(self, token: VerifiedToken) -> str:
        """Return why a legacy token is dead that was seen before its person's sessions ended, or an empty string."""
        known = self._fallback.lookup(token.session_id) if token.legacy else None
        cut = known is not None and self._book.cut_since(token, self._fallback.number_of(known))
        return "epoch_passed" if cut else ""

    def _unconfirmed(self, token: VerifiedToken) -> Validation:
        """Answer without anybody to ask: low-risk operations, until the bound since it was last confirmed."""
        if reason := self._book.against(token):
            return self._answer(Status.REVOKED, None, Source.REVOCATIONS, reason)
        known = self._fallback.lookup(token.session_id)
        now_us = self._clock.now_us()
        if known is not None:
            judged = self._judge(token, known, Source.FALLBACK)
            if judged.principal is None:
                return judged
            since_us = known.confirmed_at_us
            role = Role.GUEST if self._stale(known) else lower(judged.principal.role, token.role)
            principal = token.principal(role=role, email=known.state.email, enrol_only=known.state.enrol_only)
            source, ends_at_s = Source.FALLBACK, known.state.expires_at_s
        elif token.legacy:
            # Whose it is, and what their tenant asks of them, is for auth to say (R6.1): nobody has said it yet.
            return self._answer(Status.UNKNOWN, None, Source.TOKEN, "legacy_unresolved")
        else:
            since_us = token.issued_at_s * US_PER_S
            principal = token.principal(role=lower(token.role, Role.MEMBER), email=token.email)
            source, ends_at_s = Source.TOKEN, 0
        # Below zero, past what clocks may differ, the wall clock was stepped back: that must not prolong the bound.
        if not -CLOCKS_DIFFER_US <= now_us - since_us < self._unconfirmed_s * US_PER_S:
            return self._answer(Status.UNKNOWN, None, source, "unconfirmed_too_long")
        return self._answer(Status.UNCONFIRMED, principal, source, "auth_unavailable", ends_at_s=ends_at_s)

    def _answer(
        self, status: Status, principal: Principal | None, source: Source, reason: str, *, ends_at_s: int = 0
    ) -> Validation:
        self.answers[status, source] += 1
        return Validation(
            status=status,
            principal=principal,
            source=source,
            degraded=self.degraded or status in (Status.UNCONFIRMED, Status.UNKNOWN),
            reason=reason,
            checked_at=self._clock.now_us(),
            until_s=self._clock.monotonic() + self._memory_ttl_s,
            session_ends_at_s=ends_at_s,
        )

    def _stale(self, known: KnownSession) -> bool:
        return self._book.latest(known.state.tenant_id, known.state.user_id) > self._fallback.number_of(known)

    def _caller(self, tenant_id: str) -> Caller:
        return service_caller(self._service, tenant_id)

    async def _watch(self) -> None:
        """Probe the shared cache, so that neither its loss nor its return waits for a request; reconcile then."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            self._note_position()
            with contextlib.suppress(CircuitOpen, ConnectionError, TimeoutError):
                await self._breaker.call(self._cache.check)
                while self._breaker.state is State.HALF_OPEN:
                    await self._breaker.call(self._cache.check)
                await self._look_for_older_data()
            await self.reconcile()

    async def _look_for_older_data(self) -> None:
        """Find out whether the cache still has what was put there last: else it was emptied, restored from a backup, or
        a replica took over that lacked the latest, and nothing else would tell. Raises: what the breaker raises."""
        expected = self._beacon
        found = await self._breaker.call(self._cache.get, self._beacon_key)
        if found != expected and found != self._beacon:  # another may have been lit meanwhile
            self._note_lost(self._position_then())
        await self._light_beacon()

    async def _light_beacon(self) -> None:
        self._beacon = os.urandom(16)
        await self._breaker.call(_put, self._cache, self._beacon_key, self._beacon, BEACON_TTL_S)

    def _on_cache(self, transition: Transition) -> None:
        if transition.after is State.OPEN:
            # Not where it stands now: what was told just before may be lost as well, with the server that heard it.
            self._note_lost(self._position_then())

    def _note_position(self) -> None:
        now_s = self._clock.monotonic()
        if self._turns != self._fallback.turns:  # another feed, and these are no numbers of it
            self._turns = self._fallback.turns
            self._heard.clear()
        self._heard.append((now_s, self._fallback.position))
        while len(self._heard) > 1 and self._heard[1][0] <= now_s - self._cache_ttl_s:
            self._heard.popleft()

    def _position_then(self) -> int:
        """Return where the feed stood one time to live ago: what the cache was given before is over by itself."""
        if (
            self._turns != self._fallback.turns
            or not self._heard
            or self._heard[0][0] > self._clock.monotonic() - self._cache_ttl_s
        ):
            return NOTHING
        return self._heard[0][1]

    def _note_lost(self, position: int) -> None:
        """Note that the cache may lack what came after this position of the feed."""
        self._missed += 1
        self._cache_lost_at = position if self._cache_lost_at is None else min(self._cache_lost_at, position)


def _cache_key(session_id: str) -> str:
    return f"session:{session_id}"


async def _put(cache: SharedCache, key: str, value: bytes, ttl_s: float) -> None:
    await cache.put(key, value, ttl_s=ttl_s)
