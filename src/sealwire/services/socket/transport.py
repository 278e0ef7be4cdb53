"""The WebSocket transport: uvicorn's Sans-I/O protocol for the handshake, then frames straight to and from a sink.

uvicorn answers the opening handshake and runs the ASGI application, which decides whether and whom to accept. It then
hands the socket over with `attach` and returns: from there on no task, queue or event stands between the network and
the connection, and whoever fans out writes pre-built frames to the transport. Compression stays off: it would cost
memory per connection, a compression per receiver, and mix secrets with what an attacker chooses (CRIME).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol, cast

import msgspec
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol

from sealwire.services.socket import frames, protocol

_LOG = logging.getLogger("sealwire.socket")

EXTENSION = "sealwire.socket"
"""Where the ASGI scope's `extensions` hold the SocketProtocol of the request."""

EARLY_LIMIT_BYTES = 8 * 1024
"""What a client may send before the application took the socket over."""

AT_ONCE = 256
"""Messages of one client that are handled before others get their turn: one read may hold 40,000 of them."""


class TransportLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one socket (services/socket/config.py says what each means)."""

    message_bytes: int = 512 * 1024
    first_message_bytes: int = 6 * 1024
    backlog_bytes: int = 512 * 1024
    slow_grace_s: float = 10.0
    close_timeout_s: float = 2.0


class _AlwaysWritable(asyncio.Event):
    """Stands where uvicorn's protocol waits for the client: nobody waits there once a socket is handed over."""

    def set(self) -> None:
        """It is."""

    def clear(self) -> None:
        """It stays."""


