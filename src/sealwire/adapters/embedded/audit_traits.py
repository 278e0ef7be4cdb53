"""What a search of the audit log looks at: a few columns of numbers per piece of records, scanned without reading them.

A piece's traits are columns side by side: time (8 bytes each), then a 32-bit code of actor, action, resource type,
resource id and outcome. Codes are CRC-32: equal text has equal codes, so a search misses nothing; what it finds is
compared with the record itself.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from zlib import crc32

import msgspec

from sealwire.contracts.audit_log import AuditEntry
from sealwire.kit.clock import parse_rfc3339
from sealwire.services.compliance.ports import RecordFilter

_SWAP = sys.byteorder == "big"
_TIME_BYTES = 8
_CODE_BYTES = 4
_RECORD_BYTES = _TIME_BYTES + 5 * _CODE_BYTES
_MAX_CODES = 50_000


class _Codes(dict[str, int]):
    """Text -> code, remembering the text that comes again and again."""

    def __missing__(self, text: str) -> int:
        if len(self) >= _MAX_CODES:
            self.clear()
        code = self[text] = crc32(text.encode())
        return code


_codes = _Codes()


def pack(entries: Sequence[AuditEntry], created_us: Sequence[int]) -> bytes:
    """Return the traits of a piece."""
    code = _codes
    columns = (
        array("q", created_us),
        array("I", [code[e.actor.id] for e in entries]),
        array("I", [code[e.action] for e in entries]),
        array("I", [code[e.resource_type] for e in entries]),
        array("I", [crc32(e.resource_id.encode()) for e in entries]),
        array("I", [code[e.outcome] for e in entries]),
    )
    return b"".join([_bytes(column) for column in columns])


def merge(traits: Sequence[tuple[int, bytes]]) -> bytes:
    """Join the traits of pieces (count, bytes) that follow one another."""
    parts = []
    for column in range(6):
        for count, packed in traits:
            start, width = _column(column, count)
            parts.append(packed[start : start + width * count])
    return b"".join(parts)


def matches(count: int, traits: bytes, wanted: RecordFilter) -> Sequence[int]:
    """Return which records of a piece may match, as indexes in order: of damaged traits, all."""
    found: Sequence[int] = range(count)
    if len(traits) != count * _RECORD_BYTES:
        return found
    texts = (wanted.resource_id, wanted.actor, wanted.action, wanted.resource_type, wanted.outcome)
    for column, text in zip((4, 1, 2, 3, 5), texts, strict=True):
        if text is not None:
            found = _equal(traits, count, column, crc32(text.encode()), found)
            if not found:
                return found
    low, high = wanted.from_us, wanted.to_us
    if low is not None or high is not None:
        times = times_of(count, traits)
        found = [i for i in found if (low is None or times[i] >= low) and (high is None or times[i] < high)]
    return found


def times_of(count: int, traits: bytes) -> Sequence[int]:
    """Return the times of a piece's records in µs."""
    times = array("q")
    times.frombytes(traits[: count * _TIME_BYTES])
    if _SWAP:
        times.byteswap()
    return times


class _Actor(msgspec.Struct, frozen=True, gc=False):
    id: str


class _Said(msgspec.Struct, frozen=True, gc=False):
    """What a record itself says of all that there are traits of."""

    action: str
    actor: _Actor
    created_at: str
    outcome: str
    resource_id: str
    resource_type: str


_read_said = msgspec.json.Decoder(_Said).decode


def differing(traits: bytes, bodies: Sequence[bytes]) -> Sequence[int]:
    """Return which records of a piece have traits that don't fit their bytes, as indexes in order: all of traits that
    were cut. What is pruned says nothing, and neither does what can't be read."""
    count = len(bodies)
    if len(traits) != count * _RECORD_BYTES:
        return range(count)
    there: list[int] = []
    said: list[_Said] = []
    times = array("q")
    seconds: dict[str, int] = {}
    for i, body in enumerate(bodies):
        try:
            record = _read_said(body)
            times.append(_time_us(record.created_at, seconds))
        except ValueError:
            continue
        there.append(i)
        said.append(record)
    code = _codes
    columns = (
        times,
        array("I", [code[r.actor.id] for r in said]),
        array("I", [code[r.action] for r in said]),
        array("I", [code[r.resource_type] for r in said]),
        array("I", [crc32(r.resource_id.encode()) for r in said]),
        array("I", [code[r.outcome] for r in said]),
    )
    found: set[int] = set()
    for column, expected in enumerate(map(_bytes, columns)):
        start, width = _column(column, count)
        stored = traits[start : start + width * count]
        if expected == stored:
            continue
        for at, i in enumerate(there):
            if stored[i * width : i * width + width] != expected[at * width : at * width + width]:
                found.add(i)
    return sorted(found)


def _time_us(text: str, seconds: dict[str, int]) -> int:
    """Read a record's time; what was read of a second before it is remembered. Raises: ValueError."""
    fraction = text[20:26]
    if len(text) != 27 or text[19] != "." or text[26] != "Z" or not (fraction.isascii() and fraction.isdecimal()):
        return parse_rfc3339(text)
    second = text[:19]
    if (start_us := seconds.get(second)) is None:
        start_us = seconds[second] = parse_rfc3339(f"{second}Z")
    return start_us + int(fraction)


def _equal(traits: bytes, count: int, column: int, code: int, among: Sequence[int]) -> list[int]:
    start, width = _column(column, count)
    pattern = code.to_bytes(width, "little")
    part = traits[start : start + width * count]
    if pattern not in part:
        return []
    return [i for i in among if part[i * width : i * width + width] == pattern]


def _column(column: int, count: int) -> tuple[int, int]:
    """Return where a column starts and how wide its values are."""
    if column == 0:
        return 0, _TIME_BYTES
    return count * (_TIME_BYTES + _CODE_BYTES * (column - 1)), _CODE_BYTES


def _bytes(column: array[int]) -> bytes:
    if _SWAP:
        column.byteswap()
    return column.tobytes()
