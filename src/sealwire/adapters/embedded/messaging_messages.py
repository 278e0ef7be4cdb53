"""Messaging's messages in SQLite: read and changed here, appended in `messaging_appends`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, fetch, fetch_value
from sealwire.adapters.embedded.messaging_appends import STREAM, Appends
from sealwire.adapters.embedded.messaging_conversations import UNREAD
from sealwire.adapters.embedded.messaging_events import Change, SqliteConversationEvents
from sealwire.adapters.embedded.messaging_former import keep_reactions
from sealwire.adapters.embedded.messaging_held import HELD_MESSAGE
from sealwire.adapters.embedded.messaging_keeping import HELD, strip
from sealwire.adapters.embedded.messaging_requests import RequestIndex
from sealwire.adapters.embedded.messaging_rows import MESSAGE_COLUMNS, OF_MESSAGE, reactions_of, read_message
from sealwire.adapters.embedded.messaging_schema import LAST, id_bytes, key_of
from sealwire.contracts.messages import MessageNotFound, TooManyReactions
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.services.messaging.events import Detail
from sealwire.services.messaging.model import Actor, Appended, MessageMoved, SealedDraft, StoredMessage

_HELD = f"SELECT {HELD_MESSAGE} FROM message m JOIN conversation c ON c.num = m.key >> 32 WHERE m.key = ?"
_FROM = f"SELECT c.tenant_id, c.conversation_id, {MESSAGE_COLUMNS} FROM conversation c JOIN message m"


class SqliteMessageStore:
    """`MessageStore` over the tables `message`, `message_version` and `reaction`."""

    def __init__(self, db: Database, events: SqliteConversationEvents, requests: RequestIndex) -> None:
        self._db = db
        self._events = events
        self._appends = Appends(db, events, requests)
        self._reads = db.batcher(_mark_many)

    async def append(self, draft: SealedDraft) -> Appended | StoredMessage:
        return await self._appends.submit(draft)

    # ---- reading

    async def of_request(self, request_key: bytes) -> StoredMessage | None:
        return await self._db.write(lambda conn: self._appends.find(conn, request_key))

    async def sent(self, tenant_id: str) -> int:
        def sent(conn: apsw.Connection) -> int:
            return int(conn.execute("SELECT total(last_seq) FROM conversation WHERE tenant_id = ?", (tenant_id,)).get)

        return await self._db.scan(sent)

    async def history(
        self, conversation_id: str, *, after: int | None, before: int | None, limit: int
    ) -> Sequence[StoredMessage]:
        low = 0 if after is None else min(after, LAST)
        high = LAST if before is None else min(before - 1, LAST)
        order = "ASC" if after is not None else "DESC"
        rows = self._db.read(
            f"{_FROM} ON m.key > (c.num << 32 | ?2) AND m.key <= (c.num << 32 | ?3)"
            f" WHERE c.conversation_id = ?1 AND c.removed_at_us IS NULL ORDER BY m.key {order} LIMIT ?4",
            (conversation_id, low, high, limit),
        )
        return self._messages(rows if after is not None else rows[::-1])

    async def message(self, conversation_id: str, seq: int) -> StoredMessage | None:
        if not 0 < seq <= LAST:
            return None
        rows = self._db.read(
            f"{_FROM} ON m.key = (c.num << 32 | ?2) WHERE c.conversation_id = ?1 AND c.removed_at_us IS NULL",
            (conversation_id, seq),
        )
        return self._messages(rows)[0] if rows else None

    async def by_ids(self, tenant_id: str, message_ids: Sequence[str]) -> Sequence[StoredMessage]:
        found: list[tuple[Any, ...]] = []
        for message_id in message_ids:
            try:
                raw = id_bytes(message_id)
            except ValueError:
                continue
            found += self._db.read(
                f"{OF_MESSAGE} ON c.num = m.key >> 32"
                " WHERE m.message_id = ? AND c.tenant_id = ? AND c.removed_at_us IS NULL AND m.deleted_at_us IS NULL",
                (raw, tenant_id),
            )
        return self._messages(found)

    async def all_after(self, place: int, limit: int) -> Sequence[tuple[int, StoredMessage]]:
        rows = self._db.read(
            f"{OF_MESSAGE} ON c.num = m.key >> 32 WHERE m.key > ? AND c.removed_at_us IS NULL"
            " AND m.deleted_at_us IS NULL ORDER BY m.key LIMIT ?",
            (place, limit),
        )
        return list(zip((row[2] for row in rows), self._messages(rows), strict=True))

    async def expired(self, now_us: int, limit: int) -> Sequence[tuple[str, int]]:
        return self._db.read(
            f"SELECT c.conversation_id, m.key & {LAST} FROM message m JOIN conversation c ON c.num = m.key >> 32"
            " WHERE m.expires_at_us IS NOT NULL AND m.deleted_at_us IS NULL AND m.expires_at_us <= ?"
            " AND c.removed_at_us IS NULL ORDER BY m.expires_at_us LIMIT ?",
            (now_us, limit),
        )

    def _messages(self, rows: Sequence[tuple[Any, ...]]) -> list[StoredMessage]:
        reactions = reactions_of(self._db, [row[2] for row in rows])
        return [read_message(row[0], row[1], row[2:], reactions) for row in rows]

    # ---- changing

    async def edit(self, message: StoredMessage, sealed: bytes, actor: Actor, at_us: int) -> StoredMessage:
        def edit(conn: apsw.Connection) -> StoredMessage:
            num, there = _locate(conn, message.conversation_id, message.seq)
            if there.version != message.version or there.sealed is None:
                raise MessageMoved
            key = key_of(num, message.seq)
            conn.execute(
                "INSERT INTO message_version (key, version, sealed, at_us) VALUES (?, ?, ?, ?)",
                (key, there.version, there.sealed, there.edited_at_us or there.created_at_us),
            )
            conn.execute(
                "UPDATE message SET sealed = ?, version = version + 1, edited_at_us = ? WHERE key = ?",
                (sealed, at_us, key),
            )
            self._record(conn, num, "message.edited", there, actor, at_us)
            return _locate(conn, message.conversation_id, message.seq)[1]

        return await self._db.write(edit)

    async def delete(self, conversation_id: str, seq: int, actor: Actor, at_us: int, reason: str = "") -> bool:
        def delete(conn: apsw.Connection) -> bool:
            num, there = _locate(conn, conversation_id, seq)
            if there.deleted_at_us is not None:
                return False
            key = key_of(num, seq)
            if fetch_value(conn, _HELD, (key,)):
                conn.execute("UPDATE message SET deleted_at_us = ?, kept = ? WHERE key = ?", (at_us, HELD, key))
            else:
                strip(conn, [key], at_us)
            self._record(conn, num, "message.deleted", there, actor, at_us, Detail(reason=reason))
            return True

        return await self._db.write(delete)

    async def react(
        self, conversation_id: str, seq: int, emoji: str, user_id: str, actor: Actor, at_us: int, *, most: int
    ) -> bool:
        def react(conn: apsw.Connection) -> bool:
            num, there = _locate(conn, conversation_id, seq)
            if there.deleted_at_us is not None:
                raise MessageNotFound
            emojis = {e for e, _ in there.reactions}
            if emoji not in emojis and len(emojis) >= most:
                raise TooManyReactions(f"A message has at most {most} different reactions.")
            conn.execute(
                "INSERT OR IGNORE INTO reaction VALUES (?, ?, ?, ?)", (key_of(num, seq), emoji, user_id, at_us)
            )
            if not conn.changes():
                return False
            self._record(conn, num, "reaction.added", there, actor, at_us, Detail(emoji=emoji))
            return True

        return await self._db.write(react)

    async def unreact(self, conversation_id: str, seq: int, emoji: str, user_id: str, actor: Actor, at_us: int) -> bool:
        def unreact(conn: apsw.Connection) -> bool:
            num, there = _locate(conn, conversation_id, seq)
            keep_reactions(conn, [key_of(num, seq)], at_us, emoji=emoji, user_id=user_id)
            conn.execute(
                "DELETE FROM reaction WHERE key = ? AND emoji = ? AND user_id = ?", (key_of(num, seq), emoji, user_id)
            )
            if not conn.changes():
                return False
            self._record(conn, num, "reaction.removed", there, actor, at_us, Detail(emoji=emoji))
            return True

        return await self._db.write(unreact)

    async def mark_read(self, conversation_id: str, user_id: str, seq: int) -> tuple[int, int, bool]:
        return await self._reads.submit((conversation_id, user_id, min(seq, LAST)))

    def _record(
        self,
        conn: apsw.Connection,
        num: int,
        kind: str,
        message: StoredMessage,
        actor: Actor,
        at_us: int,
        detail: Detail | None = None,
    ) -> None:
        change = Change(kind, actor, at_us, seq=message.seq, message_id=message.message_id, detail=detail or Detail())
        self._events.record(conn, num, [change])


def _locate(conn: apsw.Connection, conversation_id: str, seq: int) -> tuple[int, StoredMessage]:
    """Return the conversation's number and the message. Raises: ConversationNotFound, MessageNotFound."""
    found = fetch(conn, STREAM, (conversation_id,))
    if not found:
        raise ConversationNotFound
    num = int(found[0][0])
    rows = fetch(conn, f"{_FROM} ON m.key = ?1 WHERE c.num = ?2", (key_of(num, min(seq, LAST)), num)) if seq > 0 else []
    if not rows:
        raise MessageNotFound
    tenant_id, _, *message = rows[0]
    return num, read_message(tenant_id, conversation_id, tuple(message), reactions_of(conn, [message[0]]))


def _mark_many(conn: apsw.Connection, marks: list[tuple[str, str, int]]) -> Sequence[tuple[int, int, bool] | Exception]:
    return [_mark(conn, *mark) for mark in marks]


def _mark(conn: apsw.Connection, conversation_id: str, user_id: str, seq: int) -> tuple[int, int, bool] | Exception:
    rows = fetch(
        conn,
        "SELECT u.num, u.read_seq, c.last_seq FROM conversation c"
        " JOIN member u ON u.conversation = c.num AND u.user_id = ?"
        " WHERE c.conversation_id = ? AND c.removed_at_us IS NULL",
        (user_id, conversation_id),
    )
    if not rows:
        return ConversationNotFound()
    num, read_seq, last_seq = rows[0]
    rose = min(seq, last_seq) > read_seq
    if rose:
        read_seq = min(seq, last_seq)
        conn.execute("UPDATE member SET read_seq = ? WHERE num = ?", (read_seq, num))
    unread = fetch_value(
        conn, f"SELECT {UNREAD} FROM member u JOIN conversation c ON c.num = u.conversation WHERE u.num = ?", (num,)
    )
    return read_seq, unread, rose
