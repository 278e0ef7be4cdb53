"""What a cache says that it should not: the wrong kind, somebody else's data, or no end. Each is an outage."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sealwire.adapters.distributed.bus import RedisBus
from sealwire.adapters.distributed.cache import RedisCache
from sealwire.adapters.distributed.drivers.redis import MAX_ANSWER_BYTES, RedisDriver
from sealwire.adapters.distributed.socket import RedisPresence
from sealwire.kit.clock import SystemClock
from sealwire.kit.ids import new_id
from sealwire.ports.cache import MAX_VALUE_BYTES, CacheFault
from sealwire.testing.engines import RedisServer, binary
from sealwire.testing.patience import until

pytestmark = [
    pytest.mark.skipif(binary("valkey") is None, reason="no valkey server on this machine (requirements/dev.txt)"),
    pytest.mark.timeout(60),
]
PLACE = ("tenant", "conversation:c")
KERNEL_BYTES = 16 * 1024 * 1024
"""What both ends' kernels may hold of what was sent and never read."""


class Hostile:
    """A server that answers whatever it is asked with the same words, over and over, and counts what was taken."""

    def __init__(self, head: bytes, again: bytes = b"") -> None:
        self._head, self._again = head, again
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.taken_bytes = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Hostile:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in `accept`
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    connection.recv(4096)
                    connection.sendall(self._head)
                    while self._again:
                        self.taken_bytes += connection.send(self._again)


@pytest.mark.parametrize(
    ("head", "again"),
    [
        (b"$536870912\r\n", bytes(1 << 16)),
        (b"*536870912\r\n", b"$-1\r\n" * 10_000),
        (b"", b"*1\r\n" * 10_000),
        (b"+", b"x" * (1 << 16)),
        (b"$-7\r\n", b""),
        (b":not a number\r\n", b""),
        (b"\x00\xff\r\n", b""),
    ],
    ids=["a huge value", "a huge list", "lists in lists", "a line without end", "a negative length", "no number", "no"],
)
async def test_an_answer_without_end_or_sense_is_an_outage_that_costs_little(head: bytes, again: bytes) -> None:
    with Hostile(head, again) as hostile:
        driver = RedisDriver(url=hostile.url, timeout_s=0.5, connections=1)
        cache = RedisCache(driver=driver)
        for call in (cache.get("k"), cache.check(), cache.put("k", b"v", ttl_s=5)):
            with pytest.raises(CacheFault):
                await call
        await driver.aclose()
        assert hostile.taken_bytes < 3 * (MAX_ANSWER_BYTES + KERNEL_BYTES)


async def test_an_answer_of_very_many_parts_holds_nobody_else_up() -> None:
    """Else the time limit of the call does not count either: both are looked at between two turns of the loop."""
    longest_s = 0.0

    async def turn() -> None:
        nonlocal longest_s
        while True:
            began_s = time.thread_time()  # of this thread: neither the server's share nor that of other processes
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.thread_time() - began_s)

    with Hostile(b"*536870912\r\n", b":1\r\n" * 65_536) as hostile:
        driver = RedisDriver(url=hostile.url, timeout_s=0.5, connections=1)
        gc.disable()  # it goes through all that other tests left behind
        try:
            turning = asyncio.create_task(turn())
            with pytest.raises(CacheFault):
                await driver.call("GET", "k")
            turning.cancel()
        finally:
            gc.enable()
        await driver.aclose()
    assert longest_s < 0.05


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "engine") as server:
        yield server


@pytest.fixture
async def driver(server: RedisServer) -> AsyncIterator[RedisDriver]:
    driver = RedisDriver(url=server.url, prefix=f"test-{new_id()}", timeout_s=20.0)
    yield driver
    await driver.aclose()


async def test_a_key_of_another_kind_is_an_outage(driver: RedisDriver) -> None:
    cache = RedisCache(driver=driver)
    await driver.call("LPUSH", driver.key("k"), "a list")
    for call in (cache.get("k"), cache.increment("k", ttl_s=5)):
        with pytest.raises(CacheFault):
            await call
    await cache.delete("k")
    assert await cache.get("k") is None


