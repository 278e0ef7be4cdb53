"""The files of one person, in SQLite: found by their owner, deleted where no hold keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw
import msgspec

from sealwire.adapters.embedded.drivers.sqlite import Database, fetch
from sealwire.adapters.embedded.holds import held_sql, is_held
from sealwire.adapters.embedded.media_keeping import delete, require_looked
from sealwire.adapters.embedded.media_rows import read_files
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.contracts.custody import ProcessingRestricted
from sealwire.contracts.holds import LegalHold
from sealwire.kit.files import count_in_files
from sealwire.services.media.keeping_ports import EventOf, Spared
from sealwire.services.media.model import PERSONAL
from sealwire.services.media.subject_ports import OwnedFile

SUBJECT_SCHEMA: Final = """
CREATE TABLE subject_mark (
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    mark TEXT NOT NULL,
    PRIMARY KEY (tenant_id, subject_id)
) WITHOUT ROWID;
"""
_HELD: Final = held_sql("files.tenant_id", "files.owner_id", "files.conversation_id")


def refuse_marked(conn: apsw.Connection, tenant_id: str, owner_id: str) -> None:
    """From inside a write. Raises: ProcessingRestricted for a person who is erased or restricted."""
    if conn.execute("SELECT 1 FROM subject_mark WHERE tenant_id = ? AND subject_id = ?", (tenant_id, owner_id)).get:
        raise ProcessingRestricted("The data of this person is kept, and not processed.")


class SqliteMediaSubjects:
    """`services.media.subject_ports.MediaSubjects` over media's file."""

    def __init__(self, db: Database, feed: SqliteOutbox) -> None:
        self._db = db
        self._feed = feed

    async def restrict(self, tenant_id: str, subject_id: str, restricted: bool) -> None:
        sql = "DELETE FROM subject_mark WHERE tenant_id = ? AND subject_id = ? AND mark = 'restricted'"
        if restricted:
            sql = "INSERT OR IGNORE INTO subject_mark VALUES (?, ?, 'restricted')"
        await self._db.write(lambda conn: conn.execute(sql, (tenant_id, subject_id)).fetchall())

    async def require_free(self, tenant_id: str, subject_id: str) -> None:
        await self._db.write(lambda conn: _refuse_held(conn, tenant_id, subject_id))

    async def owned(self, tenant_id: str, subject_id: str, after: str, limit: int) -> Sequence[str]:
        sql = (
            "SELECT media_id FROM files WHERE tenant_id = ? AND owner_id = ? AND media_id > ? ORDER BY media_id LIMIT ?"
        )
        return [str(media_id) for (media_id,) in self._db.read(sql, (tenant_id, subject_id, after, limit))]

    async def file(self, tenant_id: str, subject_id: str, media_id: str) -> OwnedFile | None:
        who = (media_id, tenant_id, subject_id)
        where = "WHERE media_id = ? AND tenant_id = ? AND owner_id = ?"
        hidden = self._db.read(f"SELECT hidden_us FROM files {where}", who)
        return OwnedFile(read_files(self._db.read, where, who)[0], hidden[0][0]) if hidden else None

    async def free(self, tenant_id: str, subject_id: str, after: str, limit: int) -> Sequence[str]:
        rows = self._db.read(
            f"SELECT media_id FROM files WHERE tenant_id = ? AND owner_id = ? AND media_id > ? AND NOT {_HELD}"
            " ORDER BY media_id LIMIT ?",
            (tenant_id, subject_id, after, limit),
        )
        return [str(media_id) for (media_id,) in rows]

    async def erase(
        self, tenant_id: str, subject_id: str, media_ids: Sequence[str], event: EventOf, *, spared: Spared
    ) -> int:
        free = msgspec.json.encode([media_id for media_id in media_ids if media_id not in spared.holds]).decode()

        def erase(conn: apsw.Connection) -> int:
            _refuse_held(conn, tenant_id, subject_id)
            require_looked(conn, tenant_id, spared)
            conn.execute("REPLACE INTO subject_mark VALUES (?, ?, 'erased')", (tenant_id, subject_id))
            rows = fetch(
                conn,
                'SELECT media_id, conversation_id, "offset" FROM files WHERE tenant_id = ? AND owner_id = ?'
                f" AND NOT {_HELD} AND media_id IN (SELECT value FROM json_each(?))",
                (tenant_id, subject_id, free),
            )
            for media_id, conversation_id, size_bytes in rows:
                delete(conn, media_id)
                self._feed.append(conn, [event(media_id, subject_id, conversation_id, size_bytes)])
            return len(rows)

        return await self._db.write(erase)

    async def held(self, tenant_id: str, subject_id: str) -> int:
        sql = f"SELECT count(*) FROM files WHERE tenant_id = ? AND owner_id = ? AND {_HELD}"
        return int(self._db.read(sql, (tenant_id, subject_id))[0][0])

    async def scopes(self, media_ids: Sequence[str]) -> Sequence[str]:
        rows = self._db.read(
            "SELECT s.scope FROM segments s JOIN json_each(?1) j ON s.media_id = j.value UNION"
            f" SELECT ifnull(f.conversation_id, '{PERSONAL}') FROM files f JOIN json_each(?1) j ON f.media_id = j.value"
            " ORDER BY 1",
            (msgspec.json.encode(list(media_ids)).decode(),),
        )
        return [str(scope) for (scope,) in rows]

    async def count_in_files(self, texts: Sequence[bytes]) -> int:
        path = self._db.path
        files = [path, path.with_name(path.name + "-wal"), Path(path.parent / "blobs")]
        return await asyncio.to_thread(count_in_files, files, texts)

    async def compact(self) -> None:
        while await self._db.reclaim():  # in small steps first: writers wait for the last one only
            pass
        await self._db.compact()


def _refuse_held(conn: apsw.Connection, tenant_id: str, subject_id: str) -> None:
    """Raises: LegalHold."""
    if is_held(conn, tenant_id, subject_id=subject_id):
        raise LegalHold("A legal hold covers this person.")
