"""Compliance's storage in one SQLite file: the audit log, consents, retention policies, legal holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw
import msgspec

from sealwire.adapters.embedded.audit_log import SCHEMA, SqliteAuditStore
from sealwire.adapters.embedded.audit_parking import PARKING_SCHEMA, SqliteParkingStore
from sealwire.adapters.embedded.audit_pruning import PRUNING_SCHEMA, SqliteCheckpointThinning
from sealwire.adapters.embedded.audit_witness import WITNESS_SCHEMA, SqliteCosignatureStore
from sealwire.adapters.embedded.compliance_retention import (
    FOUND_SCHEMA,
    GAPS_SCHEMA,
    RETENTION_SCHEMA,
    SqliteHoldStore,
    SqliteRunStore,
)
from sealwire.adapters.embedded.compliance_rights import (
    LISTED_SCHEMA,
    PARTS_SCHEMA,
    RIGHTS_SCHEMA,
    SPARING_SCHEMA,
    SqliteRightsStore,
)
from sealwire.adapters.embedded.disposals import DISPOSALS_LEFT, DISPOSALS_SCHEMA
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.outbox import OUTBOX_SCHEMA, POSITIONS_SCHEMA, SqliteOutbox, SqlitePositions
from sealwire.contracts.consents import Consent
from sealwire.contracts.retention_policies import RetentionPolicy
from sealwire.ports.events import NewEvent
from sealwire.services.compliance.ports import ComplianceStores

_BOOKS: Final = """
CREATE TABLE consent (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    purpose TEXT NOT NULL,
    policy_version TEXT NOT NULL,
    given_at TEXT NOT NULL,
    withdrawn_at TEXT
);
CREATE UNIQUE INDEX consent_in_force ON consent (tenant_id, subject_id, purpose) WHERE withdrawn_at IS NULL;
CREATE INDEX consent_of ON consent (tenant_id, subject_id, number);
CREATE TABLE retention_policy (
    tenant_id TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    keep_days INTEGER NOT NULL,
    action TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (tenant_id, resource_type)
) WITHOUT ROWID;
CREATE TABLE hold (
    tenant_id TEXT NOT NULL,
    hold_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at TEXT NOT NULL,
    created_by TEXT NOT NULL,
    subject_id TEXT,
    conversation_id TEXT,
    PRIMARY KEY (tenant_id, hold_id)
) WITHOUT ROWID;
CREATE INDEX hold_on_subject ON hold (tenant_id, subject_id) WHERE subject_id IS NOT NULL;
CREATE INDEX hold_on_conversation ON hold (tenant_id, conversation_id) WHERE conversation_id IS NOT NULL;
"""
_CHECKPOINT_KEYS: Final = """
CREATE TABLE checkpoint_key (
    number INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    public_key TEXT NOT NULL,
    size INTEGER NOT NULL,
    note TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (number, ordinal)
) WITHOUT ROWID;
"""
MIGRATIONS: Final = (
    SCHEMA + _BOOKS + OUTBOX_SCHEMA + POSITIONS_SCHEMA,
    PRUNING_SCHEMA + _CHECKPOINT_KEYS,
    RIGHTS_SCHEMA,
    RETENTION_SCHEMA,
    PARTS_SCHEMA,
    WITNESS_SCHEMA,
    DISPOSALS_SCHEMA + DISPOSALS_LEFT,
    GAPS_SCHEMA,
    FOUND_SCHEMA,
    SPARING_SCHEMA,
    PARKING_SCHEMA,
    LISTED_SCHEMA,
)
_IN_FORCE: Final = (
    "SELECT policy_version, given_at FROM consent"
    " WHERE tenant_id = ? AND subject_id = ? AND purpose = ? AND withdrawn_at IS NULL"
)
_WITHDRAW: Final = (
    "UPDATE consent SET withdrawn_at = ?"
    " WHERE tenant_id = ? AND subject_id = ? AND purpose = ? AND withdrawn_at IS NULL"
)


class SqliteCompliance:
    """Compliance's file. `stores` are the ports over it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.outbox = SqliteOutbox(db)
        self.stores = ComplianceStores(
            audit=SqliteAuditStore(db),
            parking=SqliteParkingStore(db),
            thinning=SqliteCheckpointThinning(db, self.outbox),
            cosignatures=SqliteCosignatureStore(db),
            consents=SqliteConsentStore(db, self.outbox),
            retention=SqliteRetentionStore(db, self.outbox),
            holds=SqliteHoldStore(db, self.outbox),
            runs=SqliteRunStore(db, self.outbox),
            rights=SqliteRightsStore(db, self.outbox),
            events=self.outbox,
            positions=SqlitePositions(db),
        )

    @classmethod
    def open(cls, path: Path) -> SqliteCompliance:
        """Open or make the file. Raises: as `Database.open`."""
        return cls(Database.open(path, MIGRATIONS))

    async def close(self) -> None:
        """Let the waiting writes become durable and close the file."""
        await self.db.close()


