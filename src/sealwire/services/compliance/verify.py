"""The offline verifier: given records, checkpoints and a public key, say whether the log holds, or where it breaks.

It trusts the public key alone: not the server, not the file. It names the first bad `seq` and the kind of tampering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from hashlib import sha256
from itertools import chain, islice

import msgspec
import orjson

from sealwire.contracts.compliance import FIRST_PREV_HASH
from sealwire.services.compliance.canonical import NotCanonical, canonical
from sealwire.services.compliance.chain import (
    Link,
    Record,
    read_link,
    read_record,
    record_bytes,
    reread,
    split_line,
)
from sealwire.services.compliance.merkle import HASH_BYTES, Frontier
from sealwire.services.compliance.notes import NoteInvalid, TreeHead, VerifierKey, parse_checkpoint, verify_note
from sealwire.services.compliance.pruning import PRUNED_START, joined, pruned_by, without

CHUNK_RECORDS = 2048
_CHECKPOINT_LINE = b'{"checkpoint":'
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)
_HASH_DIGITS = 64
_HEX = frozenset("0123456789abcdef")
Progress = Callable[[int], None]
"""Told how many records have been checked so far."""
Item = tuple[bytes, str]
"""A record's canonical bytes and the hash stated for it; of a pruned record `pruned_item` instead of the bytes."""
_PRUNED = b"\0"
_PRUNED_BYTES = 1 + 8 + HASH_BYTES
_PRUNED_LINE = b'{"pruned":'


class PrunedRecord(msgspec.Struct, frozen=True):
    """What is left of a pruned record, members in canonical order; hashes in lowercase hex."""

    hash: str
    leaf: str
    seq: int


class PrunedLine(msgspec.Struct, frozen=True):
    """A pruned record's line in an export."""

    pruned: PrunedRecord


_read_pruned = msgspec.json.Decoder(PrunedLine).decode
write_pruned = msgspec.json.Encoder().encode


def pruned_item(seq: int, leaf: bytes) -> bytes:
    """Return what stands for a pruned record's bytes in an `Item`: no record begins like this."""
    return _PRUNED + seq.to_bytes(8, "big") + leaf


def _as_pruned(body: bytes) -> tuple[int, bytes] | None:
    """Return a pruned record's number and leaf hash."""
    if len(body) != _PRUNED_BYTES or body[:1] != _PRUNED:
        return None
    return int.from_bytes(body[1:9], "big"), body[9:]


class Tampering(StrEnum):
    """What was done to the log."""

    CHANGED = "changed"
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    FORKED = "forked"
    CHECKPOINT = "checkpoint"
    """The checkpoint itself: not a note, or not signed by the key."""
    TREE = "tree"
    """Stored hashes of the tree don't fit the records, which fit one another."""


class Fault(msgspec.Struct, frozen=True):
    """What is wrong and where; `seq` is None when no record can be named."""

    kind: Tampering
    seq: int | None
    detail: str


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

    @property
    def first_bad_seq(self) -> int | None:
        """The `seq` of the first bad record."""
        return self.fault.seq if self.fault else None


