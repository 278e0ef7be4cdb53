"""The session cache goes away, in every way it can: nothing that was shut opens, nobody good is locked out."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sealwire.adapters.distributed.cache import RedisCache
from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.boundary.boundary import Boundary
from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.model import Source, Status
from sealwire.cli.drill import FAULTS
from sealwire.contracts.admission import SessionRevoked
from sealwire.contracts.auth import OPERATIONS as AUTH
from sealwire.kit.clock import US_PER_S, SystemClock
from sealwire.kit.http import App
from sealwire.kit.ids import new_id
from sealwire.kit.operation import Operation, Policy
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Problem, SessionUnconfirmed
from sealwire.kit.tasks import cancel_and_wait
from sealwire.resilience.breaker import State
from sealwire.testing.asgi import ask
from sealwire.testing.boundary_room import BoundaryRoom, bearer, edge_of
from sealwire.testing.engines import RedisServer, binary
from sealwire.testing.faults import Fault, FaultProxy
from sealwire.testing.held_up import HeldUp
from sealwire.testing.patience import until

pytestmark = [
    pytest.mark.skipif(binary("valkey") is None, reason="no valkey server on this machine (requirements/dev.txt)"),
    pytest.mark.timeout(200),
]
UNCONFIRMED_S = 120
"""As long as nothing here takes: who is to be past it puts the clock forward."""
PAST_THE_BOUND = ("kill", "half-open")
"""Two go on past the bound: by then both parts are out, and it is all one how the cache was lost."""
LOST = {
    "kill": lambda server, proxy: server.kill(),
    "pause": lambda server, proxy: server.pause(),
    "latency": lambda server, proxy: proxy.set(Fault.LATENCY, latency_s=1.0),
    "half-open": lambda server, proxy: proxy.set(Fault.BLACK_HOLE),
    "wrong": lambda server, proxy: proxy.set(Fault.WRONG),
    "swapped": lambda server, proxy: proxy.set(Fault.SWAPPED),
}


# -- a whole installation, by the command that its operators have


def drill(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run `sealwire drill redis-down`. Returns its exit code and its report."""
    command = [sys.executable, "-m", "sealwire.cli.main", "drill", "redis-down", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False, env=os.environ)
    assert done.stdout, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def report() -> list[dict[str, Any]]:
    return drill("--fault", "all")[1]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_step_of_the_drill_holds(report: list[dict[str, Any]], fault: str) -> None:
    steps = [line for line in report if line.get("fault") == fault]
    assert [step for step in steps if not step["ok"]] == []
    assert len(steps) == (13 if fault == "kill" else 12)


@pytest.mark.skipif(binary("redis") is None, reason="no redis server on this machine (requirements/dev.txt)")
def test_it_holds_with_redis_as_with_valkey() -> None:
    code, lines = drill("--engine", "redis", "--fault", "kill", "--fault", "pause")
    assert [line for line in lines if line.get("ok") is False] == []
    assert (code, lines[-1]) == (0, {"passed": True})


def test_a_fault_nobody_knows_is_refused() -> None:
    command = [sys.executable, "-m", "sealwire.cli.main", "drill", "redis-down", "--fault", "earthquake"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "earthquake" in done.stderr


# -- the boundary, with auth out as well


class Leaping:
    """The machine's clocks, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_us(self) -> int:
        return SystemClock().now_us() + round(self.ahead_s * US_PER_S)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


class Room(BoundaryRoom):
    """A boundary whose sessions are in a real server behind the fault proxy; by `patient` a test asks that server."""

    def __init__(self, folder: Path, *, port: int, prefix: str) -> None:
        self.leaping = Leaping()
        config = BoundaryConfig(self_test_every_s=0, unconfirmed_s=UNCONFIRMED_S)
        super().__init__(folder, clock=self.leaping, config=config)
        self.patient = RedisDriver(url=f"redis://127.0.0.1:{port}/0", prefix=prefix, timeout_s=20.0)
        self.driver = RedisDriver(url=f"redis://127.0.0.1:{port}/0", prefix=prefix)
        self.cache = RedisCache(driver=self.driver)  # type: ignore[assignment]  # another cache in its place

    async def close(self) -> None:
        await super().close()
        await self.driver.aclose()
        await self.patient.aclose()

    def person(self, name: str, role: Role = Role.MEMBER) -> tuple[str, str]:
        """Return a session's id and its token."""
        if name not in self.authority.users:
            self.authority.add_user(name, role=role)
        session = self.authority.log_in(name)
        return session.session_id, self.authority.token(session)

    async def see(self, token: str) -> Any:
        """Validate a token as the edge does."""
        return await self.boundary.normalizer.validate(await self.boundary.adapter.adapt(token))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "engine", keep=True) as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def room(tmp_path: Path, proxy: FaultProxy) -> AsyncIterator[Room]:
    room = Room(tmp_path, port=proxy.port, prefix=f"test-{new_id()}")
    await room.open()
    yield room
    await room.close()