class SqliteConsentStore:
    """The table `consent`; at most one row in force per person and purpose, by a partial unique index."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def give(self, tenant_id: str, consent: Consent, event: NewEvent) -> Consent:
        c = consent

        def give(conn: apsw.Connection) -> Consent:
            key = (tenant_id, c.subject_id, c.purpose)
            row = conn.execute(_IN_FORCE, key).fetchone()
            if row is not None and row[0] == c.policy_version:
                return msgspec.structs.replace(c, given_at=row[1])
            conn.execute(_WITHDRAW, (c.given_at, *key))
            conn.execute(
                "INSERT INTO consent (tenant_id, subject_id, purpose, policy_version, given_at) VALUES (?, ?, ?, ?, ?)",
                (*key, c.policy_version, c.given_at),
            )
            self._outbox.append(conn, [event])
            return c

        return await self._db.write(give)

    async def withdraw(self, tenant_id: str, subject_id: str, purpose: str, at: str, event: NewEvent) -> bool:
        return await self._outbox.change(_WITHDRAW, (at, tenant_id, subject_id, purpose), event)

    async def history(
        self, tenant_id: str, subject_id: str, *, after: int, limit: int
    ) -> Sequence[tuple[int, Consent]]:
        rows = self._db.read(
            "SELECT number, purpose, policy_version, given_at, withdrawn_at FROM consent"
            " WHERE tenant_id = ? AND subject_id = ? AND number > ? ORDER BY number LIMIT ?",
            (tenant_id, subject_id, after, limit),
        )
        return [
            (n, Consent(subject_id=subject_id, purpose=p, policy_version=v, given_at=g, withdrawn_at=w))
            for n, p, v, g, w in rows
        ]


class SqliteRetentionStore:
    """The table `retention_policy`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def policies(self, tenant_id: str, *, after: str, limit: int) -> Sequence[RetentionPolicy]:
        rows = self._db.read(
            "SELECT resource_type, keep_days, action, updated_at FROM retention_policy"
            " WHERE tenant_id = ? AND resource_type > ? ORDER BY resource_type LIMIT ?",
            (tenant_id, after, limit),
        )
        return [RetentionPolicy(resource_type=r, keep_days=k, action=a, updated_at=u) for r, k, a, u in rows]

    async def set_policy(self, tenant_id: str, policy: RetentionPolicy, event: NewEvent) -> None:
        row = (tenant_id, policy.resource_type, policy.keep_days, policy.action, policy.updated_at)
        await self._outbox.change("REPLACE INTO retention_policy VALUES (?, ?, ?, ?, ?)", row, event)

    async def remove_policy(self, tenant_id: str, resource_type: str, event: NewEvent) -> bool:
        sql = "DELETE FROM retention_policy WHERE tenant_id = ? AND resource_type = ?"
        return await self._outbox.change(sql, (tenant_id, resource_type), event)
