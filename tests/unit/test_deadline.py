"""A deadline only ever gets sooner, and ends with its block."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.kit.problem import DeadlineExceeded
from sealwire.resilience import deadline
from sealwire.testing.clock import ManualClock


@given(timeouts=st.lists(st.floats(0.001, 1000), min_size=1, max_size=8))
def test_the_soonest_of_nested_deadlines_holds(timeouts: list[float]) -> None:
    clock = ManualClock()

    def descend(level: int) -> None:
        if level == len(timeouts):
            return
        with deadline.within(timeouts[level], clock):
            assert deadline.remaining_s(clock) == pytest.approx(min(timeouts[: level + 1]))
            descend(level + 1)
            assert deadline.remaining_s(clock) == pytest.approx(min(timeouts[: level + 1]))

    descend(0)
    assert deadline.at_s() is None


def test_without_a_deadline_nothing_is_bounded() -> None:
    clock = ManualClock()
    deadline.check(clock)
    assert deadline.remaining_s(clock) is None
    assert deadline.bounded_s(3.0, clock) == 3.0


def test_a_past_deadline_refuses() -> None:
    clock = ManualClock()
    with deadline.within(1, clock):
        assert deadline.bounded_s(3.0, clock) == 1.0
        assert deadline.bounded_s(0.5, clock) == 0.5
        clock.advance(1)
        with pytest.raises(DeadlineExceeded):
            deadline.check(clock)
        with pytest.raises(DeadlineExceeded):
            deadline.bounded_s(3.0, clock)
        with deadline.without():
            deadline.check(clock)


async def test_tasks_inherit_the_deadline_and_do_not_share_their_own() -> None:
    clock = ManualClock()

    async def child() -> float | None:
        with deadline.within(1, clock):
            await asyncio.sleep(0)
            return deadline.remaining_s(clock)

    with deadline.within(5, clock):
        assert await asyncio.gather(child(), child()) == [1, 1]
        assert deadline.remaining_s(clock) == 5
