"""Auth's table of legacy tokens seen, in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.contracts.legacy import LegacyUse
from sealwire.services.auth.legacy_ports import LegacyCount

LEGACY_SCHEMA: Final = """
CREATE TABLE legacy_session (
    session_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    kid TEXT NOT NULL,
    first_s INTEGER NOT NULL,
    last_s INTEGER NOT NULL,
    expires_s INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX legacy_session_tenant ON legacy_session (tenant_id, last_s);
CREATE INDEX legacy_session_user ON legacy_session (user_id);
CREATE INDEX legacy_session_last ON legacy_session (last_s);
"""
SWEEP_LEGACY: Final = (
    "DELETE FROM legacy_session WHERE session_id IN (SELECT session_id FROM legacy_session WHERE last_s < ? LIMIT ?)"
)
_NOTE: Final = (
    "INSERT INTO legacy_session SELECT ?1, ?2, ?3, ?4, ?5, ?5, ?6"
    " WHERE EXISTS (SELECT 1 FROM user WHERE user_id = ?3 AND tenant_id = ?2)"
    " ON CONFLICT (session_id) DO UPDATE SET last_s = max(last_s, excluded.last_s)"
)
_COUNT: Final = """
SELECT tenant_id, count(*), count(DISTINCT user_id), sum(expires_s > :now), min(first_s), max(last_s),
       sum(CASE WHEN :refuse >= :now THEN expires_s > :refuse ELSE last_s >= :refuse END),
       count(DISTINCT CASE WHEN (CASE WHEN :refuse >= :now THEN expires_s > :refuse ELSE last_s >= :refuse END)
                           THEN user_id END)
FROM legacy_session WHERE :tenant IN ('', tenant_id) GROUP BY tenant_id ORDER BY tenant_id
"""


class SqliteLegacyStore:
    """The table `legacy_session`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def note(self, uses: Sequence[LegacyUse]) -> None:
        rows = [(u.session_id, u.tenant_id, u.user_id, u.kid, u.at_s, u.expires_at_s) for u in uses]

        def note(conn: apsw.Connection) -> None:
            conn.executemany(_NOTE, rows)

        await self._db.write(note)

    async def count(self, tenant_id: str, *, now_s: int, refuse_from_s: int) -> Sequence[LegacyCount]:
        asked = {"tenant": tenant_id, "now": now_s, "refuse": refuse_from_s}

        def count(conn: apsw.Connection) -> list[Row]:
            return conn.execute(_COUNT, asked).fetchall()

        rows = await self._db.scan(count)
        return [
            LegacyCount(
                tenant_id=str(tenant), sessions=sessions, users=users, live=live, first_s=first, last_s=last,
                refused_sessions=refused, refused_users=refused_users,
            )
            for tenant, sessions, users, live, first, last, refused, refused_users in rows
        ]  # fmt: skip
