"""Storing new messages: one call per group of writers, the hottest code of the file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, fetch
from sealwire.adapters.embedded.drivers.sqlite_jobs import Batcher
from sealwire.adapters.embedded.messaging_events import INSERT_EVENT, SqliteConversationEvents
from sealwire.adapters.embedded.messaging_requests import RequestIndex
from sealwire.adapters.embedded.messaging_rows import OF_MESSAGE, reactions_of, read_message
from sealwire.adapters.embedded.messaging_schema import id_bytes
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.kit.problem import Invalid
from sealwire.services.messaging.events import KIND_NUMBER, Announcement, ConversationEvent
from sealwire.services.messaging.model import Appended, SealedDraft, SeatStale, StoredMessage

STREAM = (
    "SELECT num, last_seq, last_offset, seat_version FROM conversation"
    " WHERE conversation_id = ? AND removed_at_us IS NULL"
)
_INSERT = (
    "INSERT INTO message (key, message_id, sender_id, client_message_id, request_key, request_hash, sealed,"
    " created_at_us, expires_at_us, meta) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADVANCE = "UPDATE conversation SET last_seq = ?, last_offset = ?, last_position = ? WHERE num = ?"
_CREATED = KIND_NUMBER["message.created"]

Answer = Appended | StoredMessage | Exception


class _Stream:
    """Where a conversation's numbers stand while a batch is stored."""

    __slots__ = ("num", "offset", "position", "seat_version", "seq")

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.num, self.seq, self.offset, self.seat_version = row
        self.position = 0


NAMES_ERASED = (
    "SELECT 1 FROM json_each(CAST(?2 AS TEXT), '$.mentions') j JOIN subject_mark s ON s.subject_id = j.value"
    " WHERE s.tenant_id = ?1 AND s.mark = 'erased' LIMIT 1"
)
"""Whether a message's meta mentions anybody who is erased: looked at in the write, so that none follows an erasure."""


class Appends:
    """Gives new messages their numbers and stores them with their events, each request once."""

    def __init__(self, db: Database, events: SqliteConversationEvents, requests: RequestIndex) -> None:
        self._db = db
        self._events = events
        self._requests = requests
        self._batcher: Batcher[SealedDraft, Appended | StoredMessage] = db.batcher(self._append_many)
        self.submit = self._batcher.submit

    def find(self, conn: apsw.Connection, request_key: bytes) -> StoredMessage | None:
        """From inside a write: return the message that a request made."""
        key = self._requests.find(conn, [request_key]).get(request_key)
        return None if key is None else _by_key(conn, key)

    def _append_many(self, conn: apsw.Connection, drafts: list[SealedDraft]) -> Sequence[Answer]:
        request_keys = [d.request_key for d in drafts]
        known = self._requests.find(conn, request_keys)
        if not known and len(set(request_keys)) == len(drafts):
            return self._insert(conn, drafts, [])
        first = {d.request_key: d for d in reversed(drafts) if d.request_key not in known}
        fresh = [d for d in drafts if first.get(d.request_key) is d]
        made: list[tuple[bytes, int]] = []
        new = dict(zip((d.request_key for d in fresh), self._insert(conn, fresh, made), strict=True))
        known.update(made)
        answers: list[Answer] = []
        for d in drafts:
            if first.get(d.request_key) is d or d.request_key not in known:
                answers.append(new[d.request_key])  # its own, or the refusal of the same request beside it
            else:
                answers.append(_by_key(conn, known[d.request_key]) or ConversationNotFound())
        return answers

    def _insert(
        self, conn: apsw.Connection, drafts: Sequence[SealedDraft], made: list[tuple[bytes, int]]
    ) -> list[Answer]:
        """Store messages whose requests are new; tell in `made` which request made which message."""
        streams: dict[str, _Stream | None] = {}
        messages: list[tuple[Any, ...]] = []
        events: list[tuple[Any, ...]] = []
        announcements: list[Announcement] = []
        answers: list[Answer] = []
        position = self._events.last_position(conn)
        for d in drafts:
            try:
                s = streams[d.conversation_id]
            except KeyError:
                rows = fetch(conn, STREAM, (d.conversation_id,))
                s = streams[d.conversation_id] = _Stream(rows[0]) if rows else None
            if s is None or s.seat_version != d.seat_version or (d.reply_to is not None and d.reply_to > s.seq):
                answers.append(_refusal(s, d))
                continue
            if d.meta is not None and conn.execute(NAMES_ERASED, (d.tenant_id, d.meta)).fetchall():
                answers.append(Invalid("Somebody it mentions is no user any more.", path="$.mentions"))
                continue
            s.seq = seq = s.seq + 1
            s.offset = offset = s.offset + 1
            s.position = position = position + 1
            key, stream = s.num << 32 | seq, s.num << 32 | offset
            event = _event(d, seq, offset, position)
            messages.append(_row(d, key))
            events.append((position, stream, _CREATED, d.created_at_us, seq, d.actor_kind, None, None, None, None))
            made.append((d.request_key, key))
            announcements.append(Announcement(event, d.carried))
            answers.append(Appended(seq, offset, position))
        if messages:
            conn.executemany(_INSERT, messages)
            conn.executemany(INSERT_EVENT, events)
            moved = [s for s in streams.values() if s is not None and s.position]
            conn.executemany(_ADVANCE, [(s.seq, s.offset, s.position, s.num) for s in moved])
            self._db.after_commit(partial(self._requests.stored, made, position))
            self._events.announce(announcements)
        return answers


def _event(draft: SealedDraft, seq: int, offset: int, position: int) -> ConversationEvent:
    return ConversationEvent(
        position=position,
        event_id=draft.message_id,
        tenant_id=draft.tenant_id,
        conversation_id=draft.conversation_id,
        offset=offset,
        kind="message.created",
        at_us=draft.created_at_us,
        actor_kind=draft.actor_kind,
        actor_id=draft.sender_id,
        seq=seq,
        message_id=draft.message_id,
    )


def _row(draft: SealedDraft, key: int) -> tuple[Any, ...]:
    return (
        key,
        id_bytes(draft.message_id),
        draft.sender_id,
        draft.client_message_id,
        draft.request_key,
        draft.request_hash,
        draft.sealed,
        draft.created_at_us,
        draft.expires_at_us,
        draft.meta,
    )


def _refusal(stream: _Stream | None, draft: SealedDraft) -> Exception:
    if stream is None:
        return ConversationNotFound()
    if stream.seat_version != draft.seat_version:
        return SeatStale()
    return Invalid("There is no message with this seq to reply to.", path="$.reply_to")


def _by_key(conn: apsw.Connection, key: int) -> StoredMessage | None:
    rows = fetch(conn, f"{OF_MESSAGE} ON c.num = m.key >> 32 WHERE m.key = ? AND c.removed_at_us IS NULL", (key,))
    if not rows:
        return None
    tenant_id, conversation_id, *message = rows[0]
    return read_message(tenant_id, conversation_id, tuple(message), reactions_of(conn, [key]))
