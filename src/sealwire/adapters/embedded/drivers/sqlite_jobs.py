"""What can wait for a group commit: one write, or a batcher with all the items that came meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import apsw

T = TypeVar("T")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Job(Protocol):
    """Work for one group: first `take`, then `run`, on the loop's thread and without an await in between."""

    def take(self) -> list[asyncio.Future[Any]]:
        """Return the futures of those who wait for what the next `run` does."""

    def run(self, conn: apsw.Connection) -> Sequence[Any]:
        """Do it, and return one outcome per future; an outcome that is an exception is raised to its awaiter."""


class Queue(Protocol):
    """Where jobs wait (the group writer)."""

    def waiter(self) -> asyncio.Future[Any]:
        """Return a future for one more write. Raises: Unavailable when too many wait or the writer is closed."""

    def enqueue(self, job: Job) -> None:
        """Put `job` behind those that wait."""


class Write(Generic[T]):
    """One call of `Database.write`."""

    __slots__ = ("_fn", "_future")

    def __init__(self, fn: Callable[[apsw.Connection], T], future: asyncio.Future[T]) -> None:
        self._fn = fn
        self._future = future

    def take(self) -> list[asyncio.Future[Any]]:
        return [self._future]

    def run(self, conn: apsw.Connection) -> Sequence[Any]:
        if self._future.cancelled():  # nobody wants it any more, and nothing of it happened yet
            return (None,)
        return (self._fn(conn),)


class Batcher(Generic[ItemT, ResultT]):
    """Hands all items that wait to one call per group: for writes so frequent that a call each would cost too much."""

    __slots__ = ("_fn", "_futures", "_items", "_max_items", "_queue", "_taken")

    def __init__(
        self,
        queue: Queue,
        fn_many: Callable[[apsw.Connection, list[ItemT]], Sequence[ResultT | Exception]],
        *,
        max_items: int,
    ) -> None:
        self._queue = queue
        self._fn = fn_many
        self._max_items = max_items
        self._items: list[ItemT] = []
        self._futures: list[asyncio.Future[Any]] = []
        self._taken: list[ItemT] = []

    def submit(self, item: ItemT) -> asyncio.Future[ResultT]:
        """Queue `item`; the future gives its result once that is durable, or raises what `fn_many` gave for it.

        Cancelling the future stops nobody else's write; its own item may still be stored.
        Raises: Unavailable when storage did not confirm the write, or when too many writes wait already.
        """
        future: asyncio.Future[ResultT] = self._queue.waiter()
        self._items.append(item)
        self._futures.append(future)
        if len(self._items) == 1:
            self._queue.enqueue(self)
        return future

    def take(self) -> list[asyncio.Future[Any]]:
        items, futures, most = self._items, self._futures, self._max_items
        if len(items) <= most:
            self._taken, self._items, self._futures = items, [], []
            return futures
        self._taken, self._items, self._futures = items[:most], items[most:], futures[most:]
        self._queue.enqueue(self)
        return futures[:most]

    def run(self, conn: apsw.Connection) -> Sequence[Any]:
        items, self._taken = self._taken, []
        results = self._fn(conn, items)
        if len(results) != len(items):
            raise RuntimeError(f"{self._fn!r} gave {len(results)} results for {len(items)} items")
        return results
