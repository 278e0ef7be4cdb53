"""Retries happen only where safe, within attempts, time and tokens, and not before `Retry-After`."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.kit.operation import Repeat
from sealwire.kit.problem import Invalid, Problem, SessionUnconfirmed, Unavailable
from sealwire.resilience import deadline
from sealwire.resilience.budget import RetryBudget
from sealwire.resilience.failure import CircuitOpen, Overloaded, Unreachable
from sealwire.resilience.retry import Retrier, RetryRules
from sealwire.testing.clock import ManualClock


class Dependency:
    """Answers with the given outcomes in turn, then with "ok"; keeps the times it was asked."""

    def __init__(self, clock: ManualClock, *outcomes: Exception) -> None:
        self.clock = clock
        self.outcomes = list(outcomes)
        self.asked_s: list[float] = []

    async def ask(self) -> str:
        self.asked_s.append(self.clock.monotonic())
        if self.outcomes:
            raise self.outcomes.pop(0)
        return "ok"


def retrier(clock: ManualClock, **rules: float) -> Retrier:
    return Retrier(
        clock=clock,
        rng=Random(1),
        budget=RetryBudget(clock=clock),
        rules=RetryRules(**rules),  # type: ignore[arg-type]  # attempts is given as an int
        sleep=clock.sleep,
    )


async def test_a_safe_call_is_asked_again_until_it_answers() -> None:
    clock = ManualClock()
    dependency = Dependency(clock, ConnectionResetError(), TimeoutError())
    assert await retrier(clock).call(Repeat.SAFE, dependency.ask) == "ok"
    assert len(dependency.asked_s) == 3


async def test_attempts_are_bounded_and_the_last_error_is_raised() -> None:
    clock = ManualClock()
    dependency = Dependency(clock, *(Unavailable(str(i), retry_after_s=None) for i in range(9)))
    with pytest.raises(Unavailable, match="3"):
        await retrier(clock, attempts=4).call(Repeat.IDEMPOTENT, dependency.ask)
    assert len(dependency.asked_s) == 4


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), Unavailable()])
async def test_what_may_not_be_repeated_is_not(error: Exception) -> None:
    clock = ManualClock()
    dependency = Dependency(clock, error)
    with pytest.raises(type(error)):
        await retrier(clock).call(Repeat.NEVER, dependency.ask)
    assert len(dependency.asked_s) == 1


async def test_what_never_left_may_be_sent_again_always() -> None:
    clock = ManualClock()
    dependency = Dependency(clock, Unreachable(retry_after_s=None))
    assert await retrier(clock).call(Repeat.NEVER, dependency.ask) == "ok"


@pytest.mark.parametrize("error", [CircuitOpen(), Overloaded(), Invalid("no"), ValueError("bug")])
async def test_refusals_and_bugs_are_not_retried(error: Exception) -> None:
    clock = ManualClock()
    dependency = Dependency(clock, error)
    with pytest.raises(type(error)):
        await retrier(clock).call(Repeat.SAFE, dependency.ask)
    assert len(dependency.asked_s) == 1


@given(told_s=st.floats(0, 3), seed=st.integers())
async def test_retry_after_is_a_floor(told_s: float, seed: int) -> None:
    clock = ManualClock()
    dependency = Dependency(clock, SessionUnconfirmed(retry_after_s=told_s))
    assert await retrier(clock).call(Repeat.SAFE, dependency.ask) == "ok"
    assert dependency.asked_s[1] - dependency.asked_s[0] >= told_s - 1e-9


async def test_no_retry_is_started_past_the_time_or_the_deadline() -> None:
    clock = ManualClock()
    with pytest.raises(Unavailable):
        await retrier(clock, time_s=2).call(Repeat.SAFE, Dependency(clock, Unavailable(retry_after_s=5)).ask)
    started_s = clock.monotonic()
    with deadline.within(0.5, clock), pytest.raises(Unavailable):
        await retrier(clock).call(Repeat.SAFE, Dependency(clock, Unavailable(retry_after_s=1)).ask)
    assert clock.monotonic() == started_s, "it gave up at once instead of sleeping in vain"


async def test_an_empty_budget_stops_retries_for_all_callers() -> None:
    clock = ManualClock()
    shared = Retrier(
        clock=clock,
        rng=Random(1),
        budget=RetryBudget(clock=clock, ratio=0.1, per_s=0, cap=5),
        rules=RetryRules(attempts=3),
        sleep=clock.sleep,
    )
    asked = 0

    async def down() -> None:
        nonlocal asked
        asked += 1
        raise ConnectionRefusedError

    for _ in range(200):
        with pytest.raises(ConnectionRefusedError):
            await shared.call(Repeat.SAFE, down)
    assert asked <= 200 + 5 + 20
    assert shared.retries == asked - 200


async def test_a_problem_that_says_never_is_believed() -> None:
    clock = ManualClock()
    dependency = Dependency(clock, Problem("ours"))
    with pytest.raises(Problem):
        await retrier(clock).call(Repeat.SAFE, dependency.ask)
    assert len(dependency.asked_s) == 1
