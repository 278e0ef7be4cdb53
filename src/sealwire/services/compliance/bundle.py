"""A bundle of evidence: one JSON file of records, each with its proof, a signed checkpoint and the keys behind it.

Whoever holds the log's first public key can verify it without the server, and without seeing any other record. What
the bundle can't prove is that no other record matches the question, unless the question is a range of `seq`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

import msgspec

from sealwire.services.compliance.canonical import NotCanonical
from sealwire.services.compliance.chain import read_link, refuse_doubles
from sealwire.services.compliance.key_chain import KeyChain
from sealwire.services.compliance.merkle import ProofInvalid, leaf_hash, verify_consistency, verify_inclusion
from sealwire.services.compliance.notes import NoteInvalid, TreeHead, VerifierKey, parse_key
from sealwire.services.compliance.pruning import PRUNED_START, joined, pruned_by, without
from sealwire.services.compliance.remains import PrunedRecord, is_hash
from sealwire.services.compliance.verify import Report, read_item
from sealwire.services.compliance.walk import UNREADABLE, UNSHOWN, Fault, Tampering

FORMAT = "sealwire-evidence/1"


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked; with nothing but a range, no record of it may be missing."""

    from_seq: int | None = None
    to_seq: int | None = None
    filters: dict[str, str] = {}


