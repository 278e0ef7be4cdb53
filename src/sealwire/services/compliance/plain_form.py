"""The cheap proof that many records are canonical (RFC 8785): read into what records hold, and written again.

It proves records that are plain: ASCII without an escape, members of `metadata` that are texts, booleans, nulls, safe
integers, fractions from 1e-4 to below 1e15, or objects of texts (sealed values). What msgspec writes of those is their
canonical form: names in ASCII sort alike by bytes and by UTF-16 code units (RFC 8785 section 3.2.3), and in that range
every writer gives a fraction the same digits. Bytes that come out as they went in are that form, so white space, order
of members, a member twice, escapes and other spellings of numbers can't pass. What is not plain is not proved here, and
not refused either: `walk` looks at it one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from sealwire.services.compliance.canonical import SAFE_INTEGER
from sealwire.services.compliance.chain import RecordActor

_Value = (
    Annotated[int, msgspec.Meta(ge=-SAFE_INTEGER, le=SAFE_INTEGER)]
    | Annotated[float, msgspec.Meta(ge=1e-4, lt=1e15)]
    | str
    | bool
    | None
    | dict[str, str]
)


class PlainRecord(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A record without its hash, `metadata` taken apart. Members in canonical order."""

    action: str
    actor: RecordActor
    audit_id: str
    created_at: str
    metadata: dict[str, _Value]
    outcome: str
    prev_hash: str
    resource_id: str
    resource_type: str
    seq: int
    tenant_id: str


_read_lines = msgspec.json.Decoder(PlainRecord).decode_lines
_write_lines = msgspec.json.Encoder(order="deterministic").encode_lines
_WHOLE = (b"0,", b"0}")
"""What stands behind the point of 5.0, which is read and written as such and whose canonical form is 5."""


def plain_records(bodies: Sequence[bytes]) -> list[PlainRecord] | None:
    """Return the records if all these bytes are the canonical form of plain ones, else None.

    The lines written again hold no newline and are as many as the bodies, so each body is the one line beside it.
    Raises: msgspec.MsgspecError, UnicodeDecodeError when they can't be read.
    """
    lines = b"\n".join((*bodies, b""))
    if not lines.isascii() or b"\\" in lines:
        return None
    for behind in lines.split(b"."):
        if behind.startswith(_WHOLE):
            return None
    records = _read_lines(lines)
    if len(records) != len(bodies) or _write_lines(records) != lines:
        return None
    return records
