"""The cache's primary dies and a replica takes over by the word of three sentinels: nobody is logged out, the dead stay
dead, and what the replica never heard of is made up for."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.adapters.distributed.drivers.sentinels import Sentinels
from sealwire.ports.cache import CacheFault
from sealwire.testing.engines import RedisServer, binary, command
from sealwire.testing.held_up import HeldUp
from sealwire.testing.installation import Installation, Person
from sealwire.testing.receipts import EVERYWHERE, latest
from sealwire.testing.sentinels import NAME, Watched
from sealwire.testing.wire import Wire

pytestmark = [
    pytest.mark.skipif(binary("valkey") is None, reason="no valkey server on this machine (requirements/dev.txt)"),
    pytest.mark.timeout(300),
]
DEADLINE_S = 60.0
BOUND_US = 1_000_000
"""By the installation's own receipts."""


# -- whom to believe


class Asked:
    """Lets tellers answer once each of them was asked: only who asks all at once hears anything."""

    def __init__(self, count: int) -> None:
        self._count, self._who, self._all = count, set[int](), threading.Event()

    def wait_for_all(self, teller: Teller) -> None:
        self._who.add(id(teller))
        if len(self._who) == self._count:
            self._all.set()
        self._all.wait(DEADLINE_S)


class Teller:
    """Something on a port that answers every question with the same words; nothing at all for None."""

    def __init__(
        self, answer: bytes | None, *, after_s: float = 0.0, timeout_s: float = 20.0, all_asked: Asked | None = None
    ) -> None:
        self.answer, self._after_s, self._all_asked = answer, after_s, all_asked
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.driver = RedisDriver(url=f"redis://127.0.0.1:{self.port}", timeout_s=timeout_s, connections=1)

    def __enter__(self) -> Teller:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._tell, args=(connection,), daemon=True).start()

    def _tell(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while asked := connection.recv(4096):
                if self._all_asked is not None:
                    self._all_asked.wait_for_all(self)
                time.sleep(self._after_s)
                if self.answer is not None:
                    connection.sendall(self.answer * (asked.count(b"\r\n*") + asked.startswith(b"*")))


def says(port: int) -> bytes:
    return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port)


@pytest.mark.parametrize(
    ("tellers", "expected"),
    [
        ([(says(7001), 0.2), (says(7001), 0.2), (says(7002), 0)], 7001),
        ([(says(7001), 0), (None, 0), (says(7001), 0)], 7001),
        ([(says(7001), 0), (b"*-1\r\n", 0), (b"$7\r\nnothing\r\n", 0)], 7001),
        ([(None, 0), (None, 0), (says(7002), 0)], 7002),
        ([(b"-ERR no\r\n", 0), (b"*2\r\n:1\r\n$1\r\nx\r\n", 0), (None, 0)], None),
    ],
    ids=["a stale one is outvoted", "one hangs", "two know nothing", "one is left", "nobody tells"],
)
async def test_most_sentinels_are_believed_and_none_is_waited_for(tellers: list[Any], expected: int | None) -> None:
    with ExitStack() as stack:
        asked = Asked(len(tellers))
        all_of_them = [
            stack.enter_context(Teller(answer, after_s=after_s, timeout_s=20.0 if answer else 2.0, all_asked=asked))
            for answer, after_s in tellers
        ]
        sentinels = Sentinels(drivers=[teller.driver for teller in all_of_them], name=NAME)
        try:
            if expected is None:
                with pytest.raises(CacheFault):
                    await sentinels.primary()
            else:
                found = await asyncio.gather(*(sentinels.primary() for _ in range(20)))
                assert set(found) == {("127.0.0.1", expected)}
        finally:
            await sentinels.aclose()


# -- a failover


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("watched")) as watched:
        yield watched


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, watched: Watched) -> Iterator[Installation]:
    env = {"SEALWIRE_CACHE__URL": watched.url}
    running = Installation(tmp_path_factory.mktemp("over-sentinels") / "data", env=env).start()
    yield running
    running.kill()


def cache(installation: Installation) -> str:
    return str(httpx.get(installation.url + "/ready").json()["checks"]["cache"]["status"])


