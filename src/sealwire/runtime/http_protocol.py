"""HTTP/1.1 as uvicorn speaks it, with bounds on the head of a request: bytes, count and time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sealwire.kit.codec import encode
from sealwire.kit.problem import Malformed, Problem

MAX_HEADERS = 100


class HeadTooLarge(Problem):
    """The request's headers are larger or more than allowed."""

    code, title, status = "headers_too_large", "The headers are too large", 431


class HeadTooSlow(Problem):
    """The request's headers did not arrive in time."""

    code, title, status = "headers_too_slow", "The request came too slowly", 408


class BoundedHttp(HttpToolsProtocol):
    """One connection. `limit_bytes` bounds line and headers together, `timeout_s` the time until they are complete."""

    limit_bytes = 32_768
    timeout_s = 20.0
    _head_bytes = 0
    _header_count = 0
    _in_head = True
    _refusal: type[Problem] | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        if self.parser is not None:
            super().data_received(data)
        if self._in_head and self._head_bytes > self.limit_bytes and not self.transport.is_closing():
            self._refuse(HeadTooLarge)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_count = 0
        if self._timer is None:
            self._timer = self.loop.call_later(self.timeout_s, self._head_is_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        if self._header_count > MAX_HEADERS or sum(map(len, (name, value))) > self.limit_bytes:
            self._refusal = HeadTooLarge
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or Malformed)

    def _refuse(self, kind: type[Problem]) -> None:
        """Answer with a problem document and close: what follows on this connection can't be trusted."""
        body = encode(kind().document())
        head = (
            b"content-type: application/problem+json\r\nconnection: close\r\n"
            b"x-content-type-options: nosniff\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        self.transport.write(STATUS_LINE[kind.status] + head + body)
        self.transport.close()

    def _head_is_late(self) -> None:
        self._timer = None
        if self.transport is None or self.transport.is_closing():
            return
        if self._head_bytes:
            self._refuse(HeadTooSlow)
        else:
            self.transport.close()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bounded(*, limit_bytes: int, timeout_s: float) -> type[BoundedHttp]:
    """Return the protocol class with these bounds (uvicorn takes a class, not an object)."""
    return type("BoundedHttpConfigured", (BoundedHttp,), {"limit_bytes": limit_bytes, "timeout_s": timeout_s})
