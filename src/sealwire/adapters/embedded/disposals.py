"""Disposals that a retention run asks for: a little at a time, each thing once, however often it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.pace import Pace
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.custody import Disposed
from sealwire.kit.clock import US_PER_S

DISPOSALS_SCHEMA: Final = """
CREATE TABLE disposal (
    run_id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    disposed INTEGER NOT NULL,
    held INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    at_us INTEGER NOT NULL
) WITHOUT ROWID;
"""
DISPOSALS_LEFT: Final = "ALTER TABLE disposal ADD COLUMN ahead INTEGER NOT NULL DEFAULT 0;"
"""How many of the ids of the last request aren't looked at yet."""
_KEPT_US: Final = 30 * 86_400 * US_PER_S
Some = Callable[[apsw.Connection, Sequence[str]], Disposed]


def restricted_sql(tenant: str, subject: str) -> str:
    """Return the SQL condition that a row is of a person whose data is restricted; of column expressions, not values.

    What is restricted is stored and nothing else is done with it (GDPR Art. 18(2)): retention leaves it.
    """
    return (
        f"EXISTS (SELECT 1 FROM subject_mark WHERE tenant_id = {tenant} AND subject_id = {subject}"
        " AND mark = 'restricted')"
    )


def is_anybody_marked(conn: apsw.Connection, tenant_id: str) -> bool:
    """Say whether anybody of the tenant is restricted, or erased: one look at the beginning of an index."""
    return bool(conn.execute("SELECT EXISTS (SELECT 1 FROM subject_mark WHERE tenant_id = ?)", (tenant_id,)).get)


class Disposals:
    """Does what runs ask for in short transactions, each with the count of what it did: so a crash costs nothing.

    A run asks for one batch after the other, so its last request is all that can be asked for again: its counts, and
    how much of it is still ahead, are kept beside what it deleted.
    """

    def __init__(self, db: Database) -> None:
        self._pace = Pace(db)

    async def dispose(self, run_id: str, ids: Sequence[str], at_us: int, some: Some) -> Disposed:
        """Dispose of these by `some(conn, part of them)`; what was done by an earlier request for them isn't again."""
        digest = sha256("\n".join(ids).encode()).digest()
        while True:
            done, ahead = await self._pace.write(
                lambda conn: _step(conn, run_id, digest, ids, at_us, self._pace.size, some)
            )
            if not ahead:
                return done


def _step(
    conn: apsw.Connection, run_id: str, digest: bytes, ids: Sequence[str], at_us: int, size: int, some: Some
) -> tuple[Disposed, int]:
    """From inside a write: do the next of a request; return what came of it so far, and how many are ahead."""
    sql = "SELECT digest, disposed, held, missing, ahead FROM disposal WHERE run_id = ?"
    row = conn.execute(sql, (run_id,)).fetchone()
    if row is None:
        conn.execute("DELETE FROM disposal WHERE at_us < ?", (at_us - _KEPT_US,))
    if row is None or row[0] != digest:
        row = (digest, 0, 0, 0, len(ids))
    _, disposed, held, missing, ahead = row
    if ahead:
        part = ids[len(ids) - ahead :][:size]
        done = some(conn, part)
        disposed, held, missing = disposed + done.disposed, held + done.held, missing + done.missing
        ahead -= len(part)
        conn.execute(
            "REPLACE INTO disposal (run_id, digest, disposed, held, missing, ahead, at_us)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (run_id, digest, disposed, held, missing, ahead, at_us),
        )
    return Disposed(disposed=disposed, held=held, missing=missing), ahead
