"""Gateways that count together over a real server that goes away in the middle: never open, and nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random

import httpx
import pytest

from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.adapters.distributed.limits import RedisCountBoard
from sealwire.kit.clock import Clock
from sealwire.kit.ids import new_id
from sealwire.services.gateway.limit_exchange import LimitExchange
from sealwire.services.gateway.minute_counts import MinuteCounts
from sealwire.testing.engines import FLAVOURS, RedisServer, binary
from sealwire.testing.faults import Fault, FaultProxy
from sealwire.testing.installation import Installation, Person
from sealwire.testing.patience import until

pytestmark = [
    pytest.mark.skipif(binary("valkey") is None, reason="no valkey server on this machine (requirements/dev.txt)"),
    pytest.mark.timeout(300),
]
SECRET = b"s" * 32
FAULTS = [Fault.REFUSE, Fault.LATENCY, Fault.BLACK_HOLE, Fault.WRONG, Fault.SWAPPED]


@pytest.fixture(params=FLAVOURS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    if binary(request.param) is None:
        pytest.skip(f"no {request.param} server on this machine (requirements/dev.txt)")
    with RedisServer(tmp_path / "engine", flavour=request.param) as server:
        yield server


class EarlyInTheMinute:
    """The machine's clocks, set back so that a minute has just begun: counters end with the wall clock's."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._late_us = time.time_ns() // 1_000 % 60_000_000

    def now_us(self) -> int:
        return time.time_ns() // 1_000 - self._late_us


class Gateway:
    """The counting half of a gateway process."""

    def __init__(self, port: int, prefix: str, clock: Clock) -> None:
        self.driver = RedisDriver(url=f"redis://127.0.0.1:{port}/0", prefix=prefix)
        self.counts = MinuteCounts(clock=clock, members=2)
        self.exchange = LimitExchange(
            counts=self.counts, board=RedisCountBoard(driver=self.driver), secret=SECRET, rng=Random(1), every_s=0.02
        )

    async def close(self) -> None:
        await self.exchange.stop()
        await self.driver.aclose()


@pytest.fixture
async def pair(server: RedisServer) -> AsyncIterator[tuple[Gateway, Gateway, FaultProxy]]:
    with FaultProxy(server.port) as proxy:
        prefix, clock = f"test-{new_id()}", EarlyInTheMinute()
        one, two = Gateway(proxy.port, prefix, clock), Gateway(proxy.port, prefix, clock)
        for gateway in (one, two):
            await gateway.exchange.start()
        await until(lambda: one.counts.members == two.counts.members == 2 and one.counts.fresh and two.counts.fresh)
        yield one, two, proxy
        for gateway in (one, two):
            await gateway.close()


async def test_what_one_lets_in_the_other_counts(pair: tuple[Gateway, Gateway, FaultProxy]) -> None:
    one, two, _ = pair
    for _ in range(30):
        one.counts.incr("write/anna", 60)
    asked = 0

    def sees() -> bool:
        nonlocal asked
        asked += 1
        return two.counts.incr("write/anna", 60) > 30

    await until(sees)
    assert two.counts.get("write/anna") == 30 + asked, "counted once each"
    assert two.counts.get("write/otto") == 0


async def test_the_board_knows_no_address(pair: tuple[Gateway, Gateway, FaultProxy]) -> None:
    one, _, _ = pair
    one.counts.incr("auth/192.0.2.77/60/1/minute", 60)
    await until(lambda: one.counts.take(0)[1] == {} and one.counts.get("auth/192.0.2.77/60/1/minute") == 1)
    found: list[bytes] = []
    await until_async(lambda: keys(one, found))
    assert all(b"192.0.2" not in key for key in found)
    for key in found:
        assert await one.driver.call("PTTL", key) > 0, "no counter is left behind"


async def keys(gateway: Gateway, found: list[bytes]) -> bool:
    found[:] = await gateway.driver.call("KEYS", gateway.driver.key("limit:*"))
    return len(found) >= 2


async def until_async(holds: Callable[[], object], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not await holds():  # type: ignore[misc]  # an awaitable of a bool
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", FAULTS)
async def test_while_the_board_is_out_the_floor_is_strict_and_then_they_count_together_again(
    pair: tuple[Gateway, Gateway, FaultProxy], fault: Fault
) -> None:
    one, two, proxy = pair
    one.counts.incr("write/anna", 60)
    await until(lambda: one.counts.get("write/anna") == 1)
    proxy.set(fault, latency_s=2.0)
    await until(lambda: not one.counts.fresh and not two.counts.fresh)
    slowest = 0.0
    for _ in range(10):
        began = time.perf_counter()
        one.counts.incr("write/anna", 60)
        slowest = max(slowest, time.perf_counter() - began)
        await asyncio.sleep(0)
    assert one.counts.get("write/anna") >= 20, "each of ours counts for both"
    assert slowest < 1.0, "nobody waits for the board, which takes two seconds or never answers"
    proxy.set(Fault.NONE)
    await until(lambda: one.counts.fresh and two.counts.fresh)
    await until(lambda: two.counts.incr("write/anna", 60) >= 12)


async def test_a_server_that_is_killed_and_comes_back_empty_opens_nothing(
    pair: tuple[Gateway, Gateway, FaultProxy], server: RedisServer
) -> None:
    one, two, _ = pair
    for _ in range(9):
        one.counts.incr("write/anna", 60)
    await until(lambda: one.counts.get("write/anna") == 9)
    server.kill()
    await until(lambda: not one.counts.fresh)
    assert one.counts.incr("write/anna", 60) >= 10
    server.start()
    await until(lambda: one.counts.fresh and two.counts.fresh)
    await until(lambda: one.counts.members == two.counts.members == 2)


# -- a whole installation


@pytest.fixture
def installation(tmp_path: Path, server: RedisServer) -> Iterator[tuple[Installation, FaultProxy]]:
    with FaultProxy(server.port) as proxy:
        env = {
            "SEALWIRE_GATEWAY__RATE_LIMITS": "on",
            "SEALWIRE_GATEWAY__DEFAULT_PER_MINUTE": "40",
            "SEALWIRE_CACHE__URL": f"redis://127.0.0.1:{proxy.port}/0",
        }
        running = Installation(tmp_path / "data", env=env).start()
        yield running, proxy
        running.kill()


def test_an_outage_in_the_middle_gives_no_401_no_500_and_no_more_than_the_limit(
    installation: tuple[Installation, FaultProxy],
) -> None:
    running, proxy = installation
    ann = Person(running.url, "ann")
    while time.time() % 60 > 40:
        time.sleep(0.2)
    seen: list[int] = []
    for number in range(60):
        if number == 15:
            proxy.set(Fault.BLACK_HOLE)
        answer = ann.http.get("/auth/me")
        seen.append(answer.status_code)
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) == ("40", "0")
        else:
            assert int(answer.headers["ratelimit-remaining"]) < 40
    assert set(seen) == {200, 429}
    assert seen.count(200) <= 40
    ready = httpx.get(running.url + "/ready")
    assert ready.status_code == 200
    proxy.set(Fault.NONE)
    deadline = time.monotonic() + 60
    with contextlib.suppress(KeyError):
        while httpx.get(running.url + "/ready").json()["checks"]["rate_limits"]["status"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.05)
