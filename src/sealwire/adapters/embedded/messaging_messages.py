"""Messaging's messages in SQLite. `append` is the hot path: one call per group of writers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, fetch, fetch_value
from sealwire.adapters.embedded.drivers.sqlite_jobs import Batcher
from sealwire.adapters.embedded.messaging_conversations import UNREAD
from sealwire.adapters.embedded.messaging_events import INSERT_EVENT, Change, SqliteConversationEvents
from sealwire.adapters.embedded.messaging_rows import MESSAGE_COLUMNS, reactions_of, read_message
from sealwire.adapters.embedded.messaging_schema import LAST, id_bytes, key_of
from sealwire.contracts.messaging import ConversationNotFound, MessageNotFound, TooManyReactions
from sealwire.kit.problem import Invalid
from sealwire.services.messaging.events import KIND_NUMBER, Announcement, ConversationEvent, Detail
from sealwire.services.messaging.model import Actor, Appended, MessageMoved, SealedDraft, SeatStale, StoredMessage

_INSERT = (
    "INSERT OR IGNORE INTO message (key, message_id, sender_id, client_message_id, request_key, request_hash, sealed,"
    " created_at_us, expires_at_us, meta) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_STREAM = (
    "SELECT num, last_seq, last_offset, seat_version FROM conversation"
    " WHERE conversation_id = ? AND removed_at_us IS NULL"
)
_ADVANCE = "UPDATE conversation SET last_seq = ?, last_offset = ?, last_position = ? WHERE num = ?"
_FROM = f"SELECT c.tenant_id, c.conversation_id, {MESSAGE_COLUMNS} FROM conversation c JOIN message m"
_OF_MESSAGE = f"SELECT c.tenant_id, c.conversation_id, {MESSAGE_COLUMNS} FROM message m JOIN conversation c"
_CREATED = KIND_NUMBER["message.created"]


class _Stream:
    """Where a conversation's numbers stand while a batch is stored."""

    __slots__ = ("num", "offset", "position", "seat_version", "seq")

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.num, self.seq, self.offset, self.seat_version = row
        self.position = 0


