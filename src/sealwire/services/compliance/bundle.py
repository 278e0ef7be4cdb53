"""Verifies a bundle of evidence: one file of records, each with its proof, a signed checkpoint and the keys behind it.

Whoever holds the log's first public key can verify it without the server, and without seeing any other record. What
the bundle can't prove is that no other record matches the question, unless the question is a range of `seq`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import BinaryIO

from sealwire.services.compliance.bundle_file import FORMATS, BundleCut, BundleFile, BundleHead, Exhibit, Later
from sealwire.services.compliance.canonical import NotCanonical
from sealwire.services.compliance.chain import read_link, reread
from sealwire.services.compliance.key_chain import KeyChain, refuse_other_keys
from sealwire.services.compliance.merkle import ProofInvalid, leaf_hash, verify_consistency, verify_inclusion
from sealwire.services.compliance.notes import NoteInvalid, TreeHead, VerifierKey, parse_key
from sealwire.services.compliance.plain_form import plain_records
from sealwire.services.compliance.pruning import PRUNED_START, Range, joined, kept_by, pruned_by, without
from sealwire.services.compliance.remains import is_hash
from sealwire.services.compliance.verify import Report, read_item
from sealwire.services.compliance.walk import UNREADABLE, UNSHOWN, Fault, Tampering, removed

Progress = Callable[[int], None]
_RANGES_WAIT = 10_000
"""How many ranges wait before they are joined: records of pruning name what is gone again and again."""


def verify_bundle(
    source: bytes | BinaryIO,
    *,
    keys: Sequence[VerifierKey] = (),
    checkpoints: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Report, VerifierKey | None]:
    """Verify a bundle; without keys against the first key it names itself, which then is for people to confirm.

    Returns the report (`covered` records are proved) and the key that was trusted. `checkpoints` are notes held: those
    of the sizes that the bundle speaks of have to agree; nothing can be said of others. Memory is flat in the number
    of records, of a file as it was written (see `bundle_file`).
    """
    check = _Check()
    root = ""
    try:
        fault = check.begin(io.BytesIO(source) if isinstance(source, bytes) else source, keys)
        if fault is None:
            root = check.head.root.hex()
            fault = check.heads(checkpoints) or check.records(progress) or check.pruning()
    except BundleCut:
        fault = Fault(Tampering.TRUNCATED, check.expected, "the file ends before its end")
    except (*UNREADABLE, NotCanonical):
        where = "the bundle" if check.trusted is None else f"what stands behind seq {check.last}"
        fault = Fault(Tampering.CHANGED, check.expected, f"{where} can't be read, or in two ways")
    except NoteInvalid as error:
        fault = Fault(Tampering.CHECKPOINT, None, str(error))
    return check.report(fault, root), check.trusted


class _Check:
    """One bundle being checked: how far it has come, and what was seen."""

    bundle: BundleHead
    head: TreeHead
    _file: BundleFile
    _keys: Sequence[VerifierKey]
    _chain: KeyChain

    def __init__(self) -> None:
        self.trusted: VerifierKey | None = None
        self.expected: int | None = None
        self.count = self.first = self.last = 0
        self._pruned: list[Range] = []
        self._unproved: list[Range] = []
        self._said: list[Range] = []
        self._hash = ""
        self._tied: list[str] = []

    def begin(self, file: BinaryIO, keys: Sequence[VerifierKey]) -> Fault | None:
        """Read the head and settle which keys count."""
        self._file = BundleFile(file)
        self.bundle = bundle = self._file.head
        self.trusted = keys[0] if keys else parse_key(bundle.first_key)
        self.expected = bundle.question.from_seq or 1
        if bundle.format not in FORMATS:
            return Fault(Tampering.CHANGED, None, f"a bundle of the format {bundle.format!r}")
        trusted = keys or [self.trusted]
        refuse_other_keys(
            trusted,
            bundle.rotations,
            first_key=bundle.first_key,
            public_key=bundle.public_key,
            note=bundle.checkpoint,
            where="the bundle",
        )
        self._keys = trusted
        self._chain = KeyChain.of(trusted, bundle.rotations)
        self.head = head = self._chain.checkpoint(bundle.checkpoint)
        if bundle.origin != head.origin or not head.origin.endswith(f"/{bundle.tenant_id}"):
            return Fault(Tampering.CHECKPOINT, None, "the checkpoint is of another log")
        return None

    def heads(self, held: Sequence[str]) -> Fault | None:
        """Compare the checkpoint with the one a witness cosigned, and with those held, as far as can be."""
        bundle, head, chain = self.bundle, self.head, self._chain
        known = {head.size: head}
        self._tied.append(bundle.checkpoint)
        if bundle.cosigned:
            older = chain.checkpoint(bundle.cosigned)
            if fault := _continued(older, head, bundle.consistency, f"the one of size {older.size} that was cosigned"):
                return fault
            known[older.size] = older
            self._tied.append(bundle.cosigned)
        for note in held:
            other = chain.checkpoint(note)
            if other.origin != head.origin:
                return Fault(Tampering.CHECKPOINT, None, "the checkpoints are of different logs")
            same = known.get(other.size)
            if same is not None and same.root != other.root:
                return Fault(Tampering.FORKED, None, f"the checkpoint held of size {other.size} has another root")
            if same is not None:
                self._tied.append(note)
        return None

    def records(self, progress: Progress | None) -> Fault | None:
        """Check record after record: by itself, in its place, under the checkpoint, behind the one before."""
        question, head = self.bundle.question, self.head
        whole = not question.filters
        expected = question.from_seq or 1
        for exhibit in self._file.exhibits:
            seq, hash_hex, leaf, prev_hash, fault = self._read(exhibit)
            if fault is not None:
                return fault
            if seq <= self.last:
                return Fault(Tampering.REORDERED, seq, f"seq {seq} stands behind seq {self.last}")
            if whole and seq != expected:
                return removed(expected, seq - expected)
            if fault := _prove(exhibit, seq, leaf, head):
                return fault
            if self.last == seq - 1 and self._hash and prev_hash:
                if prev_hash != self._hash:
                    return Fault(Tampering.CHANGED, seq, "the record does not continue the one before it")
                _take_last(self._unproved, seq - 1)
            if exhibit.pruned is not None:
                _add(self._pruned, seq)
                _add(self._unproved, seq)
            self.count, self.first, self.last, self._hash = self.count + 1, self.first or seq, seq, hash_hex
            self.expected = expected = seq + 1
            if progress is not None:
                progress(self.count)
        last = min(question.to_seq or head.size, head.size)
        if whole and expected <= last:
            return Fault(Tampering.TRUNCATED, expected, f"the last {last - expected + 1} records are missing")
        return None

    def pruning(self) -> Fault | None:
        """Ask of each pruned record that a record under a checkpoint names it: its leaf shows only that it was."""
        head = self.head
        later: Later | None = self._file.later
        if later is not None:
            chain = KeyChain.of(self._keys, [*self.bundle.rotations, *later.rotations])
            chain.checkpoint(self.bundle.checkpoint)  # its key may not have been followed by then
            head = chain.checkpoint(later.checkpoint)
            if fault := _continued(self.head, head, later.consistency, "the one that the records lie under"):
                return fault
        for exhibit in self._file.pruning():
            if exhibit.pruned is not None and not bytes(exhibit.record):
                continue  # it says nothing any more
            seq, _, leaf, _, fault = self._read(exhibit)
            if fault := fault or _prove(exhibit, seq, leaf, head):
                return fault
        unshown = without(self._pruned, joined(self._said))
        return Fault(Tampering.NOT_SHOWN, unshown[0][0], UNSHOWN) if unshown else None

    def report(self, fault: Fault | None, root: str) -> Report:
        """Return what came of it."""
        return Report(
            ok=fault is None,
            records=self.count,
            first_seq=self.first,
            last_seq=self.last,
            covered=self.count if fault is None else 0,
            root=root,
            fault=fault,
            pruned=self._pruned,
            hash_unproved=self._unproved,
            tied=self._tied,
            chosen_by=self.bundle.question.filters if self.trusted is not None else {},
        )

    def _read(self, exhibit: Exhibit) -> tuple[int, str, bytes, str, Fault | None]:
        """Return number, hash, leaf hash, hash before, and what is wrong with the record by itself."""
        if exhibit.pruned is not None:
            p = exhibit.pruned
            if bytes(exhibit.record) or not is_hash(p.hash):
                fault = Fault(Tampering.CHANGED, p.seq, "what is left of a pruned record is its number and its hashes")
                return p.seq, "", b"", "", fault
            return p.seq, p.hash, _hash(p.leaf), "", None
        after = self.last + 1
        body, stated = read_item(bytes(exhibit.record))
        try:
            link = read_link(body)
        except UNREADABLE:
            return 0, "", b"", "", Fault(Tampering.CHANGED, after, "the record can't be read")
        if sha256(body).hexdigest() != stated:
            fault = Fault(Tampering.CHANGED, max(after, link.seq), "the record does not have the hash it states")
            return link.seq, stated, b"", link.prev_hash, fault
        if plain_records([body]) is None and reread(bytes(exhibit.record))[0] != body:
            fault = Fault(Tampering.CHANGED, link.seq, "the record is not canonical JSON")
            return link.seq, stated, b"", link.prev_hash, fault
        if link.tenant_id != self.bundle.tenant_id:
            fault = Fault(Tampering.INSERTED, link.seq, "the record belongs to another log")
            return link.seq, stated, b"", link.prev_hash, fault
        if body.startswith(PRUNED_START):
            self._said += pruned_by(body)  # believed only when it is proved: the verdict waits for that
            if kept := kept_by(body):
                self._said = without(joined(self._said), joined(kept))
            if len(self._said) > _RANGES_WAIT:
                self._said = joined(self._said)
        return link.seq, stated, leaf_hash(body), link.prev_hash, None


def _continued(older: TreeHead, head: TreeHead, proof: Sequence[str], which: str) -> Fault | None:
    """Ask for proof that the tree of one checkpoint continues that of another."""
    if older.origin != head.origin:
        return Fault(Tampering.CHECKPOINT, None, "the checkpoints are of different logs")
    try:
        verify_consistency(older.size, head.size, older.root, head.root, [_hash(text) for text in proof])
    except (ProofInvalid, ValueError) as error:
        return Fault(Tampering.FORKED, None, f"the checkpoint of size {head.size} does not continue {which}: {error}")
    return None


def _prove(exhibit: Exhibit, seq: int, leaf: bytes, head: TreeHead) -> Fault | None:
    try:
        verify_inclusion(seq - 1, head.size, leaf, [_hash(text) for text in exhibit.proof], head.root)
    except (ProofInvalid, ValueError) as error:
        return Fault(Tampering.CHANGED, seq, f"the record is not the one that was signed: {error}")
    return None


def _add(ranges: list[Range], seq: int) -> None:
    """Add a number above all others."""
    if ranges and ranges[-1][1] == seq - 1:
        ranges[-1] = (ranges[-1][0], seq)
    else:
        ranges.append((seq, seq))


def _take_last(ranges: list[Range], seq: int) -> None:
    """Take this number out if it is the last."""
    if ranges and ranges[-1][1] == seq:
        first, last = ranges.pop()
        if first < last:
            ranges.append((first, last - 1))


def _hash(text: str) -> bytes:
    """Read a hash in its one spelling; anything else is no hash, which no proof holds."""
    return bytes.fromhex(text) if is_hash(text) else b""
