"""Flights: work done once for all who ask at the same time, and done again for who asks later."""

from __future__ import annotations

import asyncio

from sealwire.services.crypto.flights import Flights


async def test_work_that_has_ended_is_begun_anew_before_the_loop_has_noted_its_end() -> None:
    flights, done, asked = Flights(), [], []

    async def work() -> None:
        done.append(1)

    first = flights.start("reserve", work)
    # Runs after the work's only step, and before the callbacks of its end.
    asyncio.get_running_loop().call_soon(lambda: asked.append((first.done(), flights.start("reserve", work))))
    await first
    await flights.settle()
    ended, second = asked[0]
    assert ended
    assert second is not first, "who spins on work that has ended would stop the loop for good"
    await second
    assert len(done) == 2
    assert not flights._tasks
