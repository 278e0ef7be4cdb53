"""Auth's reset tokens, invitations and letters in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox, move
from sealwire.contracts.credentials import InvitationInvalid
from sealwire.kit.permission import Role
from sealwire.kit.problem import QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.auth.records import Cut, InvitationRecord, LetterRecord, ResetRecord, UserRecord

_INVITATION: Final = (
    "invitation_id, token_hash, tenant_id, email_index, sealed, role, invited_by, created_us, expires_us"
)

# Anybody may ask for a letter; those that administrators have sent are counted apart, so that nobody uses them up.
RESETS_BY_SCHEMA: Final = """
ALTER TABLE reset ADD COLUMN by_other INTEGER NOT NULL DEFAULT 0;
DROP INDEX reset_user;
CREATE INDEX reset_user ON reset (user_id, by_other, created_us);
"""


class SqliteResetStore:
    """The table `reset`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def ask(
        self, reset: ResetRecord, letter: LetterRecord, *, most: int, since_us: int, events: Sequence[NewEvent],
        refused_events: Sequence[NewEvent],
    ) -> bool:  # fmt: skip
        def ask(conn: apsw.Connection) -> bool:
            rows: list[Row] = conn.execute(
                "SELECT count(*), max(expires_us) FROM reset"
                " WHERE user_id = ? AND created_us BETWEEN ? AND ? AND by_other = ?",
                (reset.user_id, since_us, reset.created_us, reset.by_other),
            ).fetchall()
            given, until_us = rows[0]
            if given >= most and until_us > reset.created_us:
                self._outbox.append(conn, refused_events)
                return False
            self._outbox.append(conn, events)
            conn.execute(
                "INSERT INTO reset (token_hash, tenant_id, user_id, created_us, expires_us, by_other)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (reset.token_hash, reset.tenant_id, reset.user_id, reset.created_us, reset.expires_us, reset.by_other),
            )
            post(conn, letter)
            return True

        return await self._db.write(ask)

    async def decline(self, events: Sequence[NewEvent]) -> None:
        await self._db.write(lambda conn: self._outbox.append(conn, events))

    async def find(self, token_hash: bytes, now_us: int) -> ResetRecord | None:
        rows = self._db.read(
            "SELECT tenant_id, user_id, created_us, expires_us, by_other FROM reset"
            " WHERE token_hash = ? AND expires_us > ?",
            (token_hash, now_us),
        )
        if not rows:
            return None
        tenant_id, user_id, created_us, expires_us, by_other = rows[0]
        return ResetRecord(
            token_hash=token_hash, tenant_id=tenant_id, user_id=user_id, created_us=created_us, expires_us=expires_us,
            by_other=bool(by_other),
        )  # fmt: skip


