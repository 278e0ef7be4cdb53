"""A log as it is in memory: rebuilt from the right edge that is stored, and grown by records that are given places.

Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sealwire.contracts.audit_log import LogBroken
from sealwire.services.compliance.chain import begin_record_hash, read_link, record_hash
from sealwire.services.compliance.merkle import HASH_BYTES, Frontier, leaf_hash, leaf_hashes, pair_up
from sealwire.services.compliance.ports import LogAppend, LogEdge, LogHead, StoredRecord
from sealwire.services.compliance.sealing import Intake
from sealwire.services.compliance.tiles import Tiling, split_hashes


class Tree(msgspec.Struct, frozen=True):
    """A log as it is in memory: head, frontier, unfinished tiles. Never changed; an append makes a new one."""

    head: LogHead
    frontier: Frontier
    tiling: Tiling


def grow_from(edge: LogEdge) -> Tree:
    """Rebuild what a writer holds in memory from what is stored. Raises: LogBroken."""
    size = edge.head.size
    peaks: list[bytes] = []
    try:
        edges = {0: (size // 256, _leaves(edge.records, edge.head.last_hash))}
        edges |= {level: (number, split_hashes(hashes)) for level, (number, hashes) in edge.tiles.items()}
        for level in range(max(edges), -1, -1):
            peaks += _peaks(edges.get(level, (0, []))[1])
        return Tree(edge.head, Frontier(size, peaks), Tiling(edges))
    except ValueError:
        raise LogBroken("The audit log is damaged; run its verification.") from None


def _leaves(records: Sequence[StoredRecord], last_hash: str) -> list[bytes]:
    """Return the leaf hashes of the last records, which have to be as they were chained: what is built on others would
    stay wrong when they are put back. Raises: ValueError."""
    leaves: list[bytes] = []
    before = ""
    for r in records:
        if r.body:
            intact = record_hash(r.body) == r.hash and before in ("", read_link(r.body).prev_hash)
            leaves.append(leaf_hash(r.body))
        else:  # pruned
            intact = len(r.leaf) == HASH_BYTES
            leaves.append(r.leaf)
        if not intact:
            raise ValueError(f"record {r.seq} is not as it was written")
        before = r.hash
    if records and before != last_hash:
        raise ValueError("the last record is not the one the head names")
    return leaves


def _peaks(hashes: Sequence[bytes]) -> list[bytes]:
    """Return the roots of the perfect subtrees over hashes of one level, tallest first."""
    peaks, row = [], list(hashes)
    while row:
        if len(row) & 1:
            peaks.append(row.pop())
        row = pair_up(row)
    return peaks[::-1]


def chain_on(tenant_id: str, tree: Tree, items: Sequence[Intake]) -> tuple[LogAppend, Tree]:
    """Give entries their places after the head: return what to store, and the tree it leads to."""
    seq, prev, begin = tree.head.size, tree.head.last_hash, begin_record_hash
    bodies: list[bytes] = []
    hashes: list[str] = []
    for item in items:
        seq += 1
        form = item.form  # as `Form.bytes_at`: a call for each record is a tenth of all this
        body = b"".join((form.before, prev.encode(), form.middle, b"%d" % seq, form.after))
        h = begin()
        h.update(body)
        prev = h.hexdigest()
        bodies.append(body)
        hashes.append(prev)
    frontier, tiling = tree.frontier.copy(), tree.tiling.copy()
    tiles = tiling.add(frontier.extend(leaf_hashes(bodies)))
    head = LogHead(size=seq, last_hash=prev)
    append = LogAppend(
        tenant_id=tenant_id,
        before=tree.head,
        after=head,
        entries=[item.entry for item in items],
        bodies=bodies,
        hashes=hashes,
        created_us=[item.created_us for item in items],
        tiles=tiles,
    )
    return append, Tree(head, frontier, tiling)