class Walk:
    """Goes along a chain record by record and grows its tree; stops at the first record that doesn't fit."""

    __slots__ = ("expected", "frontier", "gained", "prev_hash", "pruned", "records", "said", "strict", "tenant_id")

    def __init__(self, *, first_seq: int = 1, prev_hash: str | None = FIRST_PREV_HASH, strict: bool = False) -> None:
        """Start at `first_seq`; `prev_hash` None takes the first record's word for it (a part of a log).

        `strict` also refuses records whose bytes hash right but aren't canonical (see `_is_canonical`).
        """
        self.expected = first_seq
        self.prev_hash = prev_hash
        self.tenant_id: str | None = None
        self.frontier = Frontier() if first_seq == 1 else None
        self.records = 0
        self.strict = strict
        self.pruned: list[tuple[int, int]] = []
        """Ranges of pruned records seen."""
        self.said: list[tuple[int, int]] = []
        """Ranges that records of pruning name."""
        self.gained: list[list[bytes]] = []
        """The new nodes at heights 0, 8, 16 … that the last `feed` brought."""

    def feed(self, items: Sequence[Item]) -> tuple[int, list[bytes]]:
        """Check items in order. Return how many fit, and their leaf hashes; fewer than given means the next is bad."""
        if self.tenant_id is None or self.prev_hash is None:
            self._believe(items)
        expected, prev, tenant = self.expected, self.prev_hash, self.tenant_id
        leaves: list[bytes] = []
        add, strict = leaves.append, self.strict
        read: Callable[[bytes], Link | Record] = read_record if strict else read_link
        try:
            for body, stated in items:
                digest = sha256(body).hexdigest()
                if body[:1] == _PRUNED:
                    leaf = self._pruned_leaf(body, stated, expected)
                    if leaf is None:
                        break
                    add(leaf)
                    prev = stated
                    expected += 1
                    continue
                link = read(body)
                if digest != stated or link.seq != expected or link.prev_hash != prev or link.tenant_id != tenant:
                    break
                if strict and not _is_canonical(body, link):  # type: ignore[arg-type]  # strict reads Records
                    break
                if self.pruned and body.startswith(PRUNED_START):
                    self.said += pruned_by(body)
                add(sha256(b"\x00" + body).digest())
                prev = digest
                expected += 1
        except _UNREADABLE:
            pass  # not a record: the one that doesn't fit
        if self.frontier is not None:
            self.gained = self.frontier.extend(leaves)
        self.expected, self.prev_hash = expected, prev
        self.records += len(leaves)
        return len(leaves), leaves

    def _believe(self, items: Sequence[Item]) -> None:
        """Take the records' word for what wasn't told: whose log it is, the hash before the first of a part."""
        for i, (body, _) in enumerate(items):
            if (link := _link(body)) is not None:
                self.tenant_id = link.tenant_id if self.tenant_id is None else self.tenant_id
                if i == 0 and self.prev_hash is None:
                    self.prev_hash = link.prev_hash
                return

    def _pruned_leaf(self, body: bytes, stated: str, expected: int) -> bytes | None:
        """Return the leaf hash of a pruned record in its place, None for one that is not: the tree judges it."""
        found = _as_pruned(body)
        if found is None or found[0] != expected or not _is_hash(stated):
            return None
        if self.pruned and self.pruned[-1][1] == expected - 1:
            self.pruned[-1] = (self.pruned[-1][0], expected)
        else:
            self.pruned.append((expected, expected))
        return found[1]

    def unsaid(self) -> Fault | None:
        """Return the fault of a record that is gone and of which no record of pruning says so."""
        left = without(self.pruned, joined(self.said))
        if not left:
            return None
        return Fault(Tampering.REMOVED, left[0][0], "the record was taken out, and no record of pruning names it")

    def diagnose(self, bad: Item, rest: Iterator[Item]) -> Fault:
        """Say what is wrong with the record that doesn't fit, with a look at those behind it."""
        body, stated = bad
        expected = self.expected
        if (pruned := _as_pruned(body)) is not None:
            if pruned[0] > expected:
                return Fault(Tampering.REMOVED, expected, f"{pruned[0] - expected} records missing")
            return Fault(Tampering.INSERTED, pruned[0], f"a second record with seq {pruned[0]}")
        link = _link(body)
        if link is None:
            return Fault(Tampering.CHANGED, expected, "the record can't be read")
        intact = sha256(body).hexdigest() == stated
        if link.seq != expected:
            return self._misplaced(link, intact, rest)
        if not intact:
            return Fault(Tampering.CHANGED, expected, "the record does not have the hash it states")
        if link.tenant_id != self.tenant_id:
            return Fault(Tampering.INSERTED, expected, "the record belongs to another log")
        if link.prev_hash == self.prev_hash:
            return Fault(Tampering.CHANGED, expected, "the record is not canonical JSON")
        following = next(rest, None)
        after = _link(following[0]) if following else None
        if not self.records or (after is not None and after.prev_hash != stated):
            return Fault(Tampering.CHANGED, expected, "the record does not continue the one before it")
        return Fault(Tampering.CHANGED, expected - 1, "the record was rewritten with a new hash of its own")

    def _misplaced(self, link: Link, intact: bool, rest: Iterator[Item]) -> Fault:
        expected = self.expected
        if link.seq < expected and intact:
            return Fault(Tampering.INSERTED, link.seq, f"a second record with seq {link.seq}")
        seqs = (seq for body, _ in rest if (seq := _seq_of(body)) is not None)
        if not intact:
            extra = next(seqs, None) == expected
            kind = Tampering.INSERTED if extra else Tampering.CHANGED
            return Fault(kind, expected, "a record that does not have the hash it states")
        for seq in seqs:
            if seq == expected:
                return Fault(Tampering.REORDERED, expected, f"seq {link.seq} stands before seq {expected}")
            if seq == link.seq:
                return Fault(Tampering.INSERTED, link.seq, f"a second record with seq {seq}")
        missing = link.seq - expected
        return Fault(Tampering.REMOVED, expected, f"{missing} record{'s' * (missing > 1)} missing")


