"""The bytes of many records at once, before they have a place: for records that are plain, as nearly all are.

Plain is what every writer of JSON gives the same bytes: names in ASCII, scalars, safe integers, fractions that all
spell alike (see `canonical`). That is looked at over the values of all records together, and one call writes them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from sealwire.contracts.audit_log import AuditEntry
from sealwire.services.compliance.canonical import SAFE_INTEGER, SCALARS, is_plain_decimal
from sealwire.services.compliance.chain import MAX_FORM_BYTES, Form, RecordActor

NUL = b"\\u0000"
_PREV_HASH = msgspec.Raw(b'"\n"')
_SEQ = msgspec.Raw(b"\n")


class _Blank(msgspec.Struct, frozen=True, gc=False):
    """A record before it has a place: where `prev_hash` and `seq` go it is cut. Members in canonical order."""

    action: str
    actor: RecordActor
    audit_id: str
    created_at: str
    metadata: Mapping[str, object]
    outcome: str
    prev_hash: msgspec.Raw
    resource_id: str
    resource_type: str
    seq: msgspec.Raw
    tenant_id: str


_write_lines = msgspec.json.Encoder(order="deterministic").encode_lines


def plain_forms(
    entries: Sequence[AuditEntry], sealed: Sequence[Mapping[str, object]], created_at: Sequence[str]
) -> list[Form] | None:
    """Return the forms of these records, None when one of them is not plain, or may be wrong: look at each then.

    `sealed` are the members that stand for personal values, all ASCII. In JSON as it is written here a newline stands
    where a record is cut or ends, and nowhere else: in texts it is escaped.
    """
    try:
        metadata: list[Mapping[str, object]] = [entry.metadata for entry in entries]
        if not _are_plain(metadata):
            return None
        for i, members in enumerate(sealed):
            if members:
                if not members.keys().isdisjoint(metadata[i]):
                    return None
                metadata[i] = {**metadata[i], **members}
        lines = _write_lines(
            [
                _Blank(
                    e.action, RecordActor((actor := e.actor).id, actor.type), e.audit_id, at, members,
                    e.outcome, _PREV_HASH, e.resource_id, e.resource_type, _SEQ, e.tenant_id,
                )
                for e, members, at in zip(entries, metadata, created_at, strict=True)
            ]
        )  # fmt: skip
    except (TypeError, ValueError):  # what can't be written; a UnicodeEncodeError is a ValueError
        return None
    if b"\\" in lines and NUL in lines:
        return None
    parts = lines.split(b"\n")
    before, middle, after = parts[0:-1:3], parts[1::3], parts[2::3]
    longest = len(lines)  # no record is, of so few
    if longest > MAX_FORM_BYTES:
        longest = sum(max(map(len, part), default=0) for part in (before, middle, after))
    if longest > MAX_FORM_BYTES:
        return None
    return list(map(Form, before, middle, after))


def _are_plain(members: Sequence[Mapping[str, object]]) -> bool:
    """Whether all names are ASCII, and all values scalars that every writer gives the same digits."""
    if not "".join(chain.from_iterable(members)).isascii():
        return False
    values = [value for some in members for value in some.values()]
    kinds = set(map(type, values))
    if not kinds <= SCALARS:
        return False
    if int in kinds:
        numbers = [value for value in values if type(value) is int]
        if min(numbers) < -SAFE_INTEGER or max(numbers) > SAFE_INTEGER:
            return False
    if float in kinds:
        return all(is_plain_decimal(value) for value in values if type(value) is float)
    return True
