"""The shared cache within one process: a bounded dictionary. Its promises: ports/cache.py."""

from __future__ import annotations

from collections import OrderedDict

from sealwire.kit.clock import Clock
from sealwire.ports.cache import MAX_KEY_CHARS, MAX_VALUE_BYTES


class ProcessCache:
    """Values until their time is over, the least recently written first to go when it is full."""

    def __init__(self, *, clock: Clock, max_entries: int = 200_000) -> None:
        if max_entries < 1:
            raise ValueError("max_entries is at least one")
        self._clock = clock
        self._max_entries = max_entries
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    async def get(self, key: str) -> bytes | None:
        found = self._live(key)
        return None if found is None else found[0]

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        _check(key, value, ttl_s)
        self._store(key, value, self._clock.monotonic() + ttl_s)

    async def add(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        _check(key, value, ttl_s)
        if self._live(key) is not None:
            return False
        self._store(key, value, self._clock.monotonic() + ttl_s)
        return True

    async def delete(self, key: str) -> None:
        self._values.pop(key, None)

    async def increment(self, key: str, *, ttl_s: float) -> int:
        _check(key, b"", ttl_s)
        found = self._live(key)
        if found is None:
            self._store(key, b"1", self._clock.monotonic() + ttl_s)
            return 1
        count = int(found[0]) + 1
        self._values[key] = (b"%d" % count, found[1])
        return count

    async def check(self) -> None:
        return None

    def _live(self, key: str) -> tuple[bytes, float] | None:
        found = self._values.get(key)
        if found is not None and self._clock.monotonic() >= found[1]:
            del self._values[key]
            return None
        return found

    def _store(self, key: str, value: bytes, until_s: float) -> None:
        self._values.pop(key, None)
        if len(self._values) >= self._max_entries:
            self._values.popitem(last=False)
        self._values[key] = (value, until_s)


def _check(key: str, value: bytes, ttl_s: float) -> None:
    if not 0 < len(key) <= MAX_KEY_CHARS or len(value) > MAX_VALUE_BYTES or not 0 < ttl_s <= 31_536_000:
        raise ValueError("a key has 1 to 512 characters, a value at most 1 MiB, a time lies in one year")
