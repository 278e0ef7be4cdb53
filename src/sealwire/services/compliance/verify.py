"""The offline verifier: given records, checkpoints and a public key, say whether the log holds, or where it breaks.

It trusts the public key alone: not the server, not the file. It names the first bad `seq` and the kind of tampering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import chain, islice

import msgspec

from sealwire.contracts.audit_log import FIRST_PREV_HASH
from sealwire.services.compliance.canonical import NotCanonical
from sealwire.services.compliance.chain import reread, split_line
from sealwire.services.compliance.cut import line_is_cut
from sealwire.services.compliance.manifest import Frame
from sealwire.services.compliance.merkle import Frontier
from sealwire.services.compliance.notes import NoteInvalid, TreeHead, VerifierKey
from sealwire.services.compliance.remains import PRUNED_LINE, read_pruned_line
from sealwire.services.compliance.walk import Fault, Item, Tampering, Walk

CHUNK_RECORDS = 2048
Progress = Callable[[int], None]
"""Told how many records have been checked so far."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict. `covered` records lie under a checkpoint that the key signed; `root` (hex) is over all of them."""

    ok: bool
    records: int
    first_seq: int
    last_seq: int
    covered: int
    root: str
    fault: Fault | None = None
    pruned: list[tuple[int, int]] = []
    """Records that retention took out: ranges of `seq`. The log says of each that it did, where all of it was seen."""
    hash_unproved: list[tuple[int, int]] = []
    """Those of them whose chain hash nothing here proves, as the record behind them is not here; their leaf hash is
    proved as that of any record."""
    tied: list[str] = []
    """Notes of a bundle whose tree its records are proved to be in. Of other sources: those up to `covered`."""
    chosen_by: dict[str, str] = {}
    """By what a bundle says its records were chosen, beside their numbers: nothing proves that none was left out."""

    @property
    def first_bad_seq(self) -> int | None:
        """The `seq` of the first bad record."""
        return self.fault.seq if self.fault else None


def read_item(line: bytes) -> Item:
    """Read an export's line: as we write it, else as JSON in any spelling, else as it stands with no hash."""
    text = line.rstrip(b"\r\n")
    if text.startswith(PRUNED_LINE):
        return read_pruned_line(text)
    try:
        body, stated = split_line(text)
        if sha256(body).hexdigest() == stated:
            return body, stated
        return reread(text)
    except NotCanonical:
        return _reread_or_raw(text)


def _reread_or_raw(text: bytes) -> Item:
    try:
        return reread(text)
    except NotCanonical:
        return text, ""


def _cut_or_raw(line: bytes) -> Item:
    text = line.rstrip(b"\r\n")
    if text.startswith(PRUNED_LINE):
        return read_pruned_line(text)
    try:
        return split_line(text)
    except NotCanonical:
        return text, ""


def verify_export(
    lines: Iterable[bytes],
    *,
    checkpoints: Sequence[str] = (),
    keys: Sequence[VerifierKey] = (),
    rotations: Sequence[str] = (),
    first_seq: int = 1,
    progress: Progress | None = None,
    strict: bool = True,
) -> Report:
    """Verify an export (NDJSON, one record a line, in `seq` order) against the checkpoints held, all of one log.

    Manifest, checkpoints and end may stand in the export (see `manifest`). `rotations` are the notes by which the keys
    given vouch for their successors. Of a part of a log (`first_seq`, or the manifest's) the chain is verified; its
    tree can't be. Empty lines are passed over.
    """
    frame = Frame(checkpoints, keys, rotations)
    records = frame.records(lines)
    walk = Walk(first_seq=first_seq, strict=strict)
    covered, fault = 0, None
    try:
        first = next(records, None)
        if frame.manifest is not None:
            first_seq = frame.manifest.from_seq
        walk = Walk(first_seq=first_seq, prev_hash=FIRST_PREV_HASH if first_seq == 1 else None, strict=strict)
        covered, fault = _walk_to_end(walk, chain([first] if first else [], records), frame.heads, progress)
        if fault is None:
            late, fault = _compare_end(walk, frame.late, covered)
            covered = max(covered, late)
        if fault is None and covered:
            fault = walk.unsaid(covered)
        fault = fault or _frame_fault(frame, walk)
    except NoteInvalid as error:
        fault = Fault(Tampering.CHECKPOINT, None, str(error))
    return Report(
        ok=fault is None,
        records=walk.records,
        first_seq=first_seq,
        last_seq=walk.expected - 1,
        covered=covered,
        root=walk.frontier.root().hex() if walk.frontier else "",
        fault=fault,
        pruned=walk.pruned,
        # The record behind a run names the hash of its last; records within a run have nobody who does.
        hash_unproved=[
            (a, b - 1 if b < walk.expected - 1 else b) for a, b in walk.pruned if a < b or b == walk.expected - 1
        ],
    )