def refused_while_unconfirmed() -> list[Operation]:
    """Return every operation a person may ask for that the contracts close to unconfirmed sessions."""
    found: list[Operation] = []
    for name in ("identity", "messaging", "media", "search", "accountability", "crypto"):
        operations = import_module(f"sealwire.contracts.{name}").OPERATIONS.values()
        found += [o for o in operations if o.policy is Policy.CALLER and not o.open_unconfirmed]
    return [o for o in found if o.needs is not Permission.MANAGE_TENANTS]  # an owner may not, confirmed or not


def app_of(boundary: Boundary) -> App:
    """Return the high-risk operations and a low-risk one, before services that must not be reached."""

    async def reached(*_: Any) -> None:
        raise AssertionError("an unconfirmed session got through")

    async def profile(exchange: Any, _: Any) -> None:
        await exchange.answer(200, b"{}")

    edge = edge_of(boundary)
    routes = [edge.bind(operation, reached) for operation in refused_while_unconfirmed()]
    me = AUTH["me"]
    return App([*routes, edge.stream("GET", me.path, profile, policy=me.policy, needs=me.needs, degraded=me.degraded)])


@pytest.mark.parametrize("lost", LOST)
async def test_while_nobody_can_confirm_low_risk_goes_on_and_high_risk_waits(
    room: Room, server: RedisServer, proxy: FaultProxy, lost: str
) -> None:
    _, token = room.person("anna", Role.OWNER)
    dead_id, dead = room.person("anna")
    assert (await room.see(token)).status is (await room.see(dead)).status is Status.VALID
    room.authority.log_out(dead_id)
    await until(lambda: room.boundary.fallback.book.ended(dead_id))
    ended: list[Problem] = []
    sockets = room.boundary.sockets
    handshake = sockets.read({"type": "websocket", "headers": bearer(token), "query_string": b"", "client": ("::1", 1)})
    socket = await sockets.admit(handshake, "", ended=ended.append)

    await asyncio.to_thread(LOST[lost], server, proxy)
    await until(lambda: room.boundary.normalizer.degraded)
    room.boundary.normalizer.forget()
    seen = await room.see(token)
    assert (seen.status, seen.source, seen.degraded) == (Status.VALID, Source.AUTH, True), "auth still confirms"
    assert socket.caller.confirmed

    room.authority.outage = ConnectionError("auth is out too")
    await until(lambda: not room.boundary.coordinator.fresh)
    app = app_of(room.boundary)
    headers = {"authorization": f"Bearer {token}"}
    for operation in refused_while_unconfirmed():
        path = "/".join("x" if part.startswith("{") else part for part in operation.path.split("/"))
        path = path.replace("/x", "/1")
        answer = await ask(app, operation.verb, path, headers=headers)
        assert (answer.status, answer.json()["code"]) == (503, "session_unconfirmed"), (operation.verb, path)
        assert int(answer.headers["retry-after"]) >= 1
    assert (await ask(app, "GET", AUTH["me"].path, headers=headers)).status == 200
    assert (await ask(app, "GET", AUTH["me"].path, headers={"authorization": f"Bearer {dead}"})).status == 401
    assert not socket.caller.confirmed, "the socket goes on, for low-risk operations"
    assert ended == []

    if lost in PAST_THE_BOUND:
        room.leaping.ahead_s += UNCONFIRMED_S
        await until(lambda: ended)
        assert isinstance(ended[0], SessionUnconfirmed), "only past the bound: close 4001"
        answer = await ask(app, "GET", AUTH["me"].path, headers=headers)
        assert (answer.status, answer.json()["code"]) == (503, "session_unconfirmed"), "past the bound: 503, never 401"

    room.authority.outage = None
    await until(lambda: room.boundary.coordinator.fresh)

    async def confirmed() -> bool:
        return (await room.see(token)).status is Status.VALID

    await until_async(confirmed)  # the breaker of auth closes in its time
    assert (await room.see(dead)).status is Status.REVOKED


