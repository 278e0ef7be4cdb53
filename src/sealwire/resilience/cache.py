"""Cache in memory: bounded, each entry with a jittered time to live, one load at a time per key."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from random import Random
from typing import Generic, TypeVar

from sealwire.kit.clock import Clock
from sealwire.resilience import deadline

K = TypeVar("K")
V = TypeVar("V")


class _Entry(Generic[V]):
    __slots__ = ("expires_s", "touched", "value")

    def __init__(self, value: V, expires_s: float) -> None:
        self.value = value
        self.expires_s = expires_s
        self.touched = False


class _Load(Generic[V]):
    __slots__ = ("task", "waiters")

    def __init__(self, task: asyncio.Task[V]) -> None:
        self.task = task
        self.waiters = 0


class TtlCache(Generic[K, V]):
    """Values by key, for one event loop. An expired value is never served.

    An entry lives for `ttl_s` less up to `jitter` of it, so that entries made together don't expire together. When the
    cache is full the oldest entry not read since the last round goes (the CLOCK rule). None is no value.
    `get` does not copy.
    """

    __slots__ = (
        "_entries",
        "_jitter",
        "_loads",
        "_monotonic",
        "_rng",
        "_ttl_s",
        "evictions",
        "hits",
        "max_entries",
        "misses",
    )

    def __init__(self, *, max_entries: int, ttl_s: float, clock: Clock, rng: Random, jitter: float = 0.1) -> None:
        if max_entries < 1 or ttl_s <= 0 or not 0 <= jitter < 1:
            raise ValueError("max_entries >= 1, ttl_s > 0, 0 <= jitter < 1")
        self.max_entries = max_entries
        self.hits = self.misses = self.evictions = 0
        self._ttl_s = ttl_s
        self._jitter = jitter
        self._monotonic = clock.monotonic
        self._rng = rng
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()  # a plain dict is slow to pop from the front
        self._loads: dict[K, _Load[V]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value, or None when there is none that is still good."""
        entry = self._entries.get(key)
        if entry is not None:
            if self._monotonic() < entry.expires_s:
                entry.touched = True
                self.hits += 1
                return entry.value
            del self._entries[key]
        self.misses += 1
        return None

    def put(self, key: K, value: V, *, ttl_s: float | None = None) -> None:
        """Keep the value for `ttl_s` (at most the cache's own), less the jitter."""
        life_s = self._ttl_s if ttl_s is None else min(ttl_s, self._ttl_s)
        if life_s <= 0:
            self._entries.pop(key, None)
            return
        if self._jitter:
            life_s *= 1.0 - self._jitter * self._rng.random()
        self._entries.pop(key, None)  # so that it stands at the end of the order
        if len(self._entries) >= self.max_entries:
            self._evict()
        self._entries[key] = _Entry(value, self._monotonic() + life_s)

    async def get_or_load(self, key: K, load: Callable[[], Awaitable[V]], *, ttl_s: float | None = None) -> V:
        """Return the value, loading it when there is none: once, however many ask at the same time.

        The load runs outside of any one caller's deadline and survives its cancellation as long as another waits for
        it. What was loaded while the key was invalidated goes to those who asked before that and is not kept.
        Raises: what `load` raises, to all who waited; it is not remembered.
        """
        if (value := self.get(key)) is not None:
            return value
        flight = self._loads.get(key)
        if flight is None:
            with deadline.without():
                flight = _Load(asyncio.ensure_future(self._load(key, load, ttl_s)))
            flight.task.add_done_callback(_retrieve)
            self._loads[key] = flight
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                flight.task.cancel()
                if self._loads.get(key) is flight:
                    del self._loads[key]

    def invalidate(self, key: K) -> None:
        """Forget the value; a load under way won't bring it back."""
        self._entries.pop(key, None)
        self._loads.pop(key, None)

    def invalidate_where(self, chosen: Callable[[K, V], bool]) -> int:
        """Forget the chosen values and return how many; every load under way counts as chosen."""
        doomed = [key for key, entry in self._entries.items() if chosen(key, entry.value)]
        for key in doomed:
            del self._entries[key]
        self._loads.clear()
        return len(doomed)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._loads.clear()

    async def _load(self, key: K, load: Callable[[], Awaitable[V]], ttl_s: float | None) -> V:
        me = asyncio.current_task()
        try:
            value = await load()
            if (flight := self._loads.get(key)) is not None and flight.task is me:
                self.put(key, value, ttl_s=ttl_s)
            return value
        finally:
            if (flight := self._loads.get(key)) is not None and flight.task is me:
                del self._loads[key]

    def _evict(self) -> None:
        """Drop one entry: the oldest that was not read since it came to the front; at most one round."""
        entries = self._entries
        now_s = self._monotonic()
        for _ in range(len(entries)):
            key, entry = entries.popitem(last=False)
            if not entry.touched or now_s >= entry.expires_s:
                self.evictions += 1
                return
            entry.touched = False
            entries[key] = entry
        entries.popitem(last=False)
        self.evictions += 1


def _retrieve(task: asyncio.Task[V]) -> None:
    """Mark a failed load's error as seen, for when nobody waits for it any more."""
    if not task.cancelled():
        task.exception()
