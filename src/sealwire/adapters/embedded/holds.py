"""Legal holds in a service's own SQLite file: read inside the write that deletes, so that a hold wins."""

from __future__ import annotations

from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.kit.clock import US_PER_S

HOLDS_SCHEMA: Final = """
CREATE TABLE legal_hold (
    tenant_id TEXT NOT NULL,
    hold_id TEXT NOT NULL,
    subject_id TEXT,
    conversation_id TEXT,
    put_us INTEGER NOT NULL,
    released_us INTEGER,
    PRIMARY KEY (tenant_id, hold_id)
) WITHOUT ROWID;
CREATE INDEX legal_hold_subject ON legal_hold (tenant_id, subject_id)
    WHERE subject_id IS NOT NULL AND released_us IS NULL;
CREATE INDEX legal_hold_conversation ON legal_hold (tenant_id, conversation_id)
    WHERE conversation_id IS NOT NULL AND released_us IS NULL;
"""
RELEASED_KEPT_US: Final = 30 * 86_400 * US_PER_S
"""How long a released hold is remembered, so that a late placement of it is recognised."""


def held_sql(tenant: str, subject: str = "NULL", conversation: str = "NULL") -> str:
    """Return the SQL condition that a hold covers a row; the arguments are column expressions, never values."""
    # Two looks at two partial indexes: SQLite takes no index for an OR over columns of which either may be NULL, and by
    # itself the primary key, which would be a look at every hold of the tenant.
    looks = [
        f"EXISTS (SELECT 1 FROM legal_hold INDEXED BY legal_hold_{kind}"
        f" WHERE released_us IS NULL AND tenant_id = {tenant} AND {kind}_id = {value})"
        for kind, value in (("subject", subject), ("conversation", conversation))
        if value != "NULL"
    ]
    return f"({' OR '.join(looks) or 'FALSE'})"


def anybody_held_sql(tenant: str, people: str) -> str:
    """Return the SQL condition that a hold covers anybody of `people`: a join of a table with `h.subject_id`.

    It reads the holds on people that are in force in the tenant, and looks each up in the table: there are few of them,
    and as many people in a conversation as there may be.
    """
    return (
        f"EXISTS (SELECT 1 FROM legal_hold h INDEXED BY legal_hold_subject CROSS JOIN {people}"
        f" WHERE h.tenant_id = {tenant} AND h.subject_id IS NOT NULL AND h.released_us IS NULL)"
    )


def tenant_held_sql(tenant: str) -> str:
    """Return the SQL condition that any hold of the tenant is in force."""
    return f"EXISTS (SELECT 1 FROM legal_hold WHERE released_us IS NULL AND tenant_id = {tenant})"


def is_held(conn: apsw.Connection, tenant_id: str, *, subject_id: str = "", conversation_id: str = "") -> bool:
    """From inside a write: say whether a hold covers this person or conversation."""
    return bool(conn.execute(f"SELECT {held_sql('?1', '?2', '?3')}", (tenant_id, subject_id, conversation_id)).get)


def is_tenant_held(conn: apsw.Connection, tenant_id: str) -> bool:
    """From inside a write: say whether any hold of the tenant is in force."""
    return bool(conn.execute(f"SELECT {tenant_held_sql('?1')}", (tenant_id,)).get)


class SqliteHoldBook:
    """`HoldBook` in the table `legal_hold`; the file's schema includes `HOLDS_SCHEMA`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def put(self, tenant_id: str, hold_id: str, *, subject_id: str, conversation_id: str, at_us: int) -> None:
        row = (tenant_id, hold_id, subject_id or None, conversation_id or None, at_us)
        if self._db.read("SELECT 1 FROM legal_hold WHERE tenant_id = ? AND hold_id = ?", row[:2]):
            return  # as mostly when it is told again
        await self._db.write(
            lambda conn: conn.execute("INSERT OR IGNORE INTO legal_hold VALUES (?, ?, ?, ?, ?, NULL)", row).fetchall()
        )

    async def release(self, tenant_id: str, hold_id: str, *, at_us: int) -> None:
        def release(conn: apsw.Connection) -> None:
            conn.execute(
                "INSERT INTO legal_hold VALUES (?1, ?2, NULL, NULL, ?3, ?3)"
                " ON CONFLICT DO UPDATE SET released_us = coalesce(released_us, ?3)",
                (tenant_id, hold_id, at_us),
            )
            conn.execute(
                "DELETE FROM legal_hold WHERE tenant_id = ? AND released_us < ?", (tenant_id, at_us - RELEASED_KEPT_US)
            )

        await self._db.write(release)

    async def covers(self, tenant_id: str, *, subject_id: str = "", conversation_id: str = "") -> bool:
        params = (tenant_id, subject_id, conversation_id)
        return bool(self._db.read(f"SELECT {held_sql('?1', '?2', '?3')}", params)[0][0])