async def test_sockets_that_refresh_while_the_cache_flaps_go_on_and_the_dead_stay_out(
    room: Room, proxy: FaultProxy
) -> None:
    """Every fault in turn, for shorter than a breaker needs to settle; each refresh is asked for anew."""
    ended: list[Problem] = []
    sockets, opened = room.boundary.sockets, []
    people = [room.person(f"person-{number}") for number in range(8)]
    for _, token in people:
        asked = {"type": "websocket", "headers": bearer(token), "query_string": b"", "client": ("::1", 1)}
        opened.append(await sockets.admit(sockets.read(asked), "", ended=ended.append))
    dead_id, dead = people[0]

    async def refresh_on() -> None:
        while True:
            for socket, (session_id, _) in zip(opened[1:], people[1:], strict=True):
                room.boundary.normalizer.forget()
                await sockets.renew(socket, room.authority.token(room.authority.sessions[session_id]))
                await asyncio.sleep(0)  # with its breaker open the cache is waited for by nobody, and auth is in here
            if room.boundary.fallback.book.ended(dead_id):
                with pytest.raises(SessionRevoked):
                    await sockets.renew(opened[0], dead)
                assert (await room.see(dead)).status is Status.REVOKED

    refreshing = asyncio.create_task(refresh_on())
    for turn, fault in enumerate([Fault.WRONG, Fault.REFUSE, Fault.SWAPPED, Fault.LATENCY, Fault.BLACK_HOLE] * 2):
        proxy.set(fault, latency_s=0.2) if fault is Fault.LATENCY else proxy.set(fault)
        await asyncio.sleep(0.05)
        if turn == 4:
            room.authority.log_out(dead_id)
            await until(lambda: room.boundary.fallback.book.ended(dead_id))
        proxy.set(Fault.NONE)
        await asyncio.sleep(0.05)
        assert not refreshing.done(), refreshing.exception()
    await cancel_and_wait(refreshing)
    assert [type(problem) for problem in ended] == [SessionRevoked]
    await until(lambda: not room.boundary.normalizer.degraded)
    room.boundary.normalizer.forget()
    assert (await room.see(dead)).status is Status.REVOKED, "also by what the cache holds now"


async def test_a_restart_while_both_are_out_keeps_the_living_and_the_dead(room: Room, server: RedisServer) -> None:
    _, token = room.person("anna")
    dead_id, dead = room.person("anna")
    await room.see(token)
    await room.see(dead)
    room.authority.log_out(dead_id)
    await until(lambda: room.boundary.fallback.book.ended(dead_id))
    await room.boundary.stop()
    server.kill()
    await room.open()
    room.authority.outage = ConnectionError("auth is out")
    await until(lambda: not room.boundary.coordinator.fresh)
    living, gone = await room.see(token), await room.see(dead)
    assert (living.status, living.source) == (Status.UNCONFIRMED, Source.FALLBACK)
    assert gone.status is Status.REVOKED


async def test_a_cache_that_comes_back_with_older_data_revives_nobody(
    tmp_path: Path, room: Room, server: RedisServer, proxy: FaultProxy
) -> None:
    session_id, token = room.person("anna")
    await room.see(token)
    key = room.driver.key(f"session:{session_id}")
    assert await room.patient.call("EXISTS", key) == 1
    server.kill()
    room.authority.log_out(session_id)
    await until(lambda: room.boundary.fallback.book.ended(session_id))

    other = Room(tmp_path / "other", port=proxy.port, prefix=room.driver.prefix)
    other.folder.mkdir()
    other.authority = room.authority
    other.auth = room.authority.contract
    server.start()
    assert await other.patient.call("EXISTS", key) == 1, "the server came back with the revoked session"
    await other.open()
    assert (await other.see(token)).status is Status.REVOKED
    await other.close()
    assert (await room.see(token)).status is Status.REVOKED
    await until_async(lambda: is_gone(room, key))


async def test_a_cache_restored_from_an_older_backup_revives_nobody_and_is_put_right(
    tmp_path: Path, room: Room, server: RedisServer
) -> None:
    """A snapshot (RDB) of before the logout takes the place of the data, so quickly that no breaker notices."""
    session_id, token = room.person("anna")
    _, demoted = room.person("boss", Role.OWNER)
    await settled(room)
    await room.see(token)
    await room.see(demoted)
    key = room.driver.key(f"session:{session_id}")
    await room.patient.call("SAVE")
    backup = (server.folder / "dump.rdb").read_bytes()
    room.authority.log_out(session_id)
    room.authority.change_role("boss", Role.GUEST)
    await until(lambda: room.boundary.fallback.book.ended(session_id))
    await until_async(lambda: is_gone(room, key))
    folder = tmp_path / "restored"
    folder.mkdir()
    (folder / "dump.rdb").write_bytes(backup)
    with RedisServer(folder) as restored:
        there = RedisDriver(url=restored.url, timeout_s=20.0)
        assert await there.call("EXISTS", key) == 1, "the backup holds the revoked session"
        await there.aclose()
    server.kill()
    (server.folder / "dump.rdb").write_bytes(backup)
    server.start(keep=False)
    room.boundary.normalizer.forget()
    assert (await room.see(token)).status is Status.REVOKED
    seen = await room.see(demoted)
    assert seen.principal is not None
    assert seen.principal.role is Role.GUEST, "what the backup says of the role is older than the change"
    await until_async(lambda: is_gone(room, key))
    assert (await room.see(token)).status is Status.REVOKED


