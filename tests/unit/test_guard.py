"""The guard as a whole: order of its parts, nothing leaked under cancellation, outages cost little."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.kit.clock import SystemClock
from sealwire.kit.operation import Repeat
from sealwire.kit.problem import DeadlineExceeded, NotFound, Unavailable
from sealwire.resilience import deadline
from sealwire.resilience.breaker import BreakerRules, State
from sealwire.resilience.failure import CircuitOpen, Overloaded, TimedOut
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry
from sealwire.resilience.retry import RetryRules
from sealwire.testing.clock import ManualClock


def guard_of(**settings_: object) -> Guard:
    clock = SystemClock()
    quick = RetryRules(attempts=3, base_s=0.001, cap_s=0.002)
    return Guard.of("x", registry=Registry(clock=clock), clock=clock, rng=Random(1), retry=quick, **settings_)  # type: ignore[arg-type]  # each test names its own


async def test_a_lost_answer_is_asked_for_again_and_both_are_judged() -> None:
    guard = guard_of()
    answers: list[object] = [ConnectionResetError(), "ok"]

    async def ask(question: str) -> object:
        assert question == "how"
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await guard.call(Repeat.SAFE, ask, "how") == "ok"
    counts = guard.breaker.counts()
    assert (counts.calls, counts.failures) == (2, 1)


async def test_an_open_breaker_answers_fast_and_holds_no_place() -> None:
    guard = guard_of(breaker=BreakerRules(consecutive_failures=2), max_concurrent=1)
    asked = 0

    async def down() -> None:
        nonlocal asked
        asked += 1
        raise Unavailable

    for _ in range(20):
        with pytest.raises(Unavailable):
            await guard.call(Repeat.NEVER, down)
    assert asked == 2
    assert guard.breaker.state is State.OPEN
    assert guard.bulkhead.active == 0
    with pytest.raises(CircuitOpen) as refused:
        await guard.call(Repeat.SAFE, down)
    assert refused.value.retry_after_s


async def test_answers_about_the_request_count_as_successes() -> None:
    guard = guard_of(breaker=BreakerRules(consecutive_failures=1))

    async def not_there() -> None:
        raise NotFound

    for _ in range(50):
        with pytest.raises(NotFound):
            await guard.call(Repeat.SAFE, not_there)
    assert guard.breaker.state is State.CLOSED
    assert guard.breaker.counts().failures == 0


async def test_the_timeout_is_the_dependencys_fault_and_the_deadline_the_callers() -> None:
    guard = guard_of(timeout_s=0.02)
    with pytest.raises(TimedOut):
        await guard.call(Repeat.NEVER, asyncio.sleep, 60)
    assert guard.breaker.counts().failures == 1
    with deadline.within(0.005, SystemClock()), pytest.raises(DeadlineExceeded) as late:
        await guard.call(Repeat.NEVER, asyncio.sleep, 60)
    assert not isinstance(late.value, TimedOut)
    counts = guard.breaker.counts()
    assert (counts.failures, counts.cancelled) == (1, 1)


async def test_a_timeout_from_further_in_stays_what_it_is() -> None:
    guard = guard_of(timeout_s=5)

    async def inner() -> None:
        raise TimeoutError("theirs")

    with pytest.raises(TimeoutError, match="theirs"):
        await guard.call(Repeat.NEVER, inner)


async def test_a_past_deadline_asks_nobody() -> None:
    clock = ManualClock()
    guard = Guard.of("x", registry=Registry(clock=clock), clock=clock, rng=Random(1))

    async def never() -> None:
        raise AssertionError

    with deadline.within(1, clock):
        clock.advance(1)
        with pytest.raises(DeadlineExceeded):
            await guard.call(Repeat.SAFE, never)
    assert guard.breaker.counts().calls == 0


async def test_waiting_in_line_holds_no_probe_permit() -> None:
    guard = guard_of(max_concurrent=1, max_waiting=2)
    gate = asyncio.Event()
    tasks = [asyncio.create_task(guard.call(Repeat.NEVER, gate.wait)) for _ in range(5)]
    await asyncio.sleep(0)
    assert (guard.bulkhead.active, guard.bulkhead.waiting) == (1, 2)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 2
    assert guard.breaker.counts().failures == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_nothing_leaks_under_random_outcomes_and_cancellation(seed: int) -> None:
    async def storm() -> None:
        rng = Random(seed)
        guard = guard_of(
            max_concurrent=3,
            max_waiting=8,
            breaker=BreakerRules(consecutive_failures=3, open_s=0.001, open_cap_s=0.002, half_open_permits=2),
        )

        async def work() -> None:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            if rng.random() < 0.4:
                raise rng.choice([Unavailable(retry_after_s=None), NotFound(), ConnectionResetError()])

        tasks = [asyncio.create_task(guard.call(Repeat.SAFE, work)) for _ in range(30)]
        for _ in range(40):
            rng.choice(tasks).cancel() if rng.random() < 0.3 else await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (guard.bulkhead.active, guard.bulkhead.waiting, guard.breaker.counts().probes) == (0, 0, 0)

    asyncio.run(storm())


async def test_an_outage_under_load_is_not_multiplied() -> None:
    guard = guard_of(breaker=BreakerRules(consecutive_failures=5, open_s=60, open_cap_s=60))
    asked = 0

    async def down() -> None:
        nonlocal asked
        asked += 1
        raise ConnectionRefusedError

    for _ in range(500):
        with pytest.raises((ConnectionRefusedError, CircuitOpen)):
            await guard.call(Repeat.SAFE, down)
    assert asked == 5
