"""Bulkhead: so many calls at once to one dependency, so many waiting, and no more."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from sealwire.kit.clock import Clock
from sealwire.resilience import deadline
from sealwire.resilience.failure import Overloaded


class Bulkhead:
    """Bounded concurrency with a bounded, fair queue, for one event loop.

    `if not bulkhead.try_enter(): await bulkhead.enter()`, then `leave()` exactly once; or `async with bulkhead:`.
    A waiter that is cancelled takes nothing with it: a place handed to it goes to the next one.
    """

    __slots__ = ("_clock", "_queue", "active", "max_concurrent", "max_wait_s", "max_waiting", "name", "rejected")

    def __init__(
        self, *, name: str, clock: Clock, max_concurrent: int = 256, max_waiting: int = 1024, max_wait_s: float = 1.0
    ) -> None:
        if max_concurrent < 1 or max_waiting < 0 or max_wait_s <= 0:
            raise ValueError("max_concurrent >= 1, max_waiting >= 0, max_wait_s > 0")
        self.name = name
        self.max_concurrent = max_concurrent
        self.max_waiting = max_waiting
        self.max_wait_s = max_wait_s
        self.active = 0
        self.rejected = 0
        self._clock = clock
        # Ordered and with quick removal from the middle: those who give up leave no dead entry behind.
        self._queue: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many calls wait for a place."""
        return len(self._queue)

    def try_enter(self) -> bool:
        """Take a place if one is free. While somebody waits none is: places are handed over, not freed."""
        if self.active < self.max_concurrent:
            self.active += 1
            return True
        return False

    async def enter(self) -> None:
        """Take a place, waiting in line for at most `max_wait_s` or the deadline.

        Raises: Overloaded when the queue is full or the wait was too long, DeadlineExceeded when the deadline is past.
        """
        if self.try_enter():
            return
        if len(self._queue) >= self.max_waiting:
            self.rejected += 1
            raise Overloaded(retry_after_s=self.max_wait_s)
        wait_s = deadline.bounded_s(self.max_wait_s, self._clock)
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(wait_s, self._give_up, place)
        self._queue[place] = None
        try:
            await place
        except asyncio.CancelledError:
            self._queue.pop(place, None)
            if not place.cancelled() and place.exception() is None:
                self.leave()  # the place had been handed over already
            raise
        finally:
            timer.cancel()

    def leave(self) -> None:
        """Give the place back; the first in line gets it."""
        while self._queue:
            place, _ = self._queue.popitem(last=False)
            if not place.done():
                place.set_result(None)
                return
        self.active -= 1

    async def __aenter__(self) -> None:
        if not self.try_enter():
            await self.enter()

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def _give_up(self, place: asyncio.Future[None]) -> None:
        if not place.done():
            self._queue.pop(place, None)
            self.rejected += 1
            place.set_exception(Overloaded(retry_after_s=self.max_wait_s))
