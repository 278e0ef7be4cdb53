"""Time, handed in: the wall clock for people, the monotonic clock for durations."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

US_PER_S = 1_000_000


class Clock(Protocol):
    """What a use case may know of time."""

    def now_us(self) -> int:
        """Return the wall clock in microseconds since the Unix epoch (UTC). It may step."""

    def monotonic(self) -> float:
        """Return seconds of a clock that never steps; only differences mean anything."""


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def now_us(self) -> int:
        return time.time_ns() // 1000

    monotonic = staticmethod(time.monotonic)  # called several times per request: no frame of ours around it


def rfc3339(at_us: int) -> str:
    """Write microseconds since the epoch as RFC 3339 UTC with exactly six fraction digits and `Z`."""
    seconds, micros = divmod(at_us, US_PER_S)
    return "%s.%06dZ" % (_to_the_second(seconds), micros)  # noqa: UP031 - half the cost of an f-string with a width


@lru_cache(maxsize=4096)
def _to_the_second(seconds: int) -> str:
    """Times that are written are near each other: the part up to the second is formatted once."""
    t = time.gmtime(seconds)
    return f"{t[0]:04d}-{t[1]:02d}-{t[2]:02d}T{t[3]:02d}:{t[4]:02d}:{t[5]:02d}"


def parse_rfc3339(text: str) -> int:
    """Read an RFC 3339 time with any offset into microseconds since the epoch.

    Raises: ValueError when the text is no date-time or has no offset.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("the time has no offset; write it as 2026-01-31T12:00:00Z")
    try:
        delta = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except OverflowError:
        raise ValueError("the time is before the year 1 or past the year 9999") from None
    return (delta.days * 86_400 + delta.seconds) * US_PER_S + delta.microseconds
