"""Messaging's conversations and members in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, fetch, fetch_value
from sealwire.adapters.embedded.messaging_events import Change, SqliteConversationEvents
from sealwire.adapters.embedded.messaging_former import forget_former, keep_seats, keep_title
from sealwire.adapters.embedded.messaging_held import HELD_PLACE
from sealwire.adapters.embedded.messaging_requests import RequestIndex
from sealwire.adapters.embedded.messaging_schema import LAST, key_of
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.members import OwnerNeeded
from sealwire.contracts.messaging_terms import ConversationNotFound, MemberRole
from sealwire.kit.problem import Conflict, Invalid
from sealwire.services.messaging.events import Detail
from sealwire.services.messaging.model import Actor, ConversationRecord, ConversationView, MemberRecord, Seat

COUNTED_UNREAD = 1000
# What others wrote beyond the member's `read_seq`, tombstones left out; the count stops at COUNTED_UNREAD.
UNREAD = (
    "(SELECT count(*) FROM (SELECT 1 FROM message m WHERE m.key > (c.num << 32 | u.read_seq)"
    " AND m.key <= (c.num << 32 | c.last_seq) AND m.sender_id <> u.user_id AND m.deleted_at_us IS NULL"
    f" LIMIT {COUNTED_UNREAD}))"
)
_VIEW = (
    "SELECT c.conversation_id, c.tenant_id, c.kind, c.title, c.created_by, c.created_at_us, c.first_seq, c.last_seq,"
    f" c.last_offset, c.member_count, u.role, u.read_seq, {UNREAD}, c.last_position"
    " FROM member u JOIN conversation c ON c.num = u.conversation"
)
_MEMBER = (
    "SELECT c.conversation_id, u.user_id, u.role, u.joined_at_us, u.read_seq, u.num"
    " FROM conversation c JOIN member u ON u.conversation = c.num"
    " WHERE c.conversation_id = ? AND c.removed_at_us IS NULL"
)


class SqliteConversationStore:
    """`ConversationStore` over the tables `conversation` and `member`."""

    def __init__(self, db: Database, events: SqliteConversationEvents, requests: RequestIndex) -> None:
        self._db = db
        self._events = events
        self._requests = requests

    async def create(
        self, record: ConversationRecord, members: Sequence[tuple[str, MemberRole]], pair: str, actor: Actor
    ) -> tuple[str, bool]:
        def create(conn: apsw.Connection) -> tuple[str, bool]:
            if pair:
                existing = fetch_value(conn, "SELECT conversation_id FROM conversation WHERE pair = ?", (pair,))
                if existing is not None:
                    return existing, True
            at_us = record.created_at_us
            for user_id, _ in members:
                _require_there(conn, record.tenant_id, user_id)
            conn.execute(
                "INSERT INTO conversation (conversation_id, tenant_id, kind, title, pair, created_by, created_at_us,"
                " member_count) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(record.conversation_id, record.tenant_id, record.kind, record.title, pair or None),
                    *(record.created_by, at_us, len(members)),
                ),
            )
            num = conn.last_insert_rowid()
            conn.executemany(
                "INSERT INTO member (conversation, user_id, role, joined_at_us) VALUES (?, ?, ?, ?)",
                [(num, user_id, role, at_us) for user_id, role in members],
            )
            changes = [Change("conversation.created", actor, at_us)]
            changes += [_joined(user_id, role, actor, at_us) for user_id, role in members]
            self._events.record(conn, num, changes)
            return record.conversation_id, False

        return await self._db.write(create)

    async def seat(self, conversation_id: str, user_id: str) -> Seat | None:
        rows = self._db.read(
            "SELECT c.tenant_id, c.kind, u.role, c.seat_version FROM conversation c"
            " JOIN member u ON u.conversation = c.num AND u.user_id = ?"
            " WHERE c.conversation_id = ? AND c.removed_at_us IS NULL",
            (user_id, conversation_id),
        )
        if not rows:
            return None
        tenant_id, kind, role, version = rows[0]
        return Seat(
            tenant_id=tenant_id,
            conversation_id=conversation_id,
            kind=kind,
            user_id=user_id,
            role=role,
            version=version,
        )

    async def view(self, conversation_id: str, user_id: str) -> ConversationView | None:
        rows = self._db.read(
            f"{_VIEW} WHERE c.conversation_id = ? AND u.user_id = ? AND c.removed_at_us IS NULL",
            (conversation_id, user_id),
        )
        return _view(rows[0]) if rows else None

    async def views(self, tenant_id: str, user_id: str, before: int | None, limit: int) -> Sequence[ConversationView]:
        rows = self._db.read(
            f"{_VIEW} WHERE u.user_id = ? AND c.tenant_id = ? AND c.removed_at_us IS NULL"
            " AND c.last_position < ? ORDER BY c.last_position DESC LIMIT ?",
            (user_id, tenant_id, 1 << 62 if before is None else before, limit),
        )
        return [_view(row) for row in rows]

    async def readable(self, tenant_id: str, user_id: str) -> Sequence[str]:
        return [
            id_
            for (id_,) in self._db.read(
                "SELECT c.conversation_id FROM member u JOIN conversation c ON c.num = u.conversation"
                " WHERE u.user_id = ? AND c.tenant_id = ? AND c.removed_at_us IS NULL",
                (user_id, tenant_id),
            )
        ]

    async def retitle(self, conversation_id: str, title: bytes | None, actor: Actor, at_us: int) -> None:
        def retitle(conn: apsw.Connection) -> None:
            num = _number(conn, conversation_id)
            keep_title(conn, num, at_us)
            conn.execute("UPDATE conversation SET title = ? WHERE num = ?", (title, num))
            self._events.record(conn, num, [Change("conversation.changed", actor, at_us)])

        await self._db.write(retitle)

    async def remove(self, conversation_id: str, actor: Actor, at_us: int) -> None:
        def remove(conn: apsw.Connection) -> None:
            num = _number(conn, conversation_id)
            self._events.record(conn, num, [Change("conversation.removed", actor, at_us)])
            conn.execute(
                "UPDATE conversation SET removed_at_us = ?, pair = NULL, seat_version = seat_version + 1 WHERE num = ?",
                (at_us, num),
            )

        await self._db.write(remove)

    # ---- members

    async def members(self, conversation_id: str, after: int, limit: int) -> Sequence[MemberRecord]:
        rows = self._db.read(f"{_MEMBER} AND u.num > ? ORDER BY u.num LIMIT ?", (conversation_id, after, limit))
        return [_member(row) for row in rows]

    async def add_member(
        self, conversation_id: str, user_id: str, role: MemberRole, actor: Actor, at_us: int, *, most: int
    ) -> MemberRecord:
        def add(conn: apsw.Connection) -> MemberRecord:
            num = _number(conn, conversation_id)
            if (there := _find(conn, conversation_id, user_id)) is not None:
                return there
            tenant_id = fetch_value(conn, "SELECT tenant_id FROM conversation WHERE num = ?", (num,))
            _require_there(conn, tenant_id, user_id)
            if fetch_value(conn, "SELECT member_count FROM conversation WHERE num = ?", (num,)) >= most:
                raise Conflict(f"A conversation has at most {most} members.")
            conn.execute(
                "INSERT INTO member (conversation, user_id, role, joined_at_us) VALUES (?, ?, ?, ?)",
                (num, user_id, role, at_us),
            )
            _seats_changed(conn, num, 1)
            self._events.record(conn, num, [_joined(user_id, role, actor, at_us)])
            return _require(_find(conn, conversation_id, user_id))

        return await self._db.write(add)

    async def remove_member(self, conversation_id: str, user_id: str, actor: Actor, at_us: int) -> bool:
        def remove(conn: apsw.Connection) -> bool:
            num = _number(conn, conversation_id)
            there = _find(conn, conversation_id, user_id)
            if there is None:
                return False
            keep_seats(conn, [there.place], at_us)
            conn.execute("DELETE FROM member WHERE num = ?", (there.place,))
            _seats_changed(conn, num, -1)
            _require_owner(conn, num, there.role)
            self._events.record(conn, num, [Change("member.left", actor, at_us, subject_id=user_id)])
            return True

        return await self._db.write(remove)

    async def change_member(
        self, conversation_id: str, user_id: str, role: MemberRole, actor: Actor, at_us: int
    ) -> MemberRecord | None:
        def change(conn: apsw.Connection) -> MemberRecord | None:
            num = _number(conn, conversation_id)
            there = _find(conn, conversation_id, user_id)
            if there is None or there.role == role:
                return there
            keep_seats(conn, [there.place], at_us)
            conn.execute("UPDATE member SET role = ? WHERE num = ?", (role, there.place))
            _seats_changed(conn, num, 0)
            _require_owner(conn, num, there.role)
            detail = Detail(role=role)
            self._events.record(conn, num, [Change("member.changed", actor, at_us, subject_id=user_id, detail=detail)])
            return _find(conn, conversation_id, user_id)

        return await self._db.write(change)

    # ---- forgetting

    async def forgettable(self, before_us: int, limit: int, skip: int = 0) -> Sequence[tuple[str, str]]:
        return self._db.read(
            "SELECT c.tenant_id, c.conversation_id FROM conversation c WHERE c.removed_at_us < ? AND c.forgotten = 0"
            # Not before every consumer saw its last event: the audit record of a message names the message.
            " AND ifnull((SELECT position FROM event e WHERE e.stream = (c.num << 32 | c.last_offset)), 0)"
            " <= (SELECT ifnull(min(position), 0) FROM consumer_position)"
            f" AND NOT {HELD_PLACE} ORDER BY c.removed_at_us LIMIT ? OFFSET ?",
            (before_us, limit, skip),
        )

    async def forget(self, conversation_id: str, limit: int) -> bool:
        def forget(conn: apsw.Connection) -> bool:
            num, _ = _require_free(conn, conversation_id)
            if forget_former(conn, num, limit):
                return True
            low, high = key_of(num, 0), key_of(num, LAST)
            for table, column in (("message_version", "num"), ("reaction", "key")):
                conn.execute(
                    f"DELETE FROM {table} WHERE {column} IN"
                    f" (SELECT {column} FROM {table} WHERE key BETWEEN ? AND ? LIMIT ?)",
                    (low, high, limit),
                )
                if conn.changes() >= limit:
                    return True
            messages = fetch(
                conn, "SELECT request_key, key FROM message WHERE key BETWEEN ? AND ? LIMIT ?", (low, high, limit)
            )
            self._requests.forget(conn, messages)
            conn.executemany("DELETE FROM message WHERE key = ?", [(key,) for _, key in messages])
            if len(messages) == limit:
                return True
            conn.execute(
                "DELETE FROM member WHERE num IN (SELECT num FROM member WHERE conversation = ? LIMIT ?)", (num, limit)
            )
            return bool(conn.changes() == limit)

        return await self._db.write(forget)

    async def mark_forgotten(self, conversation_id: str) -> None:
        def mark(conn: apsw.Connection) -> None:
            num, tenant_id = _require_free(conn, conversation_id)
            done = (
                "UPDATE conversation SET forgotten = 1, title = NULL, member_count = 0 WHERE num = ? AND forgotten = 0"
            )
            conn.execute(done, (num,))
            if not conn.changes():
                return
            conn.execute(
                "INSERT INTO forgotten (tenant_id, conversation_id, at_us)"
                " SELECT ?, ?, removed_at_us FROM conversation WHERE num = ?",
                (tenant_id, conversation_id, num),
            )

        await self._db.write(mark)


def _require_free(conn: apsw.Connection, conversation_id: str) -> tuple[int, str]:
    """From inside the write that forgets: return number and tenant. Raises: LegalHold."""
    sql = f"SELECT c.num, c.tenant_id, {HELD_PLACE} FROM conversation c WHERE c.conversation_id = ?"
    num, tenant_id, held = fetch(conn, sql, (conversation_id,))[0]
    if held:
        raise LegalHold
    return int(num), str(tenant_id)


def _require_there(conn: apsw.Connection, tenant_id: str, user_id: str) -> None:
    """From inside the write that gives a seat. Raises: Invalid for somebody who was erased since auth was asked."""
    sql = "SELECT 1 FROM subject_mark WHERE tenant_id = ? AND subject_id = ? AND mark = 'erased'"
    if fetch_value(conn, sql, (tenant_id, user_id)):
        raise Invalid(f"There is no user {user_id}.")


def _number(conn: apsw.Connection, conversation_id: str) -> int:
    num = fetch_value(
        conn, "SELECT num FROM conversation WHERE conversation_id = ? AND removed_at_us IS NULL", (conversation_id,)
    )
    if num is None:
        raise ConversationNotFound
    return int(num)


def _find(conn: apsw.Connection, conversation_id: str, user_id: str) -> MemberRecord | None:
    rows = fetch(conn, f"{_MEMBER} AND u.user_id = ?", (conversation_id, user_id))
    return _member(rows[0]) if rows else None


def _require(member: MemberRecord | None) -> MemberRecord:
    assert member is not None  # it was inserted by the same transaction
    return member


def _seats_changed(conn: apsw.Connection, num: int, more: int) -> None:
    conn.execute(
        "UPDATE conversation SET member_count = member_count + ?, seat_version = seat_version + 1 WHERE num = ?",
        (more, num),
    )


def _require_owner(conn: apsw.Connection, num: int, former: str) -> None:
    """Raises: OwnerNeeded when an owner left or was demoted and members, but no owner, stay (rolls the write back)."""
    if former != "owner":
        return
    roles = {role for (role,) in fetch(conn, "SELECT DISTINCT role FROM member WHERE conversation = ?", (num,))}
    if roles and "owner" not in roles:
        raise OwnerNeeded


def _joined(user_id: str, role: MemberRole, actor: Actor, at_us: int) -> Change:
    return Change("member.joined", actor, at_us, subject_id=user_id, detail=Detail(role=role))


def _view(row: tuple[Any, ...]) -> ConversationView:
    id_, tenant, kind, title, by, at_us, first, last, offset, count, role, read_seq, unread, place = row
    return ConversationView(
        record=ConversationRecord(
            conversation_id=id_,
            tenant_id=tenant,
            kind=kind,
            title=title,
            created_by=by,
            created_at_us=at_us,
            first_seq=first,
            last_seq=last,
            last_offset=offset,
            member_count=count,
        ),
        role=role,
        read_seq=read_seq,
        unread=unread,
        place=place,
    )


def _member(row: tuple[Any, ...]) -> MemberRecord:
    id_, user_id, role, joined_at_us, read_seq, place = row
    return MemberRecord(
        conversation_id=id_, user_id=user_id, role=role, joined_at_us=joined_at_us, read_seq=read_seq, place=place
    )
