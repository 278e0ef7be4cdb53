"""What a title was, which reactions and seats there were, kept beside messaging's tables while a hold covers them.

A former version is written in the transaction that replaces it, when a hold covers it then, and goes when none does any
more: with the sweep after a release, with an erasure, or with its conversation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, fetch
from sealwire.adapters.embedded.holds import held_sql
from sealwire.adapters.embedded.messaging_held import HELD_PLACE, HELD_REACTION
from sealwire.adapters.embedded.messaging_schema import LAST, key_of
from sealwire.services.messaging.former_ports import FormerReaction, FormerSeat, FormerTitle

_FORMER_TITLES: Final = "FROM former_title f JOIN conversation c ON c.num = f.conversation"
_FORMER_REACTIONS: Final = (
    "FROM former_reaction r JOIN conversation c ON c.num = r.key >> 32 LEFT JOIN message m ON m.key = r.key"
)
_FORMER_SEATS: Final = "FROM former_seat r JOIN conversation c ON c.num = r.conversation"
_IN: Final = "IN (SELECT value FROM json_each(?))"
_BY: Final = "c.tenant_id = ?1 AND r.user_id = ?2"
COUNT_FREE: Final = f"SELECT count(*) {_FORMER_REACTIONS} WHERE {_BY} AND NOT {HELD_REACTION}"
"""Former reactions of a person (tenant, person) that no hold keeps any more."""
COUNT_FREE_SEATS: Final = f"SELECT count(*) {_FORMER_SEATS} WHERE {_BY} AND NOT {HELD_PLACE}"
"""Former seats of a person, likewise."""
_SWEPT: Final = (
    ("former_title", f"SELECT f.num, {HELD_PLACE} {_FORMER_TITLES} WHERE f.num > ? ORDER BY f.num LIMIT ?"),
    ("former_reaction", f"SELECT r.num, {HELD_REACTION} {_FORMER_REACTIONS} WHERE r.num > ? ORDER BY r.num LIMIT ?"),
    ("former_seat", f"SELECT r.num, {HELD_PLACE} {_FORMER_SEATS} WHERE r.num > ? ORDER BY r.num LIMIT ?"),
)
_FREE: Final = {
    "former_title": f"SELECT f.num {_FORMER_TITLES} WHERE f.num {_IN} AND NOT {HELD_PLACE}",
    "former_reaction": f"SELECT r.num {_FORMER_REACTIONS} WHERE r.num {_IN} AND NOT {HELD_REACTION}",
    "former_seat": f"SELECT r.num {_FORMER_SEATS} WHERE r.num {_IN} AND NOT {HELD_PLACE}",
}
_OF_PERSON: Final = (
    ("former_reaction", _FORMER_REACTIONS, HELD_REACTION),
    ("former_seat", _FORMER_SEATS, HELD_PLACE),
)
_HELD: Final = (
    ("reaction", f"SELECT c.conversation_id, count(*) {_FORMER_REACTIONS} WHERE {_BY} AND {HELD_REACTION} GROUP BY 1"),
    ("membership", f"SELECT c.conversation_id, count(*) {_FORMER_SEATS} WHERE {_BY} AND {HELD_PLACE} GROUP BY 1"),
)


def keep_title(conn: apsw.Connection, num: int, at_us: int) -> None:
    """From inside the write that replaces a conversation's title: keep it if a hold covers it."""
    conn.execute(
        "INSERT INTO former_title (conversation, title, until_us) SELECT c.num, c.title, ?2 FROM conversation c"
        f" WHERE c.num = ?1 AND c.title IS NOT NULL AND {HELD_PLACE}",
        (num, at_us),
    )


def keep_reactions(
    conn: apsw.Connection, keys: Sequence[int], at_us: int, *, emoji: str | None = None, user_id: str | None = None
) -> None:
    """From inside the write that removes these reactions of messages: keep those that a hold covers."""
    conn.execute(
        "INSERT INTO former_reaction (key, emoji, user_id, at_us, until_us)"
        " SELECT r.key, r.emoji, r.user_id, r.at_us, ifnull(m.deleted_at_us, ?2) FROM json_each(?1) j"
        " JOIN reaction r ON r.key = j.value JOIN message m ON m.key = r.key JOIN conversation c ON c.num = r.key >> 32"
        f" WHERE (?3 IS NULL OR r.emoji = ?3) AND (?4 IS NULL OR r.user_id = ?4) AND {HELD_REACTION}",
        (str(list(keys)), at_us, emoji, user_id),
    )


