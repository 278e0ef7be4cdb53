"""Auth's failures and second factors in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.auth_passkeys import remove_factor
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.ports.events import NewEvent
from sealwire.services.auth.model import Counted, Failures, one_more
from sealwire.services.auth.passkey_store import Removal
from sealwire.services.auth.records import Challenge, TotpRecord

_CHALLENGE: Final = "token_hash, tenant_id, user_id, expires_us, attempts, amr"
# What a login that waits has proved so far: a provider's word is no password.
CHALLENGE_AMR_SCHEMA: Final = "ALTER TABLE challenge ADD COLUMN amr TEXT NOT NULL DEFAULT 'pwd';"


class SqliteAttemptStore:
    """The table `attempt`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def locked_until(self, keys: Sequence[bytes]) -> Sequence[int]:
        marks = ", ".join("?" * len(keys))
        rows = self._db.read(f"SELECT key, until_us FROM attempt WHERE key IN ({marks})", keys)
        until: dict[bytes, int] = {key: until_us for key, until_us in rows}  # noqa: C416 - rows are tuples of any length
        return [until.get(key, 0) for key in keys]

    async def fail(self, under: Sequence[Counted], *, now_us: int, events: Sequence[NewEvent]) -> Sequence[Failures]:
        def fail(conn: apsw.Connection) -> Sequence[Failures]:
            counted = []
            for one in under:
                rows: list[Row] = conn.execute(
                    "SELECT count, last_us, until_us FROM attempt WHERE key = ?", (one.key,)
                ).fetchall()
                now = one_more(Failures(*rows[0]) if rows else None, one, now_us=now_us)
                conn.execute(
                    "REPLACE INTO attempt VALUES (?, ?, ?, ?)", (one.key, now.count, now.last_us, now.until_us)
                )
                counted.append(now)
            self._outbox.append(conn, events)
            return counted

        return await self._db.write(fail)

    async def failures(self, keys: Sequence[bytes], since_us: int) -> int:
        marks = ", ".join("?" * len(keys))
        rows = self._db.read(
            f"SELECT max(count) FROM attempt WHERE key IN ({marks}) AND last_us > ?", (*keys, since_us)
        )
        return int(rows[0][0] or 0)

    async def forgive(self, keys: Sequence[bytes]) -> None:
        await self._db.write(
            lambda conn: conn.executemany("DELETE FROM attempt WHERE key = ?", [(key,) for key in keys]).fetchall()
        )


