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

from sealwire.contracts.audit_log import AuditEntry
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
