"""Circuit breaker: leave a failing dependency alone, and find out cheaply when it is back."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from sealwire.kit.clock import Clock
from sealwire.kit.problem import DeadlineExceeded
from sealwire.resilience.failure import CircuitOpen, TimedOut, is_failure
from sealwire.resilience.window import RateWindow

T = TypeVar("T")
Permit = tuple[int, float]
"""What `acquire` gives: a ticket and the monotonic time of the start, in seconds."""
Listener = Callable[["Transition"], None]

_LOG = logging.getLogger(__name__)
_KEPT_TRANSITIONS = 32


class State(StrEnum):
    """Where the breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerRules(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker opens and how it closes again.

    It opens when, over `window_s`, at least `min_calls` ended and the share of failures reached `failure_rate` or that
    of calls of `slow_call_s` and more reached `slow_rate`; or after `consecutive_failures` in a row (0: off).
    It stays open for `open_s`, doubled each time the probes fail, up to `open_cap_s`. Then `half_open_permits` probes
    are admitted: all must succeed and be quick; the first that is not opens it again. A probe out for `probe_timeout_s`
    is a failed one.
    """

    window_s: float = 10.0
    buckets: int = 10
    min_calls: int = 20
    failure_rate: float = 0.5
    consecutive_failures: int = 5
    slow_call_s: float = 2.0
    slow_rate: float = 0.8
    open_s: float = 1.0
    open_cap_s: float = 30.0
    half_open_permits: int = 3
    probe_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if min(self.window_s, self.slow_call_s, self.open_s, self.probe_timeout_s) <= 0:
            raise ValueError("durations are above zero")
        if min(self.buckets, self.min_calls, self.half_open_permits) < 1 or self.consecutive_failures < 0:
            raise ValueError("counts are at least one (consecutive_failures: zero)")
        if not (0 < self.failure_rate <= 1 and 0 < self.slow_rate <= 1):
            raise ValueError("rates lie above zero and up to one")
        if self.open_cap_s < self.open_s:
            raise ValueError("open_cap_s is at least open_s")


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One change of state: `at_us` is wall clock time."""

    breaker: str
    at_us: int
    before: State
    after: State
    reason: str


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts in the window (`calls`, `failures`, `slow`, `consecutive_failures`) and since the start (the rest).

    `all_*` count calls made while closed."""

    calls: int
    failures: int
    slow: int
    consecutive_failures: int
    probes: int
    all_calls: int
    all_failures: int
    all_slow: int
    rejected: int
    cancelled: int
    late: int


class BreakerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a breaker looks like from outside."""

    name: str
    state: State
    since_us: int
    retry_after_s: float
    counts: Counts
    transitions: tuple[Transition, ...]


class Breaker:
    """One dependency's breaker, for one event loop's thread.

    Either `await breaker.call(fn, *args)`, or around a call of your own:
    `permit = breaker.acquire()`, then exactly one of `succeed(permit)`, `fail(permit)`, `give_back(permit)`.
    A permit from an earlier state is late and changes nothing. Durations are measured on the monotonic clock.
    """

    __slots__ = (
        "_all_failures",
        "_all_slow",
        "_cancelled",
        "_clock",
        "_closed_ticket",
        "_consecutive",
        "_is_failure",
        "_late",
        "_listeners",
        "_marks",
        "_monotonic",
        "_open_until_s",
        "_probe_successes",
        "_probes",
        "_rejected",
        "_reopened",
        "_since_us",
        "_slow_s",
        "_state",
        "_ticket",
        "_transitions",
        "_window",
        "name",
        "rules",
    )

    def __init__(
        self,
        *,
        name: str,
        clock: Clock,
        rules: BreakerRules | None = None,
        is_failure: Callable[[Exception], bool] = is_failure,
    ) -> None:
        self.name = name
        self.rules = rules or BreakerRules()
        self._clock = clock
        self._monotonic = clock.monotonic
        self._is_failure = is_failure
        self._slow_s = self.rules.slow_call_s
        self._window = RateWindow(window_s=self.rules.window_s, buckets=self.rules.buckets, now_s=clock.monotonic())
        self._state = State.CLOSED
        self._since_us = clock.now_us()
        self._ticket = 1
        self._closed_ticket = 1  # the ticket of every call while closed; 0 in the other states
        self._marks = False  # whether anything but quick successes may stand in the window
        self._consecutive = 0
        self._open_until_s = 0.0
        self._reopened = 0
        self._probes: dict[int, float] = {}
        self._probe_successes = 0
        self._all_failures = self._all_slow = self._rejected = self._cancelled = self._late = 0
        self._transitions: deque[Transition] = deque(maxlen=_KEPT_TRANSITIONS)
        self._listeners: list[Listener] = []

    async def call(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await `fn(*args)` and count its outcome. Cancellation is no outcome and gives the permit back.

        Raises: CircuitOpen without calling, else whatever `fn` raises.
        """
        ticket, started_s = permit = self.acquire()
        try:
            result = await fn(*args)
        except BaseException as error:
            self.settle(permit, error)
            raise
        now_s = self._monotonic()
        window = self._window
        # `succeed`, written out for the usual case: closed, quick, nothing else of late
        if (
            ticket == self._closed_ticket
            and now_s - started_s < self._slow_s
            and now_s < window.end_s
            and not self._marks
        ):
            window.calls += 1
        else:
            self.succeed(permit)
        return result

    def acquire(self) -> Permit:
        """Ask to make one call. Raises: CircuitOpen with `retry_after_s`."""
        if ticket := self._closed_ticket:
            return ticket, self._monotonic()
        return self._acquire_probe()

    def succeed(self, permit: Permit) -> None:
        """Count a call that was answered; it may still have been slow."""
        ticket, started_s = permit
        now_s = self._monotonic()
        if ticket != self._closed_ticket:
            self._end_probe(ticket, now_s, good=now_s - started_s < self._slow_s)
            return
        window = self._window
        if now_s >= window.end_s:
            window.roll(now_s)
        window.calls += 1
        if self._marks or now_s - started_s >= self._slow_s:
            self._count_marked(now_s, slow=now_s - started_s >= self._slow_s, failed=False)

    def fail(self, permit: Permit) -> None:
        """Count a call that failed."""
        ticket, started_s = permit
        now_s = self._monotonic()
        if ticket != self._closed_ticket:
            self._end_probe(ticket, now_s, good=False)
            return
        window = self._window
        if now_s >= window.end_s:
            window.roll(now_s)
        window.calls += 1
        self._count_marked(now_s, slow=now_s - started_s >= self._slow_s, failed=True)

    def give_back(self, permit: Permit) -> None:
        """Return a permit whose call was cancelled: it counts for nothing, and a probe's place is free again."""
        self._cancelled += 1
        self._probes.pop(permit[0], None)

    def settle(self, permit: Permit, error: BaseException) -> None:
        """Count a call that raised: failure, success (the caller's fault) or nothing (cancelled).

        A deadline of the caller's that ran out before the call was even slow is the caller's haste, and counts for
        nothing either: else one hurried caller could open the breaker for everybody.
        """
        if not isinstance(error, Exception) or (
            isinstance(error, DeadlineExceeded)
            and not isinstance(error, TimedOut)
            and self._monotonic() - permit[1] < self._slow_s
        ):
            self.give_back(permit)
        elif self._is_failure(error):
            self.fail(permit)
        else:
            self.succeed(permit)

    @property
    def state(self) -> State:
        """The state now. An open breaker whose time is over turns half-open with the next `acquire`."""
        return self._state

    @property
    def retry_after_s(self) -> float:
        """Seconds until an open breaker admits a probe; 0 in the other states."""
        return max(0.0, self._open_until_s - self._monotonic()) if self._state is State.OPEN else 0.0

    def counts(self) -> Counts:
        """Return all counts as of now."""
        now_s = self._monotonic()
        if now_s >= self._window.end_s:
            self._window.roll(now_s)
        calls, failures, slow = self._window.totals()
        return Counts(
            calls=calls,
            failures=failures,
            slow=slow,
            consecutive_failures=self._consecutive,
            probes=len(self._probes),
            all_calls=self._window.all_calls,
            all_failures=self._all_failures,
            all_slow=self._all_slow,
            rejected=self._rejected,
            cancelled=self._cancelled,
            late=self._late,
        )

    def snapshot(self) -> BreakerSnapshot:
        """Return state, counts and the last transitions."""
        return BreakerSnapshot(
            name=self.name,
            state=self._state,
            since_us=self._since_us,
            retry_after_s=self.retry_after_s,
            counts=self.counts(),
            transitions=tuple(self._transitions),
        )

    def listen(self, listener: Listener) -> None:
        """Have every transition told to `listener`, at once and on this thread; it must be quick."""
        self._listeners.append(listener)

    def reset(self) -> None:
        """Close it by hand, with an empty window."""
        if self._state is not State.CLOSED:
            self._move(State.CLOSED, "reset")

    def _count_marked(self, now_s: float, *, slow: bool, failed: bool) -> None:
        window, rules = self._window, self.rules
        if slow:
            window.slow += 1
            self._all_slow += 1
        if failed:
            window.failures += 1
            self._all_failures += 1
            self._consecutive += 1
        else:
            self._consecutive = 0
        calls, failures, slow_calls = window.totals()
        self._marks = bool(failures or slow_calls or self._consecutive)
        if rules.consecutive_failures and self._consecutive >= rules.consecutive_failures:
            self._open(now_s, "consecutive_failures")
        elif calls >= rules.min_calls:
            if failures >= rules.failure_rate * calls:
                self._open(now_s, "failure_rate")
            elif slow_calls >= rules.slow_rate * calls:
                self._open(now_s, "slow_rate")

    def _acquire_probe(self) -> Permit:
        now_s = self._monotonic()
        if self._state is State.OPEN and now_s >= self._open_until_s:
            self._move(State.HALF_OPEN, "open_time_over")
        if self._state is State.HALF_OPEN:
            if len(self._probes) + self._probe_successes < self.rules.half_open_permits:
                self._ticket += 1
                self._probes[self._ticket] = now_s
                return self._ticket, now_s
            if now_s - next(iter(self._probes.values())) >= self.rules.probe_timeout_s:
                self._reopened += 1
                self._open(now_s, "probe_hung")
        self._rejected += 1
        wait_s = self._open_until_s - now_s if self._state is State.OPEN else self.rules.open_s
        raise CircuitOpen(retry_after_s=max(wait_s, 0.001))

    def _end_probe(self, ticket: int, now_s: float, *, good: bool) -> None:
        if self._probes.pop(ticket, None) is None:
            self._late += 1
            return
        if not good:
            self._reopened += 1
            self._open(now_s, "probe_failed")
            return
        self._probe_successes += 1
        if self._probe_successes >= self.rules.half_open_permits:
            self._move(State.CLOSED, "probes_succeeded")

    def _open(self, now_s: float, reason: str) -> None:
        wait_s = min(self.rules.open_cap_s, self.rules.open_s * 2 ** min(self._reopened, 30))
        self._open_until_s = now_s + wait_s
        self._move(State.OPEN, reason)

    def _move(self, after: State, reason: str) -> None:
        before, self._state = self._state, after
        self._ticket += 1
        self._closed_ticket = self._ticket if after is State.CLOSED else 0
        self._probes.clear()
        self._probe_successes = 0
        if after is State.CLOSED:
            self._reopened = self._consecutive = 0
            self._marks = False
            self._window.forget(self._monotonic())
        self._since_us = self._clock.now_us()
        transition = Transition(breaker=self.name, at_us=self._since_us, before=before, after=after, reason=reason)
        self._transitions.append(transition)
        for listener in self._listeners:
            try:
                listener(transition)
            except Exception:
                _LOG.exception("a listener of breaker %s failed", self.name)
