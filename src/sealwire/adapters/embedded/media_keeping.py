"""What media keeps under legal holds and lets go by retention, in SQLite.

A file deleted under a hold has `hidden_us` set: nobody finds it, its bytes and its room stay until no hold covers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from sealwire.adapters.embedded.disposals import DISPOSALS_SCHEMA, Disposals, restricted_sql
from sealwire.adapters.embedded.drivers.sqlite import Database, fetch
from sealwire.adapters.embedded.holds import HOLDS_SCHEMA, SqliteHoldBook, held_sql
from sealwire.adapters.embedded.media_rows import read_files
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.contracts.custody import Disposed, Due, DueItem
from sealwire.kit.problem import QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.media.keeping_ports import EventOf, HoldCame, Spared
from sealwire.services.media.ports import StoredFile

KEEPING_SCHEMA: Final = (
    HOLDS_SCHEMA
    + DISPOSALS_SCHEMA
    + """
ALTER TABLE files ADD COLUMN hidden_us INTEGER;
CREATE INDEX files_hidden ON files (media_id) WHERE hidden_us IS NOT NULL;
CREATE INDEX files_by_age ON files (tenant_id, created_at_us, media_id);
CREATE INDEX files_open ON files (tenant_id, owner_id) WHERE state = 'open';
CREATE TABLE followed (feed TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""
)
_HELD: Final = held_sql("files.tenant_id", "files.owner_id", "files.conversation_id")
_KEPT: Final = f"({_HELD} OR {restricted_sql('files.tenant_id', 'files.owner_id')})"
"""What retention leaves."""
_UNDER_WAY: Final = "state NOT IN ('open', 'partial')"


_IN_FORCE: Final = "SELECT hold_id FROM legal_hold WHERE tenant_id = ? AND released_us IS NULL"
_IN: Final = "IN (SELECT value FROM json_each(?))"


def require_looked(conn: apsw.Connection, tenant_id: str, spared: Spared) -> None:
    """From inside a write. Raises: HoldCame when a hold is in force that wasn't when messaging was asked."""
    if any(hold_id not in spared.looked for (hold_id,) in fetch(conn, _IN_FORCE, (tenant_id,))):
        raise HoldCame


def hide_or_delete(conn: apsw.Connection, media_id: str, at_us: int, spared: Spared) -> bool:
    """From inside a write: delete a file, or hide it while a hold covers it; False when nobody finds it anyway.

    Raises: HoldCame.
    """
    sql = f"SELECT {_HELD}, tenant_id FROM files WHERE media_id = ? AND hidden_us IS NULL"
    row = conn.execute(sql, (media_id,)).fetchone()
    if row is None:
        return False
    require_looked(conn, str(row[1]), spared)
    if row[0] or media_id in spared.holds:
        conn.execute("UPDATE files SET hidden_us = ? WHERE media_id = ?", (at_us, media_id))
    else:
        delete(conn, media_id)
    return True


def delete(conn: apsw.Connection, media_id: str) -> None:
    """From inside a write: delete a file for good, give its room back, doom the blobs that only it named."""
    keys = conn.execute("DELETE FROM segments WHERE media_id = ? RETURNING blob_key", (media_id,)).fetchall()
    conn.executemany(
        "INSERT OR IGNORE INTO doomed SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM segments WHERE blob_key = ?1)", keys
    )
    for tenant_id, size in fetch(
        conn, 'DELETE FROM files WHERE media_id = ? RETURNING tenant_id, coalesce(length, "offset")', (media_id,)
    ):
        add_room(conn, tenant_id, -size)


def add_room(conn: apsw.Connection, tenant_id: str, size: int) -> None:
    """From inside a write: count bytes to what a tenant's files take."""
    conn.execute(
        "INSERT INTO room VALUES (?1, ?2) ON CONFLICT (tenant_id) DO UPDATE SET bytes = bytes + ?2", (tenant_id, size)
    )


def require_free_hands(
    conn: apsw.Connection, tenant_id: str, owner_id: str, length: int, most_open: int, max_open_bytes: int
) -> None:
    """Raises: QuotaExceeded when one more open upload of this length is more than one person may reserve."""
    count, reserved = fetch(
        conn,
        'SELECT count(*), ifnull(sum(coalesce(length, "offset") - "offset"), 0) FROM files'
        " WHERE tenant_id = ? AND owner_id = ? AND state = 'open'",
        (tenant_id, owner_id),
    )[0]
    if count >= most_open:
        raise QuotaExceeded(f"One person may have {most_open} unfinished uploads.", limit=most_open)
    if reserved + length > max_open_bytes:
        raise QuotaExceeded(
            f"One person's unfinished uploads may reserve {max_open_bytes} bytes.", limit_bytes=max_open_bytes
        )


