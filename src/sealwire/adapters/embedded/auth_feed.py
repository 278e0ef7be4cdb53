"""Auth's numbered feed of revocations in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.outbox import Arrivals, SqliteOutbox
from sealwire.contracts.revocations import Revocation
from sealwire.kit.ids import new_id
from sealwire.ports.events import NewEvent
from sealwire.services.auth.records import NewRevocation


class SqliteRevocationStore:
    """The table `revocation`: numbers are given in the order of commits, as there is one writer."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox
        self._arrivals = Arrivals(db)
        self.run = new_id()

    def add(self, conn: apsw.Connection, revocation: NewRevocation, *, epoch: int = 0) -> int:
        """From inside a write: put an entry into the feed and return its number."""
        r = revocation
        conn.execute(
            "INSERT INTO revocation (change_id, kind, tenant_id, subject, session_id, token_id, epoch, at_us,"
            " expires_at_s, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (r.change_id, r.kind, r.tenant_id, r.subject, r.session_id, r.token_id, epoch, r.at_us, r.expires_at_s,
             r.reason.value),
        )  # fmt: skip
        self._arrivals.note()
        return int(conn.last_insert_rowid())

    async def append(self, revocation: NewRevocation, events: Sequence[NewEvent]) -> int:
        def append(conn: apsw.Connection) -> int:
            number = self.add(conn, revocation)
            self._outbox.append(conn, events)
            return number

        return await self._db.write(append)

    async def read(self, after: int, limit: int) -> Sequence[Revocation]:
        rows = self._db.read(
            "SELECT number, change_id, kind, tenant_id, subject, session_id, token_id, epoch, at_us, expires_at_s,"
            " reason FROM revocation WHERE number > ? ORDER BY number LIMIT ?",
            (after, limit),
        )
        return [
            Revocation(number=n, change_id=c, kind=k, tenant_id=t, subject=u, session_id=s, token_id=j, epoch=e,
                       at_us=a, expires_at_s=x, reason=r)
            for n, c, k, t, u, s, j, e, a, x, r in rows
        ]  # fmt: skip

    async def holds(self, number: int, change_id: str) -> bool:
        return bool(self._db.read("SELECT 1 FROM revocation WHERE number = ? AND change_id = ?", (number, change_id)))

    async def wait(self, after: int, timeout_s: float) -> bool:
        return await self._arrivals.until(lambda: self._has_above(after), timeout_s)

    async def newest(self) -> int:
        return self._newest()

    async def has_token(self, token_id: str) -> bool:
        return bool(self._db.read("SELECT 1 FROM revocation WHERE token_id = ? AND token_id <> ''", (token_id,)))

    def _has_above(self, after: int) -> bool:
        """Whether there is one to read: the newest number says less, for its entry may be over and deleted."""
        return bool(self._db.read("SELECT 1 FROM revocation WHERE number > ? LIMIT 1", (after,)))

    def _newest(self) -> int:
        rows = self._db.read("SELECT seq FROM sqlite_sequence WHERE name = 'revocation'")
        return int(rows[0][0]) if rows else 0


def is_active_since(conn: apsw.Connection, user_id: str, epoch: int) -> bool:
    """Tell whether a user and their tenant are active, and nothing ended the user's sessions since `epoch`."""
    sql = (
        "SELECT 1 FROM user u JOIN tenant t USING (tenant_id) WHERE u.user_id = ? AND u.epoch = ?"
        " AND u.status = 'active' AND t.status = 'active'"
    )
    return bool(conn.execute(sql, (user_id, epoch)).fetchall())
