"""Files and their segments in media's own SQLite file; the bytes are blobs elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from sealwire.adapters.embedded.disposals import DISPOSALS_LEFT
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.media_keeping import (
    KEEPING_SCHEMA,
    SqliteMediaKeeping,
    add_room,
    hide_or_delete,
    require_free_hands,
)
from sealwire.adapters.embedded.media_rows import FILE_COLUMNS, Rows, read_files
from sealwire.adapters.embedded.media_subjects import SUBJECT_SCHEMA, SqliteMediaSubjects, refuse_marked
from sealwire.adapters.embedded.outbox import OUTBOX_SCHEMA, POSITIONS_SCHEMA, SqliteOutbox
from sealwire.kit.problem import QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.media.keeping_ports import Spared
from sealwire.services.media.model import FileState
from sealwire.services.media.ports import StoredFile, StoredSegment

MIGRATIONS: Final = (
    f"""
    CREATE TABLE files (
        media_id TEXT PRIMARY KEY,
        tenant_id TEXT NOT NULL,
        owner_id TEXT NOT NULL,
        conversation_id TEXT,
        state TEXT NOT NULL,
        partial INTEGER NOT NULL,
        length INTEGER,
        "offset" INTEGER NOT NULL,
        meta BLOB NOT NULL,
        facts BLOB NOT NULL,
        parts BLOB NOT NULL,
        created_at_us INTEGER NOT NULL,
        expires_at_us INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX files_by_expiry ON files (expires_at_us) WHERE expires_at_us IS NOT NULL;
    CREATE INDEX files_scanning ON files (media_id) WHERE state = 'scanning';
    CREATE INDEX files_by_owner ON files (tenant_id, owner_id);
    CREATE INDEX files_by_conversation ON files (conversation_id) WHERE conversation_id IS NOT NULL;
    CREATE TABLE segments (
        media_id TEXT NOT NULL REFERENCES files,
        start INTEGER NOT NULL,
        length INTEGER NOT NULL,
        blob_key TEXT NOT NULL,
        header BLOB NOT NULL,
        origin_id TEXT NOT NULL,
        origin_start INTEGER NOT NULL,
        scope TEXT NOT NULL,
        PRIMARY KEY (media_id, start, blob_key)
    ) WITHOUT ROWID;
    CREATE INDEX segments_by_blob ON segments (blob_key);
    CREATE TABLE doomed (blob_key TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE room (tenant_id TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
    {OUTBOX_SCHEMA}
    {POSITIONS_SCHEMA}
    """,
    KEEPING_SCHEMA,
    SUBJECT_SCHEMA,
    DISPOSALS_LEFT,
)

_SEGMENT = "start, length, blob_key, header, origin_id, origin_start, scope"
_encode = msgspec.json.Encoder().encode


class SqliteMediaStore:
    """`MediaStore` over one file opened with `MIGRATIONS`. `feed` carries its events."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.feed = SqliteOutbox(db)
        self.keeping = SqliteMediaKeeping(db, self.feed)
        self.subjects = SqliteMediaSubjects(db, self.feed)

    async def create(
        self, file: StoredFile, *, max_tenant_bytes: int, most_open: int, max_open_bytes: int, event: NewEvent
    ) -> None:
        def create(conn: apsw.Connection) -> None:
            require_free_hands(conn, file.tenant_id, file.owner_id, file.length or 0, most_open, max_open_bytes)
            _take_room(conn, file.tenant_id, file.length or 0, max_tenant_bytes)
            _insert(conn, file)
            self.feed.append(conn, (event,))

        await self._db.write(create)

    async def join(self, file: StoredFile, *, event: NewEvent, max_tenant_bytes: int) -> bool:
        def join(conn: apsw.Connection) -> bool:
            pieces: list[StoredSegment] = []
            at = 0
            for part_id in file.parts:
                part = _file(_on(conn), file.tenant_id, part_id)
                if part is None or part.state is not FileState.PARTIAL or part.owner_id != file.owner_id:
                    return False
                pieces += [
                    msgspec.structs.replace(piece, start=at + piece.start) for piece in _segments(_on(conn), part_id)
                ]
                at += part.offset
            _take_room(conn, file.tenant_id, at, max_tenant_bytes)
            _insert(conn, msgspec.structs.replace(file, length=at, offset=at))
            _insert_segments(conn, file.media_id, pieces)
            self.feed.append(conn, (event,))
            return True

        return await self._db.write(join)

    async def tell(self, event: NewEvent) -> None:
        await self._db.write(lambda conn: self.feed.append(conn, (event,)))

    async def file(self, tenant_id: str, media_id: str) -> StoredFile | None:
        return _file(self._db.read, tenant_id, media_id)

    async def files(self, tenant_id: str, media_ids: Sequence[str]) -> list[StoredFile]:
        marks = ",".join("?" * len(media_ids))
        where = f"WHERE tenant_id = ? AND media_id IN ({marks}) AND hidden_us IS NULL"
        return read_files(self._db.read, where, (tenant_id, *media_ids))

    async def segments(self, media_id: str) -> list[StoredSegment]:
        return _segments(self._db.read, media_id)

    async def set_length(
        self, media_id: str, length: int, *, max_tenant_bytes: int, most_open: int, max_open_bytes: int
    ) -> bool:
        def set_length(conn: apsw.Connection) -> bool:
            rows = conn.execute(
                'UPDATE files SET length = ?1 WHERE media_id = ?2 AND length IS NULL AND "offset" <= ?1'
                ' RETURNING tenant_id, owner_id, "offset"',
                (length, media_id),
            ).fetchall()
            for tenant_id, owner_id, offset in rows:
                require_free_hands(conn, str(tenant_id), str(owner_id), 0, most_open + 1, max_open_bytes)
                _take_room(conn, str(tenant_id), length - int(offset), max_tenant_bytes)  # type: ignore[arg-type]  # an INTEGER column
            return bool(rows)

        return await self._db.write(set_length)

    async def append(
        self,
        media_id: str,
        *,
        offset: int,
        segments: Sequence[StoredSegment],
        state: FileState,
        facts: bytes,
        expires_at_us: int | None,
        events: Sequence[NewEvent],
    ) -> bool:
        added = sum(segment.length for segment in segments)

        def append(conn: apsw.Connection) -> bool:
            rows = conn.execute(
                'UPDATE files SET "offset" = "offset" + ?, state = ?, facts = ?, expires_at_us = ?'
                " WHERE media_id = ? AND state = 'open' AND hidden_us IS NULL AND \"offset\" = ?"
                " RETURNING tenant_id, length",
                (added, state.value, facts, expires_at_us, media_id, offset),
            ).fetchall()
            if not rows:
                return False
            if rows[0][1] is None:
                add_room(conn, str(rows[0][0]), added)
            _insert_segments(conn, media_id, segments)
            if events:
                self.feed.append(conn, events)
            return True

        return await self._db.write(append)

    async def conclude(self, media_id: str, *, state: FileState, facts: bytes, event: NewEvent) -> bool:
        def conclude(conn: apsw.Connection) -> bool:
            conn.execute(
                "UPDATE files SET state = ?, facts = ? WHERE media_id = ? AND state = 'scanning'",
                (state.value, facts, media_id),
            )
            if not conn.changes():
                return False
            self.feed.append(conn, (event,))
            return True

        return await self._db.write(conclude)

    async def delete(self, media_id: str, *, event: NewEvent, spared: Spared) -> bool:
        def delete(conn: apsw.Connection) -> bool:
            if not hide_or_delete(conn, media_id, event.at_us, spared):
                return False
            self.feed.append(conn, (event,))
            return True

        return await self._db.write(delete)

    async def expired(self, now_us: int, limit: int) -> list[StoredFile]:
        where = "WHERE expires_at_us <= ? AND hidden_us IS NULL ORDER BY expires_at_us LIMIT ?"
        return read_files(self._db.read, where, (now_us, limit))

    async def scanning(self, after: str, limit: int) -> list[StoredFile]:
        where = "WHERE state = 'scanning' AND media_id > ? AND hidden_us IS NULL ORDER BY media_id LIMIT ?"
        return read_files(self._db.read, where, (after, limit))

    async def doomed(self, limit: int) -> list[str]:
        return [key for (key,) in self._db.read("SELECT blob_key FROM doomed LIMIT ?", (limit,))]

    async def buried(self, blob_keys: Sequence[str]) -> None:
        rows = [(key,) for key in blob_keys]
        await self._db.write(lambda conn: conn.executemany("DELETE FROM doomed WHERE blob_key = ?", rows).fetchall())

    async def trim(self, before_us: int) -> None:
        await self.feed.trim(before_us=before_us)

    async def unknown(self, blob_keys: Sequence[str]) -> list[str]:
        known = "SELECT 1 FROM segments WHERE blob_key = ? LIMIT 1"
        return [key for key in blob_keys if not self._db.read(known, (key,))]

    async def check(self) -> None:
        self._db.read("SELECT 1 FROM files LIMIT 1")


def _on(conn: apsw.Connection) -> Rows:
    return lambda sql, params: conn.execute(sql, params).fetchall()


def _take_room(conn: apsw.Connection, tenant_id: str, size: int, limit: int) -> None:
    """Raises: QuotaExceeded."""
    taken = conn.execute("SELECT bytes FROM room WHERE tenant_id = ?", (tenant_id,)).get or 0
    if int(taken) + size > limit:
        raise QuotaExceeded(f"The tenant's files may take {limit} bytes.", limit_bytes=limit)
    add_room(conn, tenant_id, size)


def _insert(conn: apsw.Connection, file: StoredFile) -> None:
    refuse_marked(conn, file.tenant_id, file.owner_id)
    conn.execute(
        f"INSERT INTO files ({FILE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            file.media_id,
            file.tenant_id,
            file.owner_id,
            file.conversation_id,
            file.state.value,
            file.partial,
            file.length,
            file.offset,
            file.meta,
            file.facts,
            _encode(file.parts),
            file.created_at_us,
            file.expires_at_us,
        ),
    )


def _insert_segments(conn: apsw.Connection, media_id: str, segments: Sequence[StoredSegment]) -> None:
    conn.executemany(
        f"INSERT INTO segments (media_id, {_SEGMENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(media_id, s.start, s.length, s.blob_key, s.header, s.origin_id, s.origin_start, s.scope) for s in segments],
    )


def _file(rows: Rows, tenant_id: str, media_id: str) -> StoredFile | None:
    found = read_files(rows, "WHERE media_id = ? AND tenant_id = ? AND hidden_us IS NULL", (media_id, tenant_id))
    return found[0] if found else None


def _segments(rows: Rows, media_id: str) -> list[StoredSegment]:
    sql = f"SELECT {_SEGMENT} FROM segments WHERE media_id = ? ORDER BY start, length"
    return [
        StoredSegment(
            start=start,
            length=length,
            blob_key=blob_key,
            header=header,
            origin_id=origin_id,
            origin_start=origin_start,
            scope=scope,
        )
        for start, length, blob_key, header, origin_id, origin_start, scope in rows(sql, (media_id,))
    ]
