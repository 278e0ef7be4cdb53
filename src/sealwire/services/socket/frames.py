"""WebSocket frames (RFC 6455 section 5): a reader for what clients send, builders for what the server sends."""

from __future__ import annotations

from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # the C extension is optional in that package
    from websockets.utils import apply_mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

PROTOCOL_ERROR: Final = 1002
NO_STATUS: Final = 1005
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009

_FIN = 0x80
_RESERVED = 0x70
_MASKED = 0x80
_WHOLE_TEXT = _FIN | TEXT
CONTROL_LIMIT_BYTES: Final = 125
FRAGMENTS_AT_ONCE: Final = 256


class FrameFault(Exception):
    """The peer broke the framing; the connection ends with `code`. Nothing after it can be read."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def server_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return one whole, unmasked frame around the payload (a server never masks and we never fragment)."""
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, size)) + payload
    if size < 65_536:
        return bytes((_FIN | opcode, 126, size >> 8, size & 0xFF)) + payload
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8, "big") + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; the reason is cut at a character's border to the 123 bytes that fit."""
    text = reason.encode()[: CONTROL_LIMIT_BYTES - 2].decode(errors="ignore").encode()
    return server_frame(code.to_bytes(2, "big") + text, CLOSE)


def close_code(payload: bytes) -> int:
    """Read the code a peer closed with; 1005 when it gave none.

    Raises: FrameFault for a one-byte payload, a code not allowed on the wire (RFC 6455 section 7.4) or a reason that
    is not UTF-8.
    """
    if not payload:
        return NO_STATUS
    if len(payload) == 1:
        raise FrameFault(PROTOCOL_ERROR, "a close frame holds a code of two bytes")
    code = payload[0] << 8 | payload[1]
    if not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in (1004, 1005, 1006):
        raise FrameFault(PROTOCOL_ERROR, "no such close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameFault(INVALID_DATA, "the close reason is not UTF-8") from None
    return code


class FrameReader:
    """Cuts the bytes of one client into whole messages and control frames.

    Pull style, so that the owner can stop between two messages: `feed` what arrived, then `next` until it answers
    None. Holds at most one message of `limit_bytes` and one read of the network; a longer message fails with 1009 as
    soon as its length is known, before it is stored.
    """

    __slots__ = ("_at", "_buffer", "_message", "_message_opcode", "limit_bytes", "more")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._buffer: bytes | bytearray = b""
        self._at = 0
        self._message: bytearray | None = None
        self._message_opcode = 0
        self.more = False
        """Whether `next` stopped in the middle of very many fragments: ask again, after others had their turn."""

    @property
    def held_bytes(self) -> int:
        """How much is stored for frames and messages that are not whole yet."""
        return len(self._buffer) - self._at + (0 if self._message is None else len(self._message))

    def feed(self, data: bytes) -> None:
        """Take what the network brought."""
        rest = len(self._buffer) - self._at
        if not rest:
            self._buffer = data
        elif isinstance(self._buffer, bytearray):
            del self._buffer[: self._at]
            self._buffer += data
        else:
            self._buffer = bytearray(memoryview(self._buffer)[self._at :])
            self._buffer += data
        self._at = 0

    def next(self) -> tuple[int, bytes] | None:
        """Return the next whole message (TEXT, BINARY) or control frame as (opcode, payload), or None.

        Raises: FrameFault with the close code; the reader must not be used afterwards.
        """
        self.more = False
        for _ in range(FRAGMENTS_AT_ONCE):
            buffer, at = self._buffer, self._at
            have = len(buffer) - at
            if have < 2:
                return None
            first, second = buffer[at], buffer[at + 1]
            size, head = second & 0x7F, 6
            if size > 125:
                head = 8 if size == 126 else 14
                if have < head - 4:
                    return None
                size = int.from_bytes(buffer[at + 2 : at + head - 4], "big")
            whole = first == _WHOLE_TEXT and self._message is None
            if not whole or size > self.limit_bytes or second < _MASKED:
                self._check(first, second, size)
            start = at + head
            end = start + size
            if len(buffer) < end:
                return None
            payload = apply_mask(bytes(buffer[start:end]), bytes(buffer[start - 4 : start]))
            if end == len(buffer):
                self._buffer, self._at = b"", 0
            else:
                self._at = end
            if whole:
                return TEXT, _text(payload)
            opcode = first & 0x0F
            if opcode > 7:
                return opcode, payload
            if (message := self._join(first, opcode, payload)) is not None:
                return message
        self.more = True
        return None

    def _check(self, first: int, second: int, size: int) -> None:
        opcode = first & 0x0F
        if first & _RESERVED or opcode not in (0x1, 0x2, 0x0, 0x8, 0x9, 0xA):
            raise FrameFault(PROTOCOL_ERROR, "reserved bits or an unknown opcode")
        if second < _MASKED:
            raise FrameFault(PROTOCOL_ERROR, "a client masks its frames")
        if opcode > 7:
            if size > CONTROL_LIMIT_BYTES or first < _FIN:
                raise FrameFault(PROTOCOL_ERROR, "a control frame is short and whole")
        elif (opcode == CONTINUATION) == (self._message is None):
            raise FrameFault(PROTOCOL_ERROR, "fragments out of order")
        elif size + (0 if self._message is None else len(self._message)) > self.limit_bytes:
            raise FrameFault(TOO_BIG, "the message is too long")

    def _join(self, first: int, opcode: int, payload: bytes) -> tuple[int, bytes] | None:
        """Take a data frame that is not a whole text message; answer the message it completes."""
        if opcode == CONTINUATION:
            assert self._message is not None  # _check saw to it
            self._message += payload
        elif first & _FIN:
            return opcode, payload
        else:
            self._message, self._message_opcode = bytearray(payload), opcode
        if not first & _FIN:
            return None
        whole, self._message = bytes(self._message), None
        return self._message_opcode, _text(whole) if self._message_opcode == TEXT else whole


def _text(payload: bytes) -> bytes:
    """Return the payload when it is UTF-8. Raises: FrameFault 1007 (RFC 6455 section 8.1)."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise FrameFault(INVALID_DATA, "text is UTF-8") from None
    return payload
