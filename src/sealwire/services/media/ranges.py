"""Byte ranges of a GET (RFC 9110 section 14), pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_RANGES: Final = 16
_SPEC: Final = re.compile(r"(\d{0,18})-(\d{0,18})")


class ByteRange(NamedTuple):
    """Bytes `start` … `end` (exclusive)."""

    start: int
    end: int


class Unsatisfiable(Exception):
    """No byte of the file lies in any range asked for: 416."""


def parse_range(header: str, size: int) -> list[ByteRange]:
    """Return the ranges to send, in the order asked; an empty list means: the whole file.

    A header that isn't understood is ignored (section 14.2), and so is one that asks for more than the file (many or
    overlapping ranges, section 14.2's defence against abuse). Raises: Unsatisfiable.
    """
    unit, _, specs = header.partition("=")
    if unit.strip().lower() != "bytes" or not specs:
        return []
    asked = [spec.strip(" \t") for spec in specs.split(",")]
    if len(asked) > MAX_RANGES:
        return []
    ranges = []
    for spec in asked:
        match = _SPEC.fullmatch(spec)
        if match is None or spec == "-":
            return []
        found = _resolve(match[1], match[2], size)
        if found is None:
            return []
        if found.end > found.start:
            ranges.append(found)
    if not ranges:
        raise Unsatisfiable
    if len(ranges) > 1 and sum(r.end - r.start for r in ranges) > size:
        return []
    return ranges


def _resolve(first: str, last: str, size: int) -> ByteRange | None:
    """Return a range, an empty one when the file doesn't reach it, None for nonsense."""
    if not first:
        return ByteRange(max(0, size - int(last)), size)
    start = int(first)
    if last and int(last) < start:
        return None
    end = min(int(last) + 1, size) if last else size
    return ByteRange(start, max(start, end))
