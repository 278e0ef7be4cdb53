"""Auth's API keys in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.auth_feed import SqliteRevocationStore, is_active_since
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.kit.problem import Conflict, QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.auth.records import ApiKeyRecord, NewRevocation

_KEY: Final = (
    "key_id, tenant_id, owner_id, prefix, secret_hash, name, scopes, epoch, created_by, created_us, expires_us, used_us"
)
_LIVE: Final = "ended_us = 0 AND expires_us > ?"
# When somebody was reminded that the key ends.
REMINDED_SCHEMA: Final = """
ALTER TABLE api_key ADD COLUMN reminded_us INTEGER NOT NULL DEFAULT 0;
CREATE INDEX api_key_ending ON api_key (expires_us) WHERE ended_us = 0 AND reminded_us = 0;
"""


class SqliteApiKeyStore:
    """The table `api_key`."""

    def __init__(self, db: Database, outbox: SqliteOutbox, feed: SqliteRevocationStore) -> None:
        self._db = db
        self._outbox = outbox
        self._feed = feed

    async def add(self, key: ApiKeyRecord, *, most: int, events: Sequence[NewEvent]) -> None:
        k = key

        def add(conn: apsw.Connection) -> None:
            if not is_active_since(conn, k.owner_id, k.epoch):
                raise Conflict("The key's owner was changed meanwhile.")
            rows: list[Row] = conn.execute(
                f"SELECT count(*) FROM api_key WHERE tenant_id = ? AND {_LIVE}", (k.tenant_id, k.created_us)
            ).fetchall()
            if rows[0][0] >= most:
                raise QuotaExceeded(f"The tenant has {most} API keys, and may have no more.")
            conn.execute(
                f"INSERT INTO api_key ({_KEY}, ended_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
                (k.key_id, k.tenant_id, k.owner_id, k.prefix, k.secret_hash, k.name, " ".join(k.scopes), k.epoch,
                 k.created_by, k.created_us, k.expires_us, k.used_us),
            )  # fmt: skip
            self._outbox.append(conn, events)

        await self._db.write(add)

    async def by_prefix(self, prefix: str, now_us: int) -> ApiKeyRecord | None:
        rows = self._db.read(f"SELECT {_KEY} FROM api_key WHERE prefix = ? AND {_LIVE}", (prefix, now_us))
        return _key_of(rows[0]) if rows else None

    async def get(self, key_id: str, now_us: int) -> ApiKeyRecord | None:
        rows = self._db.read(f"SELECT {_KEY} FROM api_key WHERE key_id = ? AND {_LIVE}", (key_id, now_us))
        return _key_of(rows[0]) if rows else None

    async def page(self, tenant_id: str, after: str, limit: int, now_us: int) -> Sequence[ApiKeyRecord]:
        rows = self._db.read(
            f"SELECT {_KEY} FROM api_key WHERE tenant_id = ? AND key_id > ? AND {_LIVE} ORDER BY key_id LIMIT ?",
            (tenant_id, after, now_us, limit),
        )
        return [_key_of(row) for row in rows]

    async def ending(self, now_us: int, *, before_us: int, least_life_us: int, limit: int) -> Sequence[ApiKeyRecord]:
        rows = self._db.read(
            f"SELECT {_KEY} FROM api_key WHERE {_LIVE} AND reminded_us = 0 AND expires_us < ?"
            " AND expires_us - created_us >= ? ORDER BY expires_us LIMIT ?",
            (now_us, before_us, least_life_us, limit),
        )
        return [_key_of(row) for row in rows]

    async def reminded(self, key_id: str, at_us: int, events: Sequence[NewEvent]) -> bool:
        def note(conn: apsw.Connection) -> bool:
            conn.execute(
                f"UPDATE api_key SET reminded_us = ? WHERE key_id = ? AND reminded_us = 0 AND {_LIVE}",
                (at_us, key_id, at_us),
            )
            if not conn.changes():
                return False
            self._outbox.append(conn, events)
            return True

        return await self._db.write(note)

    async def end(self, key_id: str, revocation: NewRevocation, events: Sequence[NewEvent]) -> bool:
        def end(conn: apsw.Connection) -> bool:
            conn.execute(
                "UPDATE api_key SET ended_us = ? WHERE key_id = ? AND tenant_id = ? AND ended_us = 0",
                (revocation.at_us, key_id, revocation.tenant_id),
            )
            if not conn.changes():
                return False
            self._feed.add(conn, revocation)
            self._outbox.append(conn, events)
            return True

        return await self._db.write(end)


def end_keys_of(conn: apsw.Connection, user_id: str, at_us: int) -> None:
    """From inside a write: end every key of a user."""
    conn.execute("UPDATE api_key SET ended_us = ? WHERE owner_id = ? AND ended_us = 0", (at_us, user_id))


def _key_of(row: Row) -> ApiKeyRecord:
    key_id, tenant_id, owner_id, prefix, secret_hash, name, scopes, epoch, created_by, created, expires, used = row
    return ApiKeyRecord(
        key_id=key_id,
        tenant_id=tenant_id,
        owner_id=owner_id,
        prefix=prefix,
        secret_hash=secret_hash,
        name=name,
        scopes=tuple(scopes.split()),
        epoch=epoch,
        created_by=created_by,
        created_us=created,
        expires_us=expires,
        used_us=used,
    )
