"""One HTTP request and its answer, over plain ASGI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

from sealwire.kit.codec import encode
from sealwire.kit.ids import random_hex
from sealwire.kit.problem import Invalid, Malformed, Problem, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_HEX = b"0123456789abcdef"
JSON = (b"content-type", b"application/json")
PROBLEM = (b"content-type", b"application/problem+json")
JSON_LINE = b"content-type: application/json\r\n"
BODILESS = frozenset({204, 304})
CHALLENGE = (b"www-authenticate", b'Bearer realm="sealwire"')


class Disconnected(Exception):
    """The client went away before the request was complete."""


class Direct(Protocol):
    """A server's short way beside ASGI's messages, for what is whole: most bodies and most answers."""

    task: asyncio.Task[None] | None
    """What the request is answered in."""

    def whole_body(self) -> bytes | None:
        """Return the body when all of it has arrived and was not read yet."""

    def answer(self, status: int, lines: bytes, body: bytes) -> bool:
        """Send an answer with these header lines and its length; False when it has to go the long way."""


class FixedHeaders:
    """Headers every answer of an app has, also as the lines they are sent as."""

    __slots__ = ("headers", "lines")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.headers = tuple(headers)
        self.lines = b"".join(b"%b: %b\r\n" % header for header in self.headers)


NO_HEADERS = FixedHeaders()


class Exchange:
    """A request being answered. Made by the app, handed to raw handlers and to the authenticator."""

    __slots__ = ("_direct", "_named", "_receive", "_send", "caller", "extra_headers", "fixed", "method", "params",
                 "path", "place", "route", "scope", "started", "started_us", "status", "trace_id",
                 "untimed")  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, direct: Direct | None = None) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._direct = direct
        self._named: dict[bytes, bytes] | None = None
        self.fixed = NO_HEADERS
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.params: dict[str, Any] = {}
        self.extra_headers: Headers = []
        self.status = 0
        self.untimed = False
        """Set by a handler of a long upload that watches over its own time: the app's timeout doesn't end it."""
        self.started = time.perf_counter()
        self.started_us = time.time_ns() // 1000
        self.trace_id = ""
        self.route: Any = None
        self.caller: Any = None
        self.place: str | None = None
        """What its address is counted as, from when it is counted as in work (services/gateway/limiter.py)."""

    def named_headers(self) -> dict[bytes, bytes]:
        """Return the headers by name in lower case, of each the first; shorter than the list when one came twice."""
        if self._named is None:
            self._named = dict(reversed(self.scope["headers"]))
        return self._named

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header (`name` in lower case), or None."""
        named = self._named
        return (self.named_headers() if named is None else named).get(name)

    def header_values(self, name: bytes) -> list[bytes]:
        """Return every value of a header, in order."""
        return [value for key, value in self.scope["headers"] if key == name]

    def text_header(self, name: bytes, limit: int = 512) -> str:
        """Return a header as text, cut at `limit` characters; empty when absent."""
        value = self.header(name)
        return "" if value is None else value[:limit].decode("latin-1")

    @property
    def task(self) -> asyncio.Task[Any]:
        """The task in which it is answered. To be asked from within it."""
        task = None if self._direct is None else self._direct.task
        task = task or asyncio.current_task()
        assert task is not None  # a request is answered in one
        return task

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters. Raises: Malformed for what is no UTF-8, Invalid for a name given twice."""
        raw: bytes = self.scope["query_string"]
        if not raw:
            return {}
        return read_form(raw)

    @property
    def ip(self) -> str:
        """The address of the direct peer; the gateway replaces it when the peer is a trusted proxy."""
        client = self.scope.get("client")
        return client[0] if client else ""

    def set_trace(self) -> None:
        """Take the trace id of a W3C `traceparent` header, or make one."""
        parent = self.header(b"traceparent")
        self.trace_id = random_hex() if parent is None else read_trace(parent)

    def body_at_hand(self, limit_bytes: int) -> bytes | None:
        """Return the whole body if it has arrived already, as it mostly has; else None. Raises: TooLarge."""
        body = self._direct.whole_body() if self._direct is not None else None
        if body is not None and len(body) > limit_bytes:
            raise TooLarge(f"The body may hold {limit_bytes} bytes.", limit_bytes=limit_bytes)
        return body

    async def body(self, limit_bytes: int) -> bytes:
        """Read the whole body. Raises: TooLarge, Disconnected, Malformed (chunks shorter than announced)."""
        if (at_hand := self.body_at_hand(limit_bytes)) is not None:
            return at_hand
        length = self.header(b"content-length")
        if length is not None and int(length) > limit_bytes:
            raise TooLarge(f"The body may hold {limit_bytes} bytes.", limit_bytes=limit_bytes)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts = [body]
            size = len(body)
            while message.get("more_body"):
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit_bytes:
                    raise TooLarge(f"The body may hold {limit_bytes} bytes.", limit_bytes=limit_bytes)
            body = b"".join(parts)
        if len(body) > limit_bytes:
            raise TooLarge(f"The body may hold {limit_bytes} bytes.", limit_bytes=limit_bytes)
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises: Disconnected when the client goes away in the middle."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            if body := message.get("body", b""):
                yield body
            if not message.get("more_body"):
                return

    async def disconnected(self) -> None:
        """Return when the client has gone away (or the answer is complete). Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send the status and the headers."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": self._all_headers(headers)})

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last piece."""
        await self._send({"type": "http.response.body", "body": chunk})

    def answer_at_once(self, status: int, body: bytes, lines: bytes) -> bool:
        """Send a whole answer without waiting, `lines` being its own headers; False when that can't be done here."""
        if self._direct is None:
            return False
        if self.trace_id:
            lines = b"%b%bx-request-id: %b\r\n" % (lines, self.fixed.lines, self.trace_id.encode())
        else:
            lines += self.fixed.lines
        if self.extra_headers:
            lines += _lines(self.extra_headers)
        if not self._direct.answer(status, lines, body):
            return False
        self.status = status
        return True

    async def answer(self, status: int, body: bytes = b"", headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a whole answer."""
        headers = list(headers)
        if self.answer_at_once(status, body, _lines(headers)):
            return
        if status not in BODILESS:
            headers.append((b"content-length", b"%d" % len(body)))
        await self.start(status, headers)
        await self._send({"type": "http.response.body", "body": body})

    def _all_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        found = [*headers, *self.fixed.headers, *self.extra_headers]
        if self.trace_id:
            found.append((b"x-request-id", self.trace_id.encode()))
        return found

    async def answer_problem(self, problem: Problem) -> None:
        """Send a problem document (RFC 9457)."""
        headers: Headers = [PROBLEM, (b"cache-control", b"no-store")]
        if problem.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(problem.retry_after_s))))
        if problem.status == 401:
            headers.append(CHALLENGE)
        if (allow := problem.extra.get("allow")) is not None:
            headers.append((b"allow", ", ".join(allow).encode()))
        document = problem.document(instance=self.path, trace_id=self.trace_id)
        await self.answer(problem.status, encode(document), headers)


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the trace id that a request of these headers (lowercase) came with, or a new one."""
    for name, value in headers:
        if name == b"traceparent":
            return read_trace(value)
    return random_hex()


def read_trace(parent: bytes) -> str:
    """Return the trace id of a W3C `traceparent` header, or a new one.

    Versions after 00 begin as that one and may go on behind another dash (Trace Context section 4.3).
    """
    if (
        (len(parent) == 55 or (parent[55:56] == b"-" and parent[:2] != b"00"))
        and parent[2:3] == parent[35:36] == parent[52:53] == b"-"
        and parent[:2] != b"ff"
        and not (parent[:2] + parent[3:35] + parent[36:52] + parent[53:55]).translate(None, _HEX)
        and parent[3:35].strip(b"0")
        and parent[36:52].strip(b"0")
    ):
        return parent[3:35].decode()
    return random_hex()


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as they are sent. Raises: ValueError for a line break in one (it would be two)."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    joined = b"".join(lines)
    if joined.count(b"\n") != len(lines) or joined.count(b"\r") != len(lines):
        raise ValueError("a header holds a line break")
    return joined


def read_form(raw: bytes) -> dict[str, str]:
    """Read `application/x-www-form-urlencoded` bytes. Raises: Malformed, Invalid for a name given twice."""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=64
        )
    except (ValueError, UnicodeDecodeError):
        raise Malformed("The parameters are not readable: write them as name=value, percent-encoded UTF-8.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise Invalid("This parameter stands there twice.", path=f"$.{twice}")
    return form
