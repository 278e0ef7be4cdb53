"""Identifiers: UUIDv7 (RFC 9562 section 5.7), so that ids made later sort later; and the chance they are made of."""

from __future__ import annotations

import os
import time

_DRAWS = 256
_PLACE = len("xxx-yxxx-xxxxxxxxxxxx ")
_VARIANT = bytes.maketrans(b"0123456789abcdef", b"89ab" * 4)
_draws: list[str] = []
_tails: list[str] = []
_prefix = (0, "")


def _forget() -> None:
    _draws.clear()
    _tails.clear()


os.register_at_fork(after_in_child=_forget)  # or two processes would draw the same


def random_hex() -> str:
    """Return 128 bits of the system's chance as 32 hex digits; drawn from it in blocks, each given out once."""
    try:
        return _draws.pop()
    except IndexError:
        _draws.extend(os.urandom(16 * _DRAWS).hex(" ", 16).split(" "))
        return _draws.pop()


def new_id() -> str:
    """Return a UUIDv7 in its 36-character form: 48 bits of Unix milliseconds, 74 bits of chance."""
    global _prefix
    now_ms = time.time_ns() // 1_000_000
    known_ms, prefix = _prefix
    if now_ms != known_ms:
        h = f"{now_ms:012x}"
        prefix = f"{h[:8]}-{h[8:]}-7"
        _prefix = (now_ms, prefix)
    try:
        return prefix + _tails.pop()
    except IndexError:
        _tails.extend(_drawn_tails())
        return prefix + _tails.pop()


def _drawn_tails() -> list[str]:
    """Draw the ends of many ids: digits of chance side by side, then the same place of all of them at once."""
    digits = bytearray(os.urandom(_PLACE * _DRAWS // 2).hex().encode())
    digits[3::_PLACE] = digits[8::_PLACE] = b"-" * _DRAWS
    digits[4::_PLACE] = digits[4::_PLACE].translate(_VARIANT)
    digits[_PLACE - 1 :: _PLACE] = b" " * _DRAWS
    return digits.decode().split()
