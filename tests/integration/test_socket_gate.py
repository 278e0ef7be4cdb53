"""Who may open sockets, how many, and what one costs that never says who it is: against the real server."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sealwire.testing.installation import Installation, Person
from sealwire.testing.wire import Wire

PER_USER, PER_ADDRESS, WAITING, PER_MINUTE = 4, 12, 3, 40
AUTHENTICATE_S = 4
"""For who is to be closed it is waited for, for all others it is a bound on how long this machine may hold them up."""
PROXIED = {"X-Forwarded-For": "203.0.113.7"}
RAW = 2_000
RAW_COST_BYTES = 16 * 1024
HELD_BYTES = 6 * 1024 - 1
"""What each raw connection has sent of a first message that never ends: as much as it may."""


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with few places; this machine is its trusted proxy, so tests come from many addresses."""
    env = {
        "SEALWIRE_GATEWAY__RATE_LIMITS": "on",
        "SEALWIRE_GATEWAY__TRUSTED_PROXIES": '["127.0.0.1"]',
        "SEALWIRE_BOUNDARY__SOCKETS_PER_USER": str(PER_USER),
        "SEALWIRE_BOUNDARY__SOCKETS_PER_IP": str(PER_ADDRESS),
        "SEALWIRE_BOUNDARY__WAITING_PER_IP": str(WAITING),
        "SEALWIRE_BOUNDARY__HANDSHAKES_PER_MINUTE": str(PER_MINUTE),
        "SEALWIRE_SOCKET__AUTHENTICATE_S": str(AUTHENTICATE_S),
    }
    running = Installation(tmp_path_factory.mktemp("gated") / "data", env=env).start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def anna(gated: Installation) -> Person:
    return Person(gated.url, "anna")


def ports(installation: Installation) -> list[str]:
    """The gateway's own port, and both instances'."""
    return [f"http://127.0.0.1:{installation.base + offset}" for offset in (0, 2, 3)]


