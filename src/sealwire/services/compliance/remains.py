"""What is left of a record that was pruned or damaged, and how that stands in an export."""

from __future__ import annotations

import msgspec

from sealwire.services.compliance.chain import line_of
from sealwire.services.compliance.merkle import HASH_BYTES

_PRUNED_BYTES = 1 + 8 + HASH_BYTES
PRUNED = b"\0"
"""How an item begins that stands for a pruned record: no record begins like this."""
PRUNED_LINE = b'{"pruned":'
_HASH_DIGITS = 64
_HEX = frozenset("0123456789abcdef")


class PrunedRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is left of a pruned record, members in canonical order; hashes in lowercase hex."""

    hash: str
    leaf: str
    seq: int


class PrunedLine(msgspec.Struct, frozen=True):
    """A pruned record's line in an export."""

    pruned: PrunedRecord


class DamagedRecord(msgspec.Struct, frozen=True):
    """A record whose bytes can't be told: its place and the hash stored for it. No verifier takes it for a record."""

    hash: str
    seq: int


class DamagedLine(msgspec.Struct, frozen=True):
    """A damaged record's line in an export, so that who reads it names the place and nothing behind it is lost."""

    damaged: DamagedRecord


_read = msgspec.json.Decoder(PrunedLine).decode
write_pruned = write_damaged = msgspec.json.Encoder().encode


def line_or_damage(body: bytes, hash_hex: str, seq: int) -> bytes:
    """Return a record's line in an export, without the newline, or what says that it is damaged."""
    try:
        return line_of(body, hash_hex)
    except ValueError:
        return write_damaged(DamagedLine(DamagedRecord(hash_hex, seq)))


def pruned_item(seq: int, leaf: bytes) -> bytes:
    """Return what stands for a pruned record's bytes in an item."""
    return PRUNED + seq.to_bytes(8, "big") + leaf


def as_pruned(body: bytes) -> tuple[int, bytes] | None:
    """Return a pruned record's number and leaf hash, None for what is a record."""
    if len(body) != _PRUNED_BYTES or body[:1] != PRUNED:
        return None
    return int.from_bytes(body[1:9], "big"), body[9:]


def read_pruned_line(text: bytes) -> tuple[bytes, str]:
    """Return the item of a pruned record's line; the line itself, without a hash, when it can't be read."""
    try:
        line = _read(text)
        pruned = line.pruned
        if not is_hash(pruned.leaf) or write_pruned(line) != text:  # or it shows more than is looked at
            return text, ""
        return pruned_item(pruned.seq, bytes.fromhex(pruned.leaf)), pruned.hash
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, OverflowError):
        return text, ""


def is_hash(text: str) -> bool:
    """Whether a text is a hash in lowercase hex."""
    return len(text) == _HASH_DIGITS and not set(text) - _HEX