class Exhibit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A record (as a line of an export), or what is left of a pruned one, and its inclusion proof in lowercase hex."""

    record: msgspec.Raw = msgspec.Raw(b"")
    pruned: PrunedRecord | None = None
    proof: list[str] = []


class BundleHead(msgspec.Struct, frozen=True, kw_only=True):
    """All of a bundle but its records. `pruning` are the records that say of each pruned one that it was pruned."""

    format: str
    origin: str
    tenant_id: str
    made_at: str
    question: Question
    checkpoint: str
    public_key: str
    first_key: str
    rotations: list[str] = []
    cosigned: str = ""
    """The newest checkpoint that a witness cosigned, and the proof that `checkpoint` continues it."""
    consistency: list[str] = []
    pruning: list[Exhibit] = []


class Bundle(BundleHead, frozen=True, kw_only=True):
    """The whole file."""

    records: list[Exhibit]


read_bundle_file = msgspec.json.Decoder(Bundle).decode
write_exhibit = msgspec.json.Encoder().encode
Progress = Callable[[int], None]


def write_head(head: BundleHead) -> bytes:
    """Return the file up to its records, which follow separated by commas and end in `BUNDLE_END`."""
    return msgspec.json.encode(head)[:-1] + b',"records":['


BUNDLE_END = b"]}\n"


def verify_bundle(
    content: bytes,
    *,
    keys: Sequence[VerifierKey] = (),
    checkpoints: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Report, VerifierKey | None]:
    """Verify a bundle; without keys against the first key it names itself, which then is for people to confirm.

    Returns the report (`covered` records are proved) and the key that was trusted. `checkpoints` are notes held: those
    of the sizes that the bundle speaks of have to agree; nothing can be said of others.
    """
    seen = _Seen()
    trusted: VerifierKey | None = None
    try:
        bundle = read_bundle_file(content)
        refuse_doubles(content)
        trusted = keys[0] if keys else parse_key(bundle.first_key)
        chain = KeyChain.of(keys or [trusted], bundle.rotations)
        head = chain.checkpoint(bundle.checkpoint)
        fault = (
            _check_frame(bundle, head)
            or _check_heads(bundle, head, chain, checkpoints, seen)
            or _check_records(bundle, head, seen, progress)
            or _check_pruning(bundle, head, seen)
        )
    except (*UNREADABLE, NotCanonical):
        fault = Fault(Tampering.CHANGED, None, "the bundle can't be read, or in two ways")
        return _report(fault, seen, ""), None
    except NoteInvalid as error:
        fault = Fault(Tampering.CHECKPOINT, None, str(error))
        return _report(fault, seen, ""), trusted
    return _report(fault, seen, head.root.hex()), trusted


class _Seen:
    """How far the check has come."""

    def __init__(self) -> None:
        self.count = self.first = self.last = 0
        self.pruned: list[tuple[int, int]] = []
        self.said: list[tuple[int, int]] = []
        self.hash = ""
        self.tied: list[str] = []


def _check_frame(bundle: Bundle, head: TreeHead) -> Fault | None:
    if bundle.format != FORMAT:
        return Fault(Tampering.CHANGED, None, f"a bundle of the format {bundle.format!r}")
    if bundle.origin != head.origin or not head.origin.endswith(f"/{bundle.tenant_id}"):
        return Fault(Tampering.CHECKPOINT, None, "the checkpoint is of another log")
    return None


def _check_heads(bundle: Bundle, head: TreeHead, chain: KeyChain, held: Sequence[str], seen: _Seen) -> Fault | None:
    """Compare the checkpoint with the one a witness cosigned, and with those held, as far as can be."""
    known = {head.size: head}
    seen.tied.append(bundle.checkpoint)
    if bundle.cosigned:
        older = chain.checkpoint(bundle.cosigned)
        if older.origin != head.origin:
            return Fault(Tampering.CHECKPOINT, None, "the cosigned checkpoint is of another log")
        try:
            proof = [_hash(text) for text in bundle.consistency]
            verify_consistency(older.size, head.size, older.root, head.root, proof)
        except (ProofInvalid, ValueError) as error:
            detail = f"the checkpoint does not continue the one of size {older.size} that was cosigned: {error}"
            return Fault(Tampering.FORKED, None, detail)
        known[older.size] = older
        seen.tied.append(bundle.cosigned)
    for note in held:
        other = chain.checkpoint(note)
        if other.origin != head.origin:
            return Fault(Tampering.CHECKPOINT, None, "the checkpoints are of different logs")
        same = known.get(other.size)
        if same is not None and same.root != other.root:
            return Fault(Tampering.FORKED, None, f"the checkpoint held of size {other.size} has another root")
        if same is not None:
            seen.tied.append(note)
    return None


def _check_records(bundle: Bundle, head: TreeHead, seen: _Seen, progress: Progress | None) -> Fault | None:
    question = bundle.question
    whole = not question.filters
    expected = question.from_seq or 1
    for exhibit in bundle.records:
        seq, hash_hex, leaf, prev_hash, fault = _read(exhibit, bundle.tenant_id, seen)
        if fault is not None:
            return fault
        if seq <= seen.last:
            return Fault(Tampering.REORDERED, seq, f"seq {seq} stands behind seq {seen.last}")
        if whole and seq != expected:
            return Fault(Tampering.REMOVED, expected, f"{seq - expected} records missing")
        if fault := _prove(exhibit, seq, leaf, head):
            return fault
        if seen.last == seq - 1 and seen.hash and prev_hash not in {"", seen.hash}:
            return Fault(Tampering.CHANGED, seq, "the record does not continue the one before it")
        seen.count, seen.first, seen.last, seen.hash = seen.count + 1, seen.first or seq, seq, hash_hex
        expected = seq + 1
        if progress is not None:
            progress(seen.count)
    last = min(question.to_seq or head.size, head.size)
    if whole and expected <= last:
        return Fault(Tampering.TRUNCATED, expected, f"the last {last - expected + 1} records are missing")
    return None


def _prove(exhibit: Exhibit, seq: int, leaf: bytes, head: TreeHead) -> Fault | None:
    try:
        verify_inclusion(seq - 1, head.size, leaf, [_hash(text) for text in exhibit.proof], head.root)
    except (ProofInvalid, ValueError) as error:
        return Fault(Tampering.CHANGED, seq, f"the record is not the one that was signed: {error}")
    return None


def _check_pruning(bundle: Bundle, head: TreeHead, seen: _Seen) -> Fault | None:
    """Ask of each pruned record that a record under the checkpoint names it: its leaf alone shows only that it was."""
    for exhibit in bundle.pruning:
        if exhibit.pruned is not None and not bytes(exhibit.record):
            continue  # it says nothing any more
        seq, _, leaf, _, fault = _read(exhibit, bundle.tenant_id, seen)
        if fault := fault or _prove(exhibit, seq, leaf, head):
            return fault
    unshown = without(joined(seen.pruned), joined(seen.said))
    return Fault(Tampering.NOT_SHOWN, unshown[0][0], UNSHOWN) if unshown else None


def _read(exhibit: Exhibit, tenant_id: str, seen: _Seen) -> tuple[int, str, bytes, str, Fault | None]:
    """Return number, hash, leaf hash, hash before, and what is wrong with the record by itself."""
    if exhibit.pruned is not None:
        p = exhibit.pruned
        if bytes(exhibit.record) or not is_hash(p.hash):
            fault = Fault(Tampering.CHANGED, p.seq, "what is left of a pruned record is its number and its hashes")
            return p.seq, "", b"", "", fault
        seen.pruned.append((p.seq, p.seq))
        return p.seq, p.hash, _hash(p.leaf), "", None
    after = seen.last + 1
    body, stated = read_item(bytes(exhibit.record))
    try:
        link = read_link(body)
    except UNREADABLE:
        return 0, "", b"", "", Fault(Tampering.CHANGED, after, "the record can't be read")
    if sha256(body).hexdigest() != stated:
        fault = Fault(Tampering.CHANGED, max(after, link.seq), "the record does not have the hash it states")
        return link.seq, stated, b"", link.prev_hash, fault
    if link.tenant_id != tenant_id:
        fault = Fault(Tampering.INSERTED, link.seq, "the record belongs to another log")
        return link.seq, stated, b"", link.prev_hash, fault
    if body.startswith(PRUNED_START):
        seen.said += pruned_by(body)  # believed only when it is proved: the verdict waits for that
    return link.seq, stated, leaf_hash(body), link.prev_hash, None


def _hash(text: str) -> bytes:
    """Read a hash in its one spelling; anything else is no hash, which no proof holds."""
    return bytes.fromhex(text) if is_hash(text) else b""


def _report(fault: Fault | None, seen: _Seen, root: str) -> Report:
    return Report(
        ok=fault is None,
        records=seen.count,
        first_seq=seen.first,
        last_seq=seen.last,
        covered=seen.count if fault is None else 0,
        root=root,
        fault=fault,
        pruned=seen.pruned,
        tied=seen.tied,
    )