def cut_in_a_line(seq: int) -> Fault:
    """Return the fault of a file that ends where it should go on, before the record of this number."""
    return Fault(Tampering.TRUNCATED, seq, "the file was cut: it ends in the middle of a line")


def _frame_fault(frame: Frame, walk: Walk) -> Fault | None:
    """Compare what the manifest promised with what came; the records themselves fit one another."""
    if frame.cut:
        return cut_in_a_line(walk.expected)
    if frame.manifest is None:
        return None
    if walk.tenant_id not in {None, frame.manifest.tenant_id}:
        return Fault(Tampering.INSERTED, walk.expected - walk.records, "the records belong to another log")
    if frame.intact:
        if frame.end is None or frame.end.records == walk.records:
            return None
        return Fault(Tampering.CHANGED, None, f"the end line counts {frame.end.records} records")
    if frame.end is None or frame.end.records > walk.records:
        return Fault(Tampering.TRUNCATED, walk.expected, "the file ends before its end line")
    return Fault(Tampering.CHANGED, None, "the file's lines are not those its end line was written for")


def _walk_to_end(
    walk: Walk, lines: Iterator[bytes], heads: Sequence[TreeHead], progress: Progress | None
) -> tuple[int, Fault | None]:
    """Check all records and, on the way, the root at each checkpoint. Return what is covered, and the fault."""
    covered = 0
    waiting = iter(sorted(heads, key=lambda h: h.size) if walk.frontier is not None else ())
    stop = next(waiting, None)
    while True:
        while stop is not None and walk.frontier is not None and stop.size == walk.records:
            if fault := _fork(walk.frontier, stop, covered):
                return covered, fault
            covered, stop = stop.size, next(waiting, None)
        room = CHUNK_RECORDS if stop is None else min(CHUNK_RECORDS, stop.size - walk.records)
        chunk = list(islice(lines, room))
        if not chunk:
            break
        bad = _feed_lines(walk, chunk)
        if progress is not None:
            progress(walk.records)
        if bad is not None and line_is_cut(chunk[bad]):
            return covered, cut_in_a_line(walk.expected)
        if bad is not None:
            rest = chain(chunk[bad + 1 :], lines)
            return covered, walk.diagnose(read_item(chunk[bad]), map(read_item, rest))
    if stop is not None:
        return covered, _truncated(walk, stop)
    return covered, None


def _feed_lines(walk: Walk, lines: Sequence[bytes]) -> int | None:
    """Check lines as they stand, from the first that doesn't fit on as JSON in any spelling. Return the bad one."""
    good, _ = walk.feed([_cut_or_raw(line) for line in lines])
    if good < len(lines):
        more, _ = walk.feed([read_item(line) for line in lines[good:]])
        good += more
    return good if good < len(lines) else None


def _fork(frontier: Frontier, head: TreeHead, covered: int) -> Fault | None:
    if frontier.root() == head.root:
        return None
    return Fault(
        Tampering.FORKED,
        covered + 1,
        f"the records lead to another root than the checkpoint of size {head.size}; seq 1 to {covered} are as signed",
    )


def _truncated(walk: Walk, head: TreeHead) -> Fault:
    missing = head.size - walk.records
    return Fault(
        Tampering.TRUNCATED, walk.expected, f"the checkpoint covers {head.size} records, the last {missing} are missing"
    )


def _compare_end(walk: Walk, heads: Sequence[TreeHead], covered: int) -> tuple[int, Fault | None]:
    """Compare the finished tree with checkpoints read after it. One below the tree's size comes too late for that."""
    for head in heads if walk.frontier is not None else ():
        if head.size > walk.records:
            return covered, _truncated(walk, head)
        if head.size == walk.records and walk.frontier is not None:
            if fault := _fork(walk.frontier, head, covered):
                return covered, fault
            covered = head.size
    return covered, None
