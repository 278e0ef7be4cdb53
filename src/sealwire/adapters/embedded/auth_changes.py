"""Auth's changes of addresses in SQLite, and where notices of changes begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.auth_letters import post
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.ports.events import NewEvent
from sealwire.services.auth.address_store import EmailChangeRecord
from sealwire.services.auth.records import Cut, LetterRecord

# What happened before there were notices is told to nobody: the herald begins behind it.
NOTICES_SINCE: Final = """
INSERT OR IGNORE INTO consumer_position SELECT 'notices', seq FROM sqlite_sequence WHERE name = 'outbox';
"""
EMAIL_CHANGES_SCHEMA: Final = """
CREATE TABLE email_change (
    token_hash BLOB PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    email_index BLOB NOT NULL,
    sealed BLOB NOT NULL,
    created_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    live INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX email_change_user ON email_change (user_id, created_us);
CREATE INDEX email_change_expiry ON email_change (expires_us);
"""
# Whoever asked must still be entitled to it when it is proved. Of changes from before nobody knows who it was.
ASKERS_SCHEMA: Final = """
ALTER TABLE email_change ADD COLUMN asked_by TEXT NOT NULL DEFAULT '';
UPDATE email_change SET live = 0;
CREATE INDEX email_change_asker ON email_change (asked_by);
"""
# A key was compromised, and the sessions of tenants above `after` have yet to be ended.
ENDING_SCHEMA: Final = """
CREATE TABLE ending_sessions (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    after TEXT NOT NULL
);
"""
EMAIL_CHANGE_KEPT_S: Final = 32 * 86_400
"""How long past its end a change is remembered: a letter to the address lies in a folder for 30 days, and may have
waited for a day before. Until then an erasure must know the address."""
_VOID, _LIVE, _SPENT = 0, 1, 2
_COLUMNS: Final = "token_hash, tenant_id, user_id, asked_by, email_index, sealed, created_us, expires_us"
_MAKE_VOID: Final = f"UPDATE email_change SET live = {_VOID}, asked_by = '' WHERE live = {_LIVE}"
EXPIRED_EMAIL_CHANGES: Final = (
    "DELETE FROM email_change WHERE token_hash IN (SELECT token_hash FROM email_change WHERE expires_us < ? LIMIT ?)"
)


class SqliteEmailChangeStore:
    """The table `email_change`. `live` is 1 while a row can confirm something; one that is void (0) counts against the
    next request as well, one that was spent (2) does not."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def ask(
        self, change: EmailChangeRecord, letter: LetterRecord | None, *, most: int, since_us: int,
        events: Sequence[NewEvent],
    ) -> bool:  # fmt: skip
        c = change

        def ask(conn: apsw.Connection) -> bool:
            rows: list[Row] = conn.execute(
                "SELECT count(*) FROM email_change WHERE user_id = ? AND created_us BETWEEN ? AND ? AND live <> ?",
                (c.user_id, since_us, c.created_us, _SPENT),
            ).fetchall()
            if rows[0][0] >= most:
                return False
            void_email_changes(conn, c.user_id)
            conn.execute(
                f"INSERT INTO email_change ({_COLUMNS}, live) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (c.token_hash, c.tenant_id, c.user_id, c.asked_by if letter is not None else "", c.email_index,
                 c.sealed, c.created_us, c.expires_us, letter is not None),
            )  # fmt: skip
            if letter is not None:
                post(conn, letter)
            self._outbox.append(conn, events)
            return True

        return await self._db.write(ask)

    async def find(self, token_hash: bytes, now_us: int) -> EmailChangeRecord | None:
        rows = self._db.read(
            f"SELECT {_COLUMNS} FROM email_change WHERE token_hash = ? AND expires_us > ? AND live = 1",
            (token_hash, now_us),
        )
        return _change_of(rows[0]) if rows else None

    async def of(self, user_id: str) -> Sequence[EmailChangeRecord]:
        rows = self._db.read(
            f"SELECT {_COLUMNS}, live FROM email_change WHERE user_id = ? ORDER BY created_us DESC", (user_id,)
        )
        return [_change_of(row[:-1], proved=row[-1] == _SPENT) for row in rows]


def _change_of(row: Row, *, proved: bool = False) -> EmailChangeRecord:
    token_hash, tenant_id, user_id, asked_by, email_index, sealed, created_us, expires_us = row
    return EmailChangeRecord(
        token_hash=token_hash, tenant_id=tenant_id, user_id=user_id, asked_by=asked_by, email_index=email_index,
        sealed=sealed, created_us=created_us, expires_us=expires_us, proved=proved,
    )  # fmt: skip


def spend_email_change(conn: apsw.Connection, cut: Cut) -> bool:
    """From inside a write: use a proved address up; False when it can't be."""
    conn.execute(
        f"UPDATE email_change SET live = {_SPENT}, asked_by = ''"
        f" WHERE token_hash = ? AND user_id = ? AND email_index = ? AND expires_us > ? AND live = {_LIVE}",
        (cut.spends_email_change, cut.user_id, cut.email_index, cut.revocation.at_us),
    )
    return conn.changes() > 0


def void_email_changes(conn: apsw.Connection, user_id: str) -> None:
    """From inside a write: let no letter that was sent confirm an address of this user any more."""
    conn.execute(f"{_MAKE_VOID} AND user_id = ?", (user_id,))


def void_what_they_asked(conn: apsw.Connection, user_id: str) -> None:
    """From inside a write: let nothing that this user asked for, of themself or of others, be proved any more."""
    conn.execute(f"{_MAKE_VOID} AND asked_by = ?", (user_id,))


def void_all_email_changes(conn: apsw.Connection) -> None:
    """From inside a write: let no change that waits be proved any more, whoever asked for it."""
    conn.execute(_MAKE_VOID)


def drop_factors(conn: apsw.Connection, user_id: str) -> None:
    """From inside a write: delete every second factor of a user, and what waits for one."""
    for table in ("totp", "passkey", "recovery_code"):
        conn.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))
    conn.execute("UPDATE user SET mfa = 0 WHERE user_id = ?", (user_id,))
