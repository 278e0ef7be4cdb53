"""Service boundary coordinator: carries authentication changes to every boundary of this process (R6.5).

It follows auth's numbered revocation feed, which is also the heartbeat: an answer, even an empty one, says that nothing
else had ended when it was asked for. A feed not heard of for `bound_s` makes every cached session unconfirmed.
Logins, which end nothing, come by a feed of their own (`login_feed`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from random import Random
from typing import Any, Final

from sealwire.boundary.fallback_session_provider import FallbackSessionProvider
from sealwire.boundary.login_feed import LoginFeed
from sealwire.boundary.model import ComponentHealth, Health
from sealwire.boundary.receipts import Receipt, Receipts
from sealwire.contracts.auth import Auth
from sealwire.contracts.revocations import FeedQuery, Revocation
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.problem import Problem
from sealwire.resilience.backoff import full_jitter
from sealwire.resilience.registry import Registry

_LOG = logging.getLogger("sealwire.boundary")
WAIT_PART: Final = 0.4
"""The feed is asked to answer within this part of the bound, so that an idle feed still beats twice per bound."""
PROBE_TIMEOUT_S: Final = 0.25
PROBE_AGAIN_S: Final = 0.1
APPLY_TIMEOUT_S: Final = 2.0
FALLBACK: Final = "fallback_session_provider"
JOURNAL: Final = "journal"

Apply = Callable[[Revocation], Awaitable[None] | int | None]
"""Brings a change into force; may answer how many open sockets that touched."""


class ServiceBoundaryCoordinator:
    """Applies each change at least once, in order, at every boundary that subscribed; boundaries are idempotent.

    A boundary that needs to wait (a remote cache) returns an awaitable; it is awaited on the side.
    """

    def __init__(
        self,
        *,
        auth: Auth,
        fallback: FallbackSessionProvider,
        breakers: Registry,
        clock: Clock,
        rng: Random,
        service: str = "gateway",
        bound_s: float = 1.0,
    ) -> None:
        self._auth = auth
        self._fallback = fallback
        self._breakers = breakers
        self._clock = clock
        self._rng = rng
        self._caller = service_caller(service, SYSTEM_TENANT)
        self._bound_s = bound_s
        self._wait_ms = int(bound_s * WAIT_PART * 1000)
        self._boundaries: dict[str, Apply] = {}
        self._working: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[bool] | None = None
        self._probed_s = clock.monotonic() - PROBE_AGAIN_S
        self._fault = "not started"
        self.fresh_until_s = 0.0
        """Until when, on the monotonic clock, what the feed said covers the present."""
        self.receipts = Receipts(clock=clock)
        self.changes = 0
        self.logins = LoginFeed(auth=auth, clock=clock, rng=rng, service=service)

    def subscribe(self, name: str, apply: Apply) -> None:
        """Have every change applied by `apply`, called on the loop in the feed's order."""
        self._boundaries[name] = apply

    async def start(self) -> None:
        """Read the feed once, if auth answers, and follow it from now on."""
        with contextlib.suppress(Exception):
            await self._read(wait_ms=0)
        self._task = asyncio.create_task(self._follow(), name="revocation-feed")
        self.logins.start()

    async def stop(self) -> None:
        """Stop following and finish what is being applied. Safe to call twice."""
        await self.logins.stop()
        tasks = [task for task in (self._task, self._probe) if task is not None]
        self._task = self._probe = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._working, return_exceptions=True)

    @property
    def fresh(self) -> bool:
        """Whether the feed was heard of within its bound."""
        return self._clock.monotonic() < self.fresh_until_s

    @property
    def age_s(self) -> float:
        """Seconds since the moment the feed is known to cover; negative is not possible."""
        return max(self._clock.monotonic() - self.fresh_until_s + self._bound_s, 0.0)

    async def ensure_fresh(self) -> bool:
        """Ask the feed now, once for all who want to know, unless that failed a moment ago."""
        if self.fresh:
            return True
        if self._probe is None:
            if self._clock.monotonic() - self._probed_s < PROBE_AGAIN_S:
                return False
            self._probed_s = self._clock.monotonic()
            self._probe = asyncio.create_task(self._ask_now(), name="revocation-feed-probe")
        return await asyncio.shield(self._probe)

    def inject(self, change: Revocation) -> None:
        """Apply a change that did not come by the feed: the self-test's probe."""
        self._apply([change], self._fallback.position)

    def health(self) -> ComponentHealth:
        """Unhealthy while the feed is past its bound; degraded while a breaker is not closed."""
        fresh = self.fresh
        status = Health.HEALTHY
        if not fresh:
            status = Health.UNHEALTHY
        elif self._breakers.active:
            status = Health.DEGRADED
        details: dict[str, Any] = {
            "feed_position": self._fallback.position,
            "feed_age_ms": round(self.age_s * 1000, 1) if self.fresh_until_s else None,
            "staleness_bound_ms": round(self._bound_s * 1000),
            "feed_fault": "" if fresh else self._fault,
            "changes_applied": self.changes,
            "boundaries": [FALLBACK, JOURNAL, *self._boundaries],
            "propagation": self.receipts.spread(),
            "latest_changes": self.receipts.latest(5),
            "logins": self.logins.details(),
            "breakers_active": self._breakers.active,
        }
        return ComponentHealth(status=status, details=details)

    def receipt_of(self, change_id: str) -> Receipt | None:
        """Return the receipt of a change or of a login, if it is among the last ones."""
        return self.receipts.of(change_id) or self.logins.receipts.of(change_id)

    # -- the feed

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(self._wait_ms / 1000 + self._bound_s):
                    await self._read(wait_ms=self._wait_ms)
                failures = 0
            except Exception as error:
                if not isinstance(error, (Problem, TimeoutError, ConnectionError)):
                    _LOG.exception("the revocation feed can't be followed")
                self._fault = error.code if isinstance(error, Problem) else type(error).__name__
                pause_s = full_jitter(failures, base_s=0.05, cap_s=0.25, rng=self._rng)
                failures += 1
                await asyncio.sleep(pause_s)

    async def _ask_now(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._read(wait_ms=0)
        except Exception as error:
            self._fault = error.code if isinstance(error, Problem) else type(error).__name__
        finally:
            self._probe = None
        return self.fresh

    async def _read(self, *, wait_ms: int) -> None:
        """Read and apply entries until the newest; then the feed covers the moment of the last question."""
        while True:
            asked_s = self._clock.monotonic()
            known = self._fallback
            # By its number alone the entry read last is not known again: then the feed is read from the start.
            after, last, turns = (known.position if known.last else 0), known.last, known.turns
            answer = await self._auth.revocations(self._caller, FeedQuery(after=after, last=last, wait_ms=wait_ms))
            if known.turns != turns:
                continue  # somebody else found out meanwhile that it is another feed
            if answer.broken or answer.newest < after:
                _LOG.error("auth's revocation feed no longer has what was read as %d: it is read from the start", after)
                self._turn(answer.run)
                continue
            if answer.run not in known.runs:
                if after:
                    known.follow_run(answer.run)
                    self._spawn(self._persist(()))
                else:
                    self._turn(answer.run)
            if answer.items:
                self._apply(answer.items, answer.items[-1].number)
            if not answer.items or answer.items[-1].number >= answer.newest:
                self.fresh_until_s = max(self.fresh_until_s, asked_s + self._bound_s)
                return
            wait_ms = 0

    def _turn(self, run: str) -> None:
        """Read what follows as another feed; until its end is reached, nothing is known of the present."""
        self._fallback.restart_feed(run)
        self._spawn(self._persist(()))
        self.fresh_until_s = min(self.fresh_until_s, self._clock.monotonic())

    def _apply(self, changes: Sequence[Revocation], position: int) -> None:
        """Bring changes into force, all or none: here at once, elsewhere and on disk as soon as these answer.

        Nothing is awaited, so neither a hanging cache nor a slow disk holds the feed up.
        """
        new = [change for change in changes if not 0 < change.number <= self._fallback.position]
        last = next((change.change_id for change in changes if change.number == position), "")
        self._fallback.take(new, position, last)
        for change in new:
            self.changes += 1
            self.receipts.open(change)
            self.receipts.note(change, FALLBACK)
            for name, apply in self._boundaries.items():
                self._apply_at(name, apply, change)
        if new:
            self._spawn(self._persist(new))

    def _apply_at(self, name: str, apply: Apply, change: Revocation) -> None:
        try:
            result = apply(change)
        except Exception as error:
            self._failed(name, change, error)
            return
        if inspect.isawaitable(result):
            self._spawn(self._finish(name, result, change))
        else:
            self.receipts.note(change, name, sockets=result or 0)

    async def _finish(self, name: str, result: Awaitable[None], change: Revocation) -> None:
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                await result
        except Exception as error:
            self._failed(name, change, error)
        else:
            self.receipts.note(change, name)

    async def _persist(self, changes: Sequence[Revocation]) -> None:
        try:
            await self._fallback.persist()
        except Exception as error:
            for change in changes:
                self._failed(JOURNAL, change, error)
        else:
            for change in changes:
                self.receipts.note(change, JOURNAL)

    def _failed(self, name: str, change: Revocation, error: Exception) -> None:
        if not isinstance(error, (Problem, OSError, TimeoutError)):
            _LOG.error("a change was not applied at %s", name, exc_info=error)
        self.receipts.note(change, name, type(error).__name__)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
