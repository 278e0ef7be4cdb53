"""The offline verifier finds every change, says which record is the first bad one, and what was done to it."""

from __future__ import annotations

import json
from hashlib import sha256

import msgspec
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.services.compliance.chain import Record, RecordActor, line_of, record_bytes, record_hash
from sealwire.services.compliance.merkle import leaf_hash, root_of
from sealwire.services.compliance.notes import (
    ED25519,
    NoteSignature,
    TreeHead,
    VerifierKey,
    checkpoint_text,
    write_note,
)
from sealwire.services.compliance.verify import Report, verify_export
from sealwire.services.compliance.walk import Tampering

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "sealwire.example/audit/acme"
KEY = VerifierKey(name=ORIGIN, type=ED25519, public_key=PRIVATE.public_key().public_bytes_raw())


def log(count: int, *, tenant: str = "acme", salt: str = "") -> list[bytes]:
    """An honest log as export lines."""
    lines, prev = [], "0" * 64
    for seq in range(1, count + 1):
        body = record_bytes(
            Record(
                action="message.sent",
                actor=RecordActor("u1", "user"),
                audit_id=f"id-{salt}{seq}",
                created_at="2026-01-01T00:00:00.000000Z",
                metadata=msgspec.Raw(b'{"n":%d}' % seq),
                outcome="success",
                prev_hash=prev,
                resource_id="r",
                resource_type="message",
                seq=seq,
                tenant_id=tenant,
            )
        )
        prev = record_hash(body)
        lines.append(line_of(body, prev) + b"\n")
    return lines


def checkpoint(lines: list[bytes], *, origin: str = ORIGIN) -> str:
    """The signed checkpoint over honest lines."""
    leaves = []
    for line in lines:
        document = json.loads(line)
        del document["hash"]
        leaves.append(leaf_hash(rfc8785.dumps(document)))
    text = checkpoint_text(TreeHead(origin=origin, size=len(lines), root=root_of(leaves)))
    return write_note(text, [NoteSignature(KEY.name, KEY.key_id, PRIVATE.sign(text.encode()))])


LOG = log(12)
NOTE = checkpoint(LOG)


def check(lines: list[bytes], note: str = NOTE, *, strict: bool = True) -> Report:
    return verify_export(lines, checkpoints=[note], keys=[KEY], strict=strict)


def rehashed(line: bytes, **changes: object) -> bytes:
    """The line with members changed and its own hash made right again."""
    document = json.loads(line) | changes
    del document["hash"]
    document["hash"] = sha256(rfc8785.dumps(document)).hexdigest()
    return rfc8785.dumps(document) + b"\n"


def rechained(lines: list[bytes], start: int) -> list[bytes]:
    """Lines from index `start` on with `prev_hash` and `hash` made right, as one who rewrites history would."""
    done = list(lines)
    for i in range(start, len(done)):
        prev = json.loads(done[i - 1])["hash"] if i else "0" * 64
        done[i] = rehashed(done[i], prev_hash=prev, seq=i + 1)
    return done


def fault(report: Report) -> tuple[Tampering, int | None]:
    assert not report.ok
    assert report.fault is not None
    return report.fault.kind, report.fault.seq


@pytest.mark.parametrize("strict", [True, False])
def test_an_honest_log_holds(strict: bool) -> None:
    seen: list[int] = []
    report = verify_export(LOG, checkpoints=[NOTE], keys=[KEY], progress=seen.append, strict=strict)
    assert (report.ok, report.records, report.covered, report.first_bad_seq) == (True, 12, 12, None)
    assert seen[-1] == 12
    assert check([*log(20)], checkpoint(log(20)[:7])).covered == 7


def test_any_spelling_of_the_same_json_holds() -> None:
    spelled = [json.dumps(json.loads(line), sort_keys=False, indent=None).encode() + b"\r\n" for line in LOG]
    assert check([b"\n", *spelled, b"\n"]).ok


