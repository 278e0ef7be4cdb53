"""What messaging keeps under legal holds and lets go by retention, in SQLite.

`message.kept` says what a tombstone still is: 0 nothing; `HELD` deleted for its readers, its content kept by a hold;
`PURGED` disposed of with its row, which goes once no event names it any more and all before it went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import apsw
import msgspec

from sealwire.adapters.embedded.disposals import Disposals, is_anybody_marked, restricted_sql
from sealwire.adapters.embedded.drivers.pace import Pace
from sealwire.adapters.embedded.drivers.sqlite import Database, Row, fetch, fetch_value
from sealwire.adapters.embedded.holds import SqliteHoldBook, is_tenant_held
from sealwire.adapters.embedded.messaging_events import Change, SqliteConversationEvents
from sealwire.adapters.embedded.messaging_former import SqliteFormer, keep_reactions
from sealwire.adapters.embedded.messaging_held import HELD_MESSAGE, held_files
from sealwire.adapters.embedded.messaging_requests import RequestIndex
from sealwire.adapters.embedded.messaging_schema import LAST, SEQ_BITS, key_of
from sealwire.contracts.custody import Disposed, Due, DueItem
from sealwire.kit.clock import US_PER_S
from sealwire.services.messaging.events import Detail
from sealwire.services.messaging.model import Actor

HELD, PURGED = 1, 2
CLOCK_SLACK_US = 3_600 * US_PER_S
"""How far the clock may have stepped back between two messages of a conversation for retention to look past it."""
_CONVERSATIONS_A_PAGE = 500
_RESTRICTED = restricted_sql("c.tenant_id", "m.sender_id")
# What retention leaves, by whether there are holds and marks in the tenant at all: one look at each a step, in its
# transaction, instead of three a row.
_KEPT = {
    (True, True): f"({HELD_MESSAGE} OR {_RESTRICTED})",
    (True, False): HELD_MESSAGE,
    (False, True): _RESTRICTED,
    (False, False): "0",
}
_FOUND = {
    looked: f"SELECT m.key, j.key, m.sealed IS NOT NULL, m.kept, {kept}, m.request_key FROM json_each(?1) j"
    " JOIN message m ON m.message_id = unhex(j.value) JOIN conversation c ON c.num = m.key >> 32 AND c.tenant_id = ?2"
    for looked, kept in _KEPT.items()
}
_ID = "substr(h, 1, 8)||'-'||substr(h, 9, 4)||'-'||substr(h, 13, 4)||'-'||substr(h, 17, 4)||'-'||substr(h, 21)"
# One value for a page: made in a thread, without the GIL.
_DUE = {
    looked: f"SELECT count(*), max(key), json_group_array({_ID}), json_group_array(held) FROM (SELECT m.key,"
    f" lower(hex(m.message_id)) AS h, {kept} AS held FROM message m JOIN conversation c ON c.num = ?1 WHERE m.key > ?2"
    f" AND m.key < ?3 AND m.created_at_us < ?4 AND m.kept <> {PURGED} AND (?6 OR m.sealed IS NOT NULL)"
    " ORDER BY m.key LIMIT ?5)"
    for looked, kept in _KEPT.items()
}
_encode = msgspec.json.Encoder().encode
_read_ids = msgspec.json.Decoder(list[str]).decode
_read_flags = msgspec.json.Decoder(list[int]).decode


def strip(conn: apsw.Connection, keys: Sequence[int], at_us: int, kept: int = 0, *, over: bool = False) -> None:
    """From inside a write: leave bodiless tombstones: no content, no former content, no reactions.

    A reaction that a hold covers by itself, not with its message, is kept apart.
    `over`: the life of these messages is over, their requests can be made anew, and less is left of their rows.
    """
    wanted = str(list(keys))
    request = ", request_key = x'', request_hash = x''" if over else ""
    conn.execute(
        f"UPDATE message SET sealed = NULL, meta = NULL, kept = ?, deleted_at_us = ifnull(deleted_at_us, ?){request}"
        " WHERE key IN (SELECT value FROM json_each(?))",
        (kept, at_us, wanted),
    )
    keep_reactions(conn, keys, at_us)
    conn.execute("DELETE FROM message_version WHERE key IN (SELECT value FROM json_each(?))", (wanted,))
    conn.execute("DELETE FROM reaction WHERE key IN (SELECT value FROM json_each(?))", (wanted,))


class SqliteKeeping:
    """`Keeping` over messaging's file."""

    def __init__(self, db: Database, events: SqliteConversationEvents, requests: RequestIndex) -> None:
        self._db = db
        self._events = events
        self._requests = requests
        self._disposals = Disposals(db)
        self._sweep_pace = Pace(db)
        self.holds = SqliteHoldBook(db)
        self.former = SqliteFormer(db)

    async def knows_conversation(self, tenant_id: str, conversation_id: str) -> bool:
        sql = "SELECT 1 FROM conversation WHERE conversation_id = ? AND tenant_id = ?"
        return bool(self._db.read(sql, (conversation_id, tenant_id)))

    async def purge_released(self, after: int, limit: int) -> int:
        rows = self._db.read(
            f"SELECT m.key, {HELD_MESSAGE} FROM message m JOIN conversation c ON c.num = m.key >> 32"
            f" WHERE m.kept = {HELD} AND m.key > ? ORDER BY m.key LIMIT ?",
            (after, limit),
        )
        free = [key for key, held in rows if not held]

        def purge(conn: apsw.Connection) -> None:
            still = fetch(
                conn,
                "SELECT m.key FROM json_each(?) j JOIN message m ON m.key = j.value"
                f" JOIN conversation c ON c.num = m.key >> 32 WHERE m.kept = {HELD} AND NOT {HELD_MESSAGE}",
                (str(free),),
            )
            strip(conn, [key for (key,) in still], 0)

        if free:
            await self._db.write(purge)
        return int(rows[-1][0]) if rows else 0

    async def held_files(self, tenant_id: str, media_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return await self._db.scan(lambda conn: held_files(conn, tenant_id, _encode(media_ids).decode()))

    # ---- retention

    async def due(self, tenant_id: str, before_us: int, *, rows: bool, cursor: int, limit: int) -> Due:
        return await self._db.scan(partial(_due, tenant_id, before_us, rows, cursor, limit))

    async def dispose(
        self, tenant_id: str, run_id: str, message_ids: Sequence[str], *, rows: bool, actor: Actor, at_us: int
    ) -> Disposed:
        why = Detail(reason="retention")
        return await self._disposals.dispose(
            run_id, message_ids, at_us,
            lambda conn, some: self._dispose(conn, tenant_id, some, rows, why, actor, at_us),
        )  # fmt: skip

    def _dispose(
        self,
        conn: apsw.Connection,
        tenant_id: str,
        ids: Sequence[str],
        rows: bool,
        why: Detail,
        actor: Actor,
        at_us: int,
    ) -> Disposed:
        wanted = _encode([id_.replace("-", "") for id_ in ids]).decode()  # what is no id finds nothing
        found = fetch(conn, _FOUND[_looks(conn, tenant_id)], (wanted, tenant_id))
        held = sum(1 for row in found if row[4])
        going = [row for row in found if not row[4] and row[3] != PURGED and (row[2] or rows)]
        keys = [row[0] for row in going]
        self._requests.forget_later(conn, [(row[5], row[0]) for row in going])
        strip(conn, keys, at_us, PURGED if rows else 0, over=True)
        of: dict[int, list[str]] = {}
        for key, place, *_ in going:
            of.setdefault(key >> SEQ_BITS, []).append(ids[place])
        for num, message_ids in of.items():
            detail = Detail(reason=why.reason, message_ids=tuple(message_ids))
            self._events.record(conn, num, [Change("messages.purged", actor, at_us, detail=detail)])
        return Disposed(disposed=len(going), held=held, missing=len(ids) - held - len(going))

    async def sweep_purged(self, after: int, limit: int) -> int:
        """See `Keeping`. One conversation a call."""
        rows = self._db.read(
            f"SELECT key >> {SEQ_BITS} FROM message WHERE kept = {PURGED} AND key > ? ORDER BY key LIMIT 1", (after,)
        )
        if not rows:
            return 0
        num = rows[0][0]
        if await self._db.write(lambda conn: self._sweep(conn, num, limit)):
            return int(key_of(num, 0))
        return int(key_of(num, LAST))

    def _sweep(self, conn: apsw.Connection, num: int, limit: int) -> bool:
        """Delete the rows that lead a conversation and are purged; say whether there may be more."""
        oldest = fetch_value(conn, "SELECT at_us FROM event ORDER BY position LIMIT 1")
        first = fetch_value(conn, "SELECT first_seq FROM conversation WHERE num = ?", (num,))
        going: list[Row] = []
        for row in fetch(
            conn,
            "SELECT key, request_key, kept, created_at_us FROM message WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?",
            (key_of(num, first), key_of(num, LAST), limit),
        ):
            # While an event of it is left, the event needs the row: it says who sent the message.
            if row[2] != PURGED or oldest is None or row[3] + CLOCK_SLACK_US >= oldest:
                break
            going.append(row)
        if not going:
            return False
        self._requests.forget(conn, [(row[1], row[0]) for row in going if row[1]])
        last = going[-1][0]
        conn.execute("DELETE FROM message WHERE key BETWEEN ? AND ?", (going[0][0], last))
        conn.execute("UPDATE conversation SET first_seq = ? WHERE num = ?", ((last & LAST) + 1, num))
        return len(going) == limit

    async def reclaim(self) -> int:
        while await self._requests.sweep(self._sweep_pace):
            pass
        return await self._db.reclaim()

    # ---- conversations

    async def forgotten(self, after: int, limit: int) -> Sequence[tuple[int, str, str]]:
        return self._db.read(
            "SELECT number, tenant_id, conversation_id FROM forgotten WHERE number > ? ORDER BY number LIMIT ?",
            (after, limit),
        )

    async def drop_husks(self, before_us: int, limit: int) -> int:
        def drop(conn: apsw.Connection) -> int:
            conn.execute("DELETE FROM forgotten WHERE at_us < ?", (before_us,))
            nums = fetch(
                conn,
                "SELECT num FROM conversation c WHERE removed_at_us < ? AND forgotten = 1 AND NOT EXISTS"
                f" (SELECT 1 FROM event WHERE stream BETWEEN c.num << 32 AND (c.num << 32 | {LAST})) LIMIT ?",
                (before_us, limit),
            )
            conn.executemany("DELETE FROM conversation WHERE num = ?", nums)
            return len(nums)

        return await self._db.write(drop)


def _looks(conn: apsw.Connection, tenant_id: str) -> tuple[bool, bool]:
    return is_tenant_held(conn, tenant_id), is_anybody_marked(conn, tenant_id)


def _due(tenant_id: str, before_us: int, rows: bool, cursor: int, limit: int, conn: apsw.Connection) -> Due:
    """In a thread."""
    items: list[DueItem] = []
    sql = _DUE[_looks(conn, tenant_id)]
    conversations = fetch(
        conn,
        "SELECT c.num, c.first_seq, c.last_seq FROM conversation c WHERE c.tenant_id = ? AND c.num >= ?"
        " AND c.removed_at_us IS NULL ORDER BY c.num LIMIT ?",
        (tenant_id, cursor >> SEQ_BITS, _CONVERSATIONS_A_PAGE),
    )
    for num, first, last in conversations:
        low = max(cursor, key_of(num, first) - 1)
        bound = _younger(conn, low, key_of(num, last) + 1, before_us + CLOCK_SLACK_US)
        count, place, ids, held = fetch(conn, sql, (num, low, bound, before_us, limit - len(items), rows))[0]
        if count:
            flags = zip(_read_ids(ids), _read_flags(held), strict=True)
            items += [DueItem(id=id_, held=bool(flag)) for id_, flag in flags]
        if len(items) == limit:
            return Due(items=items, next_cursor=str(place))
    more = len(conversations) == _CONVERSATIONS_A_PAGE
    return Due(items=items, next_cursor=str(key_of(conversations[-1][0], LAST)) if more else None)


def _younger(conn: apsw.Connection, low: int, high: int, at_us: int) -> int:
    """Return a key at or above the first message not older than `at_us`, between `low` and `high`: by halving.

    Messages of a conversation are nearly in the order of their times; what a clock set back put out of order by less
    than the slack is between.
    """
    while high - low > 64:
        middle = (low + high) // 2
        sql = "SELECT created_at_us FROM message WHERE key >= ? AND key < ? ORDER BY key LIMIT 1"
        made = fetch_value(conn, sql, (middle, high))
        if made is not None and made < at_us:
            low = middle
        else:
            high = middle
    return high
