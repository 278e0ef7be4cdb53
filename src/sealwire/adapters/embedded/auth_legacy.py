"""Auth's table of legacy tokens seen, in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.contracts.legacy import LegacyUse
from sealwire.services.auth.legacy_ports import LegacyCount
from sealwire.services.auth.records import Reason

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
# A token that was used after its person's sessions ended was issued after that; a revocation outlives every token that
# it ends. With another e-mail address the token speaks of nobody.
_COUNT: Final = """
WITH ended AS MATERIALIZED (SELECT session_id FROM revocation WHERE kind = 'session'),
cut AS MATERIALIZED (
    SELECT subject, max(at_us) / 1000000 AS at_s FROM revocation
    WHERE kind = 'subject' OR kind = 'role' AND reason = :moved GROUP BY subject
),
closed AS MATERIALIZED (
    SELECT tenant_id, max(at_us) / 1000000 AS at_s FROM revocation WHERE kind = 'tenant' GROUP BY tenant_id
),
seen AS (
    SELECT l.*, l.expires_s > :now AND l.session_id NOT IN ended
                AND l.last_s > coalesce(cut.at_s, 0) AND l.last_s > coalesce(closed.at_s, 0) AS lives
    FROM legacy_session l LEFT JOIN cut ON cut.subject = l.user_id LEFT JOIN closed ON closed.tenant_id = l.tenant_id
    WHERE :tenant IN ('', l.tenant_id)
),
judged AS (
    SELECT *, CASE WHEN :refuse >= :now THEN lives AND expires_s > :refuse ELSE last_s >= :refuse END AS stopped
    FROM seen
)
SELECT tenant_id, count(*), count(DISTINCT user_id), sum(lives), min(first_s), max(last_s), sum(stopped),
       count(DISTINCT CASE WHEN stopped THEN user_id END)
FROM judged GROUP BY tenant_id ORDER BY tenant_id
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
        asked = {"tenant": tenant_id, "now": now_s, "refuse": refuse_from_s, "moved": Reason.EMAIL.value}

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
