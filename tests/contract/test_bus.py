"""The bus's promises (ports/bus.py), over every family."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from sealwire.adapters.distributed.bus import RedisBus
from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.adapters.embedded.bus import InProcessBus
from sealwire.kit.ids import new_id
from sealwire.ports.bus import MAX_PAYLOAD_BYTES, Bus
from sealwire.testing.engines import FLAVOURS, RedisServer
from sealwire.testing.faults import Fault, FaultProxy
from sealwire.testing.patience import until


class Process:
    """A process's end of the bus over an engine."""

    def __init__(self, url: str, prefix: str) -> None:
        self.drivers = (
            RedisDriver(url=url, prefix=prefix, timeout_s=0.5),
            RedisDriver(url=url, prefix=prefix, timeout_s=0.5, connections=1, patience_s=1.0),
        )
        self.bus = RedisBus(driver=self.drivers[0], reader=self.drivers[1], rng=Random(7))

    async def __aenter__(self) -> RedisBus:
        await self.bus.start()
        return self.bus

    async def __aexit__(self, *_: object) -> None:
        await self.bus.stop()
        for driver in self.drivers:
            await driver.aclose()


@pytest.fixture(params=["embedded", *FLAVOURS])
async def ends(request: pytest.FixtureRequest, engine: Callable[[str], RedisServer]) -> AsyncIterator[tuple[Bus, Bus]]:
    """Two ends of one bus: of two processes where the family knows several."""
    if request.param == "embedded":
        bus = InProcessBus()
        yield bus, bus
        return
    url, prefix = engine(request.param).url, f"test-{new_id()}"
    async with Process(url, prefix) as one, Process(url, prefix) as other:
        yield one, other


async def test_everybody_hears_it_once_and_in_order(ends: tuple[Bus, Bus]) -> None:
    one, other = ends
    here: list[bytes] = []
    there: list[bytes] = []
    one.subscribe("t", here.append)
    other.subscribe("t", lambda payload: there.append(payload))
    for i in range(300):
        one.publish("t", b"%d" % i)
    assert here == [], "a handler runs later, never inside of publish"
    await until(lambda: len(here) == len(there) == 300)
    await asyncio.sleep(0.05)
    assert here == there == [b"%d" % i for i in range(300)]


async def test_topics_are_apart_and_a_subscription_ends(ends: tuple[Bus, Bus]) -> None:
    one, other = ends
    heard: list[bytes] = []
    ended: list[bytes] = []
    other.subscribe("wanted", heard.append)
    stop = other.subscribe("wanted", lambda payload: ended.append(payload))
    one.publish("other", b"no")
    one.publish("wanted", b"1")
    await until(lambda: heard == ended == [b"1"])
    stop()
    one.publish("wanted", b"2")
    await until(lambda: heard == [b"1", b"2"])
    assert ended == [b"1"]


async def test_a_handler_that_fails_harms_nobody(ends: tuple[Bus, Bus]) -> None:
    one, other = ends
    heard: list[bytes] = []

    def fail(_: bytes) -> None:
        raise RuntimeError("on purpose")

    other.subscribe("t", fail)
    other.subscribe("t", heard.append)
    one.publish("t", b"1")
    one.publish("t", b"2")
    await until(lambda: heard == [b"1", b"2"])


async def test_a_long_payload_is_refused(ends: tuple[Bus, Bus]) -> None:
    ends[0].publish("t", bytes(MAX_PAYLOAD_BYTES))
    with pytest.raises(ValueError):
        ends[0].publish("t", bytes(MAX_PAYLOAD_BYTES + 1))


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_who_comes_later_hears_nothing_of_before(flavour: str, engine: Callable[[str], RedisServer]) -> None:
    url, prefix = engine(flavour).url, f"test-{new_id()}"
    async with Process(url, prefix) as one:
        async with Process(url, prefix) as witness:
            told: list[bytes] = []
            witness.subscribe("t", told.append)
            one.publish("t", b"before")
            await until(lambda: told == [b"before"])
        async with Process(url, prefix) as late:
            heard: list[bytes] = []
            late.subscribe("t", heard.append)
            one.publish("t", b"after")
            await until(lambda: bool(heard))
            assert heard == [b"after"]


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_a_connection_that_breaks_loses_nothing(flavour: str, engine: Callable[[str], RedisServer]) -> None:
    server, prefix = engine(flavour), f"test-{new_id()}"
    with FaultProxy(server.port) as proxy:
        async with (
            Process(server.url, prefix) as one,
            Process(f"redis://127.0.0.1:{proxy.port}/0", prefix) as other,
        ):
            heard: list[bytes] = []
            other.subscribe("t", heard.append)
            one.publish("t", b"1")
            await until(lambda: heard == [b"1"])
            await asyncio.to_thread(proxy.set, Fault.REFUSE)
            own: list[bytes] = []
            other.subscribe("own", own.append)
            other.publish("own", b"here")
            await until(lambda: own == [b"here"])  # within the process the bus works on
            one.publish("t", b"2")
            one.publish("t", b"3")
            await asyncio.sleep(0.2)
            assert heard == [b"1"]
            await asyncio.to_thread(proxy.set, Fault.NONE)
            await until(lambda: heard == [b"1", b"2", b"3"])


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_publish_never_waits_for_an_engine_that_is_away(
    flavour: str, engine: Callable[[str], RedisServer]
) -> None:
    server, prefix = engine(flavour), f"test-{new_id()}"
    with FaultProxy(server.port) as proxy:
        proxy.set(Fault.BLACK_HOLE)
        async with Process(f"redis://127.0.0.1:{proxy.port}/0", prefix) as bus:
            heard: list[bytes] = []
            bus.subscribe("t", heard.append)
            started = time.perf_counter()
            for i in range(5000):
                bus.publish("t", b"%d" % i)
            assert time.perf_counter() - started < 5, "a patience of its own for each would take minutes"
            await until(lambda: len(heard) == 5000)
            assert bus.dropped >= 5000 - 2048, "what waits is bounded"