async def test_a_value_longer_than_any_of_ours_is_an_outage(driver: RedisDriver) -> None:
    cache = RedisCache(driver=driver)
    for length in (MAX_VALUE_BYTES + 1, 2 * MAX_ANSWER_BYTES):
        await driver.call("SETRANGE", driver.key("k"), length - 1, "x")
        with pytest.raises(CacheFault):
            await cache.get("k")
    await cache.put("k", b"v", ttl_s=5)
    assert await cache.get("k") == b"v", "the next call has a connection of its own"


async def test_presence_passes_over_what_is_not_its_own(driver: RedisDriver) -> None:
    board = RedisPresence(driver=driver, clock=SystemClock(), rng=Random(7))
    board.enter(PLACE, "here", "ann")
    key = driver.key("presence:tenant:conversation:c")
    until_s = int(time.time()) + 60
    for field, value in (
        (b"\xff\xfe", b"\xff\xfe"),
        (b"no time", b"bob"),
        (b"no text", b"\xff 1"),
        (b"no user", b"%d " % until_s),
        (b"over", b"1 bob"),
        (b"x" * 5_000, b"%d bob" % until_s),
        (b"long", b"%d " % until_s + b"b" * 5_000),
        (b"there", b"%d bob" % until_s),
    ):
        await driver.call("HSET", key, field, value)
    assert dict(await board.who(PLACE)) == {"here": "ann", "there": "bob"}
    await driver.call("DEL", key)
    await driver.call("SET", key, "another kind")
    assert dict(await board.who(PLACE)) == {"here": "ann"}


async def test_the_bus_passes_over_what_is_not_its_own_and_goes_on(
    driver: RedisDriver, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    reader = RedisDriver(url=server.url, prefix=driver.prefix, timeout_s=20.0, connections=1, patience_s=1.0)
    bus = RedisBus(driver=driver, reader=reader, rng=Random(7))
    heard: list[bytes] = []
    bus.subscribe("t", heard.append)
    await bus.start()
    stream = driver.key("bus")
    for fields in (
        ("a", "b"),
        ("o", os.urandom(8), "t", b"\xff\xff", "p", "x"),
        ("o", os.urandom(8), "t", "t", "p", bytes(5_000)),
        ("o", os.urandom(8), "t", "t", "p", "good"),
    ):
        await driver.call("XADD", stream, "*", *fields)
    await until(lambda: heard == [b"good"])
    await driver.call("DEL", stream)
    await driver.call("SET", stream, "another kind")
    bus.publish("t", b"own")
    await until(lambda: heard == [b"good", b"own"])
    await driver.call("DEL", stream)
    deadline = time.monotonic() + 40
    while heard[-1] != b"again":  # it may pause a moment after the fault
        assert time.monotonic() < deadline
        await driver.call("XADD", stream, "*", "o", os.urandom(8), "t", "t", "p", "again")
        await asyncio.sleep(0.05)
    await bus.stop()
    await reader.aclose()
    assert not [record for record in caplog.records if record.exc_info], "an outage, not a bug"


@pytest.mark.parametrize("answer", [b":1\r\n", b"$3\r\nabc\r\n", b"*1\r\n:1\r\n", b"*1\r\n*1\r\n:1\r\n", b"+OK\r\n"])
async def test_a_bus_that_hears_nonsense_takes_it_for_an_outage(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    class Babbler(Hostile):
        """Answers every question with the same well-formed nonsense."""

        def _serve(self) -> None:
            with suppress(OSError):
                while True:
                    connection, _ = self._listener.accept()
                    threading.Thread(target=self._babble, args=(connection,), daemon=True).start()

        def _babble(self, connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while asked := connection.recv(4096):
                    connection.sendall(answer * max(1, asked.count(b"\r\n*") + asked.startswith(b"*")))

    with Babbler(b"") as babbler:
        both: list[Any] = [
            RedisDriver(url=babbler.url, timeout_s=0.5, connections=1, patience_s=patience) for patience in (0, 0.1)
        ]
        bus = RedisBus(driver=both[0], reader=both[1], rng=Random(7))
        heard: list[bytes] = []
        bus.subscribe("t", heard.append)
        await bus.start()
        bus.publish("t", b"own")
        await until(lambda: heard == [b"own"])
        await asyncio.sleep(0.2)
        await bus.stop()
        for driver in both:
            await driver.aclose()
    assert not [record for record in caplog.records if record.exc_info], "an outage, not a bug"
