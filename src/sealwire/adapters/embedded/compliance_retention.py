"""Legal holds, retention runs and their lists in compliance's file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from hashlib import sha256
from typing import Final

import apsw
import msgspec

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.contracts.holds import Hold, HoldGap
from sealwire.contracts.retention import ListUnusable, RunActive
from sealwire.ports.events import NewEvent
from sealwire.services.compliance.retention_ports import StoredRun

# Holds of before this were known to compliance alone: they are placed again, everywhere.
RETENTION_SCHEMA: Final = """
ALTER TABLE hold ADD COLUMN state TEXT NOT NULL DEFAULT 'placing';
ALTER TABLE hold ADD COLUMN in_force_at TEXT;
CREATE INDEX hold_unsettled ON hold (tenant_id, hold_id) WHERE state <> 'in_force';
CREATE TABLE retention_run (
    run_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    active INTEGER NOT NULL,
    scheduled INTEGER NOT NULL,
    started_us INTEGER NOT NULL,
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX retention_run_active ON retention_run (tenant_id) WHERE active;
CREATE INDEX retention_run_of ON retention_run (tenant_id, run_id);
CREATE INDEX retention_run_age ON retention_run (started_us);
CREATE TABLE retention_item (
    list_id TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    PRIMARY KEY (list_id, resource_type, resource_id)
) WITHOUT ROWID;
"""
GAPS_SCHEMA: Final = "ALTER TABLE hold ADD COLUMN gaps BLOB;"
FOUND_SCHEMA: Final = "ALTER TABLE hold ADD COLUMN found INTEGER;"
_HOLD: Final = "hold_id, reason, created_at, created_by, subject_id, conversation_id, state, in_force_at, gaps, found"
_COVERED: Final = (
    "SELECT EXISTS (SELECT 1 FROM hold WHERE tenant_id = ?1 AND subject_id = ?2)"
    " OR EXISTS (SELECT 1 FROM hold WHERE tenant_id = ?1 AND conversation_id = ?3)"
)
_HASHED_AT_ONCE: Final = 10_000
_ABOVE: Final = "FROM retention_item WHERE list_id = ? AND (resource_type, resource_id) > (?, ?)"
_LAST_LINE: Final = f"SELECT resource_type, resource_id {_ABOVE} ORDER BY resource_type, resource_id LIMIT 1 OFFSET ?"
_LINES: Final = (
    "SELECT group_concat(resource_type || '/' || resource_id || char(10), '' ORDER BY resource_type, resource_id)"
    f" {_ABOVE} AND (resource_type, resource_id) <= (?, ?)"
)
_encode_ids = msgspec.json.Encoder().encode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StoredRun).decode
_read_gaps = msgspec.json.Decoder(list[HoldGap]).decode


def is_covered(conn: apsw.Connection, tenant_id: str, *, subject_id: str = "", conversation_id: str = "") -> bool:
    """From inside a write: say whether a hold covers this person or conversation."""
    return bool(conn.execute(_COVERED, (tenant_id, subject_id, conversation_id)).get)


def hold_of(row: tuple[object, ...]) -> Hold:
    """Read the columns `_HOLD`."""
    *told, gaps, found = row
    names = ("hold_id", "reason", "created_at", "created_by", "subject_id", "conversation_id", "state", "in_force_at")
    known = _read_gaps(gaps) if isinstance(gaps, bytes) else []
    hold = msgspec.convert(dict(zip(names, told, strict=True)), Hold)
    return msgspec.structs.replace(hold, gaps=known, found=None if found is None else bool(found))


class SqliteHoldStore:
    """`HoldStore` in the table `hold`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def place(self, tenant_id: str, hold: Hold, event: NewEvent) -> None:
        h = hold
        row = (tenant_id, h.hold_id, h.reason, h.created_at, h.created_by, h.subject_id, h.conversation_id, h.state)
        await self._outbox.change(
            f"INSERT INTO hold (tenant_id, {_HOLD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)", row, event
        )

    async def confirm(
        self, tenant_id: str, hold_id: str, at: str, gaps: Sequence[HoldGap], found: bool | None, event: NewEvent
    ) -> bool:
        sql = (
            "UPDATE hold SET state = 'in_force', in_force_at = ?, gaps = ?, found = ?"
            " WHERE tenant_id = ? AND hold_id = ? AND state = 'placing'"
        )
        return await self._outbox.change(sql, (at, _encode(gaps) if gaps else None, found, tenant_id, hold_id), event)

    async def begin_release(self, tenant_id: str, hold_id: str, event: NewEvent) -> bool:
        sql = "UPDATE hold SET state = 'releasing' WHERE tenant_id = ? AND hold_id = ? AND state <> 'releasing'"
        return await self._outbox.change(sql, (tenant_id, hold_id), event)

    async def drop(self, tenant_id: str, hold_id: str, event: NewEvent) -> bool:
        sql = "DELETE FROM hold WHERE tenant_id = ? AND hold_id = ? AND state = 'releasing'"
        return await self._outbox.change(sql, (tenant_id, hold_id), event)

    async def get(self, tenant_id: str, hold_id: str) -> Hold | None:
        rows = self._db.read(f"SELECT {_HOLD} FROM hold WHERE tenant_id = ? AND hold_id = ?", (tenant_id, hold_id))
        return hold_of(rows[0]) if rows else None

    async def page(self, tenant_id: str, *, after: str, limit: int) -> Sequence[Hold]:
        rows = self._db.read(
            f"SELECT {_HOLD} FROM hold WHERE tenant_id = ? AND hold_id > ? ORDER BY hold_id LIMIT ?",
            (tenant_id, after, limit),
        )
        return [hold_of(row) for row in rows]

    async def covers(self, tenant_id: str, *, subject_id: str = "", conversation_id: str = "") -> bool:
        return bool(self._db.read(_COVERED, (tenant_id, subject_id, conversation_id))[0][0])

    async def on(
        self, tenant_id: str, conversation_ids: Collection[str], hold_ids: Collection[str] = ()
    ) -> Sequence[Hold]:
        wanted = [_encode_ids(list(ids)).decode() for ids in (conversation_ids, hold_ids)]
        rows = self._db.read(
            f"SELECT {_HOLD} FROM hold WHERE tenant_id = ? AND (conversation_id IN (SELECT value FROM json_each(?))"
            " OR hold_id IN (SELECT value FROM json_each(?))) ORDER BY hold_id",
            (tenant_id, *wanted),
        )
        return [hold_of(row) for row in rows]

    async def unsettled(self) -> Sequence[tuple[str, Hold]]:
        rows = self._db.read(f"SELECT tenant_id, {_HOLD} FROM hold WHERE state <> 'in_force'")
        return [(row[0], hold_of(row[1:])) for row in rows]

    async def in_force(self) -> Sequence[tuple[str, Hold]]:
        rows = self._db.read(f"SELECT tenant_id, {_HOLD} FROM hold WHERE state = 'in_force'")
        return [(row[0], hold_of(row[1:])) for row in rows]


class SqliteRunStore:
    """`RunStore` in the tables `retention_run` and `retention_item`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def begin(self, run: StoredRun, event: NewEvent, *, spends: str = "") -> None:
        def begin(conn: apsw.Connection) -> None:
            sql = "SELECT run_id FROM retention_run WHERE tenant_id = ? AND active"
            active = conn.execute(sql, (run.tenant_id,)).get
            if active is not None:
                raise RunActive(f"The run {active} is under way.", run_id=active)
            if spends:
                body = conn.execute("SELECT body FROM retention_run WHERE run_id = ?", (spends,)).get
                if body is None or (dry := _decode(body)).status != "listed":
                    raise ListUnusable("Its list was executed before, or is none.")
                _put(conn, msgspec.structs.replace(dry, status="spent"))
            _put(conn, run)
            self._outbox.append(conn, [event])

        await self._db.write(begin)

    async def save(self, run: StoredRun, event: NewEvent | None = None) -> None:
        def save(conn: apsw.Connection) -> None:
            _put(conn, run)
            if event is not None:
                self._outbox.append(conn, [event])

        await self._db.write(save)

    async def add(self, run: StoredRun, resource_type: str, ids: Sequence[str]) -> None:
        row = (run.list_id, resource_type, _encode_ids(ids).decode())

        def add(conn: apsw.Connection) -> None:
            conn.execute("INSERT OR IGNORE INTO retention_item SELECT ?1, ?2, value FROM json_each(?3)", row)
            _put(conn, run)

        await self._db.write_aside(add)

    async def next(self, list_id: str, resource_type: str, limit: int) -> Sequence[str]:
        rows = self._db.read(
            "SELECT resource_id FROM retention_item WHERE list_id = ? AND resource_type = ?"
            " ORDER BY resource_id LIMIT ?",
            (list_id, resource_type, limit),
        )
        return [row[0] for row in rows]

    async def page(self, list_id: str, after: tuple[str, str], limit: int) -> Sequence[tuple[str, str]]:
        sql = f"SELECT resource_type, resource_id {_ABOVE} ORDER BY resource_type, resource_id LIMIT ?"
        return [(str(kind), str(id_)) for kind, id_ in self._db.read(sql, (list_id, *after, limit))]

    async def take(self, run: StoredRun, resource_type: str, upto: str) -> None:
        def take(conn: apsw.Connection) -> None:
            conn.execute(
                "DELETE FROM retention_item WHERE list_id = ? AND resource_type = ? AND resource_id <= ?",
                (run.list_id, resource_type, upto),
            )
            _put(conn, run)

        await self._db.write_aside(take)

    async def list_hash(self, list_id: str) -> str:
        digest, place = sha256(), ("", "")
        while True:  # a page a read: nothing reads for long, so that the log can be emptied
            text, upto = await self._db.scan(partial(_lines, list_id, place))
            digest.update(text.encode())
            if upto is None:
                return digest.hexdigest()
            place = upto

    async def run(self, tenant_id: str, run_id: str) -> StoredRun | None:
        rows = self._db.read("SELECT body FROM retention_run WHERE run_id = ? AND tenant_id = ?", (run_id, tenant_id))
        return _decode(rows[0][0]) if rows else None

    async def runs(self, tenant_id: str, *, before: str, limit: int) -> Sequence[StoredRun]:
        rows = self._db.read(
            "SELECT body FROM retention_run WHERE tenant_id = ?1 AND (?2 = '' OR run_id < ?2)"
            " ORDER BY run_id DESC LIMIT ?3",
            (tenant_id, before, limit),
        )
        return [_decode(body) for (body,) in rows]

    async def active(self) -> Sequence[StoredRun]:
        return [_decode(body) for (body,) in self._db.read("SELECT body FROM retention_run WHERE active")]

    async def due_tenants(self, before_us: int) -> Sequence[str]:
        rows = self._db.read(
            "SELECT DISTINCT tenant_id FROM retention_policy p WHERE keep_days > 0 AND NOT EXISTS (SELECT 1"
            " FROM retention_run r WHERE r.tenant_id = p.tenant_id AND (active OR scheduled AND r.started_us >= ?))",
            (before_us,),
        )
        return [tenant_id for (tenant_id,) in rows]

    async def forget(self, *, runs_before_us: int, lists_before_us: int, limit: int) -> int:
        def forget(conn: apsw.Connection) -> int:
            for body in conn.execute(
                "SELECT body FROM retention_run WHERE started_us < ? AND NOT active"
                " AND json_extract(body, '$.status') = 'listed' LIMIT ?",
                (lists_before_us, limit),
            ).fetchall():
                _put(conn, msgspec.structs.replace(_decode(str(body[0])), status="spent", problem="nobody executed it"))
            conn.execute(
                "DELETE FROM retention_item WHERE (list_id, resource_type, resource_id) IN (SELECT list_id,"
                " resource_type, resource_id FROM retention_item JOIN retention_run ON run_id = list_id"
                " WHERE started_us < ? AND json_extract(body, '$.status') <> 'listed'"
                " AND NOT EXISTS (SELECT 1 FROM retention_run a WHERE a.active"
                " AND json_extract(a.body, '$.list_id') = retention_item.list_id) LIMIT ?)",
                (lists_before_us, limit),
            )
            if deleted := int(conn.changes()):
                return deleted
            conn.execute(
                "DELETE FROM retention_run WHERE run_id IN (SELECT run_id FROM retention_run r WHERE started_us < ?"
                " AND NOT active AND NOT EXISTS (SELECT 1 FROM retention_item WHERE list_id = r.run_id) LIMIT ?)",
                (runs_before_us, limit),
            )
            return int(conn.changes())

        return await self._db.write(forget)

    async def trim(self, before_us: int) -> None:
        await self._outbox.trim(before_us=before_us)

    async def reclaim(self) -> int:
        return await self._db.reclaim()


def _lines(list_id: str, place: tuple[str, str], conn: apsw.Connection) -> tuple[str, tuple[str, str] | None]:
    """Return the next lines of a list as one text, made without the GIL, and where they end unless all are read.

    In a thread.
    """
    last = conn.execute(_LAST_LINE, (list_id, *place, _HASHED_AT_ONCE - 1)).fetchone()
    upto = ("\U0010ffff", "") if last is None else (str(last[0]), str(last[1]))
    text = conn.execute(_LINES, (list_id, *place, *upto)).get
    return text or "", None if last is None else upto


def _put(conn: apsw.Connection, run: StoredRun) -> None:
    scheduled = run.asked_by == "" and not run.dry_run
    conn.execute(
        "INSERT INTO retention_run VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        " ON CONFLICT (run_id) DO UPDATE SET active = ?3, body = ?6",
        (run.run_id, run.tenant_id, run.active, scheduled, run.started_us, _encode(run).decode()),
    )