class SqliteMediaKeeping:
    """`MediaKeeping` over media's file."""

    def __init__(self, db: Database, feed: SqliteOutbox) -> None:
        self._db = db
        self._feed = feed
        self._disposals = Disposals(db)
        self.holds = SqliteHoldBook(db)

    async def in_force(self, tenant_id: str) -> frozenset[str]:
        return frozenset(str(hold_id) for (hold_id,) in self._db.read(_IN_FORCE, (tenant_id,)))

    async def hidden(self, after: str, limit: int) -> Sequence[tuple[str, str, bool]]:
        rows = self._db.read(
            f"SELECT media_id, tenant_id, {_HELD} FROM files WHERE hidden_us IS NOT NULL AND media_id > ?"
            " ORDER BY media_id LIMIT ?",
            (after, limit),
        )
        return [(str(media_id), str(tenant_id), bool(held)) for media_id, tenant_id, held in rows]

    async def purge(self, tenant_id: str, media_ids: Sequence[str], *, spared: Spared) -> None:
        free = msgspec.json.encode([media_id for media_id in media_ids if media_id not in spared.holds]).decode()

        def purge(conn: apsw.Connection) -> None:
            require_looked(conn, tenant_id, spared)
            sql = f"SELECT media_id FROM files WHERE tenant_id = ? AND hidden_us IS NOT NULL AND media_id {_IN}"
            for (media_id,) in fetch(conn, f"{sql} AND NOT {_HELD}", (tenant_id, free)):
                delete(conn, media_id)

        await self._db.write(purge)

    async def due(self, tenant_id: str, before_us: int, *, after: tuple[int, str], limit: int) -> Due:
        rows = self._db.read(
            f"SELECT media_id, created_at_us, {_KEPT} FROM files WHERE tenant_id = ? AND created_at_us < ?"
            f" AND (created_at_us, media_id) > (?, ?) AND {_UNDER_WAY} ORDER BY created_at_us, media_id LIMIT ?",
            (tenant_id, before_us, *after, limit),
        )
        items = [DueItem(id=media_id, held=bool(held)) for media_id, _, held in rows]
        return Due(items=items, next_cursor=f"{rows[-1][1]}:{rows[-1][0]}" if len(rows) == limit else None)

    async def dispose(
        self, tenant_id: str, run_id: str, media_ids: Sequence[str], *, at_us: int, event: EventOf, spared: Spared
    ) -> Disposed:
        def dispose(conn: apsw.Connection, some: Sequence[str]) -> Disposed:
            require_looked(conn, tenant_id, spared)
            gone = held = 0
            events: list[NewEvent] = []
            for media_id in some:
                row = conn.execute(
                    f'SELECT {_KEPT}, owner_id, conversation_id, "offset" FROM files'
                    f" WHERE media_id = ? AND tenant_id = ? AND {_UNDER_WAY}",
                    (media_id, tenant_id),
                ).fetchone()
                if row is None:
                    continue
                if row[0] or media_id in spared.holds:
                    held += 1
                    continue
                delete(conn, media_id)
                events.append(event(media_id, row[1], row[2], row[3]))
                gone += 1
            self._feed.append(conn, events)
            return Disposed(disposed=gone, held=held, missing=len(some) - gone - held)

        return await self._disposals.dispose(run_id, media_ids, at_us, dispose)

    async def of_conversation(self, tenant_id: str, conversation_id: str, limit: int) -> Sequence[StoredFile]:
        where = "WHERE conversation_id = ? AND tenant_id = ? AND hidden_us IS NULL LIMIT ?"
        return read_files(self._db.read, where, (conversation_id, tenant_id, limit))

    async def keeps_any(self, tenant_id: str, conversation_id: str) -> bool:
        sql = "SELECT 1 FROM files WHERE conversation_id = ? AND tenant_id = ? LIMIT 1"
        return bool(self._db.read(sql, (conversation_id, tenant_id)))

    async def followed(self, feed: str) -> int:
        rows = self._db.read("SELECT number FROM followed WHERE feed = ?", (feed,))
        return int(rows[0][0]) if rows else 0

    async def follow(self, feed: str, number: int) -> None:
        sql = "REPLACE INTO followed VALUES (?, ?)"
        await self._db.write(lambda conn: conn.execute(sql, (feed, number)).fetchall())

    async def reclaim(self) -> int:
        return await self._db.reclaim()