def keep_seats(conn: apsw.Connection, seats: Sequence[int], at_us: int) -> None:
    """From inside the write that ends these memberships or changes their role: keep those that a hold covers."""
    conn.execute(
        "INSERT INTO former_seat (conversation, user_id, role, joined_at_us, read_seq, until_us)"
        " SELECT u.conversation, u.user_id, u.role, u.joined_at_us, u.read_seq, ?2 FROM json_each(?1) j"
        f" JOIN member u ON u.num = j.value JOIN conversation c ON c.num = u.conversation WHERE {HELD_PLACE}",
        (str(list(seats)), at_us),
    )


def held_former(conn: apsw.Connection, tenant_id: str, subject_id: str) -> list[tuple[str, str, int]]:
    """Return how many former reactions and seats of a person holds keep, by conversation, as (id, kind, how many)."""
    who = (tenant_id, subject_id)
    return [(str(id_), kind, int(count)) for kind, sql in _HELD for id_, count in fetch(conn, sql, who)]


def forget_former(conn: apsw.Connection, num: int, limit: int) -> bool:
    """From inside a write: delete up to `limit` of each of a conversation; say whether there may be more."""
    more = False
    for table, within, bounds in (
        ("former_title", "conversation = ?", (num,)),
        ("former_seat", "conversation = ?", (num,)),
        ("former_reaction", "key BETWEEN ? AND ?", (key_of(num, 0), key_of(num, LAST))),
    ):
        conn.execute(
            f"DELETE FROM {table} WHERE num IN (SELECT num FROM {table} WHERE {within} LIMIT ?)", (*bounds, limit)
        )
        more = more or conn.changes() >= limit
    return more


class SqliteFormer:
    """`FormerStore` over the tables `former_title`, `former_reaction` and `former_seat`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def titles(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[FormerTitle]:
        rows = self._db.read(
            f"SELECT f.num, c.conversation_id, f.title, f.until_us {_FORMER_TITLES}"
            " JOIN trace t ON t.conversation = f.conversation AND t.user_id = ?2 WHERE c.tenant_id = ?1 AND f.num > ?3"
            f" AND {held_sql('c.tenant_id', 't.user_id', 'c.conversation_id')} ORDER BY f.num LIMIT ?4",
            (tenant_id, subject_id, after, limit),
        )
        return [FormerTitle(*row) for row in rows]

    async def reactions(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[FormerReaction]:
        rows = self._db.read(
            f"SELECT r.num, r.emoji, r.at_us, r.until_us, c.conversation_id, r.key & {LAST} {_FORMER_REACTIONS}"
            f" WHERE {_BY} AND r.num > ?3 ORDER BY r.num LIMIT ?4",
            (tenant_id, subject_id, after, limit),
        )
        return [FormerReaction(*row) for row in rows]

    async def seats(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[FormerSeat]:
        rows = self._db.read(
            f"SELECT r.num, c.conversation_id, c.kind, r.role, r.joined_at_us, r.read_seq, r.until_us {_FORMER_SEATS}"
            f" WHERE {_BY} AND r.num > ?3 ORDER BY r.num LIMIT ?4",
            (tenant_id, subject_id, after, limit),
        )
        return [FormerSeat(*row) for row in rows]

    async def erase(self, tenant_id: str, subject_id: str, limit: int) -> int:
        def erase(conn: apsw.Connection) -> int:
            gone = 0
            for table, rows, held in _OF_PERSON:
                sql = f"DELETE FROM {table} WHERE num IN (SELECT r.num {rows} WHERE {_BY} AND NOT {held} LIMIT ?3)"
                conn.execute(sql, (tenant_id, subject_id, limit))
                gone += conn.changes()
            return gone

        return await self._db.write(erase)

    async def purge(self, limit: int) -> None:
        for table, sql in _SWEPT:
            place = 0
            while rows := self._db.read(sql, (place, limit)):
                place = rows[-1][0]
                if free := [num for num, held in rows if not held]:
                    await self._db.write(partial(_delete_free, table, free))
                await asyncio.sleep(0)


def _delete_free(table: str, nums: Sequence[int], conn: apsw.Connection) -> None:
    """Delete these as far as there is still no hold on them."""
    conn.executemany(f"DELETE FROM {table} WHERE num = ?", fetch(conn, _FREE[table], (str(list(nums)),)))
