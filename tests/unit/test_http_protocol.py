"""HTTP/1.1 on the wire: bodies in pieces, pipelines, bounds of the head, answers whole and streamed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from sealwire.kit.caller import ANONYMOUS, Caller
from sealwire.kit.codec import Input, Output
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App, Edge
from sealwire.kit.operation import Operation, Policy
from sealwire.runtime.http_protocol import BoundedHttp, bounded
from sealwire.runtime.server import Server, listen
from sealwire.services.socket.transport import SocketProtocol

GET = b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b"
LARGE = 300_000
MUCH = 12_000_000
"""More than the kernel's buffers between two sockets hold."""


class Said(Input):
    """What is said."""

    word: str


class Heard(Output):
    """What was heard."""

    word: str


ECHO = Operation(name="echo", service="test", verb="POST", path="/echo", summary="Echo", takes=Said, gives=Heard,
                 policy=Policy.PUBLIC, body_limit_bytes=1_000)  # fmt: skip
SLOW = Operation(name="slow", service="test", verb="POST", path="/slow", summary="Echo later", takes=Said, gives=Heard,
                 policy=Policy.PUBLIC)  # fmt: skip
LOOK = Operation(name="look", service="test", verb="GET", path="/look/{word}", summary="Look", gives=Heard,
                 policy=Policy.PUBLIC)  # fmt: skip
LATE = Operation(name="late", service="test", verb="POST", path="/late", summary="Echo a second later", takes=Said,
                 gives=Heard, policy=Policy.PUBLIC)  # fmt: skip
NOTHING = Operation(name="nothing", service="test", verb="DELETE", path="/nothing", summary="Nothing", status=204,
                    policy=Policy.PUBLIC)  # fmt: skip


async def echo(_caller: Caller, said: Said) -> Heard:
    return Heard(word=said.word)


async def slow(_caller: Caller, said: Said) -> Heard:
    await asyncio.sleep(0.01)
    return Heard(word=said.word)


async def look(_caller: Caller, word: str) -> Heard:
    return Heard(word=word)


async def nothing(_caller: Caller) -> None:
    return None


async def count(exchange: Exchange, _caller: Caller) -> None:
    size = 0
    async for chunk in exchange.chunks():
        size += len(chunk)
    await exchange.answer(200, b"%d" % size)


async def stream(exchange: Exchange, _caller: Caller) -> None:
    await exchange.start(200)
    for i in range(3):
        await exchange.write(b"piece %d;" % i)
    await exchange.finish()


async def named(exchange: Exchange, _caller: Caller) -> None:
    await exchange.body(100)
    names = (b"x-name", b"authorization")
    await exchange.answer(200, b"&".join(b"%b=%b" % (n, v) for n, v in exchange.scope["headers"] if n in names))


async def late(_caller: Caller, said: Said) -> Heard:
    await asyncio.sleep(1)
    return Heard(word=said.word)


async def talk(exchange: Exchange, _caller: Caller) -> None:
    await exchange.start(200)
    await exchange.write(b"piece 0;")
    for _ in range(10):
        await asyncio.sleep(0.1)
        await exchange.write(b"piece 1;")
    await exchange.finish()


async def split(exchange: Exchange, _caller: Caller) -> None:
    await exchange.answer(200, b"", [(b"x-word", b"a\r\nx-other: b")])


async def wait(exchange: Exchange, _caller: Caller) -> None:
    await exchange.body(100)
    await exchange.disconnected()
    HEARD["gone"].set()


async def much(exchange: Exchange, _caller: Caller) -> None:
    await exchange.answer(200, bytes(MUCH))


HEARD: dict[str, asyncio.Event] = {}
"""What a handler (`gone`) or a connection (`lost`) heard of its client; made anew for each test and its loop."""


