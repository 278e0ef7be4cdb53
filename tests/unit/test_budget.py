"""Retries are a bounded share of the calls, whatever the order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.resilience.budget import RetryBudget
from sealwire.testing.clock import ManualClock

EVENTS = st.lists(st.one_of(st.just("call"), st.just("retry"), st.floats(0, 5)), max_size=300)


@given(events=EVENTS, ratio=st.floats(0, 1), per_s=st.floats(0, 3), cap=st.floats(1, 30))
def test_retries_never_exceed_the_share(events: list[str | float], ratio: float, per_s: float, cap: float) -> None:
    clock = ManualClock()
    budget = RetryBudget(clock=clock, ratio=ratio, per_s=per_s, cap=cap)
    calls = retries = 0
    for event in events:
        if event == "call":
            budget.deposit()
            calls += 1
        elif event == "retry":
            retries += budget.withdraw()
        else:
            assert isinstance(event, float)
            clock.advance(event)
        assert 0 <= budget.tokens <= cap
        assert retries <= cap + ratio * calls + per_s * (clock.monotonic() - 1_000.0) + 1e-6


def test_an_outage_is_met_with_a_tenth_more_load_not_double() -> None:
    budget = RetryBudget(clock=ManualClock(), ratio=0.1, per_s=0, cap=10)
    retries = 0
    for _ in range(10_000):  # every call fails and wants two retries
        budget.deposit()
        retries += budget.withdraw() + budget.withdraw()
    assert retries <= 10 + 1_000
    assert budget.refused >= 18_000


def test_a_quiet_client_may_still_retry() -> None:
    clock = ManualClock()
    budget = RetryBudget(clock=clock, ratio=0, per_s=1, cap=1)
    assert budget.withdraw()
    assert not budget.withdraw()
    clock.advance(1)
    assert budget.withdraw()


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError):
        RetryBudget(clock=ManualClock(), ratio=1.5)