def _is_hash(text: str) -> bool:
    return len(text) == _HASH_DIGITS and not set(text) - _HEX


def _seq_of(body: bytes) -> int | None:
    if (pruned := _as_pruned(body)) is not None:
        return pruned[0]
    link = _link(body)
    return link.seq if link is not None else None


def _link(body: bytes) -> Link | None:
    try:
        return read_link(body)
    except _UNREADABLE:
        return None


def _is_canonical(body: bytes, record: Record) -> bool:
    """Say whether the bytes are the RFC 8785 form of what they hold (no duplicate members, one spelling)."""
    try:
        if record_bytes(record) == body:
            metadata = bytes(record.metadata)
            return canonical(orjson.loads(metadata)) == metadata
        return canonical(orjson.loads(body)) == body
    except (NotCanonical, ValueError):
        return False


def read_item(line: bytes) -> Item:
    """Read an export's line: as we write it, else as JSON in any spelling, else as it stands with no hash."""
    text = line.rstrip(b"\r\n")
    if text.startswith(_PRUNED_LINE):
        return _read_pruned_line(text)
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


def _read_pruned_line(text: bytes) -> Item:
    try:
        pruned = _read_pruned(text).pruned
        return pruned_item(pruned.seq, bytes.fromhex(pruned.leaf)), pruned.hash
    except (*_UNREADABLE, ValueError, OverflowError):
        return text, ""


def _cut_or_raw(line: bytes) -> Item:
    text = line.rstrip(b"\r\n")
    if text.startswith(_PRUNED_LINE):
        return _read_pruned_line(text)
    try:
        return split_line(text)
    except NotCanonical:
        return text, ""


class _Notes:
    """The checkpoints of one verification, those given and those found between the records."""

    def __init__(self, given: Sequence[str], keys: Sequence[VerifierKey]) -> None:
        self._keys = keys
        self._origin: str | None = None
        self.heads = [self._read(note) for note in given]
        self.late: list[TreeHead] = []

    def _read(self, note: str) -> TreeHead:
        head = parse_checkpoint(verify_note(note, self._keys).text)
        if self._origin not in {None, head.origin}:
            raise NoteInvalid("the checkpoints are of different logs")
        self._origin = head.origin
        return head

    def records(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the records on and keep the checkpoints. Raises: NoteInvalid."""
        seen = False
        for line in lines:
            if line.startswith(_CHECKPOINT_LINE):
                try:
                    note = msgspec.json.decode(line, type=dict[str, str])["checkpoint"]
                except (*_UNREADABLE, KeyError):
                    raise NoteInvalid("a checkpoint line can't be read") from None
                (self.late if seen else self.heads).append(self._read(note))
            elif line.strip():
                seen = True
                yield line


def verify_export(
    lines: Iterable[bytes],
    *,
    checkpoints: Sequence[str] = (),
    keys: Sequence[VerifierKey] = (),
    first_seq: int = 1,
    progress: Progress | None = None,
    strict: bool = True,
) -> Report:
    """Verify an export (NDJSON, one record a line, in `seq` order) against the checkpoints held, all of one log.

    Checkpoints may also stand in the export, as lines `{"checkpoint": "<signed note>"}`. Of a part of a log
    (`first_seq` above 1) the chain is verified; its tree can't be. Empty lines are passed over.
    """
    walk = Walk(first_seq=first_seq, prev_hash=FIRST_PREV_HASH if first_seq == 1 else None, strict=strict)
    covered, fault = 0, None
    try:
        notes = _Notes(checkpoints, keys)
        records = notes.records(lines)
        first = next(records, None)
        covered, fault = _walk_to_end(walk, chain([first] if first else [], records), notes.heads, progress)
        if fault is None:
            late, fault = _compare_end(walk, notes.late, covered)
            covered = max(covered, late)
        if fault is None and covered == walk.records:
            fault = walk.unsaid()  # of a log whose end nobody signed, the record that says so may come later
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
    )


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
