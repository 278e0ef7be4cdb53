"""The shared cache's promises (ports/cache.py), over every family."""

from __future__ import annotations

import asyncio

import pytest

from sealwire.adapters.embedded.cache import ProcessCache
from sealwire.ports.cache import MAX_VALUE_BYTES, SharedCache
from sealwire.testing.clock import ManualClock


class Family:
    """A cache and how to let its time pass."""

    def __init__(self, cache: SharedCache, clock: ManualClock) -> None:
        self.cache, self._clock = cache, clock

    async def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)


@pytest.fixture(params=["embedded"])
def family(request: pytest.FixtureRequest) -> Family:
    clock = ManualClock()
    return Family(ProcessCache(clock=clock), clock)


@pytest.fixture
def cache(family: Family) -> SharedCache:
    return family.cache


async def test_what_was_put_is_got(cache: SharedCache) -> None:
    assert await cache.get("k") is None
    await cache.put("k", b"\x00one", ttl_s=10)
    assert await cache.get("k") == b"\x00one"
    await cache.put("k", b"two", ttl_s=10)
    assert await cache.get("k") == b"two"
    await cache.delete("k")
    await cache.delete("k")
    assert await cache.get("k") is None


async def test_nothing_is_got_past_its_time(family: Family) -> None:
    await family.cache.put("k", b"v", ttl_s=2)
    await family.cache.put("longer", b"v", ttl_s=20)
    await family.pass_time(1.5)
    assert await family.cache.get("k") == b"v"
    await family.pass_time(0.6)
    assert await family.cache.get("k") is None
    assert await family.cache.get("longer") == b"v"


async def test_add_lets_exactly_one_in(family: Family) -> None:
    added = await asyncio.gather(*(family.cache.add("k", b"%d" % i, ttl_s=5) for i in range(20)))
    assert sum(added) == 1
    assert await family.cache.get("k") == b"%d" % added.index(True)
    await family.pass_time(5.1)
    assert await family.cache.add("k", b"again", ttl_s=5)


async def test_counters_count_within_their_time(family: Family) -> None:
    counts = await asyncio.gather(*(family.cache.increment("n", ttl_s=3) for _ in range(10)))
    assert sorted(counts) == list(range(1, 11))
    await family.pass_time(2)
    assert await family.cache.increment("n", ttl_s=3) == 11  # the first increment's time counts
    await family.pass_time(1.1)
    assert await family.cache.increment("n", ttl_s=3) == 1


@pytest.mark.parametrize(
    ("key", "value", "ttl_s"),
    [("", b"v", 1), ("k" * 513, b"v", 1), ("k", b"v" * (MAX_VALUE_BYTES + 1), 1), ("k", b"v", 0), ("k", b"v", -1)],
)
async def test_what_is_out_of_bounds_is_refused(cache: SharedCache, key: str, value: bytes, ttl_s: float) -> None:
    with pytest.raises(ValueError):
        await cache.put(key, value, ttl_s=ttl_s)
    with pytest.raises(ValueError):
        await cache.add(key, value, ttl_s=ttl_s)


async def test_it_says_that_it_works(cache: SharedCache) -> None:
    await cache.check()


async def test_the_embedded_one_is_bounded() -> None:
    cache = ProcessCache(clock=ManualClock(), max_entries=3)
    for i in range(10):
        await cache.put(str(i), b"v", ttl_s=10)
    assert len(cache) == 3
    assert await cache.get("9") == b"v"
    assert await cache.get("0") is None
