"""What is wrapped under a key that isn't the newest any more: found in parts, and replaced only while unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, fetch_value
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.kit.ids import new_id
from sealwire.ports.events import NewEvent
from sealwire.services.crypto.events import KeyEvent, encode_event
from sealwire.services.crypto.ports import MASTER, Rewrap, WrappedItem

REWRAPS_SCHEMA: Final = "CREATE INDEX data_keys_by_key ON data_keys (key_id, version);"

_NEWEST = "(SELECT max(version) FROM versions AS n WHERE n.key_id = {})"
_MASTERS = f"FROM keys AS k JOIN versions AS v USING (key_id) WHERE k.purpose = '{MASTER}' AND v.wrapped IS NOT NULL"
_STALE_VERSIONS = (
    "FROM keys AS m JOIN keys AS k ON k.tenant_id = m.tenant_id JOIN versions AS v ON v.key_id = k.key_id"
    f" WHERE m.purpose = '{MASTER}' AND m.tenant_id = ? AND k.purpose != '{MASTER}' AND v.wrapped IS NOT NULL"
    f" AND v.master_version < {_NEWEST.format('m.key_id')}"
)
_STALE_DATA_KEYS = (
    "FROM keys AS k JOIN data_keys AS d ON d.key_id = k.key_id WHERE k.tenant_id = ? AND k.purpose LIKE 'system:%'"
    f" AND d.wrapped IS NOT NULL AND d.version < {_NEWEST.format('k.key_id')}"
)
Row = tuple[Any, ...]


class SqliteRewraps:
    """`RewrapStore` over crypto's file."""

    def __init__(self, db: Database, feed: SqliteOutbox) -> None:
        self._db = db
        self._feed = feed

    async def tenants(self, *, after: str, limit: int) -> list[str]:
        rows = self._db.read(
            "SELECT tenant_id FROM keys WHERE purpose = ? AND tenant_id > ? ORDER BY tenant_id LIMIT ?",
            (MASTER, after, limit),
        )
        return [tenant_id for (tenant_id,) in rows]

    async def masters(self, *, not_under: str, after: tuple[str, int], limit: int) -> list[WrappedItem]:
        rows = self._db.read(
            f"SELECT k.key_id, v.version, k.tenant_id, v.wrapped, v.kek_id {_MASTERS}"
            " AND v.kek_id != ? AND (k.key_id, v.version) > (?, ?) ORDER BY k.key_id, v.version LIMIT ?",
            (not_under, *after, limit),
        )
        return [
            WrappedItem(kind="master", id=key_id, version=version, tenant_id=tenant_id, wrapped=wrapped, under=kek_id)
            for key_id, version, tenant_id, wrapped, kek_id in rows
        ]

    async def count_masters(self, *, not_under: str) -> int:
        return await self._db.scan(
            lambda conn: int(fetch_value(conn, f"SELECT count(*) {_MASTERS} AND v.kek_id != ?", (not_under,)))
        )

    async def stale(self, tenant_id: str, *, limit: int) -> list[WrappedItem]:
        versions = self._db.read(
            f"SELECT v.key_id, v.version, k.key_type, k.purpose, v.wrapped, v.master_version {_STALE_VERSIONS} LIMIT ?",
            (tenant_id, limit),
        )
        found = [
            WrappedItem(
                kind="key", id=key_id, version=version, tenant_id=tenant_id, key_type=key_type, purpose=purpose,
                wrapped=wrapped, under=str(master_version),
            )
            for key_id, version, key_type, purpose, wrapped, master_version in versions
        ]  # fmt: skip
        data_keys = self._db.read(
            "SELECT d.data_key_id, d.version, d.key_id, d.service, d.context_digest, d.wrapped"
            f" {_STALE_DATA_KEYS} LIMIT ?",
            (tenant_id, limit - len(found)),
        )
        found += [
            WrappedItem(
                kind="data_key", id=data_key_id, version=version, tenant_id=tenant_id, purpose=service, wrapped=wrapped,
                under=key_id, context_digest=digest,
            )
            for data_key_id, version, key_id, service, digest, wrapped in data_keys
        ]  # fmt: skip
        return found

    async def count_stale(self, tenant_id: str) -> int:
        sql = f"SELECT (SELECT count(*) {_STALE_VERSIONS}) + (SELECT count(*) {_STALE_DATA_KEYS})"
        return await self._db.scan(lambda conn: int(fetch_value(conn, sql, (tenant_id, tenant_id))))

    async def replace(self, rewraps: Sequence[Rewrap], events: Sequence[KeyEvent]) -> int:
        def replace(conn: apsw.Connection) -> int:
            moved = sum(_replace(conn, rewrap) for rewrap in rewraps)
            if moved:
                self._feed.append(conn, new_events(events))
            return moved

        return await self._db.write(replace)


def new_events(events: Sequence[KeyEvent]) -> list[NewEvent]:
    """Return crypto's events as its outbox takes them."""
    return [
        NewEvent(event_id=new_id(), tenant_id=e.tenant_id, kind=e.action, at_us=e.at_us, data=encode_event(e))
        for e in events
    ]


def _replace(conn: apsw.Connection, rewrap: Rewrap) -> int:
    """Put a wrapped form in place of the one it was made from; destroyed or moved meanwhile, nothing happens."""
    item = rewrap.item
    if item.kind == "data_key":
        conn.execute(
            "UPDATE data_keys SET wrapped = ?, version = ? WHERE data_key_id = ? AND version = ? AND wrapped = ?",
            (rewrap.wrapped, int(rewrap.under), item.id, item.version, item.wrapped),
        )
    else:
        column = "kek_id" if item.kind == "master" else "master_version"
        conn.execute(
            f"UPDATE versions SET wrapped = ?, {column} = ? WHERE key_id = ? AND version = ? AND wrapped = ?",
            (rewrap.wrapped, rewrap.under, item.id, item.version, item.wrapped),
        )
    return conn.changes()
