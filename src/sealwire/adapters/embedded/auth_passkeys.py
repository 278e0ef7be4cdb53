"""Auth's passkeys and their challenges in SQLite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.contracts.passkeys import PasskeyTaken
from sealwire.kit.problem import Conflict, QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.auth.passkey_store import PasskeyRecord, Removal, Use

PASSKEYS_SCHEMA: Final = """
CREATE TABLE passkey (
    passkey_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    credential_index BLOB NOT NULL UNIQUE,
    sealed_key BLOB NOT NULL,
    sealed_name BLOB NOT NULL,
    sign_count INTEGER NOT NULL,
    backup_eligible INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    used_us INTEGER NOT NULL,
    suspended_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX passkey_user ON passkey (user_id, passkey_id);

CREATE TABLE passkey_challenge (
    challenge_hash BLOB PRIMARY KEY,
    purpose TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    user_id TEXT,
    bound_to TEXT NOT NULL,
    expires_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX passkey_challenge_expiry ON passkey_challenge (expires_us);
"""
# Challenges are not stored any more when they are given out, but when they are answered.
SPENT_SCHEMA: Final = """
DROP TABLE passkey_challenge;
CREATE TABLE passkey_spent (
    challenge_hash BLOB PRIMARY KEY,
    until_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX passkey_spent_until ON passkey_spent (until_us);
"""
SPENT_CHALLENGES: Final = (
    "DELETE FROM passkey_spent WHERE challenge_hash IN"
    " (SELECT challenge_hash FROM passkey_spent WHERE until_us < ? LIMIT ?)"
)
_PASSKEY: Final = (
    "passkey_id, tenant_id, user_id, credential_index, sealed_key, sealed_name, sign_count, backup_eligible,"
    " created_us, used_us, suspended_us"
)


class SqlitePasskeyStore:
    """The tables `passkey` and `passkey_spent`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def spend(self, challenge_hash: bytes, until_us: int) -> bool:
        def spend(conn: apsw.Connection) -> bool:
            conn.execute("INSERT OR IGNORE INTO passkey_spent VALUES (?, ?)", (challenge_hash, until_us))
            return conn.changes() > 0

        return await self._db.write(spend)

    async def add(
        self, passkey: PasskeyRecord, *, most: int, recovery: Sequence[bytes], events: Sequence[NewEvent]
    ) -> bool:
        p = passkey

        def add(conn: apsw.Connection) -> bool:
            user = conn.execute("SELECT 1 FROM user WHERE user_id = ? AND status = 'active'", (p.user_id,)).fetchall()
            if not user:
                raise Conflict("The user was changed meanwhile.")
            rows: list[Row] = conn.execute("SELECT count(*) FROM passkey WHERE user_id = ?", (p.user_id,)).fetchall()
            if rows[0][0] >= most:
                raise QuotaExceeded(f"You have {most} passkeys, and may have no more.")
            try:
                conn.execute(
                    f"INSERT INTO passkey ({_PASSKEY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (p.passkey_id, p.tenant_id, p.user_id, p.credential_index, p.sealed_key, p.sealed_name,
                     p.sign_count, p.backup_eligible, p.created_us, p.used_us, p.suspended_us),
                )  # fmt: skip
            except apsw.ConstraintError as error:
                raise PasskeyTaken("Use another one, or remove it where it is registered.") from error
            conn.execute("UPDATE user SET mfa = 1 WHERE user_id = ?", (p.user_id,))
            self._outbox.append(conn, events)
            left = conn.execute("SELECT 1 FROM recovery_code WHERE user_id = ? LIMIT 1", (p.user_id,)).fetchall()
            if left:
                return False
            conn.executemany("INSERT INTO recovery_code VALUES (?, ?)", [(p.user_id, code) for code in recovery])
            return True

        return await self._db.write(add)

    async def by_credential(self, credential_index: bytes) -> PasskeyRecord | None:
        rows = self._db.read(f"SELECT {_PASSKEY} FROM passkey WHERE credential_index = ?", (credential_index,))
        return _passkey_of(rows[0]) if rows else None

    async def of_user(self, user_id: str) -> Sequence[PasskeyRecord]:
        rows = self._db.read(
            f"SELECT {_PASSKEY} FROM passkey WHERE user_id = ? ORDER BY created_us, passkey_id", (user_id,)
        )
        return [_passkey_of(row) for row in rows]

    async def is_usable(self, user_id: str) -> bool:
        return bool(self._db.read("SELECT 1 FROM passkey WHERE user_id = ? AND suspended_us = 0 LIMIT 1", (user_id,)))

    async def use(self, passkey_id: str, *, sign_count: int, now_us: int, suspended_events: Sequence[NewEvent]) -> Use:
        def use(conn: apsw.Connection) -> Use:
            conn.execute(
                "UPDATE passkey SET sign_count = ?2, used_us = max(used_us, ?3) WHERE passkey_id = ?1"
                " AND suspended_us = 0 AND (?2 > sign_count OR (?2 = 0 AND sign_count = 0))",
                (passkey_id, sign_count, now_us),
            )
            if conn.changes():
                return Use.COUNTED
            conn.execute(
                "UPDATE passkey SET suspended_us = ? WHERE passkey_id = ? AND suspended_us = 0", (now_us, passkey_id)
            )
            if not conn.changes():
                return Use.GONE
            self._outbox.append(conn, suspended_events)
            return Use.WENT_BACK

        return await self._db.write(use)

    async def note(self, events: Sequence[NewEvent]) -> None:
        await self._db.write(lambda conn: self._outbox.append(conn, events))

    async def rename(
        self, user_id: str, passkey_id: str, sealed_name: bytes, events: Sequence[NewEvent]
    ) -> PasskeyRecord | None:
        def rename(conn: apsw.Connection) -> PasskeyRecord | None:
            rows: list[Row] = conn.execute(
                f"UPDATE passkey SET sealed_name = ? WHERE passkey_id = ? AND user_id = ? RETURNING {_PASSKEY}",
                (sealed_name, passkey_id, user_id),
            ).fetchall()
            if not rows:
                return None
            self._outbox.append(conn, events)
            return _passkey_of(rows[0])

        return await self._db.write(rename)

    async def remove(
        self, user_id: str, passkey_id: str, *, keeps_a_factor: bool, events: Sequence[NewEvent]
    ) -> Removal:
        def remove(conn: apsw.Connection) -> bool:
            conn.execute("DELETE FROM passkey WHERE passkey_id = ? AND user_id = ?", (passkey_id, user_id))
            return conn.changes() > 0

        return await remove_factor(
            self._db, self._outbox, remove, user_id, keeps_a_factor=keeps_a_factor, events=events
        )


class _LastFactor(Exception):
    """The user is to keep a usable second factor and would not; raised inside a write it takes that write back."""


async def remove_factor(
    db: Database, outbox: SqliteOutbox, delete: Callable[[apsw.Connection], bool], user_id: str, *,
    keeps_a_factor: bool, events: Sequence[NewEvent],
) -> Removal:  # fmt: skip
    """Remove a second factor with its events, in one transaction. `delete` says whether there was one."""

    def remove(conn: apsw.Connection) -> Removal:
        if not delete(conn):
            return Removal.ABSENT
        _settle_factors(conn, user_id, keeps_a_factor=keeps_a_factor)
        outbox.append(conn, events)
        return Removal.REMOVED

    try:
        return await db.write(remove)
    except _LastFactor:
        return Removal.LAST_FACTOR


def _settle_factors(conn: apsw.Connection, user_id: str, *, keeps_a_factor: bool) -> None:
    """From inside a write, after a removal: settle whether the user has a second factor still.

    A suspended passkey counts: what protected the account does not stop to because somebody copied it. Recovery codes
    stand in for a second factor and go with the last one. Raises: _LastFactor.
    """
    usable = conn.execute(
        "SELECT 1 FROM totp WHERE user_id = ?1 AND sealed_secret IS NOT NULL"
        " UNION ALL SELECT 1 FROM passkey WHERE user_id = ?1 AND suspended_us = 0 LIMIT 1",
        (user_id,),
    ).fetchall()
    if keeps_a_factor and not usable:
        raise _LastFactor
    conn.execute(
        "UPDATE user SET mfa = EXISTS (SELECT 1 FROM totp WHERE user_id = ?1 AND sealed_secret IS NOT NULL)"
        " OR EXISTS (SELECT 1 FROM passkey WHERE user_id = ?1) WHERE user_id = ?1",
        (user_id,),
    )
    conn.execute(
        "DELETE FROM recovery_code WHERE user_id = ?1 AND (SELECT mfa FROM user WHERE user_id = ?1) = 0", (user_id,)
    )


def _passkey_of(row: Row) -> PasskeyRecord:
    (passkey_id, tenant_id, user_id, credential_index, sealed_key, sealed_name, sign_count, backup_eligible,
     created_us, used_us, suspended_us) = row  # fmt: skip
    return PasskeyRecord(
        passkey_id=passkey_id,
        tenant_id=tenant_id,
        user_id=user_id,
        credential_index=credential_index,
        sealed_key=sealed_key,
        sealed_name=sealed_name,
        sign_count=sign_count,
        backup_eligible=bool(backup_eligible),
        created_us=created_us,
        used_us=used_us,
        suspended_us=suspended_us,
    )
