"""Goes along the chain: checks record after record, grows the tree, and says what is wrong where it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from hashlib import sha256

import msgspec
import orjson

from sealwire.contracts.audit_log import FIRST_PREV_HASH
from sealwire.services.compliance.canonical import NotCanonical, canonical
from sealwire.services.compliance.chain import Link, Record, read_link, read_record, record_bytes, record_hashes
from sealwire.services.compliance.merkle import Frontier, leaf_hashes
from sealwire.services.compliance.plain_form import PlainRecord, plain_records
from sealwire.services.compliance.pruning import PRUNED_START, Range, gone_by, kept_by, pruned_by, without
from sealwire.services.compliance.remains import PRUNED, as_pruned, is_hash

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
Item = tuple[bytes, str]
"""A record's canonical bytes and the hash stated for it; of a pruned record `pruned_item` instead of the bytes."""
_Said = tuple[int, Sequence[Range], Sequence[Range]]


_TOGETHER = 32
"""How many records are looked at at once: so few that they stay in the processor's cache, and that their bytes joined
are less than what malloc gets from the system anew each time (128 KiB)."""


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
    INDEX = "index"
    """What queries find a record by says something else than the record, which fits."""
    NOT_SHOWN = "not shown"
    """Nothing that can be told: a record is said to be pruned, and what is here does not prove it; or a checkpoint is
    held that what is here is not tied to."""


UNSHOWN = "the record is said to be pruned, and no record of pruning under the checkpoint names it"


class Fault(msgspec.Struct, frozen=True):
    """What is wrong and where; `seq` is None when no record can be named."""

    kind: Tampering
    seq: int | None
    detail: str


def removed(seq: int, count: int) -> Fault:
    """Return the fault of a log in which `count` records from `seq` on are missing."""
    return Fault(Tampering.REMOVED, seq, f"{count} record{'s' * (count > 1)} missing")


