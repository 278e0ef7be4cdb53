"""An outbox and consumers' positions in a service's own SQLite file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import apsw

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.ports.events import Event, NewEvent

# AUTOINCREMENT: a position is never given twice, not even after all events were trimmed away. Gapless all the same: a
# transaction that is rolled back gives its positions back.
OUTBOX_SCHEMA = """
CREATE TABLE outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    data BLOB NOT NULL
);
"""
POSITIONS_SCHEMA = """
CREATE TABLE consumer_position (
    consumer TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;
"""
TRIM_CHUNK = 500


class Arrivals:
    """Wakes those who wait for events of a file, right after the commit that brought some."""

    def __init__(self, db: Database) -> None:
        self._waiters: set[asyncio.Future[bool]] = set()
        self._noted = False
        db.on_commit(self._committed)

    def note(self) -> None:
        """From inside a write: this group brings events. (If it is rolled back, somebody is woken for nothing.)"""
        self._noted = True

    async def wait(self, timeout_s: float) -> bool:
        """Return True after the next commit that brings events, False when `timeout_s` passed before."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiters.add(future)
        timer = loop.call_later(timeout_s, _resolve, future, False)
        try:
            return await future
        finally:
            timer.cancel()
            self._waiters.discard(future)

    async def until(self, there: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a commit after which `there` is true; return whether it is."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while not there():
            if (left_s := until - loop.time()) <= 0 or not await self.wait(left_s):
                return there()
        return True

    def _committed(self) -> None:
        if self._noted:
            self._noted = False
            for future in self._waiters:
                _resolve(future, True)


def _resolve(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


class SqliteOutbox:
    """An `EventFeed` over the table `outbox` of the service's own file; the file's schema includes `OUTBOX_SCHEMA`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._arrivals = Arrivals(db)

    def append(self, conn: apsw.Connection, events: Sequence[NewEvent]) -> None:
        """From inside a write: let `events` be stored with it, in this order."""
        conn.executemany(
            "INSERT INTO outbox (event_id, tenant_id, kind, at_us, data) VALUES (?, ?, ?, ?, ?)",
            [(e.event_id, e.tenant_id, e.kind, e.at_us, e.data) for e in events],
        )
        self._arrivals.note()

    async def change(self, sql: str, row: tuple[object, ...], event: NewEvent) -> bool:
        """Run a statement and store its event if it changed something, in one transaction; say whether it did."""

        def change(conn: apsw.Connection) -> bool:
            conn.execute(sql, row)
            if not conn.changes():
                return False
            self.append(conn, [event])
            return True

        return await self._db.write(change)

    async def read(self, after: int, limit: int) -> Sequence[Event]:
        return [
            Event(position=p, event_id=i, tenant_id=t, kind=k, at_us=at, data=d)
            for p, i, t, k, at, d in self._db.read(
                "SELECT position, event_id, tenant_id, kind, at_us, data FROM outbox"
                " WHERE position > ? ORDER BY position LIMIT ?",
                (after, limit),
            )
        ]

    async def wait(self, after: int, timeout_s: float) -> bool:
        return await self._arrivals.until(lambda: self._has_above(after), timeout_s)

    async def newest(self) -> int:
        return self._newest()

    async def trim(self, *, before_us: int) -> int:
        """Delete events older than `before_us` that every consumer of this file's positions has passed.

        In chunks, each its own write. With no registered consumer nothing is deleted. Return how many were.
        """
        deleted = 0
        while chunk := await self._db.write(lambda conn: _trim(conn, before_us)):
            deleted += chunk
        return deleted

    def _has_above(self, after: int) -> bool:
        """Whether there is one to read: the newest position says less, for its event may be trimmed away."""
        return bool(self._db.read("SELECT 1 FROM outbox WHERE position > ? LIMIT 1", (after,)))

    def _newest(self) -> int:
        rows = self._db.read("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")
        return int(rows[0][0]) if rows else 0


def _trim(conn: apsw.Connection, before_us: int) -> int:
    passed = conn.execute("SELECT min(position) FROM consumer_position").get
    if passed is None:
        return 0
    conn.execute(
        "DELETE FROM outbox WHERE position IN"
        " (SELECT position FROM outbox WHERE position <= ? AND at_us < ? ORDER BY position LIMIT ?)",
        (passed, before_us, TRIM_CHUNK),
    )
    return int(conn.changes())


def move(conn: apsw.Connection, consumer: str, position: int) -> None:
    """From inside a write: note that `consumer` is done with all up to `position`; never back."""
    conn.execute(
        "INSERT INTO consumer_position VALUES (?1, ?2)"
        " ON CONFLICT (consumer) DO UPDATE SET position = max(position, ?2)",
        (consumer, position),
    )


class SqlitePositions:
    """`Positions` in the table `consumer_position`; the file's schema includes `POSITIONS_SCHEMA`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def load(self, consumer: str) -> int:
        def load(conn: apsw.Connection) -> int:
            conn.execute("INSERT OR IGNORE INTO consumer_position VALUES (?, 0)", (consumer,))
            return int(conn.execute("SELECT position FROM consumer_position WHERE consumer = ?", (consumer,)).get)

        return await self._db.write(load)

    async def save(self, consumer: str, position: int) -> None:
        await self._db.write(lambda conn: move(conn, consumer, position))

    async def forget(self, consumer: str) -> None:
        """Drop a consumer that will not come back, so that it no longer holds up trimming."""
        await self._db.write(
            lambda conn: conn.execute("DELETE FROM consumer_position WHERE consumer = ?", (consumer,)).fetchall()
        )
