"""What a key provider and the process that holds its token say to each other: length-prefixed MessagePack."""

from __future__ import annotations

import struct
from typing import Final, Literal

import msgspec

LENGTH: Final = struct.Struct(">I")
MOST_BYTES: Final = 1 << 20
FORMAT: Final = b"\x02"
"""First byte of a key wrapped by a token (0x01: by a key file)."""
FINGERPRINT_BYTES: Final = 16
HEADER_BYTES: Final = 1 + FINGERPRINT_BYTES

Fault = Literal["library", "token", "mechanism", "pin", "pin_last_try", "pin_locked", "key", "session"]
"""What is out: the library can't be loaded; no such token; it has no AES-GCM; the PIN was refused, has one try left, is
locked; no such key or not one that is safe to use; or the session ended."""


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """The first request: which token and key, and the PIN (sent here, so that no argument or environment holds it)."""

    module: str
    token: str
    key: str
    pin: str
    create: bool

    def __repr__(self) -> str:
        return f"Opening(module={self.module!r}, token={self.token!r}, key={self.key!r}, pin=***)"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A further request. `check` proves that the key works, without making anything new under it."""

    do: Literal["wrap", "unwrap", "check"]
    data: bytes = b""
    context: bytes = b""

    def __repr__(self) -> str:
        return f"Request(do={self.do!r})"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`refused`: what was to be unwrapped doesn't open, and the token is well. After a `fault` the worker ends."""

    data: bytes = b""
    refused: bool = False
    fault: Fault | None = None
    detail: str = ""

    def __repr__(self) -> str:
        return f"Answer(refused={self.refused}, fault={self.fault!r}, detail={self.detail!r})"


encode = msgspec.msgpack.Encoder().encode


def framed(message: msgspec.Struct) -> bytes:
    """Return a message as it goes over the socket."""
    body = encode(message)
    return LENGTH.pack(len(body)) + body
