"""Takes pieces of the audit log apart, as they are stored; what is damaged is shown as what it holds."""

from __future__ import annotations

from typing import Any, Final

from sealwire.services.compliance.merkle import HASH_BYTES
from sealwire.services.compliance.ports import LogUnreadable, StoredRecord
from sealwire.services.compliance.tiles import read_bundle

_HASH_DIGITS = 2 * HASH_BYTES
ENDS: Final = "place + iif(typeof(count) = 'integer', count, 256)"
"""Behind which place a piece ends. One without a count is found as well, for `counted` to refuse it."""


def counted(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows that begin with place and count of a piece. Raises: LogUnreadable where somebody put another type."""
    if any(type(row[1]) is not int for row in rows):
        raise LogUnreadable("The audit log can't be read, a piece of it has no count; run its verification.")
    return rows


def unpack(first_seq: int, count: int, hashes: bytes, bodies: bytes) -> list[StoredRecord]:
    """Take a piece apart. A piece that doesn't hold what it says gives what it holds: the verifier's business."""
    entries = entries_of(bodies)
    entries += [b""] * (count - len(entries))
    return list(map(StoredRecord, range(first_seq, first_seq + count), split_digits(hashes, count), entries))


def entries_of(bundle: bytes) -> list[bytes]:
    """Return the records' bytes of a piece; none of one that can't be taken apart."""
    try:
        return read_bundle(bundle)
    except ValueError:
        return []


def split_digits(hashes: bytes, count: int) -> list[str]:
    """Return hashes as hex; those that are missing as blanks."""
    digits = hashes.hex().ljust(count * _HASH_DIGITS)
    return [digits[i : i + _HASH_DIGITS] for i in range(0, count * _HASH_DIGITS, _HASH_DIGITS)]


def with_leaves(records: list[StoredRecord], leaves: bytes) -> list[StoredRecord]:
    """Give the pruned records of a piece their leaf hashes."""
    return [
        r if r.body else r._replace(leaf=leaves[i * HASH_BYTES : (i + 1) * HASH_BYTES]) for i, r in enumerate(records)
    ]
