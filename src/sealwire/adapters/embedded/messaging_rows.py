"""Reading messages out of messaging's file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.messaging_schema import LAST, id_text
from sealwire.services.messaging.model import StoredMessage

MESSAGE_COLUMNS = (
    "m.key, m.message_id, m.sender_id, m.client_message_id, m.request_hash, m.sealed, m.version, m.created_at_us,"
    " m.edited_at_us, m.expires_at_us, m.deleted_at_us, m.meta"
)
OF_MESSAGE = f"SELECT c.tenant_id, c.conversation_id, {MESSAGE_COLUMNS} FROM message m JOIN conversation c"
Reactions = dict[int, list[tuple[str, str]]]
_REACTIONS = (
    "SELECT key, emoji, user_id FROM reaction WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key, at_us, emoji"
)


def reactions_of(source: Database | apsw.Connection, keys: Iterable[int]) -> Reactions:
    """Return the reactions of messages by key, oldest first."""
    wanted = str(list(keys))
    if wanted == "[]":
        return {}
    params = (wanted,)
    rows = source.read(_REACTIONS, params) if isinstance(source, Database) else source.execute(_REACTIONS, params)
    found: Reactions = {}
    for key, emoji, user_id in rows:
        found.setdefault(key, []).append((emoji, user_id))
    return found


def read_message(tenant_id: str, conversation_id: str, row: tuple[Any, ...], reactions: Reactions) -> StoredMessage:
    """Read a row of MESSAGE_COLUMNS."""
    key, message_id, sender, client_id, request_hash, sealed, version, created, edited, expires, deleted, meta = row
    return StoredMessage(
        tenant_id=tenant_id,
        conversation_id=conversation_id,
        message_id=id_text(message_id),
        seq=key & LAST,
        sender_id=sender,
        client_message_id=client_id,
        request_hash=request_hash,
        # What a hold keeps of a deleted message is nobody's to read here.
        sealed=sealed if deleted is None else None,
        version=version,
        created_at_us=created,
        edited_at_us=edited,
        expires_at_us=expires,
        deleted_at_us=deleted,
        meta=meta if deleted is None else None,
        reactions=reactions.get(key, []) if deleted is None else [],
    )
