"""Sessions that are over: what retention lists and takes of them, in auth's SQLite file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.disposals import DISPOSALS_SCHEMA, Disposals
from sealwire.adapters.embedded.drivers.sqlite import Database, fetch
from sealwire.adapters.embedded.holds import held_sql
from sealwire.contracts.custody import Disposed, Due, DueItem

SESSIONS_SCHEMA: Final = DISPOSALS_SCHEMA + "CREATE INDEX session_of_tenant ON session (tenant_id, session_id);"
HELD_SESSION: Final = held_sql("session.tenant_id", "session.user_id")
HELD_KEY: Final = held_sql("api_key.tenant_id", "api_key.owner_id")
OVER: Final = "(ended_us > 0 AND ended_us < ?2 OR ended_us = 0 AND expires_us < ?2)"


class SqliteSessionKeeping:
    """`SessionKeeping` over the table `session`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._disposals = Disposals(db)

    async def due(self, tenant_id: str, before_us: int, *, after: str, limit: int) -> Due:
        sql = (
            f"SELECT session_id, {HELD_SESSION} FROM session WHERE tenant_id = ?1 AND session_id > ?3 AND {OVER}"
            " ORDER BY session_id LIMIT ?4"
        )
        # In a thread: most sessions of a tenant may be looked at, and none be over.
        rows = await self._db.scan(lambda conn: fetch(conn, sql, (tenant_id, before_us, after, limit)))
        items = [DueItem(id=session_id, held=bool(held)) for session_id, held in rows]
        return Due(items=items, next_cursor=items[-1].id if len(items) == limit else None)

    async def dispose(self, tenant_id: str, run_id: str, session_ids: Sequence[str], *, at_us: int) -> Disposed:
        def dispose(conn: apsw.Connection, some: Sequence[str]) -> Disposed:
            gone = held = 0
            for session_id in some:
                rows = fetch(
                    conn,
                    f"SELECT {HELD_SESSION} FROM session WHERE tenant_id = ?1 AND session_id = ?3 AND {OVER}",
                    (tenant_id, at_us, session_id),
                )
                if rows and rows[0][0]:
                    held += 1
                elif rows:
                    conn.execute("DELETE FROM session WHERE session_id = ?", (session_id,))
                    gone += 1
            return Disposed(disposed=gone, held=held, missing=len(some) - gone - held)

        return await self._disposals.dispose(run_id, session_ids, at_us, dispose)

    async def reclaim(self) -> int:
        return await self._db.reclaim()