class Wire:
    """A connection to the server that reads answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, *parts: bytes) -> None:
        """Send pieces, each in a packet of its own."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            if len(parts) > 1:
                await asyncio.sleep(0.005)

    async def answer(self, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Read one answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = b""
        if not bodiless and "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif "transfer-encoding" in headers:
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        return int(lines[0].split()[1]), headers, body

    async def closed(self) -> bool:
        """Whether the server closes the connection before it would for want of another request."""
        async with asyncio.timeout(4):
            return await self.reader.read() == b""


@pytest.fixture
async def port() -> AsyncIterator[int]:
    HEARD.update(gone=asyncio.Event(), lost=asyncio.Event())
    edge = Edge(authenticate=lambda _exchange, _policy: Caller(principal=ANONYMOUS))
    raw: dict[str, Any] = {"policy": Policy.PUBLIC}
    app = App(
        [
            edge.bind(ECHO, echo), edge.bind(SLOW, slow), edge.bind(LOOK, look), edge.bind(NOTHING, nothing),
            edge.bind(LATE, late),
            edge.stream("POST", "/count", count, **raw), edge.stream("POST", "/named", named, **raw),
            edge.stream("GET", "/stream", stream, **raw), edge.stream("GET", "/much", much, **raw),
            edge.stream("GET", "/talk", talk, **raw), edge.stream("POST", "/talk", talk, **raw),
            edge.stream("GET", "/split", split, **raw), edge.stream("GET", "/wait", wait, **raw),
        ],
        headers=[(b"x-fixed", b"yes")],
    )  # fmt: skip

    class Told(BoundedHttp):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            HEARD["lost"].set()

    http = type("ToldConfigured", (Told, bounded(limit_bytes=4_000, timeout_s=0.3)), {})
    server = Server(app=app, sock=listen("127.0.0.1", 0), http=http, websocket=SocketProtocol, grace_s=1)
    await server.start()
    yield server.port
    await server.stop()


@pytest.fixture
async def wire(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LARGE)
    yield Wire(reader, writer)
    writer.close()


def said(word: str, path: bytes = b"/echo", headers: bytes = b"") -> bytes:
    body = b'{"word":"%b"}' % word.encode()
    return POST % (path, len(body), headers, body)


async def test_an_answer_has_the_fixed_headers_a_request_id_and_its_length(wire: Wire) -> None:
    await wire.say(said("hello"))
    status, headers, body = await wire.answer()
    assert (status, body) == (200, b'{"word":"hello"}')
    assert headers["x-fixed"] == "yes"
    assert len(headers["x-request-id"]) == 32
    assert headers["content-type"] == "application/json"
    assert "date" in headers


async def test_a_request_may_come_in_any_pieces(wire: Wire) -> None:
    request = said("piecewise")
    for cut in (1, 20, len(request) - 5, len(request) - 1):
        await wire.say(request[:cut], request[cut:])
        assert (await wire.answer())[2] == b'{"word":"piecewise"}'


async def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    await wire.say(said("1", b"/slow") + said("2") + GET % (b"/look/3", b"") + said("4", b"/slow") + said("5"))
    words = [(await wire.answer())[2] for _ in range(5)]
    assert words == [b'{"word":"%d"}' % i for i in range(1, 6)]


async def test_a_pipelined_body_may_come_after_the_answer_before_it(wire: Wire) -> None:
    second = said("second")
    await wire.say(said("first", b"/slow") + second[:-4], second[-4:])
    assert [(await wire.answer())[2] for _ in range(2)] == [b'{"word":"first"}', b'{"word":"second"}']


async def test_a_chunked_body_is_read(wire: Wire) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    await wire.say(head, b'8\r\n{"word":\r\n', b'5\r\n"ab"}\r\n0\r\n\r\n')
    assert (await wire.answer())[2] == b'{"word":"ab"}'


async def test_a_large_body_passes_through_a_handler_that_reads_it(wire: Wire) -> None:
    await wire.say(POST % (b"/count", LARGE, b"", b"x" * LARGE))
    assert (await wire.answer())[2] == b"%d" % LARGE


@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_over_the_limit_is_413(wire: Wire, whole: bool) -> None:
    request = POST % (b"/echo", 2_000, b"", b"x" * 2_000)
    await wire.say(*([request] if whole else [request[:500], request[500:]]))
    assert (await wire.answer())[0] == 413


async def test_a_client_that_waits_for_100_gets_it(wire: Wire) -> None:
    request = said("expected", headers=b"Expect: 100-continue\r\n")
    await wire.say(request[:-10])
    assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await wire.say(request[-10:])
    assert (await wire.answer())[2] == b'{"word":"expected"}'


async def test_head_gets_the_head_only(wire: Wire) -> None:
    await wire.say(b"HEAD /look/a HTTP/1.1\r\nHost: a\r\n\r\n" + said("next"))
    status, headers, _ = await wire.answer(bodiless=True)
    assert (status, headers["content-length"]) == (200, "12")
    assert (await wire.answer())[2] == b'{"word":"next"}'


async def test_204_has_no_length(wire: Wire) -> None:
    await wire.say(b"DELETE /nothing HTTP/1.1\r\nHost: a\r\n\r\n" + said("next"))
    status, headers, _ = await wire.answer()
    assert (status, "content-length" in headers) == (204, False)
    assert (await wire.answer())[2] == b'{"word":"next"}'


async def test_an_answer_of_unknown_length_is_chunked(wire: Wire) -> None:
    await wire.say(GET % (b"/stream", b""))
    status, headers, body = await wire.answer()
    assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"piece 0;piece 1;piece 2;")
    assert headers["x-fixed"] == "yes"