class Walk:
    """Goes along a chain record by record and grows its tree; stops at the first record that doesn't fit."""

    __slots__ = (
        "expected",
        "frontier",
        "gained",
        "hashed",
        "prev_hash",
        "pruned",
        "records",
        "said",
        "strict",
        "tenant_id",
    )

    def __init__(
        self,
        *,
        first_seq: int = 1,
        prev_hash: str | None = FIRST_PREV_HASH,
        strict: bool = False,
        hashed: bool = True,
    ) -> None:
        """Start at `first_seq`; `prev_hash` None takes the first record's word for it (a part of a log).

        `strict` also refuses records whose bytes hash right but aren't canonical (see `_is_canonical`). Without
        `hashed` the hash of a pruned record may be unknown, as tiles don't hold it.
        """
        self.expected = first_seq
        self.prev_hash = prev_hash
        self.tenant_id: str | None = None
        self.frontier = Frontier() if first_seq == 1 else None
        self.records = 0
        self.strict = strict
        self.hashed = hashed
        self.pruned: list[tuple[int, int]] = []
        """Ranges of pruned records seen."""
        self.said: list[_Said] = []
        """Records of pruning: `seq`, and the ranges that each says are gone, and are there after all."""
        self.gained: list[list[bytes]] = []
        """The new nodes at heights 0, 8, 16 … that the last `feed` brought."""

    def feed(self, items: Sequence[Item]) -> tuple[int, list[bytes]]:
        """Check items in order. Return how many fit, and their leaf hashes; fewer than given means the next is bad."""
        if self.tenant_id is None or self.prev_hash is None:
            self._believe(items)
        if items:
            bodies, stated = zip(*items, strict=True)
            if (together := self.feed_all(bodies, stated)) is not None:
                return len(together), together
        return self._one_by_one(items)

    def feed_all(self, bodies: Sequence[bytes], stated: Sequence[str]) -> list[bytes] | None:
        """Check records and the hashes stated for them all at once. Return their leaf hashes if every one fits.

        None says nothing of them, and nothing has been taken in: `feed` looks at them one by one. It is what a pruned
        record gives too, and one of which canonical form can't be proved cheaply (see `plain_form`).
        """
        if self.tenant_id is None or self.prev_hash is None:
            self._believe([*zip(bodies[:1], stated, strict=False)])
        expected, prev = self.expected, self.prev_hash
        said: list[_Said] = []
        leaves: list[bytes] = []
        try:
            for at in range(0, len(bodies), _TOGETHER):
                part = bodies[at : at + _TOGETHER]
                hashes = record_hashes(part)
                if hashes != list(stated[at : at + _TOGETHER]) or not self._continues(part, expected, prev, hashes):
                    return None
                if self.pruned:
                    said += [_said(seq, b) for seq, b in enumerate(part, expected) if b.startswith(PRUNED_START)]
                leaves += leaf_hashes(part)
                expected, prev = expected + len(part), hashes[-1]
        except UNREADABLE:
            return None
        self.said += said
        if self.frontier is not None:
            self.gained = self.frontier.extend(leaves)
        self.expected, self.prev_hash = expected, prev
        self.records += len(leaves)
        return leaves

    def _continues(self, bodies: Sequence[bytes], expected: int, prev: str | None, hashes: Sequence[str]) -> bool:
        """Whether records that have these hashes say that they follow `prev`, one after another, in this log.

        Raises: UNREADABLE.
        """
        links: Sequence[Link | PlainRecord] | None
        links = plain_records(bodies) if self.strict else list(map(read_link, bodies))
        if links is None or [link.seq for link in links] != list(range(expected, expected + len(links))):
            return False
        if [link.prev_hash for link in links] != [prev, *hashes[:-1]]:
            return False
        return {link.tenant_id for link in links} == {self.tenant_id}

    def _one_by_one(self, items: Sequence[Item]) -> tuple[int, list[bytes]]:
        expected, prev, tenant = self.expected, self.prev_hash, self.tenant_id
        leaves: list[bytes] = []
        add, strict = leaves.append, self.strict
        read: Callable[[bytes], Link | Record] = read_record if strict else read_link
        h = sha256
        try:
            for body, stated in items:
                if body[:1] == PRUNED:
                    leaf = self._pruned_leaf(body, stated, expected)
                    if leaf is None:
                        break
                    add(leaf)
                    prev = stated or None
                    expected += 1
                    continue
                link = read(body)
                if h(body).hexdigest() != stated or link.seq != expected or link.tenant_id != tenant:
                    break
                if link.prev_hash != prev and prev is not None:
                    break
                if strict and not _is_canonical(body, link):  # type: ignore[arg-type]  # strict reads Records
                    break
                if self.pruned and body.startswith(PRUNED_START):
                    self.said.append(_said(expected, body))
                add(h(b"\x00" + body).digest())
                prev = stated
                expected += 1
        except UNREADABLE:
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
        found = as_pruned(body)
        if found is None or found[0] != expected or not (is_hash(stated) or (not stated and not self.hashed)):
            return None
        if self.pruned and self.pruned[-1][1] == expected - 1:
            self.pruned[-1] = (self.pruned[-1][0], expected)
        else:
            self.pruned.append((expected, expected))
        return found[1]

    def unsaid(self, covered: int | None = None) -> Fault | None:
        """Return the fault of a record that is gone and of which no record of pruning says so.

        `covered` is the size under a signed checkpoint, None for all: what is not signed vouches for nothing, and of
        what lies above it nothing is asked.
        """
        size = self.records if covered is None else covered
        named = gone_by((gone, kept) for seq, gone, kept in self.said if seq <= size)
        left = [pair for pair in without(self.pruned, named) if pair[0] <= size]
        if not left:
            return None
        if size < self.records:
            return Fault(Tampering.NOT_SHOWN, left[0][0], UNSHOWN)
        return Fault(Tampering.REMOVED, left[0][0], "the record was taken out, and no record of pruning names it")

    def diagnose(self, bad: Item, rest: Iterator[Item]) -> Fault:
        """Say what is wrong with the record that doesn't fit, with a look at those behind it."""
        body, stated = bad
        expected = self.expected
        if (pruned := as_pruned(body)) is not None:
            if pruned[0] > expected:
                return removed(expected, pruned[0] - expected)
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
        return removed(expected, link.seq - expected)


def _said(seq: int, body: bytes) -> _Said:
    return seq, pruned_by(body), kept_by(body)


def _seq_of(body: bytes) -> int | None:
    if (pruned := as_pruned(body)) is not None:
        return pruned[0]
    link = _link(body)
    return link.seq if link is not None else None


def _link(body: bytes) -> Link | None:
    try:
        return read_link(body)
    except UNREADABLE:
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
