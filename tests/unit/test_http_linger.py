"""The last answer of a connection reaches a client that is still sending, and nobody is lingered for without bounds."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import uvloop

from sealwire.kit.caller import ANONYMOUS, Caller
from sealwire.kit.codec import Input
from sealwire.kit.http import App, Edge
from sealwire.kit.operation import Operation, Policy
from sealwire.runtime.http_linger import Linger
from sealwire.runtime.http_protocol import bounded
from sealwire.runtime.server import Server, listen

MUCH = 12_000_000
"""More than the kernel's buffers between two sockets hold: who sends it waits until somebody takes it."""
PATIENCE_S = 60.0


class Said(Input):
    """What is said."""

    word: str


ECHO = Operation(
    name="echo", service="test", verb="POST", path="/echo", summary="Echo", takes=Said, policy=Policy.PUBLIC,
    body_limit_bytes=1_000, status=204,
)  # fmt: skip


async def echo(_caller: Caller, _said: Said) -> None:
    return None


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put every bound out of reach, but for the one that a test looks at."""
    for name, value in {"longest_s": 900.0, "quiet_s": 900.0, "most_bytes": 1 << 40}.items():
        monkeypatch.setattr(Linger, name, value)


@asynccontextmanager
async def serving(grace_s: float = 1) -> AsyncIterator[int]:
    edge = Edge(authenticate=lambda _exchange, _policy: Caller(principal=ANONYMOUS))
    http = bounded(limit_bytes=4_000, timeout_s=20.0)
    app = App([edge.bind(ECHO, echo)])
    server = Server(app=app, sock=listen("127.0.0.1", 0), http=http, websocket=None, grace_s=grace_s)
    await server.start()
    yield server.port
    await server.stop()


def served(runner: asyncio.Runner, client: Callable[[int], bytes]) -> bytes:
    """Return what a client that blocks, so runs in a thread, has read."""

    async def run() -> bytes:
        async with serving() as port:
            return await asyncio.to_thread(client, port)

    return runner.run(run())


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def read_to_the_end(client: socket.socket) -> bytes:
    pieces = []
    while piece := client.recv(65_536):
        pieces.append(piece)
    return b"".join(pieces)


SENT = {
    "a head that can't be read": (b"POST /echo HTTP/9.9\r\nHost: a\r\n\r\n", 400),
    "a head that is too large": (b"POST /echo HTTP/1.1\r\nHost: a\r\nX-Long: ", 431),
    "a body that is no chunk": (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "the last request": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % MUCH, 413
    ),
    "as a proxy asks": (b"POST /echo HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % MUCH, 413),
}  # fmt: skip


@pytest.mark.parametrize("name", SENT)
def test_who_reads_after_all_is_sent_finds_the_answer(runner: asyncio.Runner, name: str) -> None:
    head, status = SENT[name]

    def client(port: int) -> bytes:
        with connected(port) as sock:
            sock.sendall(head + b"x" * MUCH)
            return read_to_the_end(sock)

    answer = served(runner, client)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1


def test_an_answer_before_a_body_that_breaks_is_found_as_well(runner: asyncio.Runner) -> None:
    def client(port: int) -> bytes:
        with connected(port) as sock:
            sock.sendall(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert sock.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 404"  # it is there, and was not read
            sock.sendall(b"x" * MUCH)
            return read_to_the_end(sock)

    assert served(runner, client).startswith(b"HTTP/1.1 404 ")


def sent_until_refused(sock: socket.socket, piece: bytes, pause_s: float) -> int:
    """Send until nobody listens any more; return how many bytes went out."""
    began_s, sent = time.monotonic(), 0
    try:
        while time.monotonic() - began_s < PATIENCE_S:
            sent += sock.send(piece)
            time.sleep(pause_s)
    except ConnectionError:
        return sent
    raise AssertionError("it is listened to for good")


@pytest.mark.parametrize(
    ("bounds", "piece", "pause_s"),
    [
        ({"longest_s": 0.5}, b"x", 0.05),
        ({"quiet_s": 0.1}, b"x", 0.8),
        ({"most_bytes": 1_000_000}, b"x" * 65_536, 0.0),
    ],
    ids=["a drip", "silence", "a flood"],
)
def test_nobody_is_lingered_for_without_bounds(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, float], piece: bytes, pause_s: float
) -> None:
    for name, value in bounds.items():
        monkeypatch.setattr(Linger, name, value)

    def client(port: int) -> bytes:
        with connected(port) as sock:
            sock.sendall(b"nonsense\r\n\r\n")
            assert read_to_the_end(sock).startswith(b"HTTP/1.1 400 "), "the answer and its end come at once"
            return b"%d" % sent_until_refused(sock, piece, pause_s)

    assert int(served(runner, client)) < 2 * MUCH


def test_a_server_that_stops_waits_for_nobody_who_was_answered(runner: asyncio.Runner) -> None:
    def client(port: int) -> socket.socket:
        sock = connected(port)
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense")
        assert read_to_the_end(sock).startswith(b"HTTP/1.1 400 ")
        return sock

    async def run() -> socket.socket:
        async with asyncio.timeout(PATIENCE_S), serving(grace_s=900) as port:
            return await asyncio.to_thread(client, port)

    runner.run(run()).close()


def test_a_server_that_stops_waits_for_nobody_who_is_answered_meanwhile(runner: asyncio.Runner) -> None:
    """Nobody looks at the time of a connection that lingers then, and who has no more to say may say nothing."""
    asked, told, going = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Told(bounded(limit_bytes=4_000, timeout_s=20.0)):  # type: ignore[misc]  # a class made when it is asked for
        def shutdown(self) -> None:
            super().shutdown()
            told.set()

    async def wait(_caller: Caller) -> None:
        asked.set()
        await going.wait()

    async def run() -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            edge = Edge(authenticate=lambda _exchange, _policy: Caller(principal=ANONYMOUS))
            app = App([edge.bind(msgspec.structs.replace(ECHO, takes=None), wait)])
            server = Server(app=app, sock=listen("127.0.0.1", 0), http=Told, websocket=None, grace_s=900)
            await server.start()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
            await asked.wait()
            stopping = asyncio.create_task(server.stop())
            await told.wait()
            going.set()
            answer = await reader.readline()
            await stopping
            writer.close()
            return answer

    assert runner.run(run()).startswith(b"HTTP/1.1 204 ")