class SqliteInvitationStore:
    """The table `invitation`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def add(
        self, invitation: InvitationRecord, letter: LetterRecord, *, most: int, events: Sequence[NewEvent]
    ) -> None:
        i = invitation

        def add(conn: apsw.Connection) -> None:
            conn.execute("DELETE FROM invitation WHERE tenant_id = ? AND email_index = ?", (i.tenant_id, i.email_index))
            rows: list[Row] = conn.execute(
                "SELECT count(*) FROM invitation WHERE tenant_id = ? AND expires_us > ?", (i.tenant_id, i.created_us)
            ).fetchall()
            if rows[0][0] >= most:
                raise QuotaExceeded(f"The tenant has {most} open invitations, and may have no more.")
            conn.execute(
                f"INSERT INTO invitation ({_INVITATION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (i.invitation_id, i.token_hash, i.tenant_id, i.email_index, i.sealed, i.role.value, i.invited_by,
                 i.created_us, i.expires_us),
            )  # fmt: skip
            post(conn, letter)
            self._outbox.append(conn, events)

        await self._db.write(add)

    async def find(self, token_hash: bytes, now_us: int) -> InvitationRecord | None:
        rows = self._db.read(
            f"SELECT {_INVITATION} FROM invitation WHERE token_hash = ? AND expires_us > ?", (token_hash, now_us)
        )
        return _invitation_of(rows[0]) if rows else None

    async def page(self, tenant_id: str, after: str, limit: int, now_us: int) -> Sequence[InvitationRecord]:
        rows = self._db.read(
            f"SELECT {_INVITATION} FROM invitation WHERE tenant_id = ? AND invitation_id > ? AND expires_us > ?"
            " ORDER BY invitation_id LIMIT ?",
            (tenant_id, after, now_us, limit),
        )
        return [_invitation_of(row) for row in rows]

    async def remove(self, tenant_id: str, invitation_id: str, events: Sequence[NewEvent]) -> bool:
        def remove(conn: apsw.Connection) -> bool:
            conn.execute("DELETE FROM invitation WHERE tenant_id = ? AND invitation_id = ?", (tenant_id, invitation_id))
            if not conn.changes():
                return False
            self._outbox.append(conn, events)
            return True

        return await self._db.write(remove)


class SqliteLetterStore:
    """The table `letter`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def tell(self, letters: Sequence[LetterRecord], consumer: str, position: int) -> None:
        def tell(conn: apsw.Connection) -> None:
            for letter in letters:
                post(conn, letter, again=True)
            move(conn, consumer, position)

        await self._db.write(tell)

    async def due(self, now_us: int, limit: int) -> Sequence[LetterRecord]:
        rows = self._db.read(
            "SELECT letter_id, tenant_id, sealed, created_us, due_us, attempts FROM letter WHERE due_us <= ?"
            " ORDER BY due_us LIMIT ?",
            (now_us, limit),
        )
        return [
            LetterRecord(letter_id=n, tenant_id=t, sealed=s, created_us=c, due_us=d, attempts=a)
            for n, t, s, c, d, a in rows
        ]

    async def of(self, tenant_id: str, after: str, limit: int) -> Sequence[LetterRecord]:
        rows = self._db.read(
            "SELECT letter_id, tenant_id, sealed, created_us, due_us, attempts FROM letter"
            " WHERE tenant_id = ? AND letter_id > ? ORDER BY letter_id LIMIT ?",
            (tenant_id, after, limit),
        )
        return [
            LetterRecord(letter_id=n, tenant_id=t, sealed=s, created_us=c, due_us=d, attempts=a)
            for n, t, s, c, d, a in rows
        ]

    async def done(self, letter_id: str, events: Sequence[NewEvent]) -> None:
        def done(conn: apsw.Connection) -> None:
            conn.execute("DELETE FROM letter WHERE letter_id = ?", (letter_id,))
            self._outbox.append(conn, events)

        await self._db.write(done)

    async def later(self, letter_id: str, due_us: int) -> None:
        await self._db.write(
            lambda conn: conn.execute(
                "UPDATE letter SET due_us = ?, attempts = attempts + 1 WHERE letter_id = ?", (due_us, letter_id)
            ).fetchall()
        )


def spend_reset(conn: apsw.Connection, cut: Cut) -> bool:
    """From inside a write: use a reset token up; False when it can't be."""
    conn.execute(
        "DELETE FROM reset WHERE token_hash = ? AND user_id = ? AND expires_us > ?",
        (cut.spends_reset, cut.user_id, cut.revocation.at_us),
    )
    return conn.changes() > 0


def spend_invitation(conn: apsw.Connection, user: UserRecord, invitation_id: str) -> None:
    """From inside a write: use an invitation up. Raises: InvitationInvalid when it can't be."""
    conn.execute(
        "DELETE FROM invitation WHERE invitation_id = ? AND tenant_id = ? AND email_index = ? AND expires_us > ?",
        (invitation_id, user.tenant_id, user.email_index, user.created_us),
    )
    if not conn.changes():
        raise InvitationInvalid


def post(conn: apsw.Connection, letter: LetterRecord, *, again: bool = False) -> None:
    """From inside a write: store a letter. `again`: it may be there already."""
    conn.execute(
        f"INSERT {'OR IGNORE ' if again else ''}INTO letter VALUES (?, ?, ?, ?, ?, ?)",
        (letter.letter_id, letter.tenant_id, letter.sealed, letter.created_us, letter.due_us, letter.attempts),
    )


def _invitation_of(row: Row) -> InvitationRecord:
    invitation_id, token_hash, tenant_id, email_index, sealed, role, invited_by, created_us, expires_us = row
    return InvitationRecord(
        invitation_id=invitation_id,
        token_hash=token_hash,
        tenant_id=tenant_id,
        email_index=email_index,
        sealed=sealed,
        role=Role(role),
        invited_by=invited_by,
        created_us=created_us,
        expires_us=expires_us,
    )
