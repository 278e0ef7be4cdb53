"""Disposals that a retention run asks for, each done once: its answer is kept with what it deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

import apsw

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
_KEPT_US: Final = 30 * 86_400 * US_PER_S


def once(
    conn: apsw.Connection, run_id: str, ids: Sequence[str], at_us: int, dispose: Callable[[], Disposed]
) -> Disposed:
    """From inside a write: do what a run asks for, or return what came of it when it was asked for last.

    A run asks for one batch after the other, so its last answer is all that can be asked for again.
    """
    digest = sha256("\n".join(ids).encode()).digest()
    row = conn.execute("SELECT digest, disposed, held, missing FROM disposal WHERE run_id = ?", (run_id,)).fetchone()
    if row is not None and row[0] == digest:
        return Disposed(disposed=row[1], held=row[2], missing=row[3])
    done = dispose()
    conn.execute(
        "REPLACE INTO disposal VALUES (?, ?, ?, ?, ?, ?)",
        (run_id, digest, done.disposed, done.held, done.missing, at_us),
    )
    if row is None:
        conn.execute("DELETE FROM disposal WHERE at_us < ?", (at_us - _KEPT_US,))
    return done
