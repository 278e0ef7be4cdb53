"""Auth's identities elsewhere in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.contracts.external import IdentityTaken
from sealwire.ports.events import NewEvent
from sealwire.services.auth.external_records import IdentityRecord

EXTERNAL_SCHEMA: Final = """
CREATE TABLE external_identity (
    identity_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    provider TEXT NOT NULL,
    issuer TEXT NOT NULL,
    subject_index BLOB NOT NULL,
    created_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX external_subject ON external_identity (tenant_id, subject_index);
CREATE INDEX external_user ON external_identity (user_id, created_us);

CREATE TABLE external_spent (
    flow_id TEXT PRIMARY KEY,
    until_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX external_spent_age ON external_spent (until_us);
"""
_IDENTITY: Final = "identity_id, tenant_id, user_id, provider, issuer, subject_index, created_us"


class SqliteIdentityStore:
    """The tables `external_identity` and `external_spent`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def find(self, tenant_id: str, subject_index: bytes) -> IdentityRecord | None:
        rows = self._db.read(
            f"SELECT {_IDENTITY} FROM external_identity WHERE tenant_id = ? AND subject_index = ?",
            (tenant_id, subject_index),
        )
        return _identity_of(rows[0]) if rows else None

    async def of(self, user_id: str) -> Sequence[IdentityRecord]:
        rows = self._db.read(
            f"SELECT {_IDENTITY} FROM external_identity WHERE user_id = ? ORDER BY created_us", (user_id,)
        )
        return [_identity_of(row) for row in rows]

    async def add(self, identity: IdentityRecord, events: Sequence[NewEvent]) -> None:
        def add(conn: apsw.Connection) -> None:
            rows: list[Row] = conn.execute(
                "SELECT user_id FROM external_identity WHERE tenant_id = ? AND subject_index = ?",
                (identity.tenant_id, identity.subject_index),
            ).fetchall()
            if rows and rows[0][0] == identity.user_id:
                return
            insert_identity(conn, identity)
            self._outbox.append(conn, events)

        await self._db.write(add)

    async def remove(self, user_id: str, identity_id: str, events: Sequence[NewEvent]) -> bool:
        def remove(conn: apsw.Connection) -> bool:
            conn.execute("DELETE FROM external_identity WHERE identity_id = ? AND user_id = ?", (identity_id, user_id))
            if not conn.changes():
                return False
            self._outbox.append(conn, events)
            return True

        return await self._db.write(remove)

    async def spend(self, flow_id: str, until_us: int) -> bool:
        def spend(conn: apsw.Connection) -> bool:
            conn.execute("INSERT OR IGNORE INTO external_spent VALUES (?, ?)", (flow_id, until_us))
            return conn.changes() > 0

        return await self._db.write(spend)


def insert_identity(conn: apsw.Connection, identity: IdentityRecord) -> None:
    """From inside a write: store an identity. Raises: IdentityTaken."""
    i = identity
    try:
        conn.execute(
            f"INSERT INTO external_identity ({_IDENTITY}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (i.identity_id, i.tenant_id, i.user_id, i.provider, i.issuer, i.subject_index, i.created_us),
        )
    except apsw.ConstraintError as error:
        raise IdentityTaken("Sign in by it, or unlink it there first.") from error


def _identity_of(row: Row) -> IdentityRecord:
    identity_id, tenant_id, user_id, provider, issuer, subject_index, created_us = row
    return IdentityRecord(
        identity_id=identity_id,
        tenant_id=tenant_id,
        user_id=user_id,
        provider=provider,
        issuer=issuer,
        subject_index=subject_index,
        created_us=created_us,
    )
