"""The promises of presence (services/socket/ports.py), over every family."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.adapters.distributed.socket import RedisPresence
from sealwire.adapters.embedded.socket import InProcessPresence
from sealwire.kit.clock import SystemClock
from sealwire.kit.ids import new_id
from sealwire.services.socket.ports import PresenceBoard
from sealwire.testing.clock import ManualClock
from sealwire.testing.engines import FLAVOURS, RedisServer
from sealwire.testing.faults import Fault, FaultProxy

PLACE = ("tenant", "conversation:c")


async def until_who(board: PresenceBoard, expected: dict[str, str], within_s: float = 3.0) -> None:
    deadline = time.monotonic() + within_s
    while (found := dict(await board.who(PLACE))) != expected:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.01)


@pytest.fixture(params=["embedded", *FLAVOURS])
async def boards(
    request: pytest.FixtureRequest, engine: Callable[[str], RedisServer]
) -> AsyncIterator[tuple[PresenceBoard, PresenceBoard]]:
    """The boards of two instances."""
    if request.param == "embedded":
        board = InProcessPresence()
        yield board, board
        return
    prefix = f"test-{new_id()}"
    driver = RedisDriver(url=engine(request.param).url, prefix=prefix, timeout_s=1.0)
    both = [RedisPresence(driver=driver, clock=SystemClock(), rng=Random(7)) for _ in range(2)]
    for each in both:
        await each.start()
    yield both[0], both[1]
    for each in both:
        await each.stop()
    await driver.aclose()


async def test_who_listens_anywhere_is_seen_everywhere(boards: tuple[PresenceBoard, PresenceBoard]) -> None:
    one, other = boards
    one.enter(PLACE, "c1", "ann")
    other.enter(PLACE, "c2", "bob")
    other.enter(PLACE, "c2", "bob")
    other.enter(("tenant", "conversation:d"), "c2", "bob")
    other.enter(("other", "conversation:c"), "c9", "eve")
    for board in boards:
        await until_who(board, {"c1": "ann", "c2": "bob"})
    one.leave(PLACE, "c1")
    one.leave(PLACE, "never here")
    for board in boards:
        await until_who(board, {"c2": "bob"})


async def test_who_comes_and_goes_at_once_is_gone(boards: tuple[PresenceBoard, PresenceBoard]) -> None:
    one, other = boards
    for i in range(50):
        one.enter(PLACE, f"c{i}", "ann")
        one.leave(PLACE, f"c{i}")
    one.enter(PLACE, "last", "ann")
    for board in (other, one):
        await until_who(board, {"last": "ann"})


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_what_an_instance_left_behind_goes_by_its_time(
    flavour: str, engine: Callable[[str], RedisServer]
) -> None:
    clock = ManualClock()
    driver = RedisDriver(url=engine(flavour).url, prefix=f"test-{new_id()}", timeout_s=1.0)
    dead = RedisPresence(driver=driver, clock=clock, rng=Random(7))
    alive = RedisPresence(driver=driver, clock=clock, rng=Random(7))
    await dead.start()
    dead.enter(PLACE, "c1", "ann")
    await until_who(alive, {"c1": "ann"})
    await dead.stop()
    clock.advance(61)
    await until_who(alive, {})
    await driver.aclose()


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_while_the_engine_is_out_an_instance_knows_its_own(
    flavour: str, engine: Callable[[str], RedisServer]
) -> None:
    server, prefix = engine(flavour), f"test-{new_id()}"
    with FaultProxy(server.port) as proxy:
        near = RedisDriver(url=server.url, prefix=prefix, timeout_s=1.0)
        far = RedisDriver(url=f"redis://127.0.0.1:{proxy.port}/0", prefix=prefix, timeout_s=0.3)
        one = RedisPresence(driver=far, clock=SystemClock(), rng=Random(7))
        other = RedisPresence(driver=near, clock=SystemClock(), rng=Random(7))
        await one.start()
        await other.start()
        one.enter(PLACE, "c1", "ann")
        other.enter(PLACE, "c2", "bob")
        await until_who(one, {"c1": "ann", "c2": "bob"})
        await asyncio.to_thread(proxy.set, Fault.BLACK_HOLE)
        one.enter(PLACE, "c3", "ann")
        one.leave(PLACE, "c1")
        assert dict(await one.who(PLACE)) == {"c3": "ann"}
        await asyncio.to_thread(proxy.set, Fault.NONE)
        await until_who(other, {"c2": "bob", "c3": "ann"})
        await one.stop()
        await other.stop()
        await near.aclose()
        await far.aclose()
