"""HTTP/1.1 as uvicorn speaks it, with bounds on the head of a request: bytes, count and time.

Connections, upgrades and shutdown are uvicorn's; what happens per request is ours (`http_cycle`), because it is paid
for every message: no timer, no event and one write per answered request.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sealwire.kit.codec import encode
from sealwire.kit.exchange import Exchange, trace_of
from sealwire.kit.problem import Malformed, Problem
from sealwire.runtime.glance import Glance
from sealwire.runtime.http_cycle import Admission, Cycle, log
from sealwire.runtime.http_framing import check_framing
from sealwire.runtime.http_linger import Linger
from sealwire.runtime.http_refusals import HeadTooLarge, HeadTooSlow, QuickProblem, document_about, path_of

MAX_HEADERS = 100
ASGI = {"version": "3.0", "spec_version": "2.3"}
NO_TRAILERS: deque[tuple[bytes, bytes]] = deque(maxlen=0)
"""Takes the headers that come after a chunked body. They are dropped: none may pass for one of the head, which was
looked at before (RFC 9110 section 6.5.1)."""
Answer = Callable[[Exchange], Awaitable[None]]


class BoundedHttp(HttpToolsProtocol):
    """One connection. `limit_bytes` bounds line and headers together, `timeout_s` the time until they are complete.
    `public_scheme` is what people speak to the proxy in front of it; empty: what comes over this connection.

    Time is looked at by `sweep`, which the server calls twice a second: no timer per request.
    """

    limit_bytes = 32_768
    timeout_s = 20.0
    admission: Admission | None = None
    turned_away: QuickProblem
    glance: Glance
    public_scheme = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answer: Answer | None = getattr(self.app, "answer", None)
        self._in_head = True
        self._head_bytes = 0
        self._begun_behind = False
        self._unread_bytes = 0
        self._piece_bytes = 0
        self._left_bytes = -1
        self._last_words = b""
        self._linger: Linger | None = None
        self._stopping = False
        self._upgrading = False
        self._refusal: type[Problem] | None = None
        self._since_s = self.loop.time()
        self._answered_any = False
        self._host = b""
        self._known_defaults: list[tuple[bytes, bytes]] | None = None
        self.default_lines = b""
        self._waiting: deque[Cycle] = deque()
        self._held: Cycle | None = None
        self._working: Cycle | None = None
        self.cycle: Cycle | None = None  # type: ignore[assignment]  # ours instead of uvicorn's

    # ---- the transport's side

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        waiting = [self._working, self.cycle, *self._waiting]  # in work, the last whose head was read, those between
        self._working = self.cycle = None
        self._waiting.clear()
        for one in waiting:
            if one is not None and not one.response_complete:
                one.disconnected = True
                if one.task is None:  # pipelined, and never begun
                    one.settle()
                one.wake()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.parser = None  # type: ignore[assignment]  # as uvicorn does: nothing is parsed any more

    def data_received(self, data: bytes) -> None:
        if self._linger is not None:
            self._linger.heard(len(data), now_s=self.loop.time())
            return
        if self._last_words:
            return
        self._piece_bytes = size = len(data)
        if self._in_head:
            if not self._head_bytes:
                if (admission := self.admission) is not None and admission.full() and self._turn_away_unread(data):
                    return
                self._since_s = self.loop.time()
            self._head_bytes += size
        else:
            self._unread_bytes += size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or Malformed)
        except httptools.HttpParserUpgrade:
            if self._upgrading:
                self.handle_websocket_upgrade()
        if self._held is not None:  # not whole yet: it takes no place until it is, and the gate looks at it again
            held, self._held = self._held, None
            self._start(held)
        if self._in_head:
            if self._head_bytes > self.limit_bytes:
                self._refuse(HeadTooLarge)
        elif self._unread_bytes > self.limit_bytes:  # trailers, or extensions of chunks: the parser keeps them all
            self._refuse(HeadTooLarge)

    def sweep(self, now_s: float) -> None:
        """Close the connection when a head, the next request, or a body nobody waits for takes too long."""
        if self.transport.is_closing():
            self._sweep_out(now_s)
            return
        if self._linger is not None:
            self._linger.sweep(now_s)
            return
        waited_s = now_s - self._since_s
        if not self._in_head:
            if self.cycle is not None and self.cycle.response_complete and waited_s > self.timeout_s:
                self.transport.close()
        elif self._head_bytes:
            if waited_s > self.timeout_s and not self.flow.read_paused:
                self._refuse(HeadTooSlow)
        elif (self.cycle is None or self.cycle.response_complete) and waited_s > (
            self.timeout_keep_alive if self._answered_any else self.timeout_s
        ):
            self.transport.close()

    def _sweep_out(self, now_s: float) -> None:
        """Break off a connection that is closed and whose client has stopped reading what was said before."""
        left_bytes = self.transport.get_write_buffer_size()
        if left_bytes != self._left_bytes:
            self._left_bytes, self._since_s = left_bytes, now_s
        elif now_s - self._since_s > self.timeout_s:
            self.transport.abort()

    def shutdown(self) -> None:
        self._stopping = True
        if self.cycle is None or self.cycle.response_complete or self._linger is not None:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def close_slowly(self) -> None:
        """Close behind what is written, for a client that may still be sending; safe to call twice.

        A server that stops sweeps no more, and would wait for whoever sends nothing for its whole grace.
        """
        if self._stopping:
            self.transport.close()
        elif self._linger is None and not self.transport.is_closing():
            self._linger = Linger(self.transport, now_s=self.loop.time())
            self.flow.resume_reading()

    # ---- the parser's side

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        if not self._head_bytes:  # behind a whole request in the same piece: of that, nobody knows how much is its own
            self._head_bytes, self._since_s, self._begun_behind = 1, self.loop.time(), True

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.limit_bytes:
            self._too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        uncounted = self._begun_behind or self._piece_bytes > self.limit_bytes
        if len(self.headers) > MAX_HEADERS or (uncounted and self._is_too_large()):
            self._too_large()
        self._begun_behind = False
        parser = self.parser
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):  # a line without a version is HTTP/0.9, which has no headers to be safe by
            raise ValueError("not HTTP/1")
        url = self.url
        self._host = check_framing(version, url, self.headers, known=self._host)
        if b"#" in url:  # RFC 9112 section 3.2: no form of a target has one
            raise ValueError("a fragment in the target")
        if b"%" in url or b"?" in url or url[:1] != b"/" or not url.isascii():
            parsed = httptools.parse_url(url)
            raw_path: bytes = parsed.path
            path = urllib.parse.unquote(raw_path.decode("ascii"))
            query = parsed.query or b""
            asked = path.encode()  # however it is written, it is the same place
        else:
            raw_path, path, query, asked = url, url.decode("ascii"), b"", url
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self.public_scheme or self.scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
        }
        self.scope = scope  # type: ignore[assignment]  # the same as uvicorn's, by its members
        before = self.cycle
        free = before is None or before.response_complete  # else it is still the connection of the one before
        self._upgrading = (
            parser.should_upgrade() and free and version == "1.1" and self._should_upgrade() and self._is_bare_get()
        )
        self.headers = NO_TRAILERS  # type: ignore[assignment]  # what is appended to it is gone
        self._unread_bytes = 0
        if self._upgrading:
            return
        keep_alive = version == "1.1" and parser.should_keep_alive() and not parser.should_upgrade()
        self.cycle = cycle = Cycle(self, scope, keep_alive=keep_alive)
        if free:
            if self.admission is None or self.admission.open(asked):
                self._start(cycle)
            else:
                self._held = cycle
        else:  # pipelined: answered in order
            self.flow.pause_reading()
            self._waiting.append(cycle)

    def _is_too_large(self) -> bool:
        """Whether a head is longer than allowed whose bytes were not counted as they came (see `data_received`)."""
        return len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > self.limit_bytes

    def _is_bare_get(self) -> bool:
        """Whether the request is one that may become a WebSocket (RFC 6455 section 4.1): no body comes first."""
        names = {name for name, _ in self.headers}
        return self.parser.get_method() == b"GET" and names.isdisjoint((b"content-length", b"transfer-encoding"))

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        cycle = self.cycle
        if self._upgrading or cycle is None or cycle.response_complete:
            return
        cycle.body = cycle.body + body if cycle.body else body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        cycle = self.cycle
        if self._upgrading or cycle is None or cycle.response_complete:
            return
        cycle.more_body = False
        if self._held is cycle:
            self._held = None
            self._turn_away(cycle)
            return
        if self.admission is not None:
            cycle.count(self.admission)
        cycle.wake()

    # ---- requests

    def _turn_away(self, cycle: Cycle) -> None:
        """Answer a request that was not let in, before anything is made of it: no task, no route, no caller."""
        admission, scope = self.admission, cycle.scope
        assert admission is not None  # it held the request
        admission.refuse(scope["method"], scope["raw_path"], scope["headers"], self.client)
        self._take_defaults()
        if not cycle.answer(503, admission.lines, self.turned_away.about(scope["path"], scope["headers"])):
            self.transport.close()

    def _turn_away_unread(self, piece: bytes) -> bool:
        """Answer a request that came whole, in one piece, with not even that made of it; False: read it as ever.

        Most requests come so, and past the capacity most of what the core does is refusing.
        """
        admission, glance = self.admission, self.glance
        assert admission is not None  # it is full
        if (
            len(piece) > self.limit_bytes
            or self.flow.write_paused
            or (self.cycle is not None and not self.cycle.response_complete)
            or not glance.whole(piece)
            or b"%" in (path := glance.url.partition(b"?")[0])
            or path[:1] != b"/"
            or not path.isascii()
            or admission.open(path)
            or len(glance.headers) > MAX_HEADERS
        ):
            glance.forget()
            return False
        admission.refuse(glance.method.decode("ascii"), path, glance.headers, self.client)
        self._take_defaults()
        told, instance = self.turned_away, encode(path.decode("ascii"))
        self.transport.write(
            b"%b%b%bcontent-length: %d\r\n\r\n%b%b%b%b%b"
            % (
                *(STATUS_LINE[503], self.default_lines, admission.lines, told.length + len(instance)),
                *(told.before, instance, told.between, trace_of(glance.headers).encode(), told.after),
            )
        )
        glance.forget()
        self.answered()
        return True

    def _take_defaults(self) -> None:
        defaults = self.server_state.default_headers
        if defaults is not self._known_defaults:  # made anew each second: they hold the date
            self._known_defaults = defaults
            self.default_lines = b"".join(b"%b: %b\r\n" % header for header in defaults)

    def _start(self, cycle: Cycle) -> None:
        self._take_defaults()
        self._working = cycle
        cycle.task = task = self.loop.create_task(self._run(cycle))
        self.tasks.add(task)

    async def _run(self, cycle: Cycle) -> None:
        try:
            if self._answer is not None:
                await self._answer(Exchange(cycle.scope, cycle.receive, cycle.send, cycle))
            else:
                await self.app(cycle.scope, cycle.receive, cycle.send)
        except ConnectionAbortedError:  # an answer broken off on purpose
            pass
        except Exception:
            log.exception("a request was not answered")
        finally:
            assert cycle.task is not None  # this one
            self.tasks.discard(cycle.task)
            cycle.settle()
            if not cycle.response_complete:
                cycle.fail()

    def answered(self) -> None:
        """Go on with the next request: one that waits, or one to come."""
        self.server_state.total_requests += 1
        self._answered_any = True
        self._since_s = self.loop.time()
        if self.transport.is_closing() or self._linger is not None:
            return
        if self._waiting:
            self._start(self._waiting.popleft())
        elif self._last_words:
            self._say_last_words()
        elif self.flow.read_paused:
            self.flow.resume_reading()

    # ---- refusals

    def _too_large(self) -> None:
        self._refusal = HeadTooLarge
        raise ValueError("the head is too large")

    def _refuse(self, kind: type[Problem]) -> None:
        """Answer with a problem document and close: what follows on this connection can't be trusted.

        In its turn: what was asked before is answered first (RFC 9112 section 9.3.2). Nothing is written into an answer
        that has begun, nor behind one that is complete: it would pass for that of a request to come.
        """
        if self.transport.is_closing() or self._linger is not None or self._last_words:
            return
        path, headers, read = self._asked()
        body = document_about(kind, path, headers)
        self._take_defaults()
        head = (
            b"content-type: application/problem+json\r\ncache-control: no-store\r\nconnection: close\r\n"
            b"x-content-type-options: nosniff\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        self._held = None
        if read is not None:
            if read.response_started:
                self.close_slowly() if read.response_complete else self.transport.abort()
                return
            read.disconnected = True
            read.wake()
            if self._waiting:
                self._waiting.pop()
        self._last_words = STATUS_LINE[kind.status] + self.default_lines + head + body
        before = self._working
        if before is None or before is read or before.response_complete:
            self._say_last_words()
        else:
            self.flow.pause_reading()

    def _say_last_words(self) -> None:
        self.transport.write(self._last_words)
        self.close_slowly()

    def _asked(self) -> tuple[str, Sequence[tuple[bytes, bytes]], Cycle | None]:
        """Return path and headers of what is being read, as far as they are known: its line was read whole. And the
        request, if its body is what is being read."""
        headers: object = self.headers
        if headers is NO_TRAILERS and not self._in_head:
            return self.scope["path"], list(self.scope["headers"]), self.cycle
        if headers is NO_TRAILERS or not (headers or not self._in_head):  # nothing, or not even its line
            return "", (), None
        return path_of(self.url), self.headers, None


def bounded(
    *, limit_bytes: int, timeout_s: float, public_scheme: str = "", admission: Admission | None = None
) -> type[BoundedHttp]:
    """Return the protocol class with these bounds (uvicorn takes a class, not an object)."""
    settings = {
        "limit_bytes": limit_bytes,
        "timeout_s": timeout_s,
        "public_scheme": public_scheme,
        "admission": admission,
        "turned_away": None if admission is None else QuickProblem(admission.refusal),
        "glance": Glance(),
    }
    return type("BoundedHttpConfigured", (BoundedHttp,), settings)


def sweep_all(connections: set[Any]) -> None:
    """Look at the time of every connection that speaks HTTP (WebSockets see to their own)."""
    now_s = asyncio.get_running_loop().time()
    for connection in tuple(connections):
        if isinstance(connection, BoundedHttp):
            connection.sweep(now_s)
