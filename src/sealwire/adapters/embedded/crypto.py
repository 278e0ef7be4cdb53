"""Keys in crypto's own SQLite file: wrapped bytes only, each change in one transaction with its event."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import apsw
import msgspec

from sealwire.adapters.embedded.crypto_rewraps import REWRAPS_SCHEMA, SqliteRewraps, new_events
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.holds import HOLDS_SCHEMA, SqliteHoldBook, held_sql, is_tenant_held, tenant_held_sql
from sealwire.adapters.embedded.outbox import OUTBOX_SCHEMA, POSITIONS_SCHEMA, SqliteOutbox
from sealwire.contracts.crypto_terms import KeyDamaged
from sealwire.contracts.holds import LegalHold
from sealwire.kit.problem import QuotaExceeded
from sealwire.services.crypto.events import KeyEvent
from sealwire.services.crypto.model import KeyState, Life
from sealwire.services.crypto.ports import MASTER, StoredDataKey, StoredKey, StoredVersion

MIGRATIONS: Final = (
    f"""
    CREATE TABLE keys (
        key_id TEXT PRIMARY KEY,
        tenant_id TEXT NOT NULL,
        key_type TEXT NOT NULL,
        purpose TEXT NOT NULL,
        name TEXT,
        state TEXT NOT NULL,
        destroy_at_us INTEGER,
        created_at_us INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX keys_by_tenant ON keys (tenant_id, key_id);
    CREATE INDEX keys_due ON keys (destroy_at_us) WHERE destroy_at_us IS NOT NULL;
    CREATE UNIQUE INDEX keys_by_name ON keys (tenant_id, purpose, name) WHERE purpose != 'tenant';
    CREATE TABLE versions (
        key_id TEXT NOT NULL REFERENCES keys,
        version INTEGER NOT NULL,
        created_at_us INTEGER NOT NULL,
        reserved_uses INTEGER NOT NULL,
        wrapped BLOB,
        kek_id TEXT NOT NULL,
        master_version INTEGER NOT NULL,
        public_key BLOB,
        PRIMARY KEY (key_id, version)
    ) WITHOUT ROWID;
    CREATE TABLE data_keys (
        data_key_id TEXT PRIMARY KEY,
        tenant_id TEXT NOT NULL,
        service TEXT NOT NULL,
        scope TEXT NOT NULL,
        subject_id TEXT NOT NULL,
        context_digest BLOB NOT NULL,
        current INTEGER NOT NULL,
        key_id TEXT NOT NULL REFERENCES keys,
        version INTEGER NOT NULL,
        wrapped BLOB,
        reserved_uses INTEGER NOT NULL,
        created_at_us INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX data_keys_current ON data_keys (tenant_id, service, context_digest) WHERE current;
    CREATE INDEX data_keys_by_subject ON data_keys (tenant_id, subject_id, service) WHERE subject_id != '';
    CREATE INDEX data_keys_by_scope ON data_keys (tenant_id, scope, service) WHERE scope != '';
    -- Append-only: what a restore of an older copy of this file has to destroy again before it serves.
    CREATE TABLE destructions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        tenant_id TEXT NOT NULL,
        at_us INTEGER NOT NULL
    );
    {OUTBOX_SCHEMA}
    {POSITIONS_SCHEMA}
    """,
    HOLDS_SCHEMA,
    REWRAPS_SCHEMA,
    # What the service whose key it is knows to be held, by a hold that names neither the key's person nor its scope.
    "ALTER TABLE data_keys ADD COLUMN spared INTEGER NOT NULL DEFAULT 0;",
    "CREATE INDEX destructions_by_id ON destructions (id);",
    # The number of a version that was lost is never given to another: something may be under it.
    """
    ALTER TABLE keys ADD COLUMN last_version INTEGER NOT NULL DEFAULT 0;
    UPDATE keys SET last_version = coalesce((SELECT max(version) FROM versions AS v WHERE v.key_id = keys.key_id), 0);
    """,
)

_KEY = "key_id, tenant_id, key_type, purpose, name, state, destroy_at_us, created_at_us, last_version"
_VERSION = "version, created_at_us, reserved_uses, wrapped, kek_id, master_version, public_key"
_DATA_KEY = (
    "data_key_id, tenant_id, service, scope, subject_id, context_digest, key_id, version, wrapped, reserved_uses, "
    "created_at_us"
)
OF_SUBJECT = "tenant_id = ? AND subject_id = ? AND subject_id != ''"
"""As the index of data keys by person is made: it has none of nobody's."""
_HELD = held_sql("data_keys.tenant_id", "data_keys.subject_id", "data_keys.scope")
_DESTROYED = "EXISTS (SELECT 1 FROM destructions AS gone WHERE gone.id = data_keys.data_key_id)"
"""A data key without its wrapped form that isn't in the ledger was lost, and nobody's data was erased by that."""
_log = logging.getLogger("sealwire.crypto")
Row = tuple[Any, ...]
Rows = Callable[[str, tuple[Any, ...]], list[Row]]


class SqliteKeyStore:
    """`KeyStore` over one file opened with `MIGRATIONS`. `feed` carries its events."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.feed = SqliteOutbox(db)
        self.holds = SqliteHoldBook(db)
        self.rewraps = SqliteRewraps(db, self.feed)
        self._grants = db.batcher(self._grant_many)

    async def create(self, key: StoredKey, event: KeyEvent, *, max_keys: int) -> StoredKey:
        def create(conn: apsw.Connection) -> StoredKey:
            if key.purpose != "tenant":
                if (there := _one(_on(conn), *_where_name(key.tenant_id, key.purpose, key.name))) is not None:
                    return there
                if _is_lost(conn, key):
                    raise KeyDamaged("A key that other keys are under is lost; no new one takes its place.")
            elif _count(conn, key.tenant_id) >= max_keys:
                raise QuotaExceeded(f"A tenant may have {max_keys} keys that aren't destroyed.", limit=max_keys)
            conn.execute(
                f"INSERT INTO keys ({_KEY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key.key_id,
                    key.tenant_id,
                    key.key_type,
                    key.purpose,
                    key.name,
                    key.life.state.value,
                    key.life.destroy_at_us,
                    key.created_at_us,
                    key.last_version,
                ),
            )
            for version in key.versions:
                _insert_version(conn, key.key_id, version)
            self._emit(conn, (event,))
            return key

        return await self._db.write(create)

    async def key(self, tenant_id: str, key_id: str) -> StoredKey | None:
        return _one(self._db.read, "WHERE tenant_id = ? AND key_id = ?", (tenant_id, key_id))

    async def named(self, tenant_id: str, purpose: str, name: str) -> StoredKey | None:
        return _one(self._db.read, *_where_name(tenant_id, purpose, name))

    async def keys(self, tenant_id: str, *, after: str, limit: int) -> list[StoredKey]:
        return _many(
            self._db.read, "WHERE tenant_id = ? AND key_id > ? ORDER BY key_id LIMIT ?", (tenant_id, after, limit)
        )

    async def add_version(self, key_id: str, version: StoredVersion, event: KeyEvent) -> bool:
        def add(conn: apsw.Connection) -> bool:
            sql = "SELECT max(k.last_version, max(v.version)) FROM keys k JOIN versions v USING (key_id)"
            if conn.execute(f"{sql} WHERE key_id = ?", (key_id,)).get != version.version - 1:
                return False
            _insert_version(conn, key_id, version)
            conn.execute("UPDATE keys SET last_version = ? WHERE key_id = ?", (version.version, key_id))
            self._emit(conn, (event,))
            return True

        return await self._db.write(add)

    async def change_life(self, key_id: str, before: Life, after: Life, event: KeyEvent) -> bool:
        def change(conn: apsw.Connection) -> bool:
            if after.state in (KeyState.SCHEDULED, KeyState.DESTROYED) and is_tenant_held(conn, event.tenant_id):
                raise LegalHold("A legal hold is in force, and what it covers may be sealed under this key.")
            conn.execute(
                "UPDATE keys SET state = ?, destroy_at_us = ? WHERE key_id = ? AND state = ? AND destroy_at_us IS ?",
                (after.state.value, after.destroy_at_us, key_id, before.state.value, before.destroy_at_us),
            )
            if not conn.changes():
                return False
            if after.state is KeyState.DESTROYED:
                conn.execute("UPDATE versions SET wrapped = NULL WHERE key_id = ?", (key_id,))
                _ledger(conn, [("key", key_id, event.tenant_id, event.at_us)])
            self._emit(conn, (event,))
            return True

        return await self._db.write(change)

    async def due(self, now_us: int, limit: int) -> list[StoredKey]:
        free = f"state = '{KeyState.SCHEDULED.value}' AND NOT {tenant_held_sql('keys.tenant_id')}"
        where = f"WHERE destroy_at_us <= ? AND {free} ORDER BY destroy_at_us LIMIT ?"
        return _many(self._db.read, where, (now_us, limit), skip=True)

    async def reserve(self, key_id: str, version: int, count: int, *, limit: int) -> int | None:
        def reserve(conn: apsw.Connection) -> int | None:
            rows: list[Row] = conn.execute(
                "UPDATE versions SET reserved_uses = reserved_uses + ?1 WHERE key_id = ?2 AND version = ?3"
                " AND reserved_uses + ?1 <= ?4 RETURNING reserved_uses",
                (count, key_id, version, limit),
            ).fetchall()
            return int(rows[0][0]) if rows else None

        return await self._db.write(reserve)

    async def release(self, unspent: Sequence[tuple[str, int, int]]) -> None:
        rows = [(count, key_id, version) for key_id, version, count in unspent]
        await self._db.write(
            lambda conn: conn.executemany(
                "UPDATE versions SET reserved_uses = reserved_uses - ? WHERE key_id = ? AND version = ?", rows
            ).fetchall()
        )

    async def current_data_key(self, tenant_id: str, service: str, context_digest: bytes) -> StoredDataKey | None:
        return _data_key(self._db.read, *_where_current(tenant_id, service, context_digest))

    async def data_key(self, tenant_id: str, service: str, data_key_id: str) -> StoredDataKey | None:
        where, params = "WHERE data_key_id = ? AND tenant_id = ? AND service = ?", (data_key_id, tenant_id, service)
        found = _data_key(self._db.read, where, params)
        if found is not None and found.wrapped is None:
            ((destroyed,),) = self._db.read(f"SELECT {_DESTROYED} FROM data_keys {where}", params)
            if not destroyed:
                raise KeyDamaged(f"The data key {data_key_id} is lost.")
        return found

    async def put_data_key(self, key: StoredDataKey, *, replaces: str, event: KeyEvent) -> StoredDataKey:
        def put(conn: apsw.Connection) -> StoredDataKey:
            there = _data_key(_on(conn), *_where_current(key.tenant_id, key.service, key.context_digest))
            if there is not None:
                if there.data_key_id != replaces:
                    return there
                conn.execute("UPDATE data_keys SET current = 0 WHERE data_key_id = ?", (replaces,))
            conn.execute(
                f"INSERT INTO data_keys (current, {_DATA_KEY}) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key.data_key_id,
                    key.tenant_id,
                    key.service,
                    key.scope,
                    key.subject_id,
                    key.context_digest,
                    key.key_id,
                    key.version,
                    key.wrapped,
                    key.reserved_uses,
                    key.created_at_us,
                ),
            )
            self._emit(conn, (event,))
            return key

        return await self._db.write(put)

    async def grant_uses(self, data_key_id: str, count: int, event: KeyEvent) -> bool:
        return await self._grants.submit((data_key_id, count, event))

    async def destroy_data_keys(
        self,
        tenant_id: str,
        service: str,
        *,
        scope: str,
        subject_id: str,
        spare_held: bool,
        spare: Sequence[str] | None,
        event: KeyEvent,
    ) -> tuple[int, Sequence[str], int]:
        where = f"tenant_id = ? AND service = ? AND (wrapped IS NOT NULL OR NOT {_DESTROYED})"
        params: tuple[str, ...] = (tenant_id, service)
        for column, value in (("scope", scope), ("subject_id", subject_id)):
            if value:
                where += f" AND {column} = ? AND {column} != ''"  # as the index by it is made
                params += (value,)
        if len(params) == 2:
            raise ValueError("neither scope nor subject given")

        def destroy(conn: apsw.Connection) -> tuple[int, Sequence[str], int]:
            kept = [
                str(row[0]) for row in conn.execute(f"SELECT scope FROM data_keys WHERE {where} AND {_HELD}", params)
            ]
            if kept and not spare_held:
                raise LegalHold("A legal hold covers what is sealed under these keys.")
            if spare is not None:
                sql = f"UPDATE data_keys SET spared = scope IN (SELECT value FROM json_each(?)) WHERE {where}"
                conn.execute(sql, (msgspec.json.encode(list(spare)).decode(), *params))
            there = f"SELECT data_key_id, spared FROM data_keys WHERE {where} AND NOT {_HELD}"
            free = conn.execute(there, params).fetchall()
            ids = [(name,) for name, spared in free if not (spared and spare_held)]
            conn.executemany("UPDATE data_keys SET wrapped = NULL, current = 0 WHERE data_key_id = ?", ids)
            _ledger(conn, [("data_key", str(name), tenant_id, event.at_us) for (name,) in ids])
            if ids:
                self._emit(conn, (event,))
            return len(ids), kept, len(free) - len(ids)

        return await self._db.write(destroy)

    async def subject_keys(self, tenant_id: str, subject_id: str, *, after: str, limit: int) -> list[StoredDataKey]:
        where = f"WHERE {OF_SUBJECT} AND wrapped IS NOT NULL AND data_key_id > ?"
        sql = f"SELECT {_DATA_KEY} FROM data_keys {where} ORDER BY data_key_id LIMIT ?"
        return [_read_data_key(row) for row in self._db.read(sql, (tenant_id, subject_id, after, limit))]

    async def live_subject_keys(self, tenant_id: str, subject_id: str) -> int:
        sql = f"SELECT count(*) FROM data_keys WHERE {OF_SUBJECT} AND wrapped IS NOT NULL"
        return int(self._db.read(f"{sql} AND NOT spared AND NOT {_HELD}", (tenant_id, subject_id))[0][0])

    async def record(self, events: Sequence[KeyEvent]) -> None:
        await self._db.write(lambda conn: self._emit(conn, events))

    async def trim(self, before_us: int) -> None:
        await self.feed.trim(before_us=before_us)

    async def shred(self) -> None:
        await self._db.compact()

    async def kek_ids(self) -> set[str]:
        rows = self._db.read("SELECT DISTINCT kek_id FROM versions WHERE kek_id != '' AND wrapped IS NOT NULL")
        return {kek_id for (kek_id,) in rows}

    async def check(self) -> None:
        self._db.read("SELECT 1 FROM keys LIMIT 1")

    def _grant_many(self, conn: apsw.Connection, grants: list[tuple[str, int, KeyEvent]]) -> Sequence[bool | Exception]:
        granted = []
        for data_key_id, count, _ in grants:
            conn.execute(
                "UPDATE data_keys SET reserved_uses = reserved_uses + ? WHERE data_key_id = ? AND current",
                (count, data_key_id),
            )
            granted.append(bool(conn.changes()))
        self._emit(conn, [event for (_, _, event), done in zip(grants, granted, strict=True) if done])
        return granted

    def _emit(self, conn: apsw.Connection, events: Sequence[KeyEvent]) -> None:
        self.feed.append(conn, new_events(events))


def _on(conn: apsw.Connection) -> Rows:
    return lambda sql, params: conn.execute(sql, params).fetchall()


def _where_name(tenant_id: str, purpose: str, name: str | None) -> tuple[str, Row]:
    return "WHERE tenant_id = ? AND purpose = ? AND name = ? AND purpose != 'tenant'", (tenant_id, purpose, name)


def _where_current(tenant_id: str, service: str, digest: bytes) -> tuple[str, Row]:
    return "WHERE tenant_id = ? AND service = ? AND context_digest = ? AND current", (tenant_id, service, digest)


def _count(conn: apsw.Connection, tenant_id: str) -> int:
    sql = "SELECT count(*) FROM keys WHERE tenant_id = ? AND purpose = 'tenant' AND state != 'destroyed'"
    return int(conn.execute(sql, (tenant_id,)).get)


def _insert_version(conn: apsw.Connection, key_id: str, version: StoredVersion) -> None:
    conn.execute(
        f"INSERT INTO versions (key_id, {_VERSION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key_id,
            version.version,
            version.created_at_us,
            version.reserved_uses,
            version.wrapped,
            version.kek_id,
            version.master_version,
            version.public_key,
        ),
    )


def _ledger(conn: apsw.Connection, rows: Sequence[tuple[str, str, str, int]]) -> None:
    conn.executemany("INSERT INTO destructions (kind, id, tenant_id, at_us) VALUES (?, ?, ?, ?)", rows)


def _one(rows: Rows, where: str, params: Row) -> StoredKey | None:
    found = _many(rows, where, params)
    return found[0] if found else None


def _many(rows: Rows, where: str, params: Row, *, skip: bool = False) -> list[StoredKey]:
    """Read keys with their versions. Raises: KeyDamaged for one that isn't as it was written, unless they are to be
    skipped."""
    keys = []
    for row in rows(f"SELECT {_KEY} FROM keys {where}", params):
        versions = rows(f"SELECT {_VERSION} FROM versions WHERE key_id = ? ORDER BY version", row[:1])
        try:
            keys.append(_read_key(row, versions))
        except KeyDamaged as fault:
            if not skip:
                raise
            _log.error("%s", fault)
    return keys


def _read_key(row: Row, versions: Sequence[Row]) -> StoredKey:
    """Make a key of what is stored of it, which whoever writes the file may have changed. Raises: KeyDamaged."""
    key = dict(zip(_KEY.split(", "), row, strict=True))
    key["life"] = {"state": key.pop("state"), "destroy_at_us": key.pop("destroy_at_us")}
    key["versions"] = [dict(zip(_VERSION.split(", "), version, strict=True)) for version in versions]
    try:
        read = msgspec.convert(key, StoredKey)
    except msgspec.ValidationError as fault:
        raise KeyDamaged(f"What is stored of the key {row[0]} is damaged: {fault}.") from None
    if not versions or (read.purpose == MASTER and read.key_type != "aes-256-gcm"):
        raise KeyDamaged(f"What is stored of the key {row[0]} is damaged.")
    return read


def _is_lost(conn: apsw.Connection, key: StoredKey) -> bool:
    """Whether there was this key before: something is under it. Another in its place would be in the way of the row
    when that is put back, and its versions would have numbers that others had."""
    if key.purpose == MASTER:
        sql, params = "SELECT 1 FROM keys WHERE tenant_id = ? LIMIT 1", [key.tenant_id]
    else:
        sql = (
            "SELECT 1 FROM data_keys d WHERE current AND tenant_id = ? AND service = ?"
            " AND NOT EXISTS (SELECT 1 FROM keys k WHERE k.key_id = d.key_id) LIMIT 1"
        )
        params = [key.tenant_id, key.purpose.removeprefix("system:")]
    return bool(conn.execute(sql, params).fetchall())


def _data_key(rows: Rows, where: str, params: Row) -> StoredDataKey | None:
    found = rows(f"SELECT {_DATA_KEY} FROM data_keys {where}", params)
    return _read_data_key(found[0]) if found else None


def _read_data_key(row: Row) -> StoredDataKey:
    try:
        return msgspec.convert(dict(zip(_DATA_KEY.split(", "), row, strict=True)), StoredDataKey)
    except msgspec.ValidationError as fault:
        raise KeyDamaged(f"What is stored of the data key {row[0]} is damaged: {fault}.") from None
