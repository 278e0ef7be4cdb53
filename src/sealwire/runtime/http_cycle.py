"""One request on an HTTP/1.1 connection and its answer: ASGI's receive and send, and a short way for whole answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from sealwire.kit.exchange import BODILESS
from sealwire.kit.problem import Internal
from sealwire.runtime.http_refusals import document_about

log = logging.getLogger("sealwire.http")

Message = MutableMapping[str, Any]
Headers = Sequence[tuple[bytes, bytes]]
DISCONNECT: dict[str, Any] = {"type": "http.disconnect"}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE_LINE = b"connection: close\r\n"
FAILED = b"content-type: application/problem+json\r\ncache-control: no-store\r\n"


class Connection(Protocol):
    """What a cycle needs of its connection."""

    transport: Any
    flow: FlowControl
    default_lines: bytes

    def answered(self) -> None:
        """Hear that the answer is complete."""

    def close_slowly(self) -> None:
        """Close, for a client that may still be sending."""


class Admission(Protocol):
    """Who says how many requests may be in work at once (services/gateway/admission.py)."""

    refusal: bytes
    lines: bytes

    def full(self) -> bool:
        """Whether as many are in work as may be."""

    def open(self, path: bytes) -> bool:
        """Whether a request may come in, by its path, unquoted."""

    def refuse(self, method: str, path: bytes, headers: Headers, client: tuple[str, int] | None) -> None:
        """Hear of one that was not let in."""

    def begin(self) -> None:
        """Hear of one that is in work."""

    def end(self) -> None:
        """Hear that it is answered."""


class Cycle:
    """A request and its answer. The connection feeds it; the app reads and answers."""

    __slots__ = ("_admission", "_body_given", "_chunked", "_connection", "_event", "_left", "_told_to_continue",
                 "body", "disconnected", "keep_alive", "more_body", "response_complete", "response_started", "scope",
                 "task")  # fmt: skip

    def __init__(self, connection: Connection, scope: dict[str, Any], *, keep_alive: bool) -> None:
        self._connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self.body = b""
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.task: asyncio.Task[None] | None = None
        self._body_given = False
        self._chunked = False
        self._left = 0
        self._told_to_continue = False
        self._event: asyncio.Event | None = None
        self._admission: Admission | None = None

    # ---- the connection's side

    def wake(self) -> None:
        """Let who waits in `receive` look again."""
        if self._event is not None:
            self._event.set()

    def count(self, admission: Admission) -> None:
        """Count it as in work until an answer begins, or `settle`."""
        if not self.response_started:
            self._admission = admission
            admission.begin()

    def settle(self) -> None:
        """Count it as in work no more. Safe to call twice."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.end()

    def fail(self) -> None:
        """End an answer the app did not end: with 500 when nothing was sent, else by breaking the connection off."""
        if self.disconnected or self.response_complete:
            return
        if self.response_started:
            self._connection.transport.abort()  # nor does a client that doesn't read get what is buffered
        else:
            self.keep_alive = False
            self.answer(500, FAILED, document_about(Internal, self.scope["path"], self.scope["headers"]))

    # ---- the app's side, short

    def whole_body(self) -> bytes | None:
        """Return the body when all of it is here and was not read yet; None otherwise (`receive` tells)."""
        if self.more_body or self._body_given or self.disconnected:
            return None
        self._body_given = True
        body, self.body = self.body, b""
        return body

    def answer(self, status: int, lines: bytes, body: bytes) -> bool:
        """Write a whole answer at once; `lines` are its headers but for the length. False: take the long way."""
        connection = self._connection
        if self.response_started or self.disconnected or connection.flow.write_paused:
            return False
        if self._admission is not None:
            self.settle()
        self.response_started = self.response_complete = True
        if not self.keep_alive:
            lines += CLOSE_LINE
        length = b"\r\n" if status in BODILESS else b"content-length: %d\r\n\r\n" % len(body)
        if status in BODILESS or self.scope["method"] == "HEAD":
            body = b""
        connection.transport.write(b"".join((STATUS_LINE[status], connection.default_lines, lines, length, body)))
        self._complete()
        return True

    # ---- the app's side, as ASGI has it

    async def receive(self) -> Message:
        """Return the next piece of the body, or that the client has gone or was answered."""
        if self.more_body and not self.body and not self._told_to_continue:
            self._tell_to_continue()
        while not (self.disconnected or self.response_complete):
            if self.body or not (self.more_body or self._body_given):
                body, self.body = self.body, b""
                self._body_given = not self.more_body
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            self._connection.flow.resume_reading()
            if self._event is None:
                self._event = asyncio.Event()
            self._event.clear()
            await self._event.wait()
        return DISCONNECT

    def _tell_to_continue(self) -> None:
        """Answer a client that waits for our word before it sends the body (RFC 9110 section 10.1.1)."""
        self._told_to_continue = True
        for name, value in self.scope["headers"]:
            if name == b"expect" and value.lower() == b"100-continue" and not self.response_started:
                self._connection.transport.write(CONTINUE)

    async def send(self, message: Message) -> None:
        """Send the head of the answer or a piece of its body. Raises: RuntimeError for what is out of order."""
        if self._connection.flow.write_paused and not self.disconnected:
            await self._connection.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._send_head(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} is out of order")

    def _send_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.settle()
        self.response_started = True
        parts = [STATUS_LINE[status], self._connection.default_lines]
        length: int | None = None
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and value.lower() == b"close":
                self.keep_alive = False
                continue
            parts += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            parts.append(CLOSE_LINE)
        bodiless = self.scope["method"] == "HEAD" or status in BODILESS
        if length is None and not bodiless:
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        self._left = 0 if bodiless else length or 0
        parts.append(b"\r\n")
        self._connection.transport.write(b"".join(parts))

    def _send_body(self, body: bytes, more: bool) -> None:
        transport = self._connection.transport
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            transport.write(chunk if more else chunk + b"0\r\n\r\n")
        elif self.scope["method"] != "HEAD":
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body is not as long as announced")
            transport.write(body)
        if not more:
            self.response_complete = True
            self._complete()

    def _complete(self) -> None:
        self.wake()
        if not self.keep_alive:
            self._connection.close_slowly() if self.more_body else self._connection.transport.close()
        self._connection.answered()
