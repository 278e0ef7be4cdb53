"""The transport in a real server: handshake, frames straight to a sink, slow clients, and every way to end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode

from sealwire.services.socket import frames
from sealwire.services.socket.transport import EXTENSION, SocketProtocol, TransportLimits
from sealwire.testing.patience import until

LIMITS = TransportLimits(
    message_bytes=100_000, first_message_bytes=2_000, backlog_bytes=64 * 1024, slow_grace_s=0.2, close_timeout_s=0.3
)


class EchoSink:
    """Answers each message with itself; `x` asks for a close, `boom` for a bug."""

    def __init__(self, wire: SocketProtocol) -> None:
        self.wire = wire
        self.got: list[bytes] = []
        self.events: list[str] = []
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.complete = True

    def received(self, payload: bytes) -> None:
        self.got.append(payload)
        if payload == b"x":
            self.wire.close(4501, "unauthenticated")
        elif payload == b"boom":
            raise RuntimeError("a bug")
        elif payload == b"trust":
            self.wire.trust()
        self.wire.reply(payload)

    def stalled(self) -> None:
        self.events.append("stalled")

    def drained(self) -> bool:
        self.events.append("drained")
        return self.complete

    def lost(self, code: int) -> None:
        self.ended.set_result(code)


class Server:
    def __init__(self) -> None:
        self.sinks: list[EchoSink] = []
        self.port = 0
        self.uvicorn: uvicorn.Server
        self.attach = True
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def app(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:  # fmt: skip # noqa: E501 - reads better in one line
        await receive()
        if scope["path"] == "/denied":
            await send({"type": "websocket.close"})
            return
        if scope["path"] == "/late":
            self.asked.set()
            await self.answer.wait()
        await send({"type": "websocket.accept", "subprotocol": "sealwire.v1" if scope["subprotocols"] else None})
        wire: SocketProtocol = scope["extensions"][EXTENSION]
        sink = EchoSink(wire)
        if self.attach and wire.attach(sink, LIMITS):
            self.sinks.append(sink)

    def url(self, path: str = "/ws") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"


@asynccontextmanager
async def running() -> AsyncIterator[Server]:
    server = Server()
    config = uvicorn.Config(
        server.app, port=0, ws=SocketProtocol, http="httptools", lifespan="off", interface="asgi3", log_config=None
    )
    server.uvicorn = uvicorn.Server(config)
    config.load()
    server.uvicorn.lifespan = config.lifespan_class(config)
    await server.uvicorn.startup()
    server.port = server.uvicorn.servers[0].sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        await asyncio.wait_for(server.uvicorn.shutdown(), 30)


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Both loops: they call pause_writing at different moments."""
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running() as server:
        yield server


async def closed(client: ClientConnection) -> int:
    await asyncio.wait_for(client.wait_closed(), 30)
    assert client.close_code is not None
    return client.close_code


async def test_messages_go_to_the_sink_and_back(server: Server) -> None:
    async with connect(server.url(), subprotocols=["sealwire.v1", "bearer.x"]) as client:  # type: ignore[list-item]  # a list of NewType
        assert client.subprotocol == "sealwire.v1"
        await client.send("hello")
        assert await client.recv() == "hello"
        await client.send(["in ", "pieces"])
        assert await client.recv() == "in pieces"
        await client.send(b"binary")
        assert await client.recv() == "binary"
        await (await client.ping(b"still there?"))
    assert await server.sinks[0].ended == 1000


