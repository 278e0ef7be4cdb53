"""The breaker against a plain model of its rules, and the properties published breakers get wrong."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from sealwire.kit.problem import DeadlineExceeded, Invalid, Unavailable
from sealwire.resilience.breaker import Breaker, BreakerRules, Permit, State, Transition
from sealwire.resilience.failure import CircuitOpen, TimedOut
from sealwire.resilience.registry import Registry
from sealwire.testing.clock import ManualClock

RULES = BreakerRules(
    window_s=10,
    buckets=5,
    min_calls=4,
    failure_rate=0.5,
    consecutive_failures=3,
    slow_call_s=1,
    slow_rate=0.75,
    open_s=2,
    open_cap_s=16,
    half_open_permits=2,
    probe_timeout_s=20,
)


def closed_breaker(clock: ManualClock, **changes: float) -> Breaker:
    values = {name: getattr(RULES, name) for name in RULES.__struct_fields__} | changes
    return Breaker(name="x", clock=clock, rules=BreakerRules(**values))


class BreakerMachine(RuleBasedStateMachine):
    """Random calls, outcomes, cancellations and waits. The model keeps every call and recounts from scratch."""

    permits: Bundle[tuple[Permit, int]] = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.breaker = Breaker(name="x", clock=self.clock, rules=RULES)
        self.state = State.CLOSED
        self.era = 0  # counts the model's transitions; a permit of an earlier era is late
        self.ended: list[tuple[int, bool, bool]] = []  # (bucket, failed, slow) since it closed
        self.bucket_start_s = self.clock.monotonic()
        self.consecutive = 0
        self.open_until_s = 0.0
        self.reopened = 0
        self.probes: list[Permit] = []
        self.probe_successes = 0

    # -- the model
    def now_s(self) -> float:
        return self.clock.monotonic()

    def bucket(self) -> int:
        return int((self.now_s() - self.bucket_start_s) // (RULES.window_s / RULES.buckets))

    def move(self, state: State) -> None:
        self.state = state
        self.era += 1
        self.probes, self.probe_successes = [], 0
        if state is State.CLOSED:
            self.ended, self.consecutive, self.reopened = [], 0, 0
            self.bucket_start_s = self.now_s()

    def open(self) -> None:
        self.open_until_s = self.now_s() + min(RULES.open_cap_s, RULES.open_s * 2**self.reopened)
        self.move(State.OPEN)

    def end_call(self, permit: Permit, era: int, failed: bool) -> None:
        slow = self.now_s() - permit[1] >= RULES.slow_call_s
        if era != self.era:
            return
        if self.state is State.HALF_OPEN:
            self.probes.remove(permit)
            if failed or slow:
                self.reopened += 1
                self.open()
            else:
                self.probe_successes += 1
                if self.probe_successes == RULES.half_open_permits:
                    self.move(State.CLOSED)
            return
        self.ended.append((self.bucket(), failed, slow))
        self.consecutive = self.consecutive + 1 if failed else 0
        seen = [call for call in self.ended if call[0] > self.bucket() - RULES.buckets]
        failures, slows = sum(call[1] for call in seen), sum(call[2] for call in seen)
        enough = len(seen) >= RULES.min_calls
        if (
            self.consecutive >= RULES.consecutive_failures
            or (enough and failures / len(seen) >= RULES.failure_rate)
            or (enough and slows / len(seen) >= RULES.slow_rate)
        ):
            self.open()

    # -- what happens
    @rule(target=permits)
    def acquire(self) -> object:
        if self.state is State.OPEN and self.now_s() >= self.open_until_s:
            self.move(State.HALF_OPEN)
        admitted = self.state is State.CLOSED
        if self.state is State.HALF_OPEN:
            admitted = len(self.probes) + self.probe_successes < RULES.half_open_permits
            if not admitted and self.now_s() - self.probes[0][1] >= RULES.probe_timeout_s:
                self.reopened += 1
                self.open()
        try:
            permit = self.breaker.acquire()
        except CircuitOpen as refused:
            wait_s = refused.retry_after_s or 0
            assert not admitted
            assert wait_s > 0
            if self.state is State.OPEN:
                assert wait_s == pytest.approx(self.open_until_s - self.now_s())
            return None
        assert admitted
        if self.state is State.HALF_OPEN:
            self.probes.append(permit)
        return permit, self.era

    @rule(held=consumes(permits), failed=st.booleans())
    def answer(self, held: tuple[Permit, int] | None, failed: bool) -> None:
        if held is None:
            return
        permit, era = held
        (self.breaker.fail if failed else self.breaker.succeed)(permit)
        self.end_call(permit, era, failed)

    @rule(held=consumes(permits))
    def cancel(self, held: tuple[Permit, int] | None) -> None:
        if held is None:
            return
        permit, era = held
        self.breaker.give_back(permit)
        if era == self.era and self.state is State.HALF_OPEN:
            self.probes.remove(permit)

    # Quarters add up without rounding, so model and window agree on the bucket.
    @rule(quarters=st.sampled_from([1, 3, 4, 8, 9, 40, 100]))
    def wait(self, quarters: int) -> None:
        self.clock.advance(quarters / 4)

    @rule(seconds=st.floats(-1e6, 1e6))
    def step_the_wall_clock(self, seconds: float) -> None:
        self.clock.step_wall(seconds)

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.breaker.state is self.state
        counts = self.breaker.counts()
        assert counts.probes == len(self.probes)
        if self.state is State.CLOSED:
            seen = [call for call in self.ended if call[0] > self.bucket() - RULES.buckets]
            assert (counts.calls, counts.failures, counts.slow) == (
                len(seen),
                sum(call[1] for call in seen),
                sum(call[2] for call in seen),
            )
            assert counts.consecutive_failures == self.consecutive


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def open_it(breaker: Breaker, clock: ManualClock) -> None:
    while breaker.state is State.CLOSED:
        breaker.fail(breaker.acquire())
    clock.advance(breaker.retry_after_s)


async def test_two_thirds_of_errors_open_it_without_a_run_of_failures() -> None:
    breaker = closed_breaker(ManualClock(), consecutive_failures=0)
    for failed in (True, False, True, True):
        permit = breaker.acquire()
        (breaker.fail if failed else breaker.succeed)(permit)
    assert breaker.state is State.OPEN
    assert breaker.snapshot().transitions[-1].reason == "failure_rate"


async def test_a_success_that_completes_the_minimum_opens_it_too() -> None:
    breaker = closed_breaker(ManualClock(), consecutive_failures=0)
    for _ in range(3):
        breaker.fail(breaker.acquire())
    assert breaker.state is State.CLOSED
    breaker.succeed(breaker.acquire())
    assert breaker.state is State.OPEN


async def test_old_failures_are_forgotten_with_time() -> None:
    clock = ManualClock()
    breaker = closed_breaker(clock, consecutive_failures=0)
    for _ in range(3):
        breaker.fail(breaker.acquire())
    clock.advance(10.5)
    for _ in range(3):
        breaker.succeed(breaker.acquire())
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("permits", [1, 3, 7])
async def test_fifty_probes_at_once_admit_exactly_the_permits(permits: int) -> None:
    clock = ManualClock()
    breaker = closed_breaker(clock, half_open_permits=permits)
    open_it(breaker, clock)
    release = asyncio.Event()
    called = 0

    async def probe() -> None:
        nonlocal called
        called += 1
        await release.wait()

    tasks = [asyncio.create_task(breaker.call(probe)) for _ in range(50)]
    await asyncio.sleep(0)
    assert called == permits
    release.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == permits
    assert sum(isinstance(outcome, CircuitOpen) for outcome in outcomes) == 50 - permits
    assert breaker.state is State.CLOSED


async def test_cancelled_calls_neither_open_it_nor_keep_their_permit() -> None:
    clock = ManualClock()
    breaker = closed_breaker(clock)

    async def cancel_one() -> None:
        task = asyncio.create_task(breaker.call(asyncio.sleep, 3600))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for _ in range(20):
        await cancel_one()
    assert breaker.state is State.CLOSED
    open_it(breaker, clock)
    for _ in range(20):
        await cancel_one()
    assert breaker.state is State.HALF_OPEN
    assert breaker.counts().probes == 0
    await breaker.call(asyncio.sleep, 0)
    await breaker.call(asyncio.sleep, 0)
    assert breaker.state is State.CLOSED


async def test_a_hung_probe_does_not_hold_it_half_open_for_ever() -> None:
    clock = ManualClock()
    breaker = closed_breaker(clock, half_open_permits=1)
    open_it(breaker, clock)
    hung = breaker.acquire()
    clock.advance(20)
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    assert breaker.state is State.OPEN
    clock.advance(breaker.retry_after_s)
    probe = breaker.acquire()
    breaker.fail(hung)  # late: not this era's probe
    assert breaker.state is State.HALF_OPEN
    breaker.succeed(probe)
    assert breaker.state is State.CLOSED
    assert breaker.counts().late == 1


async def test_failed_probes_double_the_wait_up_to_the_cap() -> None:
    clock = ManualClock()
    breaker = closed_breaker(clock)
    open_it(breaker, clock)
    waits = []
    for _ in range(5):
        breaker.fail(breaker.acquire())
        waits.append(breaker.retry_after_s)
        clock.advance(waits[-1])
    assert waits == pytest.approx([4, 8, 16, 16, 16])


async def test_slow_answers_open_it() -> None:
    clock = ManualClock()
    breaker = closed_breaker(clock)
    for _ in range(4):
        permit = breaker.acquire()
        clock.advance(1)
        breaker.succeed(permit)
    assert breaker.state is State.OPEN
    assert breaker.snapshot().transitions[-1].reason == "slow_rate"


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (Invalid("the caller's fault"), False),
        (DeadlineExceeded("a hurried caller"), False),
        (CircuitOpen("further in"), False),
        (TimedOut(), True),
        (Unavailable(), True),
        (ConnectionResetError(), True),
        (KeyError("a bug"), False),
    ],
)
async def test_what_speaks_against_a_dependency(error: Exception, opens: bool) -> None:
    breaker = closed_breaker(ManualClock())

    async def answer() -> None:
        raise error

    for _ in range(10):
        with pytest.raises((type(error), CircuitOpen)):
            await breaker.call(answer)
    assert (breaker.state is State.OPEN) is opens


async def test_a_deadline_that_ran_out_after_a_slow_while_counts() -> None:
    clock = ManualClock()
    breaker = closed_breaker(clock)

    async def hang() -> None:
        clock.advance(1.5)
        raise DeadlineExceeded

    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            await breaker.call(hang)
    assert breaker.state is State.OPEN


async def test_transitions_are_told_and_kept_and_a_bad_listener_harms_nothing() -> None:
    clock = ManualClock()
    registry = Registry(clock=clock)
    told: list[Transition] = []

    def broken(_: Transition) -> None:
        raise RuntimeError

    breaker = registry.breaker("search", RULES)
    registry.listen(broken)
    registry.listen(told.append)
    assert registry.breaker("search") is breaker
    open_it(breaker, clock)
    assert registry.active == 1
    for _ in range(2):
        breaker.succeed(breaker.acquire())
    assert [(t.before, t.after) for t in told] == [
        (State.CLOSED, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.CLOSED),
    ]
    assert tuple(told) == breaker.snapshot().transitions
    assert (registry.active, len(registry), [b.name for b in registry]) == (0, 1, ["search"])


async def test_reset_closes_by_hand_and_lifetime_counts_go_on() -> None:
    clock = ManualClock()
    breaker = closed_breaker(clock)
    for _ in range(3):
        breaker.fail(breaker.acquire())
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    breaker.reset()
    breaker.succeed(breaker.acquire())
    counts = breaker.counts()
    assert (counts.calls, counts.failures, counts.all_calls, counts.all_failures, counts.rejected) == (1, 0, 4, 3, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"window_s": 0}, {"min_calls": 0}, {"failure_rate": 1.5}, {"open_s": 5, "open_cap_s": 1}, {"slow_rate": 0}],
)
def test_nonsense_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        BreakerRules(**wrong)
