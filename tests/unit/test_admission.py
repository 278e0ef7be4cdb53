"""Admission: fewer are let in while the loop is late, more when it is not; turning away is done on the wire."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from sealwire.contracts.audit_log import MAX_RECORD_BYTES, AuditEntry
from sealwire.kit.caller import ANONYMOUS, Caller
from sealwire.kit.codec import Input, encode
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App, Edge
from sealwire.kit.operation import Operation, Policy
from sealwire.kit.problem import Unavailable
from sealwire.runtime.glance import Glance
from sealwire.runtime.http_protocol import bounded
from sealwire.runtime.server import Server, listen
from sealwire.services.gateway.admission import PROBE_S, PROBES, Admission

API = b"/api/v1/conversations"


class Records:
    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    def put(self, entry: AuditEntry) -> None:
        self.entries.append(entry)


def request(path: bytes = b"/api/v1/x", *, headers: Any = (), ip: str = "192.0.2.1") -> tuple[Any, ...]:
    """What is known of a request before it is read."""
    return "POST", path, headers, (ip, 1)


def admission(records: Any = None, **given: Any) -> Admission:
    bounds = {"floor": 4, "ceiling": 100, **given}
    return Admission(target_s=0.004, registry=CollectorRegistry(), records=records or Records(), **bounds)


async def test_a_late_loop_lets_fewer_in_down_to_the_floor_and_a_quick_one_more_up_to_the_ceiling() -> None:
    it = admission()
    for _ in range(50):
        it.begin()
    assert it.open(API)
    assert not it.full()
    it.adjust(0.010)
    assert it.limit == 37, "three quarters of what was really in work"
    assert not it.open(API)
    assert it.full()
    for _ in range(20):
        it.adjust(0.010)
    assert it.limit == 4
    for _ in range(50):
        it.end()
    it.begin()
    assert it.open(API), "the floor is never closed"
    limits = []
    for _ in range(20):
        it.adjust(0.001)
        limits.append(it.limit)
    assert limits == sorted(limits)
    assert limits[-1] == 100


async def test_health_and_the_console_are_never_turned_away() -> None:
    it = admission(floor=1)
    for _ in range(200):
        it.begin()
    assert not it.open(API)
    for url in (b"/health", b"/ready", b"/metrics", b"/.well-known/jwks.json", b"/console"):
        assert it.open(url)


async def test_a_busy_loop_is_noticed_and_so_is_its_end() -> None:
    it = admission()
    for _ in range(20):
        it.begin()
    deadline = time.monotonic() + 60.0
    while it.limit == 100:
        assert time.monotonic() < deadline
        time.sleep(0.02)  # noqa: ASYNC251 - the loop is kept busy on purpose
        await asyncio.sleep(0)
    for _ in range(20):
        it.end()
    while it.limit < 100:
        assert time.monotonic() < deadline
        await asyncio.sleep(PROBE_S)
    await asyncio.sleep(PROBE_S * (PROBES + 2))
    assert it._probe is None, "nothing runs while nothing is in work"


async def test_who_was_turned_away_is_told_in_one_record() -> None:
    records = Records()
    it = admission(records)
    for _ in range(42):
        it.refuse(*request())
    it.adjust(0.0)
    assert records.entries == [], "a few wait for a second"
    it._told_s -= 2
    it.adjust(0.0)
    (entry,) = records.entries
    assert (entry.action, entry.outcome, entry.metadata["requests"]) == ("requests_shed", "denied", 42)
    it._told_s -= 2
    it.adjust(0.0)
    assert len(records.entries) == 1


async def test_every_request_that_was_turned_away_is_in_a_record_and_each_record_fits() -> None:
    records = Records()
    it = admission(records, proxies=["192.0.2.9"])
    path = b"/api/v1/media/" + b'"' * 300
    for number in range(1_000):
        agent = (b"user-agent", b'"\t' * 200)
        headers = [agent, (b"x-forwarded-for", b"203.0.113.7")]
        it.refuse(*request(path + b"/%d" % number, headers=headers, ip="192.0.2.9"))
    assert len(records.entries) == 10
    assert sum(int(entry.metadata["requests"] or 0) for entry in records.entries) == 1_000
    for entry in records.entries:
        lines = str(entry.metadata["refused"]).split("\n")
        assert len(lines) == len(entry.personal["clients"].split("\n")) == 100
        at, method, shown = lines[0].split(" ")
        assert (at[-1], method, shown) == ("Z", "POST", "/api/v1/media/...")
        assert entry.personal["clients"].startswith("203.0.113.7 ")
        assert len(encode(entry)) * 4 / 3 < MAX_RECORD_BYTES


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"/api/v1/conversations", "/api/v1/conversations"),
        (b"/api/v1/media/" + b"s" * 41, "/api/v1/media/..."),
        (b"/api/v1/users/0192f0c4-0000-7000-8000-000000000001", "/api/v1/users/0192f0c4-0000-7000-8000-000000000001"),
        (b"/api/v1/" + b"a/" * 200, "/api/v1/" + "a/" * 76 + "..."),
        (b"/api/v1/" + b"a" * 125 + b"/" + b"s" * 60, "/api/v1/.../..."),
    ],
)
async def test_what_may_be_a_secret_in_a_path_is_left_out(path: bytes, shown: str) -> None:
    records = Records()
    it = admission(records)
    for _ in range(100):
        it.refuse(*request(path))
    assert str(records.entries[0].metadata["refused"]).split("\n")[0].split(" ")[2] == shown


def test_the_refusal_is_a_problem_that_says_when_to_come_back() -> None:
    it = admission()
    assert b'"code":"unavailable"' in it.refusal
    assert b'"retry":"after"' in it.refusal
    assert b"retry-after: 1\r\n" in it.lines


# ---- on the wire


class Shut:
    """An admission that is shut whenever it is told to be."""

    refusal = encode(Unavailable("Too much.").document())
    lines = b"content-type: application/problem+json\r\nretry-after: 1\r\n"

    def __init__(self) -> None:
        self.shut = False
        self.active = self.begun = 0
        self.glance: Glance
        self.told: list[tuple[str, bytes, list[tuple[bytes, bytes]], str]] = []

    @property
    def turned_away(self) -> int:
        return len(self.told)

    def full(self) -> bool:
        return self.shut

    def open(self, path: bytes) -> bool:
        return not self.shut or path == b"/health"

    def refuse(self, method: str, path: bytes, headers: Any, client: Any) -> None:
        self.told.append((method, path, list(headers), client[0]))

    def begin(self) -> None:
        self.active += 1
        self.begun += 1

    def end(self) -> None:
        self.active -= 1


class Note(Input):
    """A note."""

    word: str


NOTE = Operation(name="note", service="test", verb="POST", path="/note", summary="Note", takes=Note, status=204,
                 policy=Policy.PUBLIC)  # fmt: skip
BODY = b'{"word":"x"}'
HEAD = b"POST /note HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"


@pytest.fixture
async def served() -> AsyncIterator[tuple[Shut, asyncio.StreamReader, asyncio.StreamWriter]]:
    async def note(_caller: Caller, _note: Note) -> None:
        await asyncio.sleep(0)

    async def events(exchange: Exchange, _caller: Caller) -> None:
        await exchange.start(200)
        await exchange.write(b"x")
        await exchange.disconnected()

    shut = Shut()
    edge = Edge(authenticate=lambda _exchange, _policy: Caller(principal=ANONYMOUS))
    app = App([edge.bind(NOTE, note), edge.stream("GET", "/events", events, policy=Policy.PUBLIC)])
    http = bounded(limit_bytes=4_000, timeout_s=1.0, admission=shut)
    shut.glance = http.glance
    server = Server(app=app, sock=listen("127.0.0.1", 0), http=http, websocket=None, grace_s=1)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    yield shut, reader, writer
    writer.close()
    await server.stop()


async def statuses(reader: asyncio.StreamReader, count: int) -> list[int]:
    """Read the heads of so many answers, and the bodies of refusals."""
    found = []
    async with asyncio.timeout(30):
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            found.append(int(head.split()[1]))
            if found[-1] == 503:
                assert b"retry-after: 1" in head
                refused = await problem_behind(reader, head)
                assert (refused["code"], refused["detail"]) == ("unavailable", "Too much.")
    return found


async def problem_behind(reader: asyncio.StreamReader, head: bytes) -> dict[str, Any]:
    """Read the problem document that comes after a head."""
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return json.loads(await reader.readexactly(length))


async def test_a_request_turned_away_leaves_the_connection_good(served: Any) -> None:
    shut, reader, writer = served
    for closed, status in ((False, 204), (True, 503), (True, 503), (False, 204)):
        shut.shut = closed
        writer.write(HEAD + BODY)
        assert await statuses(reader, 1) == [status]
    assert (shut.turned_away, shut.begun, shut.active) == (2, 2, 0)


async def test_a_request_in_one_piece_is_refused_like_one_that_is_read(served: Any) -> None:
    """Two are only looked at, the one between them is read: the answers are one, and so is what is told of them."""
    shut, reader, writer = served
    shut.shut = True
    named = HEAD.replace(b"/note", b"/note?x=%41").replace(
        b"Host", b"User-Agent: me\r\ntraceparent: 00-" + b"ab" * 16 + b"-00f067aa0ba902b7-01\r\nhost"
    )
    answers, problems = [], []
    for pieces in ((named + BODY,), (named + BODY, b"\r\n"), (named + BODY,)):  # more behind it: not looked at
        writer.write(b"".join(pieces))
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            answers.append(b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"date:")))
            if b" 503 " in head:
                problems.append(await problem_behind(reader, head))
    assert answers == [answers[0]] * 3
    assert [(one["instance"], one["trace_id"]) for one in problems] == [("/note", "ab" * 16)] * 3
    assert shut.told == [shut.told[0]] * 3
    assert shut.told[0][:2] == ("POST", b"/note")
    assert (b"user-agent", b"me") in shut.told[0][2]


ODD = {
    "no host": (HEAD.replace(b"Host: a\r\n", b"") + BODY, 400),
    "two hosts": (HEAD.replace(b"Host: a", b"Host: a\r\nHost: b") + BODY, 400),
    "an unknown coding": (HEAD.replace(b"Content-Length: 12", b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 400),
    "length and coding": (HEAD.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"0\r\n\r\n", 400),
    "two lengths": (HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 13\r\n\r\n") + BODY, 400),
    "no HTTP": (b"HELLO\r\n\r\n", 400),
    "too long": (HEAD.replace(b"Host", b"X: " + b"x" * 5_000 + b"\r\nHost") + BODY, 431),
}


@pytest.mark.parametrize("name", ODD)
async def test_what_is_wrong_is_wrong_also_when_nobody_is_let_in(served: Any, name: str) -> None:
    shut, reader, writer = served
    shut.shut = True
    request, status = ODD[name]
    writer.write(request)
    assert await statuses(reader, 1) == [status]
    async with asyncio.timeout(30):
        await reader.read()
    assert reader.at_eof(), "what follows on such a connection can't be trusted"


async def test_nothing_of_a_refused_request_is_kept(served: Any) -> None:
    """Its headers hold a token, and for the next that is looked at the server may wait all night."""
    shut, reader, writer = served
    shut.shut = True
    secret = HEAD.replace(b"Host", b"Authorization: Bearer secret\r\nHost")
    for request in (secret + BODY, secret.replace(b"POST", b"HEAD") + BODY):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert (shut.glance.url, shut.glance.headers) == (b"", [])
        if request.startswith(b"POST"):
            await problem_behind(reader, head)


async def test_who_closes_afterwards_is_closed_and_a_head_has_no_body(served: Any) -> None:
    shut, reader, writer = served
    shut.shut = True
    writer.write(b"HEAD /note HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        writer.write(HEAD.replace(b"Host", b"Connection: close\r\nHost") + BODY)
        rest = await reader.read()
    assert rest.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close\r\n" in rest
    assert shut.turned_away == 2


@pytest.mark.parametrize("target", [b"/health", b"/%68ealth", b"/health?now", b"http://a/health", b"http://a/%68ealth"])
async def test_what_may_always_come_in_does_so_however_it_is_written(served: Any, target: bytes) -> None:
    """And so nothing else comes in by writing it in another way."""
    shut, reader, writer = served
    shut.shut = True
    writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
    assert await statuses(reader, 1) == [404], "there is none here, but it was let in"
    assert shut.turned_away == 0


@pytest.mark.parametrize("cut", [1, 10, len(HEAD), len(HEAD) + 4])
async def test_what_was_looked_at_is_read_whole_when_a_place_is_free_by_then(served: Any, cut: int) -> None:
    shut, reader, writer = served
    shut.shut = True
    writer.write((HEAD + BODY)[:cut])
    await writer.drain()
    await asyncio.sleep(0.05)
    shut.shut = False
    writer.write((HEAD + BODY)[cut:])
    assert await statuses(reader, 1) == [204]
    assert (shut.begun, shut.active, shut.turned_away) == (1, 0, 0)


async def test_pipelined_requests_are_turned_away_in_order(served: Any) -> None:
    shut, reader, writer = served
    shut.shut = True
    writer.write((HEAD + BODY) * 5)
    assert await statuses(reader, 5) == [503] * 5
    assert shut.turned_away == 5


async def test_a_body_that_is_not_there_takes_no_place_and_is_not_read_twice(served: Any) -> None:
    shut, reader, writer = served
    shut.shut = True
    writer.write(HEAD + BODY[:4])
    await writer.drain()
    await asyncio.sleep(0.05)
    assert shut.active == 0, "slow clients take no place"
    writer.write(BODY[4:])
    assert await statuses(reader, 1) == [204], "it is in the gate's hands"
    assert shut.active == 0


async def test_a_stream_takes_no_place_once_it_began(served: Any) -> None:
    shut, reader, writer = served
    writer.write(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await statuses(reader, 1) == [200]
    assert (shut.begun, shut.active) == (1, 0)


@pytest.mark.parametrize("requests", [1, 50])
async def test_who_leaves_gives_the_places_back(served: Any, requests: int) -> None:
    """Also those of pipelined requests that were never begun."""
    shut, _reader, writer = served
    writer.write((HEAD + BODY) * requests)
    await writer.drain()
    writer.close()
    async with asyncio.timeout(30):
        while shut.begun == 0 or shut.active:  # noqa: ASYNC110 - it is the server that goes on meanwhile
            await asyncio.sleep(0.01)
