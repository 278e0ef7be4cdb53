"""A connection that has had its last answer, and whose client may still be sending."""

from __future__ import annotations

import asyncio
from typing import Final

LINGER_S: Final = 10.0
QUIET_S: Final = 2.0
LINGER_BYTES: Final = 64 << 20


class Linger:
    """Closes our half at once, and the rest when the client has closed its own.

    Bytes that come to a socket that is closed, or that it has not read by then, are answered by a reset, and that takes
    away from the client what it has not read yet: the very answer that says why (RFC 9112 section 9.6). So what comes
    is dropped until the client ends it, for LINGER_S and LINGER_BYTES at most, and for QUIET_S without a byte. Then it
    is closed all the same. A connection costs no more meanwhile than an idle one, which is kept longer.
    """

    __slots__ = ("_begun_s", "_heard_s", "_left_bytes", "_transport")

    quiet_s = QUIET_S
    longest_s = LINGER_S
    most_bytes = LINGER_BYTES

    def __init__(self, transport: asyncio.Transport, *, now_s: float) -> None:
        """End our half, behind what is written."""
        self._transport = transport
        self._begun_s = self._heard_s = now_s
        self._left_bytes = self.most_bytes
        transport.write_eof()

    def heard(self, size_bytes: int, *, now_s: float) -> None:
        """Drop some bytes of the client."""
        self._heard_s = now_s
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            self._transport.close()

    def sweep(self, now_s: float) -> None:
        """Look whether it is time."""
        if now_s - self._begun_s > self.longest_s or now_s - self._heard_s > self.quiet_s:
            self._transport.close()
