"""A bundle of evidence by somebody who has the key and lies all the same: each lie has its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.canonical import canonical
from sealwire.services.compliance.key_chain import Rotation
from sealwire.services.compliance.notes import (
    ED25519,
    NoteSignature,
    TreeHead,
    VerifierKey,
    checkpoint_text,
    write_note,
)
from sealwire.services.compliance.verify import verify_export
from sealwire.services.compliance.walk import Fault, Tampering

ORIGIN = "example.org/audit/acme"


def leaf(body: bytes) -> bytes:
    return sha256(b"\0" + body).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, as it stands there."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + root(leaves[:k]) + root(leaves[k:])).digest()


def inclusion(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if m < k:
        return [*inclusion(m, leaves[:k]), root(leaves[k:])]
    return [*inclusion(m - k, leaves[k:]), root(leaves[:k])]


def consistency(m: int, leaves: Sequence[bytes], whole: bool = True) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [root(leaves)]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if m <= k:
        return [*consistency(m, leaves[:k], whole), root(leaves[k:])]
    return [*consistency(m - k, leaves[k:], False), root(leaves[:k])]


def hexed(hashes: Sequence[bytes]) -> list[str]:
    return [h.hex() for h in hashes]


class Writer:
    """Writes and signs a log as it likes."""

    def __init__(self, origin: str = ORIGIN) -> None:
        self._private = Ed25519PrivateKey.generate()
        raw = self._private.public_key().public_bytes_raw()
        self.key = VerifierKey(name=origin, type=ED25519, public_key=raw)
        self.records: list[dict[str, Any]] = []

    def add(self, **members: Any) -> None:
        prev_hash = self.records[-1]["hash"] if self.records else "0" * 64
        record = {
            "action": "a", "actor": {"id": "anna", "type": "user"}, "audit_id": f"id-{len(self.records)}",
            "created_at": "2026-01-01T00:00:00.000000Z", "metadata": {}, "outcome": "success", "prev_hash": prev_hash,
            "resource_id": "", "resource_type": "r", "seq": len(self.records) + 1, "tenant_id": "acme",
        } | members  # fmt: skip
        self.records.append(record | {"hash": sha256(canonical(record)).hexdigest()})

    def body(self, seq: int) -> bytes:
        return canonical({name: value for name, value in self.records[seq - 1].items() if name != "hash"})

    def leaves(self, size: int | None = None) -> list[bytes]:
        return [leaf(self.body(seq + 1)) for seq in range(size or len(self.records))]

    def note(self, size: int, origin: str = ORIGIN, over: bytes = b"") -> str:
        text = checkpoint_text(TreeHead(origin=origin, size=size, root=over or root(self.leaves(size))))
        return write_note(text, [self.signed(text)])

    def signed(self, text: str, *, as_key: VerifierKey | None = None) -> NoteSignature:
        key = as_key or self.key
        return NoteSignature(key.name, key.key_id, self._private.sign(text.encode()))

    def exhibit(self, seq: int, size: int, *, pruned: bool = False) -> dict[str, Any]:
        proof = hexed(inclusion(seq - 1, self.leaves(size)))
        if pruned:
            left = {"hash": self.records[seq - 1]["hash"], "leaf": leaf(self.body(seq)).hex(), "seq": seq}
            return {"pruned": left, "proof": proof}
        return {"record": self.records[seq - 1], "proof": proof}

    def bundle(self) -> dict[str, Any]:
        """Records 1 to 6, of which 4 is pruned; the record of pruning is 8, under a checkpoint of size 9."""
        return {
            "format": "sealwire-evidence/2", "origin": ORIGIN, "tenant_id": "acme", "made_at": "",
            "question": {"from_seq": 1, "to_seq": 6}, "checkpoint": self.note(7), "public_key": self.key.text,
            "first_key": self.key.text, "cosigned": self.note(3), "consistency": hexed(consistency(3, self.leaves(7))),
            "records": [self.exhibit(seq, 7, pruned=seq == 4) for seq in range(1, 7)],
            "later": {"checkpoint": self.note(9), "consistency": hexed(consistency(7, self.leaves(9)))},
            "pruning": [self.exhibit(8, 9)],
        }  # fmt: skip


def written(**of_second: Any) -> Writer:
    writer = Writer()
    for seq in range(1, 10):
        said = {"actor": {"id": "compliance", "type": "service"}, "action": "audit.pruned", "metadata": {"pruned": "4"}}
        writer.add(**(said if seq == 8 else of_second if seq == 2 else {}))
    return writer


def judged(writer: Writer, bundle: dict[str, Any], held: Sequence[str] = ()) -> Fault | None:
    report, _ = verify_bundle(json.dumps(bundle).encode(), keys=[writer.key], checkpoints=held)
    assert report.ok == (report.fault is None)
    assert report.covered == (report.records if report.ok else 0)
    return report.fault


def test_an_honest_bundle_holds() -> None:
    writer = written()
    assert judged(writer, writer.bundle(), [writer.note(3), writer.note(7), writer.note(5)]) is None


def test_it_says_by_what_its_records_were_chosen() -> None:
    writer = written()
    bundle = writer.bundle()
    assert verify_bundle(json.dumps(bundle).encode(), keys=[writer.key])[0].chosen_by == {}
    del bundle["records"][1]
    assert judged(writer, bundle) == Fault(Tampering.REMOVED, 2, "1 record missing")
    bundle["question"]["filters"] = {"actor": "anna"}  # nobody signed the question
    report, _ = verify_bundle(json.dumps(bundle).encode(), keys=[writer.key])
    assert (report.ok, report.records, report.chosen_by) == (True, 5, {"actor": "anna"})


def test_a_record_of_another_log_is_inserted_though_it_was_signed() -> None:
    writer = written(tenant_id="globex")
    fault = judged(writer, writer.bundle())
    assert fault is not None
    assert (fault.kind, fault.seq) == (Tampering.INSERTED, 2)


def other() -> Writer:
    return written(action="another history")


def later_of_another_history(writer: Writer, bundle: dict[str, Any]) -> None:
    """The key signs a second history, in which the record was pruned."""
    leaves = other().leaves(9)
    bundle["later"] = {"checkpoint": writer.note(9, over=root(leaves)), "consistency": hexed(consistency(7, leaves))}
    bundle["pruning"][0]["proof"] = hexed(inclusion(7, leaves))


def later_unproved(writer: Writer, bundle: dict[str, Any]) -> None:
    bundle["later"]["consistency"] = []


def later_of_another_log(writer: Writer, bundle: dict[str, Any]) -> None:
    bundle["later"]["checkpoint"] = writer.note(9, "example.org/audit/globex")


def later_by_another_key(writer: Writer, bundle: dict[str, Any]) -> None:
    thief = Writer()
    thief.records = writer.records
    bundle["later"]["checkpoint"] = thief.note(9)


def cosigned_of_another_log(writer: Writer, bundle: dict[str, Any]) -> None:
    bundle["cosigned"] = writer.note(3, "example.org/audit/globex")


def cosigned_of_another_history(writer: Writer, bundle: dict[str, Any]) -> None:
    bundle["cosigned"] = writer.note(3, over=root(other().leaves(3)))


def cosigned_by_another_key(writer: Writer, bundle: dict[str, Any]) -> None:
    thief = Writer()
    thief.records = writer.records
    bundle["cosigned"] = thief.note(3)


def named_for_another_tenant(writer: Writer, bundle: dict[str, Any]) -> None:
    bundle["tenant_id"] = "globex"


def named_for_another_log(writer: Writer, bundle: dict[str, Any]) -> None:
    bundle["origin"] = "example.org/audit2/acme"


def a_key_that_signed_beside(writer: Writer, bundle: dict[str, Any]) -> None:
    """Both signatures are good; which key vouches for the log is not for the second to say."""
    beside = Writer()
    beside.records = writer.records
    bundle["checkpoint"] += beside.note(7).rpartition("\n\n")[2]
    bundle["public_key"] = beside.key.text


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (later_of_another_history, Tampering.FORKED),
        (later_unproved, Tampering.FORKED),
        (later_of_another_log, Tampering.CHECKPOINT),
        (later_by_another_key, Tampering.CHECKPOINT),
        (cosigned_of_another_log, Tampering.CHECKPOINT),
        (cosigned_of_another_history, Tampering.FORKED),
        (cosigned_by_another_key, Tampering.CHECKPOINT),
        (named_for_another_tenant, Tampering.CHECKPOINT),
        (named_for_another_log, Tampering.CHECKPOINT),
        (a_key_that_signed_beside, Tampering.CHECKPOINT),
    ],
)
def test_what_stands_around_the_records_is_of_this_log_and_its_key(
    lie: Callable[[Writer, dict[str, Any]], None], kind: Tampering
) -> None:
    writer = written()
    bundle = writer.bundle()
    lie(writer, bundle)
    fault = judged(writer, bundle)
    assert fault is not None
    assert fault.kind is kind, fault


def test_a_key_follows_another_only_by_what_both_signed() -> None:
    """Of whom the bundle says that the log's key vouches for them, the log's key has signed it, and they as well."""
    writer, heir = written(), Writer()
    heir.records = writer.records
    text = Rotation(origin=ORIGIN, size=5, old=writer.key, new=heir.key).text
    by_old, by_new = writer.signed(text), heir.signed(text)
    forged = heir.signed(text, as_key=writer.key)
    bundle = writer.bundle() | {"checkpoint": heir.note(7), "public_key": heir.key.text}
    bundle["later"]["checkpoint"] = heir.note(9)

    def after(*signatures: NoteSignature) -> Fault | None:
        return judged(writer, bundle | {"rotations": [write_note(text, signatures)]})

    assert after(by_old, by_new) is None
    for signatures in ((by_new,), (by_old,), (forged, by_new), (by_old, writer.signed(text, as_key=heir.key))):
        fault = after(*signatures)
        assert fault is not None
        assert fault.kind is Tampering.CHECKPOINT
    too_soon = bundle | {"rotations": [write_note(text, (by_old, by_new))], "cosigned": heir.note(3)}
    fault = judged(writer, too_soon)
    assert fault is not None
    assert fault.kind is Tampering.CHECKPOINT, "the heir signs nothing of before"


def test_a_checkpoint_held_of_the_same_size_has_the_same_root() -> None:
    writer = written()
    for size in (3, 7):
        fault = judged(writer, writer.bundle(), [writer.note(size, over=root(other().leaves(size)))])
        assert fault is not None
        assert fault.kind is Tampering.FORKED, fault
    fault = judged(writer, writer.bundle(), [writer.note(7, "example.org/audit/globex")])
    assert fault is not None
    assert fault.kind is Tampering.CHECKPOINT


@pytest.mark.parametrize("at", range(6))
def test_a_record_is_proved_in_its_place_only(at: int) -> None:
    """The proof of one is that of no other, nor is what is left of another one."""
    writer = written()
    for instead in range(6):
        if instead == at:
            continue
        bundle = writer.bundle()
        bundle["records"][at]["proof"] = writer.bundle()["records"][instead]["proof"]
        fault = judged(writer, bundle)
        assert fault is not None
        assert (fault.kind, fault.seq) == (Tampering.CHANGED, at + 1)
    bundle = writer.bundle()
    bundle["records"][at] = writer.exhibit(at + 1, 9, pruned=at == 3)
    assert judged(writer, bundle) is not None, "a proof under another checkpoint"


@pytest.mark.parametrize("seq", [1, 3, 9])
def test_a_number_that_its_writer_skipped_or_gave_twice_is_found(seq: int) -> None:
    """Hash, hash before and signature are right; the number is not."""
    writer = written(seq=seq)
    lines = [canonical(record) + b"\n" for record in writer.records]
    for strict in (False, True):
        report = verify_export(lines, keys=[writer.key], checkpoints=[writer.note(9)], strict=strict)
        assert report.fault is not None
        assert report.records == 1


@pytest.mark.parametrize("strict", [False, True])
def test_a_record_of_another_log_is_inserted_in_an_export_too(strict: bool) -> None:
    writer = written(tenant_id="globex")
    lines = [canonical(record) + b"\n" for record in writer.records]
    report = verify_export(lines, keys=[writer.key], checkpoints=[writer.note(9)], strict=strict)
    assert report.fault is not None
    assert (report.fault.kind, report.fault.seq) == (Tampering.INSERTED, 2)