async def test_a_cache_that_was_emptied_gets_its_sessions_back(room: Room) -> None:
    session_id, token = room.person("anna")
    await room.see(token)
    key = room.driver.key(f"session:{session_id}")
    await settled(room)
    await room.patient.call("FLUSHALL")
    await until_async(lambda: exists(room, key))
    assert room.breakers.breaker("session_cache").state is State.CLOSED


async def test_while_the_cache_is_stopped_the_feed_stays_young_and_changes_come_into_force(
    room: Room, server: RedisServer
) -> None:
    """SIGSTOP: connections stand, nothing answers. No boundary but the cache itself waits for it (R6.5)."""
    people = [room.person(f"user{i}") for i in range(8)]
    for _, token in people:
        await room.see(token)
    coordinator = room.boundary.coordinator
    oldest_s, held_up_s, stop = 0.0, 0.0, asyncio.Event()

    async def watch() -> None:
        """Note the greatest age, and for how long this very process was held up by others on the machine."""
        nonlocal oldest_s, held_up_s
        while not stop.is_set():
            began = time.monotonic()
            oldest_s = max(oldest_s, coordinator.age_s)
            await asyncio.sleep(0.005)
            held_up_s = max(held_up_s, time.monotonic() - began)

    held = HeldUp(os.getpid(), server.folder).__enter__()
    watching = asyncio.create_task(watch())
    server.pause()
    changes = []
    for session_id, token in people:
        changes.append(room.authority.log_out(session_id))
        await until(lambda sid=session_id: room.boundary.fallback.book.ended(sid))
        assert (await room.see(token)).status is Status.REVOKED
        await asyncio.sleep(0.3)
    await until(lambda: room.boundary.normalizer.degraded)
    stop.set()
    await watching
    held_up_s += held.up_s
    held.__exit__(None, None, None)
    assert oldest_s < 1.0 + held_up_s, "the staleness bound"
    for change in changes:
        receipt = coordinator.receipts.of(change.change_id)
        assert receipt is not None
        in_force = {where: applied for where, applied in receipt.applied.items() if not applied.fault}
        assert {"fallback_session_provider", "journal", "jwt_token_adapter", "websocket_auth_gateway"} <= set(in_force)
        assert all(applied.took_us / 1_000_000 < 1.0 + held_up_s for applied in in_force.values())
    server.resume()
    for session_id, _ in people:
        key = room.driver.key(f"session:{session_id}")
        await until_async(lambda key=key: is_gone(room, key))


async def settled(room: Room) -> None:
    """Wait until what is done after every start is done."""
    normalizer = room.boundary.normalizer
    await until(lambda: normalizer._beacon is not None and normalizer._cache_lost_at is None)


async def is_gone(room: Room, key: str) -> bool:
    return not await exists(room, key)


async def until_async(holds: Callable[[], Awaitable[bool]], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not await holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


async def test_a_revocation_that_failed_before_the_breaker_opened_is_made_up_for(room: Room, proxy: FaultProxy) -> None:
    session_id, token = room.person("anna")
    await room.see(token)
    key = room.driver.key(f"session:{session_id}")
    await asyncio.to_thread(proxy.set, Fault.REFUSE)
    room.authority.log_out(session_id)
    await until(lambda: room.boundary.fallback.book.ended(session_id))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(proxy.set, Fault.NONE)
    await until_async(lambda: is_gone(room, key))
    assert (await room.see(token)).status is Status.REVOKED


async def exists(room: Room, key: str) -> bool:
    try:
        return bool(await room.patient.call("EXISTS", key))
    except ConnectionError:
        return True


async def test_an_outage_is_not_multiplied(room: Room, proxy: FaultProxy) -> None:
    await asyncio.to_thread(proxy.set, Fault.REFUSE)
    await until(lambda: room.boundary.normalizer.degraded)
    before = proxy.connections
    people = [room.person(f"user{i}")[1] for i in range(300)]
    started = time.monotonic()
    answers = await asyncio.gather(*(room.see(token) for token in people))
    took_s = time.monotonic() - started
    assert {answer.status for answer in answers} == {Status.VALID}
    assert proxy.connections - before <= 10 + 10 * took_s, "an open breaker asks now and then, not for every session"
    assert room.breakers.breaker("session_cache").state is not State.CLOSED
