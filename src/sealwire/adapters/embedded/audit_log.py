"""The audit log in SQLite: records in pieces of up to 256, so that a record costs no statement of its own.

    tenant      one row per log: its number, size and last hash; an append updates it only if the size is as expected
    piece       records side by side: traits to search by, hashes, canonical bytes in C2SP entry bundle form
    audit_id    which ids are taken, unique per tenant
    tile        Merkle tiles: full ones of level 0, the newest form of those above
    checkpoint  signed notes
    leaf        what is kept of records that are gone: see audit_pruning

A piece never crosses a tile's border, so tile n is made of whole pieces. Numbers are joined into one integer key:
`place` = tenant << 40 | first seq, `tile.place` = tenant << 40 | level << 36 | number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

import apsw

from sealwire.adapters.embedded import audit_pruning, audit_traits
from sealwire.adapters.embedded.audit_appends import LEVEL_BITS, SEQ_BITS, Appends, number_to_write
from sealwire.adapters.embedded.audit_pieces import ENDS, counted, entries_of, split_digits, unpack, with_leaves
from sealwire.adapters.embedded.disposals import Disposals
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.contracts.custody import Disposed
from sealwire.kit.clock import parse_rfc3339
from sealwire.services.compliance.chain import read_record
from sealwire.services.compliance.merkle import HASH_BYTES, TILE_WIDTH
from sealwire.services.compliance.ports import (
    Found,
    LogAppend,
    LogEdge,
    LogHead,
    LogUnreadable,
    PruneCount,
    RecordFilter,
    Span,
    StoredCheckpoint,
    StoredKey,
    StoredRecord,
)

SCHEMA = """
CREATE TABLE tenant (
    number INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    last_hash BLOB NOT NULL
);
CREATE TABLE piece (
    place INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    traits BLOB NOT NULL,
    hashes BLOB NOT NULL,
    bodies BLOB NOT NULL
);
CREATE TABLE audit_id (
    id TEXT NOT NULL,
    number INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (id, number)
) WITHOUT ROWID;
CREATE TABLE tile (
    place INTEGER PRIMARY KEY,
    hashes BLOB NOT NULL
);
CREATE TABLE checkpoint (
    number INTEGER NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note TEXT NOT NULL,
    public_key TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (number, size)
) WITHOUT ROWID;
"""
_CHECKPOINT = "SELECT size, root, note, public_key, at_us FROM checkpoint"
_PIECES_A_LOOK = 128


class SqliteAuditStore:
    """`AuditStore` over a file whose schema includes `SCHEMA`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._disposals = Disposals(db)
        self._numbers: dict[str, int] = {}
        self._appends = Appends(db, self._numbers)

    # ---- writing

    async def append(self, append: LogAppend) -> None:
        (refused,) = await self._appends.add([append])
        if refused is not None:
            raise refused

    async def append_all(self, appends: Sequence[LogAppend]) -> Sequence[Exception | None]:
        return await self._appends.add(appends)

    def _number_to_write(self, conn: apsw.Connection, tenant_id: str) -> int:
        """Return the tenant's number, given now if it has none; remembered once that is durable."""
        number = self._numbers.get(tenant_id)
        if number is None:
            known = number = number_to_write(conn, tenant_id)
            self._db.after_commit(lambda: self._numbers.__setitem__(tenant_id, known))
        return number

    async def add_checkpoint(self, tenant_id: str, checkpoint: StoredCheckpoint) -> None:
        c = checkpoint

        def add(conn: apsw.Connection) -> None:
            number = self._number_to_write(conn, tenant_id)
            conn.execute(
                "INSERT OR IGNORE INTO checkpoint VALUES (?, ?, ?, ?, ?, ?)",
                (number, c.size, c.root, c.note, c.public_key, c.at_us),
            )

        await self._db.write(add)

    async def add_checkpoint_key(self, tenant_id: str, key: StoredKey) -> None:
        def add(conn: apsw.Connection) -> None:
            number = self._number_to_write(conn, tenant_id)
            conn.execute(
                "INSERT OR IGNORE INTO checkpoint_key VALUES (?, ?, ?, ?, ?, ?)",
                (number, key.version, key.public_key, key.size, key.rotation, key.at_us),
            )

        await self._db.write(add)

    # ---- reading

    def _read(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        try:
            return self._db.read(sql, params)
        except (apsw.CorruptError, apsw.NotADBError, apsw.FormatError, UnicodeDecodeError) as error:
            raise LogUnreadable(
                f"The audit log can't be read ({type(error).__name__}); run its verification."
            ) from error

    def _counted(self, sql: str, params: Sequence[Any]) -> list[Row]:
        return counted(self._read(sql, params))

    def _number(self, tenant_id: str) -> int | None:
        number = self._numbers.get(tenant_id)
        if number is None:
            rows = self._read("SELECT number FROM tenant WHERE tenant_id = ?", (tenant_id,))
            if not rows:
                return None
            number = self._numbers[tenant_id] = int(rows[0][0])
        return number

    async def head(self, tenant_id: str) -> LogHead:
        rows = self._read("SELECT size, last_hash FROM tenant WHERE tenant_id = ?", (tenant_id,))
        return LogHead(size=rows[0][0], last_hash=rows[0][1].hex()) if rows else LogHead()

    async def edge(self, tenant_id: str, size: int | None = None) -> LogEdge:
        head, number = await self.head(tenant_id), self._number(tenant_id)
        if number is None:
            return LogEdge(head=head)
        if size is not None:
            head = LogHead(size=size, last_hash="".join(r.hash for r in self._records(number, size, 1)))
        tiled = head.size - head.size % TILE_WIDTH
        records = self._records(number, tiled + 1, head.size - tiled) if tiled < head.size else []
        tiles: dict[int, tuple[int, bytes]] = {}
        level, nodes = 1, tiled // TILE_WIDTH
        while nodes:
            at = nodes // TILE_WIDTH
            if nodes % TILE_WIDTH:
                found = await self.tiles(tenant_id, [(level, at)])
                held = found.get((level, at), b"")
                tiles[level] = (at, held if size is None else held[: nodes % TILE_WIDTH * HASH_BYTES])
            else:
                tiles[level] = (at, b"")
            level, nodes = level + 1, at
        return LogEdge(head=head, records=records, tiles=tiles)

    async def find(self, tenant_id: str, audit_ids: Iterable[str]) -> dict[str, int]:
        number = self._number(tenant_id)
        found = {}
        for audit_id in audit_ids if number is not None else ():
            rows = self._read("SELECT seq FROM audit_id WHERE id = ? AND number = ?", (audit_id, number))
            if rows:
                found[audit_id] = int(rows[0][0])
        return found

    async def records(self, tenant_id: str, first_seq: int, limit: int) -> Sequence[StoredRecord]:
        number = self._number(tenant_id)
        return [] if number is None else self._records(number, first_seq, limit)

    async def span(self, tenant_id: str, first_seq: int, limit: int) -> Span | None:
        number = self._number(tenant_id)
        if number is None:
            return None
        hashes: list[str] = []
        bodies: list[bytes] = []
        pieces = self._pieces(number, first_seq, limit)
        start = pieces[0][0] if pieces else 0
        for place, count, packed, bundle, leaves in pieces:
            entries = entries_of(bundle)
            if leaves is not None or place != start + len(bodies) or len(entries) != count:
                return None
            hashes += split_digits(packed, count)
            bodies += entries
        at = (number << SEQ_BITS | first_seq) - start
        if at < 0 or len(bodies) < at + limit:
            return None
        return Span(hashes[at : at + limit], bodies[at : at + limit])

    def _pieces(self, number: int, first_seq: int, limit: int) -> list[Row]:
        """Return the pieces that hold these records: place, count, hashes, bodies, leaf hashes (of a pruned piece)."""
        base = number << SEQ_BITS
        return self._counted(
            "SELECT place, count, CAST(piece.hashes AS BLOB), CAST(bodies AS BLOB), CAST(leaf.hashes AS BLOB)"
            " FROM piece LEFT JOIN leaf USING (place)"
            f" WHERE place > ? AND place < ? AND {ENDS} > ? ORDER BY place LIMIT ?",
            (base | max(0, first_seq - TILE_WIDTH), base | first_seq + limit, base | first_seq, 1 + limit),
        )

    def _records(self, number: int, first_seq: int, limit: int) -> list[StoredRecord]:
        base = number << SEQ_BITS
        rows = self._pieces(number, first_seq, limit)
        found: list[StoredRecord] = []
        for place, count, hashes, bodies, leaves in rows:
            records = unpack(place - base, count, hashes, bodies)
            found += records if leaves is None else with_leaves(records, leaves)
        if len(rows) == 1 and len(found) == limit and found[0].seq == first_seq:
            return found
        return [r for r in found if first_seq <= r.seq < first_seq + limit]

    async def search(self, tenant_id: str, wanted: RecordFilter, *, after_seq: int, limit: int) -> Found:
        number = self._number(tenant_id)
        if number is None:
            return Found([], None)
        base = number << SEQ_BITS
        found: list[StoredRecord] = []
        at = after_seq
        while True:
            rows = self._traits_behind(base, at)
            for place, count, traits in rows:
                found += self._matching(place, count, traits, wanted, place - base, after_seq, limit - len(found))
                if len(found) >= limit:
                    return Found(found, found[-1].seq)
            if len(rows) < _PIECES_A_LOOK:
                return Found(found, None)
            at = rows[-1][0] - base + rows[-1][1] - 1
            await asyncio.sleep(0)

    def _matching(
        self, place: int, count: int, traits: bytes, wanted: RecordFilter, first: int, after_seq: int, limit: int
    ) -> list[StoredRecord]:
        """Return up to `limit` records of a piece that match, compared with the records themselves."""
        likely = [i for i in audit_traits.matches(count, traits, wanted) if first + i > after_seq]
        if not likely:
            return []
        rows = self._read("SELECT CAST(hashes AS BLOB), CAST(bodies AS BLOB) FROM piece WHERE place = ?", (place,))
        records = unpack(first, count, *rows[0]) if rows else []
        return [r for i in likely if _matches(r := records[i], wanted)][:limit]

    async def misfiled(self, tenant_id: str, first_seq: int, limit: int) -> int | None:
        number = self._number(tenant_id)
        if number is None:
            return None
        base = number << SEQ_BITS
        rows = self._counted(
            "SELECT place, count, CAST(traits AS BLOB), CAST(bodies AS BLOB) FROM piece"
            f" WHERE place > ? AND place < ? AND {ENDS} > ? ORDER BY place",
            (base | max(0, first_seq - TILE_WIDTH), base | first_seq + limit, base | first_seq),
        )
        for place, count, traits, bundle in rows:
            entries = entries_of(bundle)
            entries += [b""] * (count - len(entries))
            for i in audit_traits.differing(traits, entries):
                if first_seq <= place - base + i < first_seq + limit:
                    return int(place) - base + i
        return None

    async def tiles(self, tenant_id: str, addresses: Iterable[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        number = self._number(tenant_id)
        found: dict[tuple[int, int], bytes] = {}
        for level, at in addresses if number is not None else ():
            place = number << SEQ_BITS | level << LEVEL_BITS | at  # type: ignore[operator]  # not None here
            rows = self._read("SELECT CAST(hashes AS BLOB) FROM tile WHERE place = ?", (place,))
            if rows:
                found[level, at] = rows[0][0]
        return found

    async def due(
        self, tenant_id: str, *, before_us: int, after_seq: int, limit: int
    ) -> Sequence[tuple[int, int, bool]]:
        number = self._number(tenant_id)
        found: list[tuple[int, int, bool]] = []
        if number is None:
            return found
        base, at, older = number << SEQ_BITS, after_seq, RecordFilter(to_us=before_us)
        held = audit_pruning.held_in(self._read(audit_pruning.HELD, (tenant_id,)))
        while True:
            rows = self._traits_behind(base, at)
            for place, count, traits in rows:
                first = place - base
                old = [i for i in audit_traits.matches(count, traits, older) if first + i > after_seq]
                found += self._due_of(number, first, count, old, before_us, held) if old else ()
                if len(found) >= limit:
                    return found[:limit]
            if len(rows) < _PIECES_A_LOOK:
                return found
            at = rows[-1][0] - base + rows[-1][1] - 1
            await asyncio.sleep(0)

    def _due_of(
        self, number: int, first: int, count: int, old: Sequence[int], before_us: int, held: frozenset[str]
    ) -> list[tuple[int, int, bool]]:
        """Look at those that the traits call old: what is chained says how old a record is, the traits are not."""
        records = self._records(number, first, count)
        if audit_pruning.was_emptied(records):
            return []
        found = []
        for record in (records[i] for i in old if audit_pruning.is_intact(records[i])):
            with suppress(ValueError):  # changed together with its hash
                made_us = parse_rfc3339(read_record(record.body).created_at)
                if made_us < before_us:
                    found.append((record.seq, made_us, audit_pruning.is_held(record.body, held)))
        return found

    async def prunable(self, tenant_id: str, seqs: Collection[int]) -> list[int]:
        number = self._number(tenant_id)
        if number is None:
            return []
        held = audit_pruning.held_in(self._read(audit_pruning.HELD, (tenant_id,)))
        found: list[int] = []
        left = sorted(set(seqs))
        while left:
            wanted = {seq for seq in left if seq < left[0] + TILE_WIDTH}
            for place, count, hashes, bodies, leaves in self._pieces(number, left[0], TILE_WIDTH):
                records = unpack(place - (number << SEQ_BITS), count, hashes, bodies)
                if leaves is None and audit_pruning.was_emptied(records):
                    continue
                there = [r for r in records if r.seq in wanted and audit_pruning.is_intact(r)]
                found += [r.seq for r in there if not audit_pruning.is_held(r.body, held)]
            left = left[len(wanted) :]
            await asyncio.sleep(0)
        return found

    async def days(self, tenant_id: str, seqs: Collection[int]) -> Sequence[int]:
        number = self._number(tenant_id)
        base = (number or 0) << SEQ_BITS
        left = [] if number is None else sorted(set(seqs))
        found: set[int] = set()
        while left:
            rows = self._counted(
                "SELECT place, count, CAST(traits AS BLOB) FROM piece"
                f" WHERE place > ? AND place <= ? AND {ENDS} > ? LIMIT 1",
                (base | max(0, left[0] - TILE_WIDTH), base | left[0], base | left[0]),
            )
            if not rows:
                left.pop(0)
                continue
            first, times = rows[0][0] - base, audit_traits.times_of(rows[0][1], rows[0][2])
            inside = [seq for seq in left if seq < first + len(times)]
            found.update(times[seq - first] // audit_pruning.DAY_US for seq in inside)
            left = left[max(1, len(inside)) :]  # of traits that were cut nothing is known
            await asyncio.sleep(0)
        return sorted(found)

    def _traits_behind(self, base: int, seq: int) -> list[Row]:
        """Return place, count and traits of the next pieces of a log that hold a record above `seq`."""
        return self._counted(
            f"SELECT place, count, CAST(traits AS BLOB) FROM piece WHERE place > ? AND place < ? AND {ENDS} > ?"
            " ORDER BY place LIMIT ?",
            (base | max(0, seq + 1 - TILE_WIDTH), base + (1 << SEQ_BITS), base | seq + 1, _PIECES_A_LOOK),
        )

    async def kept_between(self, tenant_id: str, from_us: int, to_us: int, *, after_seq: int) -> bool:
        number, that_time = self._number(tenant_id), RecordFilter(from_us=from_us, to_us=to_us)
        if number is None:
            return False
        base, at = number << SEQ_BITS, after_seq
        while True:
            rows = self._traits_behind(base, at)
            for place, count, traits in rows:
                first = place - base
                if likely := [i for i in audit_traits.matches(count, traits, that_time) if first + i > after_seq]:
                    records = self._records(number, first, count)
                    if any(records[i].body or not records[i].leaf for i in likely):
                        return True
            if len(rows) < _PIECES_A_LOOK:
                return False
            at = rows[-1][0] - base + rows[-1][1] - 1
            await asyncio.sleep(0)

    async def prune(self, tenant_id: str, seqs: Sequence[int], *, run_id: str, at_us: int) -> PruneCount:
        def prune(conn: apsw.Connection, some: Sequence[str]) -> Disposed:
            number = conn.execute("SELECT number FROM tenant WHERE tenant_id = ?", (tenant_id,)).get
            if number is None:
                return Disposed(disposed=0, missing=len(some))
            count = audit_pruning.prune(conn, number, tenant_id, [int(seq) for seq in some])
            return Disposed(disposed=count.pruned, held=count.held, missing=count.missing)

        done = await self._disposals.dispose(run_id, [str(seq) for seq in seqs], at_us, prune)
        return PruneCount(pruned=done.disposed, held=done.held, missing=done.missing)

    async def last_checkpoint(self, tenant_id: str, at_most: int | None = None) -> StoredCheckpoint | None:
        sql = _CHECKPOINT + " WHERE number = ? AND size <= ? ORDER BY size DESC LIMIT 1"
        rows = self._read(sql, (self._number(tenant_id), 1 << SEQ_BITS if at_most is None else at_most))
        return _checkpoint(rows[0]) if rows else None

    async def checkpoints(self, tenant_id: str, *, above: int, limit: int) -> Sequence[StoredCheckpoint]:
        number = self._number(tenant_id)
        rows = self._read(_CHECKPOINT + " WHERE number = ? AND size > ? ORDER BY size LIMIT ?", (number, above, limit))
        return [_checkpoint(row) for row in rows]

    async def checkpoint_keys(self, tenant_id: str) -> Sequence[StoredKey]:
        rows = self._read(
            "SELECT ordinal, public_key, size, note, at_us FROM checkpoint_key WHERE number = ? ORDER BY ordinal",
            (self._number(tenant_id),),
        )
        return [StoredKey(version=v, public_key=k, size=s, rotation=note, at_us=at) for v, k, s, note, at in rows]

    async def tenants(self) -> Sequence[str]:
        return [row[0] for row in self._read("SELECT tenant_id FROM tenant ORDER BY number")]

    async def check(self) -> None:
        self._read("SELECT 1 FROM tenant LIMIT 1")


def _checkpoint(row: Row) -> StoredCheckpoint:
    size, root, note, public_key, at_us = row
    return StoredCheckpoint(size=size, root=root, note=note, public_key=public_key, at_us=at_us)


def _matches(record: StoredRecord, wanted: RecordFilter) -> bool:
    """Compare with the record itself: codes may collide, and traits be damaged."""
    try:
        r = read_record(record.body)
        if wanted.from_us is not None or wanted.to_us is not None:
            made_us = parse_rfc3339(r.created_at)
            if made_us < (wanted.from_us or 0) or (wanted.to_us is not None and made_us >= wanted.to_us):
                return False
    except ValueError:
        return False
    pairs = (
        (wanted.actor, r.actor.id),
        (wanted.action, r.action),
        (wanted.resource_type, r.resource_type),
        (wanted.resource_id, r.resource_id),
        (wanted.outcome, r.outcome),
    )
    return all(want is None or want == have for want, have in pairs)
