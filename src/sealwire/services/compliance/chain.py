"""The hash chain: what a record's bytes are, what its hash covers, and how both stand on one line of an export.

`hash` is the lowercase hex SHA-256 of the RFC 8785 bytes of the record without `hash`; `prev_hash` is the hash of the
record before, 64 zeros for the first. The same bytes are the leaf of the Merkle tree, at `leaf_index = seq - 1`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import msgspec

from sealwire.contracts.audit_log import MAX_RECORD_BYTES
from sealwire.services.compliance.canonical import NotCanonical, canonical

_HASH_MEMBER = b',"hash":"'
_HASH_DIGITS = 64
_AFTER_HASH = b',"metadata":'
_MORE_SEQ_DIGITS = 15
"""Of the longest `seq`, 16 digits, beside the 0 that stands before it is known."""
_EMPTY_PREV_HASH = b',"prev_hash":""'
_NO_SEQ = b',"seq":0'


MAX_FORM_BYTES = MAX_RECORD_BYTES - _HASH_DIGITS - _MORE_SEQ_DIGITS - 1
"""The parts of a form together, so that the record fits at every place; the 1 is the digit that `form_of` cuts out."""


class TooLong(ValueError):
    """The record is longer than MAX_RECORD_BYTES."""


class RecordActor(msgspec.Struct, frozen=True, gc=False):
    """Who did it. Members in canonical order."""

    id: str
    type: str


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record without its hash. Members in canonical order, so that encoding it gives its RFC 8785 bytes.

    `metadata` holds canonical bytes already; nothing else in it is a number but `seq`.
    """

    action: str
    actor: RecordActor
    audit_id: str
    created_at: str
    metadata: msgspec.Raw
    outcome: str
    prev_hash: str
    resource_id: str
    resource_type: str
    seq: int
    tenant_id: str


class Link(msgspec.Struct, frozen=True, gc=False):
    """What binds a record to its place."""

    prev_hash: str
    seq: int
    tenant_id: str


record_bytes = msgspec.json.Encoder().encode
"""Record -> its canonical bytes."""
read_record = msgspec.json.Decoder(Record).decode
read_link = msgspec.json.Decoder(Link).decode


# OpenSSL 3 looks the algorithm up at every sha256(); a copy of a fresh state does not.
begin_record_hash = sha256().copy


def record_hash(body: bytes) -> str:
    """Return the chain hash of a record's canonical bytes."""
    return sha256(body).hexdigest()


def record_hashes(bodies: Iterable[bytes]) -> list[str]:
    """Return the chain hashes of many records."""
    begin, hashes = begin_record_hash, []
    for body in bodies:
        h = begin()
        h.update(body)
        hashes.append(h.hexdigest())
    return hashes


class Form(msgspec.Struct, frozen=True, gc=False):
    """A record's bytes before it has a place: the parts between which `prev_hash` and `seq` go."""

    before: bytes
    middle: bytes
    after: bytes

    def bytes_at(self, seq: int, prev_hash: bytes) -> bytes:
        """Return the record's canonical bytes at its place; `prev_hash` as 64 hex digits."""
        return b"".join((self.before, prev_hash, self.middle, b"%d" % seq, self.after))


def form_of(body: bytes) -> Form:
    """Cut a record's bytes at its `prev_hash`, which must be empty, and its `seq`, which must be 0.

    Raises: TooLong when the record could pass MAX_RECORD_BYTES at some place.
    """
    if len(body) + _HASH_DIGITS + _MORE_SEQ_DIGITS > MAX_RECORD_BYTES:
        raise TooLong
    # Behind `prev_hash` there are texts and a number only, and a quote inside of text is escaped.
    first = body.rindex(_EMPTY_PREV_HASH) + len(_EMPTY_PREV_HASH) - 1
    second = body.rindex(_NO_SEQ, first) + len(_NO_SEQ) - 1
    return Form(body[:first], body[first:second], body[second + 1 :])


def line_of(body: bytes, hash_hex: str) -> bytes:
    """Return the canonical bytes of the record with its `hash`: one line of an export, without the newline."""
    cut = body.index(_AFTER_HASH)
    return b"".join((body[:cut], _HASH_MEMBER, hash_hex.encode(), b'"', body[cut:]))


def split_line(line: bytes) -> tuple[bytes, str]:
    """Return a record's bytes as they stand on the line, without its hash, and the hash the line states.

    The bytes are cut out, not parsed: they are canonical if the line is. `reread` judges a line that is not.
    Raises: NotCanonical when the line states no hash at that place.
    """
    at = line.find(_HASH_MEMBER)
    start = at + len(_HASH_MEMBER)
    end = start + _HASH_DIGITS
    if at < 0 or line.find(_AFTER_HASH) != end + 1 or line[end : end + 1] != b'"':
        raise NotCanonical("the line states no hash there")
    return line[:at] + line[end + 1 :], line[start:end].decode("ascii", "replace")


def reread(line: bytes) -> tuple[bytes, str]:
    """Return the same as `split_line` for a line in any spelling of the same JSON: parsed strictly, written anew.

    Raises: NotCanonical when it is no record or can be read in two ways (duplicate members).
    """
    try:
        document = _DECODER.decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise NotCanonical(str(error)) from None
    stated = document.pop("hash", None) if isinstance(document, dict) else None
    if not isinstance(stated, str):
        raise NotCanonical("the record states no hash")
    return canonical(document), stated


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotCanonical("a member stands twice")
    return members


def _looked_at(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise NotCanonical("a member stands twice")


_DECODER = json.JSONDecoder(object_pairs_hook=_members)
_LOOKING = json.JSONDecoder(object_pairs_hook=_looked_at)


def refuse_doubles(content: bytes) -> None:
    """Look at a document that is read elsewhere. Raises: NotCanonical when a member stands twice: of those some
    readers take the first and others the last."""
    try:
        _LOOKING.decode(content.decode())
    except (ValueError, RecursionError) as error:
        raise NotCanonical(str(error)) from None
