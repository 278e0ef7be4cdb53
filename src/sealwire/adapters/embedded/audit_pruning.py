"""Pruning in SQLite: records leave, their hashes stay (R4.6).

    leaf     Merkle leaf hashes of a piece that lost records; `place` is the piece's

A record that is gone has no bytes in its piece's bundle, its audit id is free, and its two hashes stay: that of the
chain in the piece, that of the leaf beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import apsw

from sealwire.adapters.embedded.audit_pieces import unpack
from sealwire.adapters.embedded.drivers.pace import Pace
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.ports.events import NewEvent
from sealwire.services.compliance.chain import read_record, record_hash
from sealwire.services.compliance.merkle import HASH_BYTES, TILE_WIDTH, leaf_hash
from sealwire.services.compliance.ports import PruneCount, StoredRecord
from sealwire.services.compliance.pruning import concerns
from sealwire.services.compliance.tiles import write_bundle

PRUNING_SCHEMA = """
CREATE TABLE leaf (
    place INTEGER PRIMARY KEY,
    hashes BLOB NOT NULL
);
"""
SEQ_BITS = 40
DAY_US = 86_400_000_000
# What a witness signed, or a key began with, is named by others: it stays. So does the last of each day and key, and
# the newest of all, which nothing follows.
_FOLLOWED = (
    "SELECT c.number, c.size, (SELECT n.at_us / ?4 = c.at_us / ?4 AND n.public_key = c.public_key FROM checkpoint n"
    " WHERE n.number = c.number AND n.size > c.size ORDER BY n.size LIMIT 1),"
    " EXISTS (SELECT 1 FROM cosignature s WHERE s.tenant_id = t.tenant_id AND s.size = c.size)"
    " OR EXISTS (SELECT 1 FROM checkpoint_key k WHERE k.number = c.number AND k.size = c.size)"
    " FROM tenant t JOIN checkpoint c ON c.number = t.number"
    " WHERE t.tenant_id = ?1 AND c.size > ?2 AND c.at_us < ?3 ORDER BY c.size LIMIT ?5"
)
HELD = "SELECT subject_id, conversation_id FROM hold WHERE tenant_id = ?"


def held_in(rows: Iterable[Row]) -> frozenset[str]:
    """Return the persons and conversations that legal holds cover, from the rows of `HELD`."""
    return frozenset(found for row in rows for found in row if found)


def is_held(body: bytes, held: frozenset[str]) -> bool:
    """Whether one of these ids is what a record is about."""
    return bool(held) and not held.isdisjoint(concerns(read_record(body)))


def is_intact(record: StoredRecord) -> bool:
    """Whether a record is there and as it was chained. What was changed is not pruned: it is evidence of that."""
    return bool(record.body) and record_hash(record.body) == record.hash


def was_emptied(records: Sequence[StoredRecord]) -> bool:
    """Whether somebody emptied records of a piece that lost none to pruning: how it is, is evidence, and stays."""
    return any(not record.body and not record.leaf for record in records)


class SqliteCheckpointThinning:
    """`CheckpointThinning` in the table `checkpoint`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._outbox = outbox
        self._pace = Pace(db)

    async def thin(self, tenant_id: str, *, before_us: int, said: Callable[[int], NewEvent]) -> int:
        gone = 0
        after: int | None = -1
        while after is not None:
            thin = partial(self._thin, tenant_id, before_us, after, self._pace.size, said)
            thinned, after = await self._pace.write(thin)
            gone += thinned
        return gone

    def _thin(
        self,
        tenant_id: str,
        before_us: int,
        after: int,
        limit: int,
        said: Callable[[int], NewEvent],
        conn: apsw.Connection,
    ) -> tuple[int, int | None]:
        """Look at some checkpoints above a size; return how many went, and the size to go on from."""
        rows: list[Row] = conn.execute(_FOLLOWED, (tenant_id, after, before_us, DAY_US, limit)).fetchall()
        going = [(number, size) for number, size, followed, named in rows if followed and not named]
        if going:
            conn.executemany("DELETE FROM checkpoint WHERE number = ? AND size = ?", going)
            self._outbox.append(conn, [said(len(going))])
        return len(going), rows[-1][1] if len(rows) == limit else None


def prune(conn: apsw.Connection, number: int, tenant_id: str, seqs: Collection[int]) -> PruneCount:
    """Take the bytes of these records out, in the caller's transaction; what a hold covers stays."""
    held = held_in(conn.execute(HELD, (tenant_id,)))
    gone = kept = 0
    left = sorted(set(seqs))
    base = number << SEQ_BITS
    while left:
        row = conn.execute(
            "SELECT place, count, hashes, bodies FROM piece"
            " WHERE place > ? AND place <= ? AND place + count > ? LIMIT 1",
            (base | max(0, left[0] - TILE_WIDTH), base | left[0], base | left[0]),
        ).fetchone()
        if row is None:
            left.pop(0)
            continue
        first, end = row[0] - base, row[0] - base + row[1]
        wanted = [seq for seq in left if seq < end]
        left = left[len(wanted) :]
        records = unpack(first, *row[1:])
        taken, spared = _prune_piece(conn, row[0], number, records, [s - first for s in wanted], held)
        gone, kept = gone + taken, kept + spared
    return PruneCount(pruned=gone, held=kept, missing=len(set(seqs)) - gone - kept)


def _prune_piece(
    conn: apsw.Connection,
    place: int,
    number: int,
    records: Sequence[StoredRecord],
    wanted: Sequence[int],
    held: frozenset[str],
) -> tuple[int, int]:
    """Empty records of one piece by their index; return how many, and how many a hold kept."""
    bodies = [record.body for record in records]
    known = conn.execute("SELECT hashes FROM leaf WHERE place = ?", (place,)).get
    if known is None and not all(bodies):
        return 0, 0  # somebody emptied records of it: how it is, is evidence
    leaves = [
        leaf_hash(body) if body else known[i * HASH_BYTES : (i + 1) * HASH_BYTES] for i, body in enumerate(bodies)
    ]
    taken = spared = 0
    for i in wanted:
        if not is_intact(records[i]):
            continue
        record = read_record(bodies[i])
        if held and not held.isdisjoint(concerns(record)):
            spared += 1
            continue
        conn.execute("DELETE FROM audit_id WHERE id = ? AND number = ?", (record.audit_id, number))
        bodies[i] = b""
        taken += 1
    if taken:
        conn.execute("REPLACE INTO leaf VALUES (?, ?)", (place, b"".join(leaves)))
        conn.execute("UPDATE piece SET bodies = ? WHERE place = ?", (write_bundle(bodies), place))
    return taken, spared
