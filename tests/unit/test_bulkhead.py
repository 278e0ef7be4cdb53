"""The bulkhead never admits more than its places, never loses one, and serves in order."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.kit.clock import SystemClock
from sealwire.kit.problem import DeadlineExceeded
from sealwire.resilience import deadline
from sealwire.resilience.bulkhead import Bulkhead
from sealwire.resilience.failure import Overloaded
from sealwire.testing.clock import ManualClock

CLOCK = SystemClock()


async def test_places_are_bounded_and_served_in_order() -> None:
    bulkhead = Bulkhead(name="x", clock=CLOCK, max_concurrent=2, max_waiting=10)
    order: list[int] = []
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        async with bulkhead:
            most = max(most, bulkhead.active)
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(i) for i in range(8)))
    assert order == list(range(8))
    assert most == 2
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)


async def test_a_full_queue_refuses_at_once() -> None:
    bulkhead = Bulkhead(name="x", clock=CLOCK, max_concurrent=1, max_waiting=1)
    await bulkhead.enter()
    waiter = asyncio.create_task(bulkhead.enter())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await bulkhead.enter()
    assert refused.value.retry_after_s
    bulkhead.leave()
    await waiter
    assert bulkhead.active == 1


async def test_waiting_ends_after_its_time_or_with_the_deadline() -> None:
    bulkhead = Bulkhead(name="x", clock=CLOCK, max_concurrent=1, max_wait_s=0.02)
    await bulkhead.enter()
    with pytest.raises(Overloaded):
        await bulkhead.enter()
    past = ManualClock()
    strict = Bulkhead(name="y", clock=past, max_concurrent=1)
    await strict.enter()
    with deadline.within(1, past):
        past.advance(2)
        with pytest.raises(DeadlineExceeded):
            await strict.enter()
    assert (bulkhead.active, bulkhead.waiting, strict.active, strict.waiting) == (1, 0, 1, 0)


async def test_a_place_handed_to_a_cancelled_waiter_goes_on_to_the_next() -> None:
    bulkhead = Bulkhead(name="x", clock=CLOCK, max_concurrent=1)
    await bulkhead.enter()
    first, second = asyncio.create_task(bulkhead.enter()), asyncio.create_task(bulkhead.enter())
    await asyncio.sleep(0)
    bulkhead.leave()  # handed to `first`, which has not run yet
    first.cancel()
    await asyncio.wait_for(second, 30)
    assert first.cancelled()
    bulkhead.leave()
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), places=st.integers(1, 4), queue=st.integers(0, 6))
def test_no_place_is_lost_under_random_cancellation(seed: int, places: int, queue: int) -> None:
    async def storm() -> None:
        rng = Random(seed)
        bulkhead = Bulkhead(name="x", clock=CLOCK, max_concurrent=places, max_waiting=queue)
        inside = 0

        async def work() -> None:
            nonlocal inside
            async with bulkhead:
                inside += 1
                assert inside <= places
                try:
                    for _ in range(rng.randrange(4)):
                        await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(work()) for _ in range(20)]
        for _ in range(30):
            rng.choice(tasks).cancel() if rng.random() < 0.5 else await asyncio.sleep(0)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, (asyncio.CancelledError, Overloaded))
        assert (bulkhead.active, bulkhead.waiting) == (0, 0)

    asyncio.run(storm())


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError):
        Bulkhead(name="x", clock=CLOCK, max_concurrent=0)
