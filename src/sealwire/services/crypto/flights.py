"""Flights: work that many may ask for at the same time and that is done once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

from sealwire.resilience import deadline

T = TypeVar("T")


class Flights:
    """Tasks by name, on their own time: neither a caller's deadline nor its cancellation ends them."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}

    def start(self, name: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Return the task of this name that is under way, or begin it."""
        task = self._tasks.get(name)
        if task is None or task.done():  # done, but not landed: awaiting it gives the loop no turn to land it in
            with deadline.without():
                task = asyncio.get_running_loop().create_task(work())
            self._tasks[name] = task
            task.add_done_callback(lambda done: self._land(name, done))
        return task

    async def join(self, name: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await the work of this name. Raises: what it raises, to all who wait; it is not remembered."""
        return await asyncio.shield(self.start(name, work))

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
            await asyncio.sleep(0)  # let the callbacks run that take them out

    def _land(self, name: Hashable, task: asyncio.Task[Any]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits
