"""Witnesses' cosignatures in compliance's file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.services.compliance.witness_ports import StoredCosignature

WITNESS_SCHEMA: Final = """
CREATE TABLE cosignature (
    tenant_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    name TEXT NOT NULL,
    key_id BLOB NOT NULL,
    at_s INTEGER NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (tenant_id, size, name, key_id)
) WITHOUT ROWID;
"""
_ADD: Final = (
    "INSERT INTO cosignature VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
    " SET at_s = excluded.at_s, signature = excluded.signature WHERE excluded.at_s > at_s"
)


class SqliteCosignatureStore:
    """`CosignatureStore` in the table `cosignature`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, tenant_id: str, found: Sequence[StoredCosignature]) -> None:
        def add(conn: apsw.Connection) -> None:
            for c in found:
                conn.execute(_ADD, (tenant_id, c.size, c.name, c.key_id, c.at_s, c.signature))

        await self._db.write(add)

    async def under(self, tenant_id: str, size: int) -> Sequence[StoredCosignature]:
        rows = self._db.read(
            "SELECT size, name, key_id, at_s, signature FROM cosignature"
            " WHERE tenant_id = ? AND size = ? ORDER BY name, key_id",
            (tenant_id, size),
        )
        return [StoredCosignature(size=s, name=n, key_id=k, at_s=at, signature=raw) for s, n, k, at, raw in rows]

    async def last_size(self, tenant_id: str) -> int | None:
        rows = self._db.read("SELECT max(size) FROM cosignature WHERE tenant_id = ?", (tenant_id,))
        return rows[0][0] if rows else None
