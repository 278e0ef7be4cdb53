"""What messaging's file holds of one person: found in reads of their own, changed in short writes with their events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import apsw
from msgspec.structs import replace

from sealwire.adapters.embedded.drivers.pace import Pace
from sealwire.adapters.embedded.drivers.sqlite import Database, fetch
from sealwire.adapters.embedded.holds import held_sql, is_held
from sealwire.adapters.embedded.messaging_events import Change, SqliteConversationEvents
from sealwire.adapters.embedded.messaging_former import (
    COUNT_FREE,
    COUNT_FREE_SEATS,
    held_former,
    keep_reactions,
    keep_seats,
)
from sealwire.adapters.embedded.messaging_held import HELD_MESSAGE, HELD_PLACE, holders
from sealwire.adapters.embedded.messaging_keeping import HELD
from sealwire.adapters.embedded.messaging_rows import MESSAGE_COLUMNS, read_message
from sealwire.adapters.embedded.messaging_schema import LAST, SEQ_BITS, id_text, key_of
from sealwire.contracts.holds import LegalHold
from sealwire.kit.files import count_in_files
from sealwire.services.messaging.events import KIND_NUMBER, Detail
from sealwire.services.messaging.model import Actor
from sealwire.services.messaging.subject_ports import (
    FormerMessage,
    HeldPlace,
    Mention,
    Remains,
    Rewritten,
    Sat,
    SubjectReaction,
    WrittenMessage,
)

RELAY: Final = "messaging-audit"
ALL: Final = 1 << 40
ERASED: Final = Detail(reason="person erased")
_SELF: Final = Actor("service", "compliance")
_ITS: Final = "JOIN conversation c ON c.num = m.key >> 32 AND c.tenant_id = ?1"
_PIN: Final = (
    "UPDATE event SET actor_id = ?2 WHERE position > ifnull((SELECT position FROM consumer_position WHERE consumer ="
    f" '{RELAY}'), 0) AND actor_id IS NULL AND kind = {KIND_NUMBER['message.created']} AND EXISTS"
    " (SELECT 1 FROM message m JOIN conversation c ON c.num = m.key >> 32"
    " WHERE m.key = (event.stream >> 32 << 32 | event.seq) AND m.sender_id = ?2 AND c.tenant_id = ?1)"
)
_IN: Final = "IN (SELECT value FROM json_each(?))"
_TRACE: Final = f"INSERT OR IGNORE INTO trace SELECT DISTINCT ?1, value >> {SEQ_BITS} FROM json_each(?2)"
TRACES: Final = (
    "SELECT t.conversation FROM trace t JOIN conversation c ON c.num = t.conversation AND c.tenant_id = ?1"
    " WHERE t.user_id = ?2 AND t.conversation >= ?3 ORDER BY t.conversation"
)
# Each is about one conversation: what lies there above a place, up to the last one.
_HERE: Final = (
    "JOIN conversation c ON c.num = :last >> 32 AND c.tenant_id = :tenant WHERE m.key > :after AND m.key <= :last"
)
_SENT_HERE: Final = f"{_HERE} AND m.sender_id = :person"
_MEANT_HERE: Final = f"{_HERE} AND instr(m.meta, CAST(:person AS BLOB))"
# HELD_MESSAGE with one look for all messages of a conversation that is held, or where nobody is who could be: nobody
# writes or is mentioned without a trace.
_THIS: Final = "FROM conversation c WHERE c.num = :last >> 32"
_HELD_HERE: Final = (
    f"((SELECT {held_sql('c.tenant_id', conversation='c.conversation_id')} {_THIS})"
    f" OR ((SELECT {HELD_PLACE} {_THIS}) AND {HELD_MESSAGE}))"
)
_NAMED_HERE: Final = f"{_MEANT_HERE} AND NOT {_HELD_HERE}"
_NAMES_HERE: Final = (
    "FROM conversation c WHERE c.num = :last >> 32 AND c.tenant_id = :tenant"
    " AND (c.created_by = :person OR instr(c.pair, :person))"
)
_ALL_AND_HELD: Final = "SELECT conversation_id, count(*), total(held) FROM (SELECT {})"
FINDING: Final = {
    "messages": f"SELECT c.tenant_id, c.conversation_id, {MESSAGE_COLUMNS}, {_HELD_HERE} FROM message m {_SENT_HERE}"
    " ORDER BY m.key LIMIT :limit",
    "reactions": "SELECT m.key, m.emoji, m.at_us, c.conversation_id FROM reaction m JOIN conversation c"
    " ON c.num = :last >> 32 AND c.tenant_id = :tenant WHERE (m.key, m.emoji) > (:after, :beside) AND m.key <= :last"
    " AND m.user_id = :person ORDER BY m.key, m.emoji LIMIT :limit",
    # What a message was before it was edited; what a hold keeps of one that is deleted.
    "former messages": f"SELECT c.tenant_id, c.conversation_id, {MESSAGE_COLUMNS}, v.version, v.sealed,"
    " ifnull((SELECT at_us FROM message_version WHERE key = v.key AND version = v.version + 1), m.edited_at_us)"
    " FROM message_version v CROSS JOIN message m ON m.key = v.key JOIN conversation c ON c.num = :last >> 32"
    " AND c.tenant_id = :tenant WHERE (v.key, v.version) > (:after, :beside) AND v.key <= :last"
    " AND m.sender_id = :person ORDER BY v.key, v.version LIMIT :limit",
    "deleted messages": f"SELECT c.tenant_id, c.conversation_id, {MESSAGE_COLUMNS}, m.version, m.sealed,"
    f" m.deleted_at_us FROM message m {_SENT_HERE} AND m.kept = {HELD} ORDER BY m.key LIMIT :limit",
    "mentions": f"SELECT m.key, m.meta FROM message m {_NAMED_HERE} ORDER BY m.key LIMIT :limit",
    "names": f"SELECT c.num {_NAMES_HERE} AND NOT {HELD_PLACE}",
    "reactions left": f"SELECT count(*) FROM reaction m {_HERE} AND m.user_id = :person",
    # How many there are, and how many of them a hold keeps: in one look, as one may be released at any moment.
    "message": _ALL_AND_HELD.format(f"c.conversation_id, {_HELD_HERE} AS held FROM message m {_SENT_HERE}"),
    "mention": _ALL_AND_HELD.format(f"c.conversation_id, {_HELD_HERE} AS held FROM message m {_MEANT_HERE}"),
    "conversation": _ALL_AND_HELD.format(f"c.conversation_id, {HELD_PLACE} AS held {_NAMES_HERE}"),
}
_FREE: Final = (
    f"SELECT m.key FROM message m {_ITS} WHERE m.key IN (SELECT value FROM json_each(?2)) AND NOT {HELD_MESSAGE}"
)
_SEATS: Final = (
    "SELECT count(*) FROM member u JOIN conversation c ON c.num = u.conversation AND c.tenant_id = ?1"
    " WHERE u.user_id = ?2"
)
# The probe does not trust the traces: it looks at everything, a piece at a time.
_SENT: Final = f"FROM message m {_ITS} WHERE m.sender_id = ?2"
_COUNTS: Final = {
    "messages": f"SELECT count(*) {_SENT} AND NOT {HELD_MESSAGE}",
    "reactions": f"SELECT count(*) FROM reaction m {_ITS} WHERE m.user_id = ?2",
    "mentions": f"SELECT count(*) FROM message m {_ITS} WHERE instr(m.meta, CAST(?2 AS BLOB)) AND NOT {HELD_MESSAGE}",
    "former_reactions": COUNT_FREE,
    "former_memberships": COUNT_FREE_SEATS,
    "memberships": _SEATS,
    "conversations": "SELECT count(*) FROM conversation c WHERE c.tenant_id = ?1"
    f" AND (c.created_by = ?2 OR instr(c.pair, ?2)) AND NOT {HELD_PLACE}",
}


class SqliteMessagingSubjects:
    """`services.messaging.subject_ports.SubjectStore` over messaging's tables."""

    def __init__(self, db: Database, events: SqliteConversationEvents) -> None:
        self._db = db
        self._events = events
        self._pace = Pace(db)

    @property
    def step(self) -> int:
        return self._pace.size

    # ---- marks

    async def marks(self) -> Sequence[tuple[str, str, str]]:
        return [(t, s, m) for t, s, m in self._db.read("SELECT tenant_id, subject_id, mark FROM subject_mark")]

    async def restrict(self, tenant_id: str, subject_id: str, restricted: bool) -> None:
        def restrict(conn: apsw.Connection) -> None:
            if restricted:
                conn.execute("INSERT OR IGNORE INTO subject_mark VALUES (?, ?, 'restricted')", (tenant_id, subject_id))
            else:
                conn.execute(
                    "DELETE FROM subject_mark WHERE tenant_id = ? AND subject_id = ? AND mark = 'restricted'",
                    (tenant_id, subject_id),
                )
            # What is on its way with the old version is refused and looks again.
            conn.execute(
                "UPDATE conversation SET seat_version = seat_version + 1 WHERE tenant_id = ?"
                " AND num IN (SELECT conversation FROM member WHERE user_id = ?)",
                (tenant_id, subject_id),
            )

        await self._db.write(restrict)

    async def require_free(self, tenant_id: str, subject_id: str) -> None:
        await self._db.write(partial(_refuse_held, tenant_id, subject_id))

    async def begin_erasing(self, tenant_id: str, subject_id: str) -> None:
        def begin(conn: apsw.Connection) -> None:
            _refuse_held(tenant_id, subject_id, conn)
            conn.execute("REPLACE INTO subject_mark VALUES (?, ?, 'erased')", (tenant_id, subject_id))
            # A record that the audit log may have already must come again as it was: with this actor.
            conn.execute(_PIN, (tenant_id, subject_id))

        await self._db.write(begin)

    # ---- finding

    async def messages(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[WrittenMessage]:
        rows = await self._each("messages", (tenant_id, subject_id), after, limit)
        return [WrittenMessage(row[2], read_message(row[0], row[1], row[2:-1], {}), bool(row[-1])) for row in rows]

    async def seats(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[Sat]:
        rows = self._db.read(
            "SELECT u.num, c.conversation_id, c.kind, c.title, u.role, u.joined_at_us, u.read_seq FROM member u"
            " JOIN conversation c ON c.num = u.conversation WHERE u.user_id = ? AND c.tenant_id = ? AND u.num > ?"
            " ORDER BY u.num LIMIT ?",
            (subject_id, tenant_id, after, limit),
        )
        return [Sat(*row) for row in rows]

    async def reactions(
        self, tenant_id: str, subject_id: str, after: tuple[int, str], limit: int
    ) -> Sequence[SubjectReaction]:
        rows = await self._each("reactions", (tenant_id, subject_id), after[0], limit, after[1])
        return [SubjectReaction(key, emoji, at_us, id_, key & LAST) for key, emoji, at_us, id_ in rows]

    async def former_messages(
        self, tenant_id: str, subject_id: str, after: tuple[int, int], limit: int, *, deleted: bool
    ) -> Sequence[FormerMessage]:
        what = "deleted messages" if deleted else "former messages"
        rows = await self._each(what, (tenant_id, subject_id), after[0], limit, after[1])
        return [_former(*row, deleted=deleted) for row in rows]

    async def mentions(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[Mention]:
        rows = await self._each("mentions", (tenant_id, subject_id), after, limit)
        return [Mention(key, meta) for key, meta in rows]

    async def remains(self, tenant_id: str, subject_id: str) -> Remains:
        return await self._db.scan(partial(_remains, (tenant_id, subject_id)))

    async def counts(self, tenant_id: str, subject_id: str) -> Mapping[str, int]:
        return await self._db.scan(partial(_count, (tenant_id, subject_id), _COUNTS))

    # ---- changing

    async def leave(self, tenant_id: str, subject_id: str, limit: int, at_us: int) -> int:
        def leave(conn: apsw.Connection) -> int:
            found = fetch(
                conn,
                "SELECT u.num, u.conversation, u.role FROM member u JOIN conversation c ON c.num = u.conversation"
                " WHERE u.user_id = ? AND c.tenant_id = ? LIMIT ?",
                (subject_id, tenant_id, limit),
            )
            keep_seats(conn, [seat for seat, *_ in found], at_us)
            for seat, num, role in found:
                conn.execute("DELETE FROM member WHERE num = ?", (seat,))
                conn.execute(
                    "UPDATE conversation SET member_count = member_count - 1, seat_version = seat_version + 1"
                    " WHERE num = ?",
                    (num,),
                )
                left = Change("member.left", _SELF, at_us, subject_id=subject_id, detail=ERASED)
                self._events.record(conn, num, [left, *_successor(conn, num, role, at_us)])
            return len(found)

        return await self._pace.write(leave)

    async def tombstone(self, tenant_id: str, subject_id: str, keys: Sequence[int], pseudonym: str, at_us: int) -> int:
        def tombstone(conn: apsw.Connection) -> int:
            _refuse_held(tenant_id, subject_id, conn)
            rows = _changeable(conn, tenant_id, subject_id, keys)
            listed = json.dumps([key for key, *_ in rows])
            conn.execute(
                "UPDATE message SET sealed = NULL, meta = NULL, client_message_id = '', request_hash = x'',"
                f" sender_id = ?, deleted_at_us = ifnull(deleted_at_us, ?) WHERE key {_IN}",
                (pseudonym, at_us, listed),
            )
            conn.execute(f"DELETE FROM message_version WHERE key {_IN}", (listed,))
            keep_reactions(conn, [key for key, *_ in rows], at_us)
            conn.execute(f"DELETE FROM reaction WHERE key {_IN}", (listed,))
            self._record_each(conn, "message.deleted", [row for row in rows if row[2] is None], at_us)
            return len(rows)

        return await self._pace.write(tombstone)

    async def rewrite(
        self, tenant_id: str, subject_id: str, messages: Sequence[Rewritten], pseudonym: str, at_us: int
    ) -> int:
        def rewrite(conn: apsw.Connection) -> int:
            _refuse_held(tenant_id, subject_id, conn)
            new = {message.key: message for message in messages}
            rows = [
                row
                for row in _changeable(conn, tenant_id, subject_id, list(new))
                if row[2] is None and row[3] == new[row[0]].version
            ]
            conn.executemany(
                "UPDATE message SET sealed = ?, meta = ?, client_message_id = '', request_hash = x'', sender_id = ?,"
                " version = version + 1 WHERE key = ?",
                [(new[key].sealed, new[key].meta, pseudonym, key) for key, *_ in rows],
            )
            listed = json.dumps([key for key, *_ in rows])
            conn.execute(f"DELETE FROM message_version WHERE key {_IN}", (listed,))
            # Who asks for the pseudonym to be erased, as for an id that nobody knows, takes what no hold covers only.
            conn.execute(_TRACE, (pseudonym, listed))
            self._record_each(conn, "message.edited", rows, at_us)
            return len(rows)

        return await self._pace.write(rewrite)

    async def unreact(self, tenant_id: str, subject_id: str, reactions: Sequence[SubjectReaction], at_us: int) -> int:
        def unreact(conn: apsw.Connection) -> int:
            actor, gone = Actor("user", subject_id), 0
            for r in reactions:
                keep_reactions(conn, [r.key], at_us, emoji=r.emoji, user_id=subject_id)
                conn.execute(
                    "DELETE FROM reaction WHERE key = ? AND emoji = ? AND user_id = ?", (r.key, r.emoji, subject_id)
                )
                if not conn.changes():
                    continue
                gone += 1
                rows = fetch(conn, "SELECT key, message_id FROM message WHERE key = ?", (r.key,))
                detail = Detail(emoji=r.emoji, reason=ERASED.reason)
                for key, message_id in rows:
                    change = Change(
                        "reaction.removed", actor, at_us, seq=key & LAST, message_id=id_text(message_id), detail=detail
                    )
                    self._events.record(conn, key >> 32, [change])
            return gone

        return await self._pace.write(unreact)

    async def unmention(self, tenant_id: str, changed: Sequence[tuple[Mention, bytes | None]], at_us: int) -> int:
        keys = json.dumps([mention.key for mention, _ in changed])

        def unmention(conn: apsw.Connection) -> int:
            rows = []
            free = {key for (key,) in fetch(conn, _FREE, (tenant_id, keys))}
            for mention, meta in changed:
                if mention.key not in free:  # a hold came after it was found
                    continue
                conn.execute(
                    "UPDATE message SET meta = ? WHERE key = ? AND meta = ?", (meta, mention.key, mention.meta)
                )
                if conn.changes():
                    rows += fetch(
                        conn, "SELECT key, message_id, deleted_at_us FROM message WHERE key = ?", (mention.key,)
                    )
            self._record_each(conn, "message.edited", [row for row in rows if row[2] is None], at_us)
            return len(rows)

        return await self._pace.write(unmention)

    async def unname(self, tenant_id: str, subject_id: str, pseudonym: str) -> int:
        nums = json.dumps([num for (num,) in await self._each("names", (tenant_id, subject_id))])

        def unname(conn: apsw.Connection) -> int:
            conn.execute(
                "UPDATE conversation AS c SET pair = NULL, created_by = iif(created_by = ?2, ?3, created_by)"
                f" WHERE c.num IN (SELECT value FROM json_each(?1)) AND NOT {HELD_PLACE}",
                (nums, subject_id, pseudonym),
            )
            return int(conn.changes())

        return await self._db.write(unname)

    async def forget_traces(self, tenant_id: str, subject_id: str) -> None:
        sql = (
            "DELETE FROM trace WHERE user_id = ?2 AND conversation IN (SELECT c.num FROM conversation c"
            " WHERE c.num = conversation AND c.tenant_id = ?1)"
        )
        await self._db.write(lambda conn: conn.execute(sql, (tenant_id, subject_id)).fetchall())

    async def count_in_files(self, texts: Sequence[bytes]) -> int:
        path = self._db.path
        files = [path, path.with_name(path.name + "-wal")]
        return await asyncio.to_thread(count_in_files, files, texts)

    async def compact(self) -> None:
        while await self._db.reclaim():  # in small steps first: writers wait for the last one only
            pass
        await self._db.compact()

    # ---- parts

    async def _each(
        self, what: str, who: tuple[str, str], after: int = 0, limit: int = ALL, beside: str | int = ""
    ) -> list[tuple[Any, ...]]:
        """Return up to `limit` rows of what the person left above a place, by conversation, in a thread.

        `beside` says where in a place that holds several.
        """

        return await self._db.scan(lambda conn: _look(conn, what, who, after, limit, beside))

    def _record_each(self, conn: apsw.Connection, kind: str, rows: Sequence[tuple[Any, ...]], at_us: int) -> None:
        """Store an event per message (key, id, …), conversation by conversation."""
        by_conversation: dict[int, list[Change]] = {}
        for key, message_id, *_ in rows:
            change = Change(kind, _SELF, at_us, seq=key & LAST, message_id=id_text(message_id), detail=ERASED)
            by_conversation.setdefault(key >> 32, []).append(change)
        for num, changes in by_conversation.items():
            self._events.record(conn, num, changes)


def _look(
    conn: apsw.Connection, what: str, who: tuple[str, str], after: int = 0, limit: int = ALL, beside: str | int = ""
) -> list[tuple[Any, ...]]:
    """In a thread."""
    found: list[tuple[Any, ...]] = []
    values: dict[str, Any] = {"tenant": who[0], "person": who[1]}
    for (num,) in fetch(conn, TRACES, (*who, after >> SEQ_BITS)):
        first = key_of(num, 0)
        values |= {"after": max(after, first), "last": first | LAST, "limit": limit - len(found)}
        values["beside"] = beside if after > first else ""
        found += conn.execute(FINDING[what], values).fetchall()
        if len(found) >= limit:
            break
    return found


def _remains(who: tuple[str, str], conn: apsw.Connection) -> Remains:
    """In a thread, in one snapshot."""
    left: dict[str, int] = {}
    held: list[HeldPlace] = []
    for kind in ("message", "mention", "conversation"):
        rows = [(id_, count, int(kept)) for id_, count, kept in _look(conn, kind, who)]
        left[f"{kind}s"] = sum(count - kept for _, count, kept in rows)
        held += [HeldPlace(id_, kind, kept) for id_, _, kept in rows if kept]
    left["reactions"] = sum(count for (count,) in _look(conn, "reactions left", who))
    left |= _count(who, ("former_reactions", "former_memberships", "memberships"), conn)
    held += [HeldPlace(*place) for place in held_former(conn, *who)]
    return Remains(left, held, *holders(conn, *who, [(place.conversation_id, place.kind) for place in held]))


def _count(who: tuple[str, str], places: Iterable[str], conn: apsw.Connection) -> dict[str, int]:
    """In a thread."""
    return {place: int(conn.execute(_COUNTS[place], who).get or 0) for place in places}


def _former(tenant_id: str, conversation_id: str, *row: Any, deleted: bool) -> FormerMessage:
    """Read a row of MESSAGE_COLUMNS and of what it was: version, sealed, until when."""
    *columns, version, sealed, until_us = row
    there = read_message(tenant_id, conversation_id, tuple(columns), {})
    meta = columns[-1] if deleted else None  # what is known beside the body is of the newest version
    was = replace(there, version=version, sealed=sealed, meta=meta, deleted_at_us=None, expires_at_us=None)
    return FormerMessage((columns[0], version), was, until_us)


def _refuse_held(tenant_id: str, subject_id: str, conn: apsw.Connection) -> None:
    """Raises: LegalHold."""
    if is_held(conn, tenant_id, subject_id=subject_id):
        raise LegalHold("A legal hold covers this person.")


def _changeable(
    conn: apsw.Connection, tenant_id: str, subject_id: str, keys: Sequence[int]
) -> list[tuple[int, bytes, int | None, int]]:
    """Return (key, id, deleted at, version) of those messages that are the person's still and not held."""
    return fetch(
        conn,
        f"SELECT m.key, m.message_id, m.deleted_at_us, m.version FROM message m {_ITS}"
        f" WHERE m.key IN (SELECT value FROM json_each(?3)) AND m.sender_id = ?2 AND NOT {HELD_MESSAGE} ORDER BY m.key",
        (tenant_id, subject_id, json.dumps(list(keys))),
    )


def _successor(conn: apsw.Connection, num: int, former: str, at_us: int) -> list[Change]:
    """When the last owner went: let the eldest of the highest role be the owner, so that somebody can decide."""
    if former != "owner":
        return []
    order = "CASE role WHEN 'owner' THEN 0 WHEN 'moderator' THEN 1 WHEN 'member' THEN 2 ELSE 3 END, num"
    heirs = fetch(
        conn, f"SELECT num, user_id, role FROM member WHERE conversation = ? ORDER BY {order} LIMIT 1", (num,)
    )
    if not heirs or heirs[0][2] == "owner":
        return []
    seat, user_id, _ = heirs[0]
    keep_seats(conn, [seat], at_us)
    conn.execute("UPDATE member SET role = 'owner' WHERE num = ?", (seat,))
    detail = Detail(role="owner", reason=ERASED.reason)
    return [Change("member.changed", _SELF, at_us, subject_id=user_id, detail=detail)]
