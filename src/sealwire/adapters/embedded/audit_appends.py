"""Appends to audit logs in SQLite: those of several tenants by the same few statements, each whole or not at all.

A statement for each tenant's records costs as much as the records, when they are few. So all are written together, and
only when one of them is refused taken back and written one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, count, pairwise, repeat
from typing import Any

import apsw
import msgspec

from sealwire.adapters.embedded import audit_traits
from sealwire.adapters.embedded.audit_pieces import entries_of
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.services.compliance.chain import read_link
from sealwire.services.compliance.merkle import TILE_WIDTH
from sealwire.services.compliance.ports import AuditIdsTaken, HeadMoved, LogAppend, LogUnreadable
from sealwire.services.compliance.tiles import write_bundle

SEQ_BITS = 40
LEVEL_BITS = 36
_RECORDS_A_JOB = 512
"""A job holds up the loop: some 3 µs a record."""
_IDS_A_STATEMENT = 32
_INSERT_ID = "INSERT INTO audit_id VALUES (?, ?, ?)"
_INSERT_IDS = ", ".join([_INSERT_ID] + ["(?, ?, ?)"] * (_IDS_A_STATEMENT - 1))
_IDS_WORTH_A_LIST = 16
_INSERT_LIST = "INSERT INTO audit_id SELECT value, ?1, ?2 + key FROM json_each(?3)"
_INSERT_PIECE = "INSERT INTO piece VALUES (?, ?, ?, ?, ?)"
_MOVE_HEAD = "UPDATE tenant SET size = ?, last_hash = ? WHERE number = ? AND size = ? AND last_hash = ?"
_PIECES_WORTH_JOINING = 12
_write_json = msgspec.json.Encoder().encode


class Appends:
    """Writes appends; knows the tenants' numbers."""

    def __init__(self, db: Database, numbers: dict[str, int]) -> None:
        """`numbers` are the tenants' numbers known to be durable; more are added to it."""
        self._db = db
        self._numbers = numbers

    async def add(self, appends: Sequence[LogAppend]) -> list[Exception | None]:
        """See `AuditStore.append_all`."""
        portions = list(_portions(appends))
        if len(portions) == 1:
            return await self._add_some(portions[0])
        return list(chain.from_iterable(await asyncio.gather(*map(self._add_some, portions))))

    async def _add_some(self, appends: Sequence[LogAppend]) -> list[Exception | None]:
        try:
            return await self._db.write(lambda conn: self._write(conn, appends))
        except Exception as error:
            return [error] * len(appends)

    def _write(self, conn: apsw.Connection, appends: Sequence[LogAppend]) -> list[Exception | None]:
        """Write them inside a job, which takes all back when this raises."""
        given: dict[str, int] = {}
        outcomes: list[Exception | None] = [None] * len(appends)
        if len(appends) == 1:
            self._one(conn, appends[0], given)
        else:
            conn.execute("SAVEPOINT appends")
            try:
                self._together(conn, appends, given)
            except Exception:  # one of them was refused, or what is stored of its log is damaged
                if not conn.in_transaction:  # SQLite gave up all of it: a fault of the storage
                    raise
                conn.execute("ROLLBACK TO appends")
                given.clear()  # who is new may get another number now
                outcomes = [self._alone(conn, append, given) for append in appends]
            conn.execute("RELEASE appends")
        if given:
            self._db.after_commit(lambda: self._numbers.update(given))
        return outcomes

    def _alone(self, conn: apsw.Connection, append: LogAppend, given: dict[str, int]) -> Exception | None:
        fresh: dict[str, int] = {}
        refused: Exception | None = None
        conn.execute("SAVEPOINT append")
        try:
            self._one(conn, append, fresh)
            given.update(fresh)
        except Exception as error:
            if not conn.in_transaction:
                raise
            refused = error
            conn.execute("ROLLBACK TO append")
        conn.execute("RELEASE append")
        return refused

    def _one(self, conn: apsw.Connection, append: LogAppend, given: dict[str, int]) -> None:
        """Write one. Raises: as `_together`; LogUnreadable where what is stored of its log is in the way."""
        try:
            self._together(conn, [append], given)
        except (apsw.ConstraintError, apsw.CorruptError, TypeError, ValueError, OverflowError) as error:
            if not conn.in_transaction:  # SQLite gave up all of it
                raise
            raise LogUnreadable(type(error).__name__) from error

    def _together(self, conn: apsw.Connection, appends: Sequence[LogAppend], given: dict[str, int]) -> None:
        """Write all. Raises: HeadMoved, AuditIdsTaken, for whichever of them; then what was written is to be undone."""
        heads: list[Row] = []
        ids: list[Any] = []
        lists: list[Row] = []
        pieces: list[Row] = []
        tiles: list[Row] = []
        full: list[tuple[int, int]] = []
        for append in appends:
            before, after = append.before, append.after
            number = self._numbers.get(append.tenant_id)
            if number is None:
                number = given[append.tenant_id] = number_to_write(conn, append.tenant_id)
            heads.append(
                (after.size, bytes.fromhex(after.last_hash), number, before.size, bytes.fromhex(before.last_hash))
            )
            audit_ids = [entry.audit_id for entry in append.entries]
            if len(audit_ids) < _IDS_WORTH_A_LIST or (listed := _listed(audit_ids)) is None:
                ids += chain.from_iterable(zip(audit_ids, repeat(number), count(before.size + 1)))
            else:
                lists.append((number, before.size + 1, listed))
            base = number << SEQ_BITS
            start, end = 0, len(audit_ids)
            while start < end:
                first = before.size + start
                stop = min(end, start + TILE_WIDTH - first % TILE_WIDTH)
                pieces.append((base | first + 1, stop - start, *_columns(append, start, stop)))
                if (before.size + stop) % TILE_WIDTH == 0:
                    full.append((base, (before.size + stop) // TILE_WIDTH - 1))
                start = stop
            tiles += [(base | tile.level << LEVEL_BITS | tile.number, tile.hashes) for tile in append.tiles]
        changed = conn.total_changes()
        conn.executemany(_MOVE_HEAD, heads)
        if conn.total_changes() - changed != len(heads):
            raise HeadMoved
        _insert_ids(conn, ids, lists)
        conn.executemany(_INSERT_PIECE, pieces)
        for base, at in full:
            _join_pieces(conn, base, at)
        if tiles:
            conn.executemany("REPLACE INTO tile VALUES (?, ?)", tiles)


def number_to_write(conn: apsw.Connection, tenant_id: str) -> int:
    """Return the tenant's number, given now if it has none; to be remembered once that is durable.

    Raises: LogUnreadable when there is a log of this tenant already, and only its row was lost.
    """
    number: int | None = conn.execute("SELECT number FROM tenant WHERE tenant_id = ?", (tenant_id,)).get
    if number is None:
        number = _free_number(conn, tenant_id)
        conn.execute("INSERT INTO tenant VALUES (?, ?, 0, zeroblob(32))", (number, tenant_id))
    return number


def _free_number(conn: apsw.Connection, tenant_id: str) -> int:
    """Return a number for a new log, never that of a log whose row is lost.

    Rows are never deleted and numbers are given one after another: so mostly two counts say that none is lost.
    Raises: LogUnreadable when this log isn't new: begun again at 1, it would be signed as if nothing had been.
    """
    rows: int = conn.execute("SELECT count(*) FROM tenant").get
    last: int = conn.execute("SELECT ifnull(max(number), 0) FROM tenant").get
    places = conn.execute("SELECT ifnull(max(place), 0) FROM piece").get
    top: int = max(last, places >> SEQ_BITS, conn.execute("SELECT ifnull(max(number), 0) FROM checkpoint").get)
    if rows != top:
        known = [number for (number,) in conn.execute("SELECT number FROM tenant ORDER BY number")]
        for low, high in pairwise([0, *known, top + 1]):
            if high - low > 1 and tenant_id in _owners(conn, low, high):
                raise LogUnreadable("The row of this log is lost.")
    return top + 1


def _owners(conn: apsw.Connection, low: int, high: int) -> Iterator[str]:
    """Yield whose logs lie between two numbers, by the first piece and by a checkpoint of each."""
    at = low
    piece = "SELECT place >> 40, bodies FROM piece WHERE place > ? AND place < ? ORDER BY place LIMIT 1"
    while row := conn.execute(piece, (at + 1 << SEQ_BITS, high << SEQ_BITS)).fetchone():
        at = row[0]
        for body in entries_of(row[1]):
            with suppress(ValueError):
                yield read_link(body).tenant_id
    at = low
    checkpoint = "SELECT number, note FROM checkpoint WHERE number > ? AND number < ? ORDER BY number LIMIT 1"
    while row := conn.execute(checkpoint, (at, high)).fetchone():
        at = row[0]
        yield row[1].partition("\n")[0].rpartition("/")[2]


def _portions(appends: Sequence[LogAppend]) -> Iterator[Sequence[LogAppend]]:
    """Split appends into jobs."""
    start = records = 0
    for at, append in enumerate(appends):
        if at > start and records + len(append.bodies) > _RECORDS_A_JOB:
            yield appends[start:at]
            start, records = at, 0
        records += len(append.bodies)
    if start < len(appends):
        yield appends[start:]


def _columns(append: LogAppend, start: int, stop: int) -> tuple[bytes, bytes, bytes]:
    """Return traits, hashes and bodies of a piece."""
    if stop - start < len(append.bodies):
        return (
            audit_traits.pack(append.entries[start:stop], append.created_us[start:stop]),
            bytes.fromhex("".join(append.hashes[start:stop])),
            write_bundle(append.bodies[start:stop]),
        )
    traits = audit_traits.pack(append.entries, append.created_us)
    return traits, bytes.fromhex("".join(append.hashes)), write_bundle(append.bodies)


def _listed(audit_ids: Sequence[str]) -> str | None:
    """Return ids as a JSON array; None when one of them is not written there as it is."""
    listed = _write_json(audit_ids)
    return listed.decode() if listed.isascii() and b"\\" not in listed else None


def _insert_ids(conn: apsw.Connection, values: Sequence[Any], lists: Sequence[Row]) -> None:
    """Claim ids: id, number and seq of one after another, and lists of those of one log. Raises: AuditIdsTaken.

    Several rows a statement, as each statement costs as much as a row.
    """
    step = 3 * _IDS_A_STATEMENT
    whole = len(values) - len(values) % step
    try:
        for start in range(0, whole, step):
            conn.execute(_INSERT_IDS, values[start : start + step])
        for start in range(whole, len(values), 3):
            conn.execute(_INSERT_ID, values[start : start + 3])
        conn.executemany(_INSERT_LIST, lists)
    except apsw.ConstraintError:
        raise AuditIdsTaken from None


def _join_pieces(conn: apsw.Connection, base: int, tile: int) -> None:
    """Make one piece of the many that a finished tile's records came in, so that reading stays quick."""
    low, high = base | tile * TILE_WIDTH + 1, base | (tile + 1) * TILE_WIDTH
    bounds = (low, high)
    if conn.execute("SELECT count(*) FROM piece WHERE place BETWEEN ? AND ?", bounds).get < _PIECES_WORTH_JOINING:
        return
    rows: list[Row] = conn.execute(
        "SELECT count, traits, hashes, bodies FROM piece WHERE place BETWEEN ? AND ? ORDER BY place", bounds
    ).fetchall()
    if sum(row[0] for row in rows) != TILE_WIDTH:
        return  # something is missing: leave everything as it is, for the verifier
    if conn.execute("SELECT 1 FROM leaf WHERE place BETWEEN ? AND ?", bounds).get is not None:
        return  # records of it are pruned already
    conn.execute("DELETE FROM piece WHERE place BETWEEN ? AND ?", bounds)
    traits = audit_traits.merge([(row[0], row[1]) for row in rows])
    hashes, bodies = b"".join([row[2] for row in rows]), b"".join([row[3] for row in rows])
    conn.execute(_INSERT_PIECE, (low, TILE_WIDTH, traits, hashes, bodies))