async def test_connection_close_closes(wire: Wire) -> None:
    await wire.say(GET % (b"/look/a", b"Connection: close\r\n"))
    assert (await wire.answer())[1]["connection"] == "close"
    assert await wire.closed()


async def test_http_1_0_closes(wire: Wire) -> None:
    await wire.say(b"GET /look/a HTTP/1.0\r\n\r\n")
    assert (await wire.answer())[0] == 200
    assert await wire.closed()


@pytest.mark.parametrize("path", [b"/look/a%20b", b"/look/a%20b?x=1"])
async def test_a_path_is_unquoted(wire: Wire, path: bytes) -> None:
    await wire.say(GET % (path, b""))
    assert (await wire.answer())[2] == b'{"word":"a b"}'


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (GET % (b"/look/a%20b#top", b""), 400),
        (b"GET /look/a HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (GET % (b"/look/a", b"X-Long: " + b"x" * 5_000 + b"\r\n"), 431),
        (GET % (b"/look/a", b"X-Many: 1\r\n" * 101), 431),
        (GET % (b"/" + b"a" * 5_000, b""), 431),
        (b"GET / HTTP/1.1\r\nX-Endless: " + b"x" * 5_000, 431),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
async def test_a_bad_head_is_refused_and_the_connection_closed(wire: Wire, request_: bytes, status: int) -> None:
    await wire.say(request_)
    found, headers, _ = await wire.answer()
    assert (found, headers["content-type"]) == (status, "application/problem+json")
    assert await wire.closed()


TRACE = b"Traceparent: 00-" + b"ab" * 16 + b"-00f067aa0ba902b7-01\r\n"
ABOUT = {
    "a line of no HTTP": (b"nonsense\r\n\r\n", 400, "", False),
    "another version": (b"GET /look/a HTTP/9.9\r\nHost: a\r\n\r\n", 400, "", False),
    "a line that is too long": (GET % (b"/" + b"a" * 5_000, b""), 431, "", False),
    "no host": (b"GET /look/a%20b?token=x HTTP/1.1\r\n" + TRACE + b"\r\n", 400, "/look/a b", True),
    "no headers at all": (b"GET /look/a HTTP/1.1\r\n\r\n", 400, "/look/a", False),
    "a header too many": (GET % (b"/look/a", TRACE + b"X-Many: 1\r\n" * 101), 431, "/look/a", True),
    "an endless header": (b"GET /look/a HTTP/1.1\r\n" + TRACE + b"X: " + b"x" * 5_000, 431, "/look/a", True),
    "a broken header": (b"GET /look/a HTTP/1.1\r\n" + TRACE + b"Host: a\r\nX\x00: 1\r\n\r\n", 400, "/look/a", True),
    "broken chunks": (b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + TRACE + b"\r\nx",
                      400, "/count", True),
    "late": (b"GET http://a/look/a HTTP/1.1\r\n" + TRACE + b"Host", 408, "/look/a", True),
    "nothing behind another": (said("one") + b"\0\r\n\r\n", 400, "", False),
    "a broken one behind another": (said("one") + b"GET /look/a HTTP/1.1\r\n" + TRACE + b"Host: a\r\nX\x00\r\n", 400,
                                    "/look/a", True),
}  # fmt: skip


@pytest.mark.parametrize("name", ABOUT)
async def test_a_refusal_says_what_it_is_about_as_far_as_that_is_known(wire: Wire, name: str) -> None:
    request, status, instance, named = ABOUT[name]
    first, second, rest = request.partition(b'"one"}')
    if second:
        await wire.say(first + second)
        assert (await wire.answer())[0] == 200
        await wire.say(rest)
    else:
        await wire.say(request)
    found, headers, body = await wire.answer()
    document = msgspec.json.decode(body)
    assert (found, document["status"], document["instance"]) == (status, status, instance)
    assert document["trace_id"] == "ab" * 16 if named else len(document["trace_id"]) == 32
    assert "date" in headers
    assert await wire.closed()


BROKEN = {
    "a head": b"GET /look/a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no head at all": b"\0\r\n",
    "a body": b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx",
    "a long line": GET % (b"/" + b"a" * 5_000, b""),
    "half a head": b"GET /look/a HTTP/1.1\r\nHost",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_was_asked_before_is_answered_before_the_refusal(wire: Wire, name: str) -> None:
    await wire.say(said("1", b"/late") + said("2", b"/slow") + BROKEN[name])
    assert [(await wire.answer())[2] for _ in range(2)] == [b'{"word":"1"}', b'{"word":"2"}']
    assert (await wire.answer())[0] in (400, 408, 431)
    assert await wire.closed()


@pytest.mark.parametrize("next_", [b"\0\r\n", b"GET /look/a HTTP/1.1\r\nHost"])
async def test_no_refusal_is_written_into_an_answer_that_has_begun(wire: Wire, next_: bytes) -> None:
    await wire.say(GET % (b"/talk", b"") + next_)
    status, _, body = await wire.answer()
    assert (status, body) == (200, b"piece 0;" + b"piece 1;" * 10)
    assert (await wire.answer())[0] in (400, 408)


async def test_a_body_that_breaks_breaks_off_an_answer_that_has_begun(wire: Wire) -> None:
    await wire.say(b"POST /talk HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"piece 0;" in await wire.reader.readuntil(b"piece 0;")
    await wire.say(b"nonsense")
    with contextlib.suppress(ConnectionResetError):
        assert b"HTTP/1.1" not in await wire.reader.read()


async def test_nothing_is_written_behind_an_answer_for_a_body_that_breaks_after_it(wire: Wire) -> None:
    """A proxy could take it for the answer to what it asks next."""
    await wire.say(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await wire.answer())[0] == 404
    await wire.say(b"nonsense")
    assert await wire.closed()


async def test_a_slow_head_is_408(wire: Wire) -> None:
    await wire.say(b"GET /look/a HTTP/1.1\r\nHost")
    assert (await wire.answer())[0] == 408
    assert await wire.closed()


async def test_a_silent_connection_is_closed(wire: Wire) -> None:
    assert await wire.closed()


async def test_a_connection_that_was_used_is_kept_longer(wire: Wire) -> None:
    await wire.say(said("one"))
    await wire.answer()
    await asyncio.sleep(1.1)
    await wire.say(said("two"))
    assert (await wire.answer())[2] == b'{"word":"two"}'


async def test_headers_behind_a_body_are_none_of_the_request(wire: Wire) -> None:
    await wire.say(
        b"POST /named HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-Name: head\r\n\r\n"
        b"1\r\na\r\n0\r\nX-Name: trailer\r\nAuthorization: Bearer x\r\n\r\n"
    )
    assert (await wire.answer())[2] == b"x-name=head"


@pytest.mark.parametrize("endless", [b"0\r\nX-Endless: ", b"1;extension="])
async def test_what_comes_beside_a_body_is_bounded(wire: Wire, endless: bytes) -> None:
    await wire.say(
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", endless, *[b"x" * 1_000] * 4
    )
    assert (await wire.answer())[0] == 431
    assert await wire.closed()


@pytest.mark.parametrize("body", [b"", b"{"])
async def test_a_body_that_nobody_waits_for_ends_with_the_connection(wire: Wire, body: bytes) -> None:
    await wire.say(POST % (b"/nowhere", 1_000, b"", body))
    assert (await wire.answer())[0] == 404
    assert await wire.closed()


@pytest.mark.parametrize("verb", [b"GET", b"POST"])
async def test_a_request_with_a_body_becomes_no_websocket(wire: Wire, verb: bytes) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n"
    await wire.say(b"%b /nowhere HTTP/1.1\r\nHost: a\r\n%b\r\nabc" % (verb, upgrade))
    assert (await wire.answer())[0] == 404
    assert await wire.closed()


async def test_a_header_with_a_line_break_never_leaves(wire: Wire) -> None:
    await wire.say(GET % (b"/split", b""))
    status, headers, _ = await wire.answer()
    assert (status, "x-other" in headers) == (500, False)


async def test_a_handler_hears_that_the_client_left(wire: Wire) -> None:
    await wire.say(GET % (b"/wait", b""))
    await asyncio.sleep(0.05)
    wire.writer.close()
    async with asyncio.timeout(30):
        await HEARD["gone"].wait()


@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
async def test_a_handler_hears_it_also_when_more_was_asked_for_behind_it(wire: Wire, upgrade: bytes) -> None:
    """And a connection becomes no WebSocket while it is that of a request which is not answered yet."""
    await wire.say(GET % (b"/wait", b"") + GET % (b"/nowhere", upgrade))
    await asyncio.sleep(0.05)
    wire.writer.close()
    async with asyncio.timeout(30):
        await HEARD["gone"].wait()


async def ask_for_much(port: int) -> socket.socket:
    """Ask for more than can be on its way, on a connection that ends with the answer."""
    comer = socket.socket()
    comer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    comer.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(comer, ("127.0.0.1", port))
    await loop.sock_sendall(comer, GET % (b"/much", b"Connection: close\r\n"))
    return comer


async def test_who_reads_no_answer_is_not_waited_for(port: int) -> None:
    comer = await ask_for_much(port)
    async with asyncio.timeout(10):
        await HEARD["lost"].wait()
    comer.close()


async def test_who_reads_slowly_gets_the_whole_answer(port: int) -> None:
    comer = await ask_for_much(port)
    got = 0
    async with asyncio.timeout(20):
        while piece := await asyncio.get_running_loop().sock_recv(comer, 400_000):
            got += len(piece)
            await asyncio.sleep(0.005)
    comer.close()
    assert got > MUCH


async def test_a_head_behind_a_whole_request_has_the_same_bound(wire: Wire) -> None:
    large = b"GET /look/2 HTTP/1.1\r\nHost: a\r\n" + b"".join(b"x-%d: %b\r\n" % (i, b"a" * 900) for i in range(6))
    await wire.say(said("1") + large, b"\r\n")
    assert (await wire.answer())[2] == b'{"word":"1"}'
    assert (await wire.answer())[0] == 431
