"""A witness (C2SP tlog-witness) on a port of its own, by what others wrote: see `c2sp`."""

from __future__ import annotations

import threading
import time
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.independent.c2sp import COSIGNATURE, Head, consistent, cosignature, head_of, key_line, open_note


class Witness:
    """Cosigns checkpoints of the logs whose keys it was given, as long as each continues the one before."""

    def __init__(self, name: str, keys: dict[str, str] | None = None) -> None:
        self.name = name
        self.private = Ed25519PrivateKey.generate()
        self.keys = keys or {}
        self.seen: dict[str, Head] = {}
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    @property
    def vkey(self) -> str:
        return key_line(self.name, COSIGNATURE, self.private.public_key().public_bytes_raw())

    def sign(self, text: bytes, at_s: int | None = None) -> str:
        """Return a line under a checkpoint's text, without a look at it."""
        return cosignature(self.private, self.name, text, int(time.time()) if at_s is None else at_s)

    def add_checkpoint(self, body: bytes) -> tuple[int, str, bytes]:
        """Answer `add-checkpoint`: status, content type, body."""
        asked, _, note = body.partition(b"\n\n")
        first, *proof = asked.decode().split("\n")
        old = int(first.removeprefix("old "))
        origin = note.decode().partition("\n")[0]
        if origin not in self.keys:
            return 404, "text/plain", b""
        try:
            head = head_of(open_note(note, self.keys[origin]))
        except (KeyError, InvalidSignature):
            return 403, "text/plain", b""
        if old > head.size:
            return 400, "text/plain", b""
        with self._lock:
            last = self.seen.get(origin, Head(origin, 0, b""))
            if old != last.size:
                return 409, "text/x.tlog.size", b"%d\n" % last.size
            if last.size == head.size and last.root != head.root:
                return 409, "text/plain", b""
            if last.size not in (0, head.size) and not consistent(
                last.size, head.size, last.root, head.root, [b64decode(line) for line in proof]
            ):
                return 422, "text/plain", b""
            self.seen[origin] = head
        return 200, "text/plain", self.sign(open_note(note, self.keys[origin])).encode()

    def start(self) -> str:
        """Listen; return the submission prefix."""
        answer = self.add_checkpoint

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, kind, said = answer(body) if self.path == "/add-checkpoint" else (404, "text/plain", b"")
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
