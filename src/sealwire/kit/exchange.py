"""One HTTP request and its answer, over plain ASGI."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from sealwire.kit.codec import encode
from sealwire.kit.problem import Invalid, Malformed, Problem, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
PROBLEM = (b"content-type", b"application/problem+json")
CHALLENGE = (b"www-authenticate", b'Bearer realm="sealwire"')


class Disconnected(Exception):
    """The client went away before the request was complete."""


class Exchange:
    """A request being answered. Made by the app, handed to raw handlers and to the authenticator."""

    __slots__ = ("_receive", "_send", "caller", "extra_headers", "method", "params", "path", "route", "scope",
                 "started", "started_us", "status", "trace_id", "untimed")  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
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

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header (`name` in lower case), or None."""
        for key, value in self.scope["headers"]:
            if key == name:
                return value  # type: ignore[no-any-return]  # ASGI says bytes
        return None

    def header_values(self, name: bytes) -> list[bytes]:
        """Return every value of a header, in order."""
        return [value for key, value in self.scope["headers"] if key == name]

    def text_header(self, name: bytes, limit: int = 512) -> str:
        """Return a header as text, cut at `limit` characters; empty when absent."""
        value = self.header(name)
        return "" if value is None else value[:limit].decode("latin-1")

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
        if parent is not None and len(parent) == 55 and parent[:3] == b"00-":
            trace = parent[3:35]
            if trace.isalnum() and trace == trace.lower() and trace.strip(b"0"):
                self.trace_id = trace.decode()
                return
        self.trace_id = os.urandom(16).hex()

    async def body(self, limit_bytes: int) -> bytes:
        """Read the whole body. Raises: TooLarge, Disconnected, Malformed (chunks shorter than announced)."""
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
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.extra_headers]})

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last piece."""
        await self._send({"type": "http.response.body", "body": chunk})

    async def answer(self, status: int, body: bytes = b"", headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a whole answer."""
        self.status = status
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, (b"content-length", b"%d" % len(body)), *self.extra_headers],
            }
        )
        await self._send({"type": "http.response.body", "body": body})

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
        raise Invalid("A parameter stands there twice.", path="$")
    return form