class SqliteMfaStore:
    """The tables `challenge`, `totp` and `recovery_code`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def challenge(self, challenge: Challenge, events: Sequence[NewEvent]) -> None:
        c = challenge

        def store(conn: apsw.Connection) -> None:
            conn.execute(
                "INSERT INTO challenge (token_hash, tenant_id, user_id, expires_us, attempts, amr)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (c.token_hash, c.tenant_id, c.user_id, c.expires_us, c.attempts, " ".join(c.amr)),
            )
            self._outbox.append(conn, events)

        await self._db.write(store)

    async def attempt(self, token_hash: bytes, *, now_us: int, most: int) -> Challenge | None:
        def attempt(conn: apsw.Connection) -> Challenge | None:
            rows: list[Row] = conn.execute(
                "UPDATE challenge SET attempts = attempts + 1 WHERE token_hash = ? AND expires_us > ? AND attempts < ?"
                f" RETURNING {_CHALLENGE}",
                (token_hash, now_us, most),
            ).fetchall()
            return _challenge_of(rows[0]) if rows else None

        return await self._db.write(attempt)

    async def waiting(self, token_hash: bytes, *, now_us: int, most: int) -> Challenge | None:
        rows = self._db.read(
            f"SELECT {_CHALLENGE} FROM challenge WHERE token_hash = ? AND expires_us > ? AND attempts < ?",
            (token_hash, now_us, most),
        )
        return _challenge_of(rows[0]) if rows else None

    async def spend(self, token_hash: bytes) -> bool:
        return await self._changed("DELETE FROM challenge WHERE token_hash = ?", (token_hash,))

    async def totp(self, user_id: str) -> TotpRecord | None:
        rows = self._db.read(
            "SELECT sealed_secret, last_step, pending_sealed, pending_until_us FROM totp WHERE user_id = ?", (user_id,)
        )
        if not rows:
            return None
        sealed_secret, last_step, pending_sealed, pending_until_us = rows[0]
        return TotpRecord(
            user_id=user_id,
            sealed_secret=sealed_secret,
            last_step=last_step,
            pending_sealed=pending_sealed,
            pending_until_us=pending_until_us,
        )

    async def enroll(self, user_id: str, pending_sealed: bytes, until_us: int, events: Sequence[NewEvent]) -> None:
        def enroll(conn: apsw.Connection) -> None:
            conn.execute(
                "INSERT INTO totp VALUES (?1, NULL, 0, ?2, ?3)"
                " ON CONFLICT (user_id) DO UPDATE SET pending_sealed = ?2, pending_until_us = ?3",
                (user_id, pending_sealed, until_us),
            )
            self._outbox.append(conn, events)

        await self._db.write(enroll)

    async def confirm(
        self, user_id: str, *, pending_sealed: bytes, step: int, recovery: Sequence[bytes], events: Sequence[NewEvent]
    ) -> bool:
        def confirm(conn: apsw.Connection) -> bool:
            conn.execute(
                "UPDATE totp SET sealed_secret = pending_sealed, last_step = ?, pending_sealed = NULL,"
                " pending_until_us = 0 WHERE user_id = ? AND pending_sealed = ?",
                (step, user_id, pending_sealed),
            )
            if not conn.changes():
                return False
            conn.execute("UPDATE user SET mfa = 1 WHERE user_id = ?", (user_id,))
            conn.execute("DELETE FROM recovery_code WHERE user_id = ?", (user_id,))
            conn.executemany("INSERT INTO recovery_code VALUES (?, ?)", [(user_id, code) for code in recovery])
            self._outbox.append(conn, events)
            return True

        return await self._db.write(confirm)

    async def has_recovery(self, user_id: str) -> bool:
        return bool(self._db.read("SELECT 1 FROM recovery_code WHERE user_id = ? LIMIT 1", (user_id,)))

    async def use_step(self, user_id: str, step: int) -> bool:
        return await self._changed(
            "UPDATE totp SET last_step = ?2 WHERE user_id = ?1 AND last_step < ?2 AND sealed_secret IS NOT NULL",
            (user_id, step),
        )

    async def use_recovery(self, user_id: str, code_hash: bytes, events: Sequence[NewEvent]) -> bool:
        def use(conn: apsw.Connection) -> bool:
            conn.execute("DELETE FROM recovery_code WHERE user_id = ? AND code_hash = ?", (user_id, code_hash))
            if not conn.changes():
                return False
            self._outbox.append(conn, events)
            return True

        return await self._db.write(use)

    async def renew_recovery(self, user_id: str, recovery: Sequence[bytes], events: Sequence[NewEvent]) -> bool:
        def renew(conn: apsw.Connection) -> bool:
            if not conn.execute("SELECT 1 FROM user WHERE user_id = ? AND mfa = 1", (user_id,)).fetchall():
                return False
            conn.execute("DELETE FROM recovery_code WHERE user_id = ?", (user_id,))
            conn.executemany("INSERT INTO recovery_code VALUES (?, ?)", [(user_id, code) for code in recovery])
            self._outbox.append(conn, events)
            return True

        return await self._db.write(renew)

    async def remove(self, user_id: str, *, keeps_a_factor: bool, events: Sequence[NewEvent]) -> Removal:
        def remove(conn: apsw.Connection) -> bool:
            conn.execute("DELETE FROM totp WHERE user_id = ?", (user_id,))
            return conn.changes() > 0

        return await remove_factor(
            self._db, self._outbox, remove, user_id, keeps_a_factor=keeps_a_factor, events=events
        )

    async def _changed(self, sql: str, params: tuple[str | int | bytes, ...]) -> bool:
        def change(conn: apsw.Connection) -> bool:
            conn.execute(sql, params)
            return conn.changes() > 0

        return await self._db.write(change)


def _challenge_of(row: Row) -> Challenge:
    token_hash, tenant_id, user_id, expires_us, attempts, amr = row
    return Challenge(
        token_hash=token_hash, tenant_id=tenant_id, user_id=user_id, expires_us=expires_us, attempts=attempts,
        amr=tuple(amr.split()),
    )  # fmt: skip
