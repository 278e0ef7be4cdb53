"""The shared cache's promises (ports/cache.py), over every family."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from sealwire.adapters.distributed.cache import RedisCache
from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.adapters.embedded.cache import ProcessCache
from sealwire.kit.ids import new_id
from sealwire.ports.cache import MAX_VALUE_BYTES, CacheFault, SharedCache
from sealwire.testing.clock import ManualClock
from sealwire.testing.engines import FLAVOURS, RedisServer


class Family:
    """A cache and how to let its time pass. Times of a test are in units: a real engine's are short."""

    def __init__(self, cache: SharedCache, unit_s: float, clock: ManualClock | None = None) -> None:
        self.cache, self.unit_s, self._clock = cache, unit_s, clock

    async def pass_time(self, units: float) -> None:
        if self._clock is None:
            await asyncio.sleep(units * self.unit_s)
        else:
            self._clock.advance(units * self.unit_s)


@pytest.fixture(params=["embedded", *FLAVOURS])
async def family(request: pytest.FixtureRequest, engine: Callable[[str], RedisServer]) -> AsyncIterator[Family]:
    if request.param == "embedded":
        clock = ManualClock()
        yield Family(ProcessCache(clock=clock), 1.0, clock)
        return
    driver = RedisDriver(url=engine(request.param).url, prefix=f"test-{new_id()}", timeout_s=2.0)
    yield Family(RedisCache(driver=driver), 0.2)
    await driver.aclose()


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
    await family.cache.put("k", b"v", ttl_s=2 * family.unit_s)
    await family.cache.put("longer", b"v", ttl_s=20 * family.unit_s)
    await family.pass_time(1.5)
    assert await family.cache.get("k") == b"v"
    await family.pass_time(0.6)
    assert await family.cache.get("k") is None
    assert await family.cache.get("longer") == b"v"


async def test_add_lets_exactly_one_in(family: Family) -> None:
    added = await asyncio.gather(*(family.cache.add("k", b"%d" % i, ttl_s=5 * family.unit_s) for i in range(20)))
    assert sum(added) == 1
    assert await family.cache.get("k") == b"%d" % added.index(True)
    await family.pass_time(5.1)
    assert await family.cache.add("k", b"again", ttl_s=5 * family.unit_s)


async def test_counters_count_within_their_time(family: Family) -> None:
    counts = await asyncio.gather(*(family.cache.increment("n", ttl_s=3 * family.unit_s) for _ in range(10)))
    assert sorted(counts) == list(range(1, 11))
    await family.pass_time(2)
    assert await family.cache.increment("n", ttl_s=3 * family.unit_s) == 11  # the first increment's time counts
    await family.pass_time(1.1)
    assert await family.cache.increment("n", ttl_s=3 * family.unit_s) == 1


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


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_more_callers_than_connections_wait_their_turn(
    flavour: str, engine: Callable[[str], RedisServer]
) -> None:
    driver = RedisDriver(url=engine(flavour).url, prefix=f"test-{new_id()}", timeout_s=5.0, connections=4)
    cache = RedisCache(driver=driver)
    counts = await asyncio.gather(*(cache.increment("n", ttl_s=30) for _ in range(200)))
    assert sorted(counts) == list(range(1, 201))
    await driver.aclose()


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_a_cancelled_call_never_leaves_its_answer_to_another(
    flavour: str, engine: Callable[[str], RedisServer]
) -> None:
    driver = RedisDriver(url=engine(flavour).url, prefix=f"test-{new_id()}", timeout_s=5.0, connections=1)
    cache = RedisCache(driver=driver)
    for i in range(40):
        await cache.put(f"k{i}", b"v%d" % i, ttl_s=30)
    for i in range(39):
        task = asyncio.create_task(cache.get(f"k{i}"))
        for _ in range(i % 8):
            await asyncio.sleep(0)
        task.cancel()
        assert await cache.get(f"k{i + 1}") == b"v%d" % (i + 1)
        await asyncio.gather(task, return_exceptions=True)
    await driver.aclose()


async def test_an_address_that_is_not_a_caches_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown scheme"):
        RedisDriver(url="memcached://127.0.0.1")


async def test_nobody_there_is_a_fault_in_time() -> None:
    driver = RedisDriver(url="redis://127.0.0.1:1/0", timeout_s=0.5)
    cache = RedisCache(driver=driver)
    started = asyncio.get_running_loop().time()
    for call in (cache.get("k"), cache.put("k", b"v", ttl_s=1), cache.delete("k"), cache.check()):
        with pytest.raises(CacheFault):
            await call
    assert asyncio.get_running_loop().time() - started < 4 * 0.5 + 0.5
    await driver.aclose()


async def test_a_task_that_asks_on_and_on_can_be_cancelled_at_any_moment() -> None:
    driver = RedisDriver(url="redis://127.0.0.1:1/0", timeout_s=0.5)
    cache = RedisCache(driver=driver)

    async def ask_on() -> None:
        while True:
            with contextlib.suppress(CacheFault):
                await cache.check()
            await asyncio.sleep(0)

    for i in range(100):
        task = asyncio.create_task(ask_on())
        for _ in range(i):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=30)
        assert task.cancelled()
    await driver.aclose()