class SqliteMessageStore:
    """`MessageStore` over the tables `message`, `message_version` and `reaction`."""

    def __init__(self, db: Database, events: SqliteConversationEvents) -> None:
        self._db = db
        self._events = events
        self._appends: Batcher[SealedDraft, Appended | StoredMessage] = db.batcher(self._append_many)
        self._reads = db.batcher(_mark_many)

    async def append(self, draft: SealedDraft) -> Appended | StoredMessage:
        return await self._appends.submit(draft)

    def _append_many(
        self, conn: apsw.Connection, drafts: list[SealedDraft]
    ) -> Sequence[Appended | StoredMessage | Exception]:
        """Store as if no request were a repetition; if one is, take it back and look at each."""
        conn.execute("SAVEPOINT append")
        before = conn.total_changes()
        results, announcements = self._insert(conn, drafts)
        streams = {a.event.conversation_id for a in announcements}
        if conn.total_changes() - before == 2 * len(announcements) + len(streams):
            conn.execute("RELEASE append")
        else:
            conn.execute("ROLLBACK TO append")
            conn.execute("RELEASE append")
            results, announcements = self._append_each(conn, drafts)
        if announcements:
            self._events.announce(announcements)
        return results

    def _append_each(
        self, conn: apsw.Connection, drafts: list[SealedDraft]
    ) -> tuple[list[Appended | StoredMessage | Exception], list[Announcement]]:
        first: dict[bytes, SealedDraft] = {}
        for draft in drafts:
            if draft.request_key not in first and _by_request(conn, draft) is None:
                first[draft.request_key] = draft
        fresh = list(first.values())
        results, announcements = self._insert(conn, fresh)
        outcome = {id(draft): result for draft, result in zip(fresh, results, strict=True)}
        answers: list[Appended | StoredMessage | Exception] = []
        for draft in drafts:
            answer = outcome.get(id(draft)) or _by_request(conn, draft) or outcome[id(first[draft.request_key])]
            answers.append(answer)
        return answers, announcements

    def _insert(
        self, conn: apsw.Connection, drafts: list[SealedDraft]
    ) -> tuple[list[Appended | StoredMessage | Exception], list[Announcement]]:
        streams: dict[str, _Stream | None] = {}
        messages: list[tuple[Any, ...]] = []
        events: list[tuple[Any, ...]] = []
        announcements: list[Announcement] = []
        results: list[Appended | StoredMessage | Exception] = []
        position = self._events.last_position(conn)
        for d in drafts:
            try:
                s = streams[d.conversation_id]
            except KeyError:
                row = fetch(conn, _STREAM, (d.conversation_id,))
                s = streams[d.conversation_id] = _Stream(row[0]) if row else None
            if s is None or s.seat_version != d.seat_version or (d.reply_to is not None and d.reply_to > s.seq):
                results.append(_refusal(s, d))
                continue
            s.seq = seq = s.seq + 1
            s.offset = offset = s.offset + 1
            s.position = position = position + 1
            at_us = d.created_at_us
            num = s.num
            messages.append(
                (
                    num << 32 | seq,
                    id_bytes(d.message_id),
                    d.sender_id,
                    d.client_message_id,
                    d.request_key,
                    d.request_hash,
                    d.sealed,
                    at_us,
                    d.expires_at_us,
                    d.meta,
                )
            )
            events.append((position, num << 32 | offset, _CREATED, at_us, seq, d.actor_kind, None, None, None, None))
            event = ConversationEvent(
                position=position,
                event_id=d.message_id,
                tenant_id=d.tenant_id,
                conversation_id=d.conversation_id,
                offset=offset,
                kind="message.created",
                at_us=at_us,
                actor_kind=d.actor_kind,
                actor_id=d.sender_id,
                seq=seq,
                message_id=d.message_id,
            )
            announcements.append(Announcement(event, d.carried))
            results.append(Appended(seq, offset, position))
        if messages:
            conn.executemany(_INSERT, messages)
            conn.executemany(INSERT_EVENT, events)
            moved = [s for s in streams.values() if s is not None and s.position]
            conn.executemany(_ADVANCE, [(s.seq, s.offset, s.position, s.num) for s in moved])
        return results, announcements

    # ---- reading

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
                f"{_OF_MESSAGE} ON c.num = m.key >> 32"
                " WHERE m.message_id = ? AND c.tenant_id = ? AND c.removed_at_us IS NULL AND m.deleted_at_us IS NULL",
                (raw, tenant_id),
            )
        return self._messages(found)

    async def all_after(self, place: int, limit: int) -> Sequence[tuple[int, StoredMessage]]:
        rows = self._db.read(
            f"{_OF_MESSAGE} ON c.num = m.key >> 32 WHERE m.key > ? AND c.removed_at_us IS NULL"
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
            conn.execute("UPDATE message SET sealed = NULL, meta = NULL, deleted_at_us = ? WHERE key = ?", (at_us, key))
            conn.execute("DELETE FROM message_version WHERE key = ?", (key,))
            conn.execute("DELETE FROM reaction WHERE key = ?", (key,))
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


def _refusal(stream: _Stream | None, draft: SealedDraft) -> Exception:
    if stream is None:
        return ConversationNotFound()
    if stream.seat_version != draft.seat_version:
        return SeatStale()
    return Invalid("There is no message with this seq to reply to.", path="$.reply_to")


def _by_request(conn: apsw.Connection, draft: SealedDraft) -> StoredMessage | None:
    rows = fetch(conn, f"{_OF_MESSAGE} ON c.num = m.key >> 32 WHERE m.request_key = ?", (draft.request_key,))
    if not rows:
        return None
    tenant_id, conversation_id, *message = rows[0]
    return read_message(tenant_id, conversation_id, tuple(message), reactions_of(conn, [message[0]]))


def _locate(conn: apsw.Connection, conversation_id: str, seq: int) -> tuple[int, StoredMessage]:
    """Return the conversation's number and the message. Raises: ConversationNotFound, MessageNotFound."""
    found = fetch(conn, _STREAM, (conversation_id,))
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
