"""The cache against a plain model: bounded, never an expired value, one load at a time, invalidation wins."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.resilience import deadline
from sealwire.resilience.cache import TtlCache
from sealwire.testing.clock import ManualClock


def cache_of(clock: ManualClock, *, max_entries: int = 8, ttl_s: float = 10, jitter: float = 0) -> TtlCache[str, str]:
    return TtlCache(max_entries=max_entries, ttl_s=ttl_s, jitter=jitter, clock=clock, rng=Random(3))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcdef"), st.floats(0, 20)),
        st.tuples(st.just("get"), st.sampled_from("abcdef"), st.just(0.0)),
        st.tuples(st.just("drop"), st.sampled_from("abcdef"), st.just(0.0)),
        st.tuples(st.just("wait"), st.just(""), st.floats(0, 6)),
    ),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, jitter=st.sampled_from([0, 0.3]), size=st.integers(1, 8))
def test_nothing_expired_dropped_or_replaced_is_ever_served(
    steps: list[tuple[str, str, float]], jitter: float, size: int
) -> None:
    clock = ManualClock()
    cache = cache_of(clock, max_entries=size, jitter=jitter)
    model: dict[str, tuple[str, float, float]] = {}
    for number, (what, key, amount) in enumerate(steps):
        if what == "put":
            cache.put(key, f"{key}{number}", ttl_s=amount)
            life_s = min(amount, 10)
            model[key] = (f"{key}{number}", clock.monotonic() + life_s * (1 - jitter), clock.monotonic() + life_s)
        elif what == "drop":
            cache.invalidate(key)
            model.pop(key, None)
        elif what == "wait":
            clock.advance(amount)
        else:
            value = cache.get(key)
            if value is not None:
                assert value == model[key][0]
                assert clock.monotonic() < model[key][2]
            elif key in model and size >= 6:  # no eviction: it must be there until the jittered end
                assert clock.monotonic() >= model[key][1]
        assert len(cache) <= size


async def test_many_askers_share_one_load() -> None:
    cache = cache_of(ManualClock())
    loads = 0

    async def load() -> str:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0)
        return "value"

    assert await asyncio.gather(*(cache.get_or_load("k", load) for _ in range(50))) == ["value"] * 50
    assert await cache.get_or_load("k", load) == "value"
    assert loads == 1


async def test_a_failed_load_is_told_to_all_and_not_remembered() -> None:
    cache = cache_of(ManualClock())

    async def fail() -> str:
        await asyncio.sleep(0)
        raise ConnectionError

    outcomes = await asyncio.gather(*(cache.get_or_load("k", fail) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, ConnectionError) for outcome in outcomes)

    async def load() -> str:
        return "value"

    assert await cache.get_or_load("k", load) == "value"


async def test_invalidation_during_a_load_wins() -> None:
    cache = cache_of(ManualClock())
    gate = asyncio.Event()

    async def old() -> str:
        await gate.wait()
        return "old"

    async def new() -> str:
        return "new"

    asked_before = asyncio.create_task(cache.get_or_load("k", old))
    await asyncio.sleep(0)
    cache.invalidate("k")
    assert await cache.get_or_load("k", new) == "new"
    gate.set()
    assert await asked_before == "old"
    assert cache.get("k") == "new"


@pytest.mark.parametrize("forget", ["clear", "where"])
async def test_wholesale_invalidation_reaches_loads_too(forget: str) -> None:
    cache = cache_of(ManualClock())
    cache.put("a", "1")
    cache.put("b", "2")
    gate = asyncio.Event()

    async def load() -> str:
        await gate.wait()
        return "stale"

    task = asyncio.create_task(cache.get_or_load("c", load))
    await asyncio.sleep(0)
    if forget == "clear":
        cache.clear()
    else:
        assert cache.invalidate_where(lambda key, value: value == "1" and key == "a") == 1
        assert cache.get("b") == "2"
    gate.set()
    assert await task == "stale"
    assert cache.get("a") is None
    assert cache.get("c") is None


async def test_a_cancelled_asker_leaves_the_load_to_the_others() -> None:
    cache = cache_of(ManualClock())
    gate = asyncio.Event()
    ended = asyncio.Event()

    async def load() -> str:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            ended.set()
            raise
        return "value"

    first, second = (asyncio.create_task(cache.get_or_load("k", load)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    gate.set()
    assert await second == "value"
    gate.clear()
    cache.clear()
    lonely = asyncio.create_task(cache.get_or_load("k", load))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    lonely.cancel()
    await asyncio.wait_for(ended.wait(), 30)  # nobody waits for it any more
    with pytest.raises(asyncio.CancelledError):
        await lonely


async def test_a_hurried_asker_does_not_hurry_the_shared_load() -> None:
    clock = ManualClock()
    cache = cache_of(clock)

    async def load() -> str:
        assert deadline.at_s() is None
        return "value"

    with deadline.within(0.001, clock):
        assert await cache.get_or_load("k", load) == "value"


def test_what_is_read_outlives_what_is_not() -> None:
    cache = cache_of(ManualClock(), max_entries=4)
    for key in "abcd":
        cache.put(key, key)
    cache.get("a")
    for key in "efg":
        cache.put(key, key)
    assert cache.get("a") == "a"
    assert cache.evictions == 3
    for key in "abcdefg":
        cache.get(key)
    cache.put("h", "h")  # all were read: the oldest goes all the same
    assert len(cache) == 4


def test_entries_made_together_expire_apart() -> None:
    clock = ManualClock()
    cache: TtlCache[int, int] = TtlCache(max_entries=1000, ttl_s=10, jitter=0.2, clock=clock, rng=Random(5))
    for i in range(1000):
        cache.put(i, i)
    clock.advance(9)
    alive = sum(cache.get(i) is not None for i in range(1000))
    assert 400 < alive < 600


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError):
        cache_of(ManualClock(), ttl_s=0)