async def until(holds: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


def kept(port: int, session: dict[str, Any]) -> bool:
    return command(port, "EXISTS", f"sealwire:session:{session['session_id']}").startswith(b":1")


async def status(installation: Installation, headers: dict[str, str]) -> int:
    async with httpx.AsyncClient(base_url=installation.url, headers=headers, timeout=40) as http:
        return (await http.get("/api/v1/auth/me")).status_code


async def ask_on(person: Person, seen: Counter[int], stop: asyncio.Event) -> None:
    async with httpx.AsyncClient(base_url=person.http.base_url, headers=dict(person.http.headers), timeout=40) as http:
        while not stop.is_set():
            seen[(await http.get("auth/me")).status_code] += 1
            await asyncio.sleep(0.02)


async def test_a_failover_logs_nobody_out_and_revives_nobody(watched: Watched, installation: Installation) -> None:
    ann, ben = Person(installation.url, "ann"), Person(installation.url, "ben")
    lost = dict(ann.grant)
    ann.log_in()
    doomed = dict(ann.grant)
    ann.log_in()
    chat = ann.converse(ben)
    bearer = [{"authorization": f"Bearer {grant['access_token']}"} for grant in (lost, doomed)]
    for headers in bearer:
        assert await status(installation, headers) == 200
    await until(lambda: cache(installation) == "ok" and kept(watched.replica.port, lost))

    watched.replica.pause()  # it lags: what happens now it never hears of
    assert ann.http.delete(f"/auth/sessions/{lost['session_id']}").status_code == 204
    await until(lambda: not kept(watched.primary.port, lost))
    answers: Counter[int] = Counter()
    stop = asyncio.Event()
    asking = asyncio.create_task(ask_on(ben, answers, stop))
    held = HeldUp(installation.pid, installation.data.parent).__enter__()
    async with Wire(installation.url) as wire:
        assert "client" in await wire.connect(ann.token)
        assert "error" not in await wire.subscribe(chat)
        watched.primary.kill()
        watched.replica.resume()
        assert await status(installation, bearer[0]) == 401
        assert (await asyncio.to_thread(ann.http.delete, f"/auth/sessions/{doomed['session_id']}")).status_code == 204
        began = time.monotonic()
        while await status(installation, bearer[1]) != 401:
            assert time.monotonic() - began < DEADLINE_S
        applied = (await asyncio.to_thread(latest, ann.http, "session"))["applied"]
        in_force = {where: found["took_us"] for where, found in applied.items() if not found["fault"]}
        assert in_force.keys() >= EVERYWHERE - {"session_validation_normalizer"}
        held.__exit__(None, None, None)
        assert max(in_force.values()) < BOUND_US + 1_000_000 * held.up_s, in_force
        sent = await asyncio.to_thread(ben.send, chat, "still here")
        await wire.until(lambda: any(pub["data"]["type"] == "message.created" for pub in wire.publications(chat)))
        assert sent["seq"] == 1
        await until(lambda: cache(installation) == "degraded" or watched.sentinels[0].primary() == watched.replica.port)
        await asyncio.to_thread(watched.wait_for_failover)
        await until(lambda: cache(installation) == "ok")
        await asyncio.to_thread(ann.log_in)
        assert (await asyncio.to_thread(ann.http.get, "/auth/me")).status_code == 200
        await until(lambda: kept(watched.replica.port, ann.grant))
        await until(lambda: not any(kept(watched.replica.port, grant) for grant in (lost, doomed)))
        assert wire.close_code is None, "the socket never noticed"
    stop.set()
    await asking
    assert set(answers) <= {200, 503}, answers
    assert answers[200] > answers[503], answers
    for headers in bearer:
        assert await status(installation, headers) == 401
    assert "now; it was" in installation.log.read_text(), "whoever runs it can see the change of the primary"


async def test_a_server_that_is_no_primary_any_more_is_left_with_the_next_call(tmp_path: Path) -> None:
    """A failover by hand: connections stand, and what is behind them takes no writes."""
    with (
        RedisServer(tmp_path / "one") as one,
        RedisServer(tmp_path / "two") as two,
        Teller(says(one.port)) as teller,
    ):
        driver = RedisDriver(url=f"redis+sentinel://127.0.0.1:{teller.port}/main/0", timeout_s=20.0, connections=1)
        await driver.call("SET", "where", "one")
        command(one.port, "REPLICAOF", "127.0.0.1", str(two.port))
        teller.answer = says(two.port)
        with suppress(CacheFault):
            await driver.call("SET", "where", "refused")
        await driver.call("SET", "where", "two")
        assert command(two.port, "GET", "where").endswith(b"two\r\n")
        await driver.aclose()


async def test_without_any_sentinel_it_is_an_outage_and_with_one_it_goes_on(watched: Watched) -> None:
    watched.sentinels[0].pause()
    watched.sentinels[1].pause()
    driver = RedisDriver(url=watched.url, timeout_s=5.0, connections=1)
    await driver.call("SET", "k", "v")
    await driver.aclose()
    for sentinel in watched.sentinels:
        sentinel.kill()
    driver = RedisDriver(url=watched.url, timeout_s=1.0, connections=1)
    with pytest.raises(CacheFault):
        await driver.call("GET", "k")
    await driver.aclose()


async def test_a_node_of_a_cluster_is_refused_with_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path / "node", options=["--cluster-enabled", "yes"]) as node:
        driver = RedisDriver(url=node.url, timeout_s=20.0)
        for _ in range(3):
            with pytest.raises(CacheFault):
                await driver.call("GET", "k")
        await driver.aclose()
    assert [record.getMessage() for record in caplog.records if "Cluster" in record.getMessage()] == [
        "the cache is a node of a Redis Cluster, which is not supported (docs/life/outage.md)"
    ]
