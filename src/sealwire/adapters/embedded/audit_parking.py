"""Records that wait beside a damaged log, in compliance's file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.services.compliance.parking_ports import ParkedRecord

# AUTOINCREMENT: a number never comes again, so that what is removed up to one takes nothing that came later.
PARKING_SCHEMA: Final = """
CREATE TABLE parked (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    audit_id TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    parked_us INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX parked_id ON parked (tenant_id, audit_id);
CREATE INDEX parked_of ON parked (tenant_id, number);
"""
_PARK: Final = "INSERT INTO parked (tenant_id, audit_id, created_us, parked_us, body) VALUES (?, ?, ?, ?, ?)"
_FIND: Final = "SELECT CAST(body AS BLOB) FROM parked WHERE tenant_id = ? AND audit_id = ?"


class SqliteParkingStore:
    """`ParkingStore` in the table `parked`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def park(self, tenant_id: str, records: Sequence[ParkedRecord]) -> None:
        def park(conn: apsw.Connection) -> None:
            conn.executemany(_PARK, [(tenant_id, *record) for record in records])

        await self._db.write(park)

    async def find(self, tenant_id: str, audit_ids: Iterable[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for audit_id in audit_ids:
            rows = self._db.read(_FIND, (tenant_id, audit_id))
            if rows:
                found[audit_id] = rows[0][0]
        return found

    async def first(self, tenant_id: str, limit: int, *, after: int = 0) -> tuple[int, Sequence[ParkedRecord]]:
        rows = self._db.read(
            "SELECT number, audit_id, created_us, parked_us, CAST(body AS BLOB) FROM parked"
            " WHERE tenant_id = ? AND number > ? ORDER BY number LIMIT ?",
            (tenant_id, after, limit),
        )
        return (rows[-1][0] if rows else 0), [ParkedRecord(*row[1:]) for row in rows]

    async def remove(self, tenant_id: str, up_to: int) -> None:
        def remove(conn: apsw.Connection) -> None:
            conn.execute("DELETE FROM parked WHERE tenant_id = ? AND number <= ?", (tenant_id, up_to))

        await self._db.write(remove)

    async def counts(self) -> Mapping[str, int]:
        return dict(self._db.read("SELECT tenant_id, count(*) FROM parked GROUP BY tenant_id"))
