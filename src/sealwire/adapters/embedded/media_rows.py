"""Reading files out of media's file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sealwire.services.media.model import FileState
from sealwire.services.media.ports import StoredFile

FILE_COLUMNS = (
    'media_id, tenant_id, owner_id, conversation_id, state, partial, length, "offset", meta, facts, parts,'
    " created_at_us, expires_at_us"
)
_decode_parts = msgspec.json.Decoder(tuple[str, ...]).decode
Row = tuple[Any, ...]
Rows = Callable[[str, tuple[Any, ...]], list[Row]]


def read_files(rows: Rows, where: str, params: Row) -> list[StoredFile]:
    """Return the files that `where` names."""
    return [
        StoredFile(
            media_id=media_id,
            tenant_id=tenant_id,
            owner_id=owner_id,
            conversation_id=conversation_id,
            state=FileState(state),
            partial=bool(partial),
            length=length,
            offset=offset,
            meta=meta,
            facts=facts,
            parts=_decode_parts(parts),
            created_at_us=created_at_us,
            expires_at_us=expires_at_us,
        )
        for (
            media_id,
            tenant_id,
            owner_id,
            conversation_id,
            state,
            partial,
            length,
            offset,
            meta,
            facts,
            parts,
            created_at_us,
            expires_at_us,
        ) in rows(f"SELECT {FILE_COLUMNS} FROM files {where}", params)
    ]