@settings(max_examples=300)
@given(st.integers(0, len(LOG) - 1), st.data())
def test_any_changed_bit_is_found(index: int, data: st.DataObject) -> None:
    line = bytearray(LOG[index][:-1])
    at = data.draw(st.integers(0, len(line) * 8 - 1))
    line[at // 8] ^= 1 << at % 8
    changed = [*LOG[:index], bytes(line) + b"\n", *LOG[index + 1 :]]
    for strict in (True, False):
        assert fault(check(changed, strict=strict)) == (Tampering.CHANGED, index + 1)


@given(st.integers(0, len(LOG) - 1))
def test_a_duplicate_member_is_a_change(index: int) -> None:
    line = LOG[index].replace(b'"outcome":"success"', b'"outcome":"failure","outcome":"success"')
    assert fault(check([*LOG[:index], line, *LOG[index + 1 :]])) == (Tampering.CHANGED, index + 1)


@given(st.integers(0, len(LOG) - 2), st.integers(1, 4))
def test_removed_records(index: int, count: int) -> None:
    shorter = LOG[:index] + LOG[index + count :]
    kind = Tampering.REMOVED if index + count < len(LOG) else Tampering.TRUNCATED
    assert fault(check(shorter)) == (kind, index + 1)


@given(st.integers(0, len(LOG) - 1))
def test_a_truncated_tail(keep: int) -> None:
    assert fault(check(LOG[:keep])) == (Tampering.TRUNCATED, keep + 1)


@given(st.integers(0, len(LOG) - 1), st.integers(0, len(LOG)))
def test_a_record_copied_elsewhere(source: int, place: int) -> None:
    lines = [*LOG[:place], LOG[source], *LOG[place:]]
    kind, seq = fault(check(lines))
    assert kind in {Tampering.INSERTED, Tampering.REORDERED}
    assert seq == (source if kind is Tampering.INSERTED else place) + 1


@given(st.integers(1, len(LOG) - 2))
def test_a_forged_record_put_in(index: int) -> None:
    prev = json.loads(LOG[index - 1])["hash"]
    forged = rehashed(LOG[index], action="forged", prev_hash=prev)
    assert fault(check([*LOG[:index], forged, *LOG[index:]])) == (Tampering.INSERTED, index + 1)


@given(st.integers(0, len(LOG) - 1), st.integers(0, len(LOG) - 1))
def test_two_records_swapped(a: int, b: int) -> None:
    lines = list(LOG)
    lines[a], lines[b] = lines[b], lines[a]
    if a == b:
        assert check(lines).ok
    else:
        assert fault(check(lines)) == (Tampering.REORDERED, min(a, b) + 1)


@given(st.integers(0, len(LOG) - 2))
def test_a_record_rewritten_with_a_new_hash(index: int) -> None:
    lines = list(LOG)
    lines[index] = rehashed(lines[index], action="forged")
    assert fault(check(lines)) == (Tampering.CHANGED, index + 1)


@given(st.integers(1, len(LOG) - 2))
def test_a_record_replaced_by_one_that_does_not_continue(index: int) -> None:
    lines = list(LOG)
    lines[index] = rehashed(lines[index], prev_hash="1" * 64)
    assert fault(check(lines)) == (Tampering.CHANGED, index + 1)


@given(st.integers(0, len(LOG) - 1))
def test_a_history_rewritten_to_the_end_contradicts_the_checkpoint(index: int) -> None:
    lines = list(LOG)
    lines[index] = rehashed(lines[index], action="forged")
    lines = rechained(lines, index)
    assert verify_export(lines).ok, "without a checkpoint nobody can know"
    assert fault(check(lines)) == (Tampering.FORKED, 1)
    early = checkpoint(LOG[:4])
    kind, seq = fault(verify_export(lines, checkpoints=[NOTE, early], keys=[KEY]))
    assert (kind, seq) == (Tampering.FORKED, 1 if index < 4 else 5)


def test_a_record_of_another_tenant() -> None:
    other = rehashed(LOG[5], tenant_id="evil")
    assert fault(check([*LOG[:5], other, *LOG[6:]])) == (Tampering.INSERTED, 6)


def test_bytes_that_hash_right_and_are_not_canonical() -> None:
    """A dishonest log could hash a record that two readers read differently."""
    body = record_bytes(msgspec.json.decode(LOG[0], type=Record)).replace(
        b'"outcome":', b'"outcome":"denied","outcome":'
    )
    line = line_of(body, record_hash(body)) + b"\n"
    assert fault(verify_export([line])) == (Tampering.CHANGED, 1)


def test_a_checkpoint_nobody_trusted_signed() -> None:
    other = VerifierKey(name=ORIGIN, type=ED25519, public_key=bytes(32))
    assert fault(verify_export(LOG, checkpoints=[NOTE], keys=[other])) == (Tampering.CHECKPOINT, None)
    assert fault(check(LOG, NOTE.replace("\n12\n", "\n11\n"))) == (Tampering.CHECKPOINT, None)
    assert fault(verify_export(LOG, checkpoints=[NOTE, checkpoint(LOG, origin="b")], keys=[KEY])) == (
        Tampering.CHECKPOINT,
        None,
    )


def test_checkpoints_in_the_export() -> None:
    line = json.dumps({"checkpoint": NOTE}).replace("{ ", "{").encode() + b"\n"
    assert verify_export([*LOG, line], keys=[KEY]).covered == 12
    assert verify_export([line, *LOG], keys=[KEY]).covered == 12
    assert fault(verify_export([*LOG[:-1], line], keys=[KEY])) == (Tampering.TRUNCATED, 12)
    forged = rechained([rehashed(LOG[0], action="forged"), *LOG[1:]], 1)
    assert fault(verify_export([*forged, line], keys=[KEY])) == (Tampering.FORKED, 1)
    assert fault(verify_export([*LOG, b'{"checkpoint": 1}\n'], keys=[KEY])) == (Tampering.CHECKPOINT, None)


def test_a_part_of_a_log() -> None:
    report = verify_export(LOG[4:9], first_seq=5)
    assert (report.ok, report.first_seq, report.last_seq, report.covered, report.root) == (True, 5, 9, 0, "")
    assert fault(verify_export([*LOG[4:6], *LOG[7:]], first_seq=5)) == (Tampering.REMOVED, 7)
    assert fault(verify_export(LOG[4:])) == (Tampering.REMOVED, 1)


def test_an_empty_log() -> None:
    assert verify_export([]).ok
    assert verify_export([], checkpoints=[checkpoint([])], keys=[KEY]).ok


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_no_input_breaks_the_verifier(lines: list[bytes]) -> None:
    kept = [part for line in lines if (part := line.strip())]
    report = verify_export(lines, keys=[KEY])
    assert report.ok is (not kept)


def test_a_log_of_several_chunks() -> None:
    lines = log(5000)
    note = checkpoint(lines[:4500])
    assert check(lines, note).covered == 4500
    lines[4900] = lines[4900].replace(b"message.sent", b"message.dent")
    assert fault(check(lines, note)) == (Tampering.CHANGED, 4901)