def masked(payload: bytes, opcode: int = frames.TEXT, fin: int = 0x80) -> bytes:
    return bytes((fin | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload


async def test_a_flood_of_small_frames_leaves_others_their_turn(server: Server) -> None:
    """Handled all at once, the 40,000 pings that one read may bring held everybody up for 120 ms."""
    many = 2_000
    async with connect(server.url()) as client:
        await until(lambda: bool(server.sinks))
        sink = server.sinks[0]
        words = [b"%d" % number for number in range(many)]
        sink.wire.data_received(b"".join(map(masked, words)))
        assert len(sink.got) < many / 4
        await until(lambda: len(sink.got) == many)
        assert sink.got == words
        fragments = masked(b"a", fin=0) + masked(b"", frames.CONTINUATION, 0) * many + masked(b"b", frames.CONTINUATION)
        sink.wire.data_received(masked(b"", frames.PING) * many + fragments + masked(b"after"))
        assert len(sink.got) == many
        await until(lambda: len(sink.got) == many + 2)
        assert sink.got[-2:] == [b"ab", b"after"]
        await client.send("still read")
        await until(lambda: sink.got[-1] == b"still read")


async def test_replies_of_one_turn_share_a_frame(server: Server) -> None:
    async with connect(server.url()) as client:
        await client.send("first")
        assert await client.recv() == "first"
        wire = server.sinks[0].wire
        wire.reply(b"1")
        wire.reply(b"2")
        wire.write(frames.server_frame(b"pushed"))
        wire.reply(b"3")
        assert [await client.recv() for _ in range(3)] == ["1\n2", "pushed", "3"]


async def test_the_first_message_is_small_until_the_client_is_trusted(server: Server) -> None:
    async with connect(server.url()) as client:
        await client.send("x" * 2_001)
        assert await closed(client) == 1009
    async with connect(server.url()) as client:
        await client.send("trust")
        assert await client.recv() == "trust"
        await client.send("x" * 100_000)
        assert len(await client.recv()) == 100_000
        await client.send("x" * 100_001)
        assert await closed(client) == 1009


async def test_our_close_carries_its_code_and_ends_both_sides(server: Server) -> None:
    async with connect(server.url()) as client:
        await client.send("x")
        assert await closed(client) == 4501
        assert await server.sinks[0].ended == 4501
    await until(lambda: not server.uvicorn.server_state.connections)


async def test_a_client_that_ignores_our_close_is_cut(server: Server) -> None:
    reader, writer = await raw(server)
    writer.write(Frame(Opcode.TEXT, b"x").serialize(mask=True))
    assert await asyncio.wait_for(reader.read(), 30) == frames.close_frame(4501, "unauthenticated")
    writer.close()


async def test_a_bug_closes_that_connection_for_a_reconnect(server: Server) -> None:
    async with connect(server.url()) as client:
        await client.send("boom")
        assert await closed(client) == 3004


async def test_the_server_s_stop_tells_clients_to_come_back() -> None:
    async with running() as server, connect(server.url()) as client:
        await client.send("hi")
        await client.recv()
        stopping = asyncio.ensure_future(server.uvicorn.shutdown())
        assert await closed(client) == 3001
        await stopping


@pytest.mark.parametrize(
    ("data", "code"),
    [(frames.server_frame(b"unmasked"), 1002), (Frame(Opcode.TEXT, b"\xff").serialize(mask=True), 1007)],
    ids=["not-masked", "not-utf-8"],
)
async def test_broken_framing_is_told_and_ended(server: Server, data: bytes, code: int) -> None:
    reader, writer = await raw(server)
    writer.write(data + os.urandom(100_000))
    answer = await asyncio.wait_for(reader.read(), 30)
    assert int.from_bytes(answer[2:4], "big") == code
    writer.close()
    assert await server.sinks[0].ended == code


async def test_frames_before_our_answer_are_kept_within_a_bound(server: Server) -> None:
    early = Frame(Opcode.TEXT, b"early").serialize(mask=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request("/late"))
    await server.asked.wait()
    writer.write(early)
    server.answer.set()
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert await asyncio.wait_for(reader.readexactly(7), 30) == frames.server_frame(b"early")
    writer.close()


async def test_a_flood_before_our_answer_is_cut(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request("/late"))
    await server.asked.wait()
    writer.write(os.urandom(40_000))
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 30) == b""
    server.answer.set()
    writer.close()
    await until(lambda: not server.uvicorn.server_state.connections)
    assert not server.sinks


async def test_a_slow_client_is_parked_then_told_and_cut(server: Server) -> None:
    reader, writer = await raw(server, receive_buffer_bytes=4096)
    sink = await first_sink(server)
    frame = frames.server_frame(b"x" * 8_000)
    while "stalled" not in sink.events:
        sink.wire.transport.write(frame)
        await asyncio.sleep(0)
    assert sink.wire.transport.get_write_buffer_size() < 2 * LIMITS.backlog_bytes + len(frame)
    assert await asyncio.wait_for(sink.ended, 30) == 3008
    everything = await asyncio.wait_for(reader.read(), 30)
    assert frames.close_frame(3008, "slow") in everything or len(everything) < LIMITS.backlog_bytes + 10**7
    writer.close()
    await until(lambda: not server.uvicorn.server_state.connections)


@pytest.mark.parametrize("complete", [True, False])
async def test_a_client_that_catches_up_goes_on_if_it_missed_nothing(server: Server, complete: bool) -> None:
    reader, writer = await raw(server, receive_buffer_bytes=4096)
    sink = await first_sink(server)
    sink.complete = complete
    while "stalled" not in sink.events:
        sink.wire.transport.write(frames.server_frame(b"x" * 8_000))
        await asyncio.sleep(0)
    pump = asyncio.ensure_future(reader.read())
    await until(lambda: "drained" in sink.events)
    if complete:
        writer.write(Frame(Opcode.TEXT, b"still here").serialize(mask=True))
        await until(lambda: sink.got == [b"still here"])
        writer.write(Frame(Opcode.CLOSE, b"").serialize(mask=True))
        assert await asyncio.wait_for(sink.ended, 30) == 1005
    else:
        assert await asyncio.wait_for(sink.ended, 30) == 3008
        writer.write(Frame(Opcode.CLOSE, b"").serialize(mask=True))
        assert (await asyncio.wait_for(pump, 30)).endswith(frames.close_frame(3008, "slow"))
    writer.close()
    await asyncio.gather(pump, return_exceptions=True)


async def test_held_messages_wait_and_are_not_lost(server: Server) -> None:
    async with connect(server.url()) as client:
        await client.send("a")
        await client.recv()
        sink = server.sinks[0]
        sink.wire.hold()
        for text in ("b", "c", "d"):
            await client.send(text)
        await asyncio.sleep(0.05)
        assert sink.got == [b"a"]
        sink.wire.release()
        await until(lambda: sink.got == [b"a", b"b", b"c", b"d"])


async def test_a_refused_handshake_is_plain_http(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request("/denied"))
    assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 403")
    writer.close()
    server.attach = False
    async with connect(server.url()) as client:
        assert await closed(client) == 1006, "accepted but never attached: the socket does not stay behind"


async def test_a_client_that_vanishes_is_noticed(server: Server) -> None:
    _, writer = await raw(server)
    sink = await first_sink(server)
    writer.transport.abort()
    assert await asyncio.wait_for(sink.ended, 30) == 1006
    sink.wire.reply(b"too late")
    sink.wire.close(3000, "too late")
    await until(lambda: not server.uvicorn.server_state.connections)


def request(path: str = "/ws") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


async def raw(server: Server, *, receive_buffer_bytes: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket()
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer_bytes or 2**16)
    writer.write(request())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert head.startswith(b"HTTP/1.1 101")
    return reader, writer


async def first_sink(server: Server) -> EchoSink:
    await until(lambda: bool(server.sinks))
    return server.sinks[0]
