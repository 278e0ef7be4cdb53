"""Messaging's events in SQLite: written with the change, announced after its commit, read back with their messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import apsw
import msgspec

from sealwire.adapters.embedded.drivers.sqlite import Database, fetch, fetch_value
from sealwire.adapters.embedded.messaging_requests import RequestIndex
from sealwire.adapters.embedded.messaging_rows import MESSAGE_COLUMNS, reactions_of, read_message
from sealwire.adapters.embedded.messaging_schema import LAST, id_bytes, id_text, key_of
from sealwire.adapters.embedded.outbox import Arrivals
from sealwire.kit.ids import new_id
from sealwire.ports.events import Event
from sealwire.services.messaging.events import (
    KIND_NUMBER,
    KINDS,
    Announcement,
    ConversationEvent,
    Detail,
    outbox_event,
)
from sealwire.services.messaging.model import Actor, StoredMessage

INSERT_EVENT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_EVENT = (
    "SELECT e.position, e.stream, e.kind, e.at_us, e.seq, e.actor_kind, e.actor_id, e.subject_id, e.event_id, e.detail,"
    f" c.tenant_id, c.conversation_id, c.removed_at_us, {MESSAGE_COLUMNS}"
    " FROM event e JOIN conversation c ON c.num = e.stream >> 32"
    " LEFT JOIN message m ON m.key = (e.stream >> 32 << 32 | e.seq)"
)
_encode = msgspec.json.Encoder().encode
_decode_detail = msgspec.json.Decoder(Detail).decode
_NO_DETAIL = Detail()


class Change:
    """What one event says besides where it stands."""

    __slots__ = ("actor", "at_us", "detail", "kind", "message_id", "seq", "subject_id")

    def __init__(
        self,
        kind: str,
        actor: Actor,
        at_us: int,
        *,
        subject_id: str = "",
        seq: int = 0,
        message_id: str = "",
        detail: Detail = _NO_DETAIL,
    ) -> None:
        self.kind = kind
        self.actor = actor
        self.at_us = at_us
        self.subject_id = subject_id
        self.seq = seq
        self.message_id = message_id
        self.detail = detail


class SqliteConversationEvents:
    """`ConversationEvents` over the table `event`."""

    def __init__(self, db: Database, requests: RequestIndex) -> None:
        self._db = db
        self._requests = requests
        self._arrivals = Arrivals(db)
        self._listeners: list[Callable[[Sequence[Announcement]], None]] = []
        self._epoch = str(db.read("SELECT value FROM meta WHERE name = 'epoch'")[0][0])
        self.run = new_id()

    @property
    def epoch(self) -> str:
        return self._epoch

    async def renew_epoch(self) -> None:
        epoch = os.urandom(4).hex()

        def renew(conn: apsw.Connection) -> None:
            conn.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (epoch,))

        await self._db.write(renew)
        self._epoch = epoch

    async def name(self, position: int) -> str:
        return "".join(event.event_id for event, _ in self._read(f"{_EVENT} WHERE e.position = ?", (position,)))

    def listen(self, listener: Callable[[Sequence[Announcement]], None]) -> None:
        self._listeners.append(listener)

    # ---- for the other stores, inside a write

    def last_position(self, conn: apsw.Connection) -> int:
        """Return the position given last."""
        return fetch_value(conn, "SELECT max(position) FROM event") or 0

    def record(self, conn: apsw.Connection, num: int, changes: Sequence[Change]) -> None:
        """Store `changes` of conversation `num` as its next events, and announce them after the commit."""
        position = self.last_position(conn)
        offset, tenant_id, conversation_id = fetch(
            conn,
            "UPDATE conversation SET last_offset = last_offset + ?, last_position = ?"
            " WHERE num = ? RETURNING last_offset, tenant_id, conversation_id",
            (len(changes), position + len(changes), num),
        )[0]
        offset -= len(changes)
        rows, announcements = [], []
        for change in changes:
            offset += 1
            position += 1
            event = ConversationEvent(
                position=position,
                event_id=new_id(),
                tenant_id=tenant_id,
                conversation_id=conversation_id,
                offset=offset,
                kind=change.kind,
                at_us=change.at_us,
                actor_kind=change.actor.kind,
                actor_id=change.actor.id,
                subject_id=change.subject_id,
                seq=change.seq,
                message_id=change.message_id,
                detail=change.detail,
            )
            announcements.append(Announcement(event))
            rows.append(_row(num, event))
        conn.executemany(INSERT_EVENT, rows)
        self.announce(announcements)

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """From inside a write: tell the listeners after the commit."""
        self._arrivals.note()
        self._db.after_commit(partial(self._announce, announcements))

    def _announce(self, announcements: Sequence[Announcement]) -> None:
        for listener in self._listeners:
            listener(announcements)

    # ---- reading

    async def after(self, position: int, limit: int) -> Sequence[tuple[ConversationEvent, StoredMessage | None]]:
        return self._read(f"{_EVENT} WHERE e.position > ? ORDER BY e.position LIMIT ?", (position, limit))

    async def stream(
        self, conversation_id: str, offset: int, limit: int
    ) -> tuple[Sequence[tuple[ConversationEvent, StoredMessage | None]], int]:
        found = self._db.read("SELECT num, last_offset FROM conversation WHERE conversation_id = ?", (conversation_id,))
        if not found:
            return [], 0
        num, top = found[0]
        events = self._read(
            f"{_EVENT} WHERE e.stream > ? AND e.stream <= ? ORDER BY e.stream LIMIT ?",
            (key_of(num, min(offset, LAST)), key_of(num, top), limit),
        )
        return events, top

    async def read(self, after: int, limit: int) -> Sequence[Event]:
        rows = self._db.read(f"{_EVENT} WHERE e.position > ? ORDER BY e.position LIMIT ?", (after, limit))
        return [outbox_event(_event(row)) for row in rows]

    async def wait(self, after: int, timeout_s: float) -> bool:
        return await self._arrivals.until(lambda: self._newest() > after, timeout_s)

    async def newest(self) -> int:
        return self._newest()

    async def trim(self, before_us: int, limit: int) -> int:
        await self._requests.carry()  # until then its requests are found by an event

        def trim(conn: apsw.Connection) -> int:
            passed = fetch_value(conn, "SELECT min(position) FROM consumer_position")
            if passed is None:
                return 0
            passed = min(passed, self._requests.position)
            # The newest stays: the next position is found by it.
            conn.execute(
                "DELETE FROM event WHERE position IN (SELECT position FROM event WHERE position <= ? AND at_us < ?"
                " AND position < (SELECT max(position) FROM event) ORDER BY position LIMIT ?)",
                (passed, before_us, limit),
            )
            return int(conn.changes())

        return await self._db.write(trim)

    def _newest(self) -> int:
        return self._db.read("SELECT max(position) FROM event")[0][0] or 0

    def _read(self, sql: str, params: tuple[Any, ...]) -> list[tuple[ConversationEvent, StoredMessage | None]]:
        rows = self._db.read(sql, params)
        reactions = reactions_of(self._db, {row[_KEY] for row in rows if row[_KEY] is not None})
        pairs = []
        for row in rows:
            event = _event(row)
            message = None
            # Of a removed conversation nothing is shown any more; what is left of it waits to be forgotten.
            if row[_KEY] is not None and row[_REMOVED] is None:
                message = read_message(event.tenant_id, event.conversation_id, row[_KEY:], reactions)
            pairs.append((event, message))
        return pairs


_REMOVED, _KEY = 12, 13


def _event(row: tuple[Any, ...]) -> ConversationEvent:
    position, stream, kind, at_us, seq, actor_kind, actor_id, subject_id, event_id, detail, tenant_id, id_ = row[:12]
    message_id = "" if row[_KEY] is None else id_text(row[_KEY + 1])
    return ConversationEvent(
        position=position,
        event_id=message_id if event_id is None else id_text(event_id),
        tenant_id=tenant_id,
        conversation_id=id_,
        offset=stream & LAST,
        kind=KINDS[kind],
        at_us=at_us,
        actor_kind=actor_kind,
        actor_id=row[_KEY + 2] if actor_id is None else actor_id,
        subject_id=subject_id or "",
        seq=seq,
        message_id=message_id,
        detail=_NO_DETAIL if detail is None else _decode_detail(detail),
    )


def _row(num: int, event: ConversationEvent) -> tuple[Any, ...]:
    return (
        event.position,
        key_of(num, event.offset),
        KIND_NUMBER[event.kind],
        event.at_us,
        event.seq,
        event.actor_kind,
        event.actor_id,
        event.subject_id or None,
        id_bytes(event.event_id),
        None if event.detail == _NO_DETAIL else _encode(event.detail),
    )
