"""Identifiers: UUIDv7 (RFC 9562 section 5.7), so that ids made later sort later; and the chance they are made of."""

from __future__ import annotations

import os
import time

_DRAWS = 256
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
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
        drawn = os.urandom(16 * _DRAWS).hex()
        _draws.extend([drawn[i : i + 32] for i in range(32, len(drawn), 32)])
        return drawn[:32]


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
        _tails.extend([f"{r[:3]}-{_VARIANT[r[3]]}{r[4:7]}-{r[7:19]}" for r in [random_hex() for _ in range(_DRAWS)]])
        return prefix + _tails.pop()