def address() -> dict[str, str]:
    """An address of one's own, as a proxy tells it."""
    chosen = ipaddress.IPv6Address(f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1")
    return {"X-Forwarded-For": str(chosen)}  # as the log writes it: without leading zeros


async def refusal(url: str, headers: dict[str, str]) -> httpx.Response:
    """Return the answer to a handshake that is refused before it is a WebSocket."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(url.replace("http", "ws") + "/ws", additional_headers=headers)
    answer = refused.value.response
    return httpx.Response(
        answer.status_code, headers=list(answer.headers.raw_items()), content=bytes(answer.body or b"")
    )


async def test_a_person_has_so_many_sockets_on_all_ports_and_the_open_ones_stay(gated, anna) -> None:
    async with contextlib.AsyncExitStack() as stack:
        wires = []
        for number in range(PER_USER):
            url = ports(gated)[number % 3]
            wires.append(await stack.enter_async_context(Wire(url, additional_headers=address())))
            assert "client" in await wires[-1].connect(anna.token)
        for url in ports(gated):
            wire = await stack.enter_async_context(Wire(url, additional_headers=address()))
            waiting = wire.post(connect={"token": anna.token})
            assert await wire.closed() == 3504
            assert isinstance(waiting.exception(), ConnectionError)
        for wire in wires:
            assert (await wire.ask(ping={}))["ping"] == {}
        await wires[0].__aexit__(None, None, None)
        deadline = time.monotonic() + 40
        while True:  # the place is free as soon as the server saw the socket go
            wire = await stack.enter_async_context(Wire(gated.url, additional_headers=address()))
            waiting = wire.post(connect={"token": anna.token})
            with contextlib.suppress(ConnectionError):
                assert "connect" in await asyncio.wait_for(waiting, 40)
                break
            assert time.monotonic() < deadline


async def test_who_does_not_authenticate_keeps_few_places_and_not_for_long(gated, anna) -> None:
    here = address()
    mute = [await connect(url.replace("http", "ws") + "/ws", additional_headers=here) for url in ports(gated)]
    answer = await refusal(gated.url, here)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1
    async with Wire(gated.url, additional_headers=address()) as other:
        assert "client" in await other.connect(anna.token)
    for wire in mute:
        await asyncio.wait_for(wire.wait_closed(), 60)
        assert wire.close_code == 4501
    async with Wire(gated.url, additional_headers=here) as again:
        assert "client" in await again.connect(anna.token)


async def test_an_address_has_so_many_sockets_on_all_ports(gated) -> None:
    people = [Person(gated.url, f"neighbour{n}") for n in range(PER_ADDRESS // PER_USER)]
    here = address()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(PER_ADDRESS):
            wire = await stack.enter_async_context(Wire(ports(gated)[number % 3], additional_headers=here))
            assert "client" in await wire.connect(people[number // PER_USER].token)
        for url in ports(gated):
            answer = await refusal(url, here)
            assert (answer.status_code, answer.json()["code"]) == (429, "connection_limit")
            assert answer.json()["retry"] == "after"


async def test_an_address_that_knocks_too_often_is_told_when_to_come_back(gated, anna) -> None:
    here = address()
    while await knocked(gated, here, anna.token) <= PER_MINUTE:  # else its minute ended meanwhile
        pass
    answer = await refusal(ports(gated)[1], here)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    beside = {"X-Forwarded-For": here["X-Forwarded-For"].removesuffix("::1") + "::2"}
    assert (await refusal(gated.url, beside)).status_code == 429, "the same network is the same host"
    async with Wire(gated.url, additional_headers=address()) as other:
        assert "client" in await other.connect(anna.token)


async def knocked(gated: Installation, here: dict[str, str], token: str) -> int:
    """Knock until it is too often. Returns how often that was, or 0 for a minute that is nearly over by then."""
    for number in range(3 * PER_MINUTE):
        try:
            async with Wire(gated.url, additional_headers=here) as wire:
                await wire.connect(token)
        except InvalidStatus as refused:  # or its place of the last turn is not free yet: counted all the same
            if b"handshakes in a minute" in (refused.response.body or b""):
                left_s = int(refused.response.headers["retry-after"])
                if left_s < 10:
                    await asyncio.sleep(left_s + 1)
                return number + 1 if left_s >= 10 else 0
    raise AssertionError("nobody minded")


async def test_only_a_trusted_proxy_tells_a_sockets_address(installation, person) -> None:
    """Without one, what a client says of its address moves it nowhere: all of these come from this machine.

    Meanwhile somebody says nothing, and is given the five seconds that are the default.
    """
    silent = asyncio.create_task(seconds_given(installation))
    carl = person("carl")
    async with Wire(installation.url, additional_headers=PROXIED) as wire:
        assert "client" in await wire.connect(carl.token)
    owner = Person(installation.url, "overseer", tenant=f"selftest-{secrets.token_hex(6)}")
    deadline = time.monotonic() + 40
    async with Wire(installation.url, additional_headers=PROXIED) as wire:
        assert "client" in await wire.connect(owner.token)
    while time.monotonic() < deadline:
        found = owner.http.get("/compliance/audit", params={"action": "socket.connect"}).json()["items"]
        if found:
            assert found[0]["metadata"]["ip_address"] == "127.0.0.1"
            assert await silent > 4.5
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the socket is in no record")


async def seconds_given(installation: Installation) -> float:
    """Open a socket, say nothing, and return how long it stays open."""
    began = time.monotonic()
    wire = await connect(installation.url.replace("http", "ws") + "/ws")
    await asyncio.wait_for(wire.wait_closed(), 60)
    assert wire.close_code == 4501
    return time.monotonic() - began


def opening(base: int, secret: str) -> socket.socket:
    """Open a raw WebSocket, and begin a message that never ends."""
    raw = socket.create_connection(("127.0.0.1", base))
    raw.sendall(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nUser-Agent: " + secret.encode() + b"\r\n\r\n"
    )
    answer = http.client.HTTPResponse(raw)
    answer.begin()
    assert answer.status == 101
    size = 6 * 1024
    raw.sendall(bytes((0x81, 0x80 | 126, size >> 8, size & 0xFF)) + b"\0" * 4 + b"{" * HELD_BYTES)
    return raw


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(180)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc on this system")
def test_two_thousand_that_never_authenticate_cost_little_and_are_closed(tmp_path: Path) -> None:
    """Each sent all but the last byte of its first message, and a long user agent; all are gone after their time."""
    env = {"SEALWIRE_SOCKET__AUTHENTICATE_S": "25"}
    running = Installation(tmp_path / "data", env=env).start()
    raws: list[socket.socket] = []
    try:
        warm = [opening(running.base, "x" * 400) for _ in range(50)]
        for raw in warm:
            raw.close()
        httpx.get(running.url + "/ready")
        before = resident_bytes(running.pid)
        began = time.monotonic()
        raws = [opening(running.base, "x" * 400) for _ in range(RAW)]
        httpx.get(running.url + "/health")  # whatever was sent before is read now
        if time.monotonic() - began > 25:
            pytest.skip("this machine is too slow to hold them all at once")
        cost = (resident_bytes(running.pid) - before) / RAW
        print(f"{cost:.0f} bytes for each unauthenticated connection")
        assert cost <= RAW_COST_BYTES
        for raw in raws:
            raw.settimeout(60)
            seen = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := raw.recv(4_096):
                    seen += chunk
            assert seen[:4] == b"\x88\x11\x11\x95", "a close frame with 4501"
    finally:
        for raw in raws:
            raw.close()
        running.kill()


def test_a_handshake_is_bounded_in_time_as_any_request_is(tmp_path: Path) -> None:
    """Slowloris on the way to a WebSocket: the head comes a byte at a time, on every port."""
    running = Installation(tmp_path / "data", env={"SEALWIRE_GATEWAY__HEADER_TIMEOUT_S": "1"}).start()
    try:
        for url in ports(running):
            port = int(url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as slow:
                slow.sendall(b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
                slow.settimeout(40)
                assert b" 408 " in slow.recv(4_096)
    finally:
        running.kill()