class Sink(Protocol):
    """Who gets what a socket receives. Called on the loop, never again after `lost`."""

    def received(self, payload: bytes) -> None:
        """Take one whole message."""

    def stalled(self) -> None:
        """The client does not read: its backlog passed the bound."""

    def drained(self) -> bool:
        """The client caught up; answer whether it missed nothing and may go on."""

    def lost(self, code: int) -> None:
        """The socket is closing for the client's reasons, or gone. `code` is the client's, 1006 when it gave none."""


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket of a server; the `Wire` of services/socket/connection.py once it is attached."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = ServerProtocol(max_size=EARLY_LIMIT_BYTES, logger=logging.getLogger("uvicorn.error"))
        self._early = b""
        self._sink: Sink | None = None
        self._reader: frames.FrameReader | None = None
        self._limits = _DEFAULTS
        self._out: list[bytes] = []
        self._held = self._stalled = self._closing = self._broken = self._pumping = False
        self._reading = True
        self._timer: asyncio.TimerHandle | None = None

    # -- the opening handshake: uvicorn's, except for what it logs and keeps

    def data_received(self, data: bytes) -> None:
        if self._reader is not None:
            if not self._broken:
                self._reader.feed(data)
                self._pump()
        elif not self.handshake_initiated:
            super().data_received(data)
        else:  # frames before our answer: kept for the sink, within a bound
            self._early += data
            if len(self._early) > EARLY_LIMIT_BYTES:
                self.transport.abort()

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if not self.close_sent:  # the application's task starts later in this loop iteration
            cast(dict[str, Any], self.scope["extensions"])[EXTENSION] = self

    async def send(self, message: Any) -> None:
        """Answer the handshake: as uvicorn does, without its log line, which holds the address and the query."""
        fresh = not (self.handshake_complete or self.disconnected or self.initial_response is not None)
        if message["type"] != "websocket.accept" or not fresh:
            await super().send(message)
        elif not self.transport.is_closing():
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())]
            if message.get("subprotocol"):
                headers.append(("Sec-WebSocket-Protocol", message["subprotocol"]))
            del self.response.headers["Date"]
            self.response.headers.update(headers)
            self.handshake_complete = True
            self.conn.send_response(self.response)
            self.transport.write(b"".join(self.conn.data_to_send()))

    async def run_asgi(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except Exception:
            _LOG.exception("the application failed during a WebSocket handshake")
            self.send_500_response()
        if self._reader is None:
            self.transport.close()
        else:  # headers hold credentials, and the parser weighs more than the connection
            del self.conn, self.request, self.response, self.scope, self.queue

    # -- handed over: what the sink may do

    def attach(self, sink: Sink, limits: TransportLimits, *, held_bytes: int = 0) -> bool:
        """Take the accepted socket out of ASGI's hands; answer False when the client is gone already.

        `held_bytes` is kept for the client beside it: its first message may be longer by so much less.
        """
        if self.disconnected or not self.handshake_complete or self.transport.is_closing():
            return False
        self._sink, self._limits = sink, limits
        self._reader = frames.FrameReader(max(limits.first_message_bytes - held_bytes, 1_024))
        self.writable = _ALWAYS_WRITABLE
        self.transport.set_write_buffer_limits(high=limits.backlog_bytes, low=limits.backlog_bytes // 4)
        if self._early:
            self._reader.feed(self._early)
            self._early = b""
            self.loop.call_soon(self._pump)
        return True

    def trust(self) -> None:
        """Raise the message limit: the client is authenticated."""
        if self._reader is not None:
            self._reader.limit_bytes = self._limits.message_bytes

    def reply(self, text: bytes) -> None:
        """Send one reply; those of one loop iteration share a frame, one line each."""
        if self._closing:
            return
        self._out.append(text)
        if len(self._out) == 1:
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the replies that wait. Call it before a fan-out may write to this socket what must come after them."""
        if self._out and not self._closing:
            out, self._out = self._out, []
            self.transport.write(frames.server_frame(out[0] if len(out) == 1 else b"\n".join(out)))

    def write(self, frame: bytes) -> None:
        """Write a whole frame behind the replies that wait. (A fan-out uses the transport's own `write`.)"""
        if not self._closing:
            self.flush()
            self.transport.write(frame)

    def hold(self) -> None:
        """Read no further message until `release`."""
        self._held = True

    def release(self) -> None:
        """Go on reading."""
        if self._held:
            self._held = False
            self._pump()

    def close(self, code: int, reason: str) -> None:
        """Send what waits, then a close frame; cut the socket when no answer comes within the close timeout."""
        if self._closing or self._reader is None:
            return
        self.flush()
        self._closing = True
        self.transport.write(frames.close_frame(code, reason))
        self._cut_after(self._limits.close_timeout_s)
        self._read(True)
        self._end(code)

    # -- what the network does

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reader is None or self._closing:
            return
        self._stalled = True
        self._timer = self.loop.call_later(self._limits.slow_grace_s, self._too_slow)
        if self._sink is not None:
            self._sink.stalled()
        if not self._pumping:
            self._read(False)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._stalled or self._closing:
            return
        self._stalled = False
        self._cancel_timer()
        if self._sink is not None and not self._sink.drained():
            self._too_slow()
        else:
            self.loop.call_soon(self._pump)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        if self._reader is None:
            super().connection_lost(exc)
            return
        self.disconnected = self._closing = self._broken = True
        self.connections.discard(self)
        self._out.clear()
        self.writable.set()
        self._end(1006)

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops."""
        if self._reader is None:
            super().shutdown()
        else:
            self.close(protocol.SHUTDOWN.code, protocol.SHUTDOWN.reason)

    def _pump(self) -> None:
        """Hand on what the reader has, until it has no more or somebody wants a pause."""
        reader = self._reader
        if self._pumping or reader is None or self._broken:
            return
        self._pumping, more = True, False
        try:
            for taken in range(AT_ONCE + 1):
                if (self._held or self._stalled) and not self._closing:
                    break
                if more := taken == AT_ONCE:
                    break
                event = reader.next()
                if event is None:
                    more = reader.more
                    break
                self._take(*event)
        except frames.FrameFault as fault:
            self._fail(fault)
        except Exception:
            _LOG.exception("a WebSocket message could not be handled")
            self.close(protocol.SERVER_ERROR.code, protocol.SERVER_ERROR.reason)
        finally:
            self._pumping = False
        if more and not self._broken:  # very small frames, very many of them: others are served in between
            self._read(False)
            self.loop.call_soon(self._pump)
        else:
            self._read(self._closing or not (self._held or self._stalled))

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode <= frames.BINARY:
            if self._sink is not None:
                self._sink.received(payload)
        elif opcode == frames.CLOSE:
            self._closed_by_peer(payload)
        elif opcode == frames.PING and not self._closing:
            self.write(frames.server_frame(payload, frames.PONG))

    def _closed_by_peer(self, payload: bytes) -> None:
        self._broken = True  # nothing counts after a close frame
        if not self._closing:
            code = frames.close_code(payload)
            self._closing = True
            self._out.clear()
            self.transport.write(frames.server_frame(payload[:2], frames.CLOSE))
            self._end(code)
        self._cut_after(self._limits.close_timeout_s)
        self.transport.close()

    def _fail(self, fault: frames.FrameFault) -> None:
        """End a connection whose framing is broken: tell why, say no more, and let the client read it."""
        self._broken = True
        self.close(fault.code, fault.reason)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _too_slow(self) -> None:
        self.close(protocol.SLOW.code, protocol.SLOW.reason)

    def _end(self, code: int) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.lost(code)

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading and not self.transport.is_closing():
            self._reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _cut_after(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_DEFAULTS = TransportLimits()
_ALWAYS_WRITABLE = _AlwaysWritable()
