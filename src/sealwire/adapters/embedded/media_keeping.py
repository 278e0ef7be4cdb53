"""What media keeps under legal holds and lets go by retention, in SQLite.

A file deleted under a hold has `hidden_us` set: nobody finds it, its bytes and its room stay until no hold covers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.disposals import DISPOSALS_SCHEMA, Disposals, restricted_sql
from sealwire.adapters.embedded.drivers.sqlite import Database, fetch
from sealwire.adapters.embedded.holds import HOLDS_SCHEMA, SqliteHoldBook, held_sql
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.contracts.custody import Disposed, Due, DueItem
from sealwire.kit.problem import QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.media.keeping_ports import EventOf

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


def hide_or_delete(conn: apsw.Connection, media_id: str, at_us: int) -> bool:
    """From inside a write: delete a file, or hide it while a hold covers it; False when nobody finds it anyway."""
    row = conn.execute(f"SELECT {_HELD} FROM files WHERE media_id = ? AND hidden_us IS NULL", (media_id,)).fetchone()
    if row is None:
        return False
    if row[0]:
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

    async def purge_released(self, after: str, limit: int) -> str:
        rows = self._db.read(
            f"SELECT media_id, {_HELD} FROM files WHERE hidden_us IS NOT NULL AND media_id > ?"
            " ORDER BY media_id LIMIT ?",
            (after, limit),
        )
        free = [media_id for media_id, held in rows if not held]

        def purge(conn: apsw.Connection) -> None:
            for media_id in free:
                sql = f"SELECT 1 FROM files WHERE media_id = ? AND hidden_us IS NOT NULL AND NOT {_HELD}"
                if conn.execute(sql, (media_id,)).get:
                    delete(conn, media_id)

        if free:
            await self._db.write(purge)
        return str(rows[-1][0]) if rows else ""

    async def due(self, tenant_id: str, before_us: int, *, after: tuple[int, str], limit: int) -> Due:
        rows = self._db.read(
            f"SELECT media_id, created_at_us, {_KEPT} FROM files WHERE tenant_id = ? AND created_at_us < ?"
            f" AND (created_at_us, media_id) > (?, ?) AND {_UNDER_WAY} ORDER BY created_at_us, media_id LIMIT ?",
            (tenant_id, before_us, *after, limit),
        )
        items = [DueItem(id=media_id, held=bool(held)) for media_id, _, held in rows]
        return Due(items=items, next_cursor=f"{rows[-1][1]}:{rows[-1][0]}" if len(rows) == limit else None)

    async def dispose(
        self, tenant_id: str, run_id: str, media_ids: Sequence[str], *, at_us: int, event: EventOf
    ) -> Disposed:
        def dispose(conn: apsw.Connection, some: Sequence[str]) -> Disposed:
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
                if row[0]:
                    held += 1
                    continue
                delete(conn, media_id)
                events.append(event(media_id, row[1], row[2], row[3]))
                gone += 1
            self._feed.append(conn, events)
            return Disposed(disposed=gone, held=held, missing=len(some) - gone - held)

        return await self._disposals.dispose(run_id, media_ids, at_us, dispose)

    async def forget_conversation(
        self, tenant_id: str, conversation_id: str, *, at_us: int, limit: int, event: EventOf
    ) -> int:
        def forget(conn: apsw.Connection) -> int:
            rows = fetch(
                conn,
                'SELECT media_id, owner_id, "offset" FROM files WHERE conversation_id = ? AND tenant_id = ?'
                " AND hidden_us IS NULL LIMIT ?",
                (conversation_id, tenant_id, limit),
            )
            for media_id, owner_id, size in rows:
                hide_or_delete(conn, media_id, at_us)
                self._feed.append(conn, [event(media_id, owner_id, conversation_id, size)])
            return len(rows)

        return await self._db.write(forget)

    async def followed(self, feed: str) -> int:
        rows = self._db.read("SELECT number FROM followed WHERE feed = ?", (feed,))
        return int(rows[0][0]) if rows else 0

    async def follow(self, feed: str, number: int) -> None:
        sql = "REPLACE INTO followed VALUES (?, ?)"
        await self._db.write(lambda conn: conn.execute(sql, (feed, number)).fetchall())

    async def reclaim(self) -> int:
        return await self._db.reclaim()
