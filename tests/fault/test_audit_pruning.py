"""Retention takes records out of the log: hashes stay, everything still verifies, and nobody else gets away with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.contracts.audit_log import (
    Actor,
    AuditBatch,
    AuditEntry,
    AuditQuery,
    ConsistencyQuery,
    InclusionQuery,
    VerifyQuery,
)
from sealwire.contracts.holds import NewHold
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.permission import Role
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.export_route import export_line
from sealwire.services.compliance.merkle import leaf_hash, verify_consistency, verify_inclusion
from sealwire.services.compliance.notes import parse_key
from sealwire.services.compliance.ports import StoredRecord
from sealwire.services.compliance.pruning import (
    joined,
    ranges_of,
    read_ranges,
    without,
    write_ranges,
)
from sealwire.services.compliance.verify import verify_export
from sealwire.services.compliance.walk import Tampering
from sealwire.testing.compliance import ComplianceRoom, open_compliance

CALLER = service_caller("gateway", "acme")
ADMIN = Caller(principal=Principal(kind="user", tenant_id="acme", subject="olga", role=Role.ADMIN))
RECORDS = 700
CONFIG = ComplianceConfig(checkpoint_every_s=3600)


def entry(i: int, actor: str = "anna") -> AuditEntry:
    return AuditEntry(
        audit_id=f"id-{i}",
        tenant_id="acme",
        actor=Actor(type="user", id=actor),
        action="message.sent",
        resource_type="message",
        metadata={"n": i},
        personal={"ip_address": "192.0.2.1"},
        subject_id=actor,
        created_at_us=1_000_000 + i,
    )


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[ComplianceRoom]:
    async with open_compliance(tmp_path, config=CONFIG) as room:
        for start in range(0, RECORDS, 70):
            batch = [entry(i, "ben" if i % 100 == 7 else "anna") for i in range(start, start + 70)]
            await room.service.append(CALLER, AuditBatch(records=batch))
        await room.service.checkpoint(CALLER)
        yield room


async def stored(room: ComplianceRoom) -> list[StoredRecord]:
    size = (await room.stores.audit.head("acme")).size
    found: list[StoredRecord] = []
    for first in range(1, size + 1, 256):
        found += await room.stores.audit.records("acme", first, 256)
    return found


@pytest.mark.parametrize(
    "seqs",
    [range(1, 401), range(1, 701), [5], [256, 257], range(650, 701), [*range(1, 30), *range(300, 310)]],
    ids=["prefix", "all", "one", "border", "tail", "holes"],
)
async def test_chain_tree_and_proofs_hold_without_the_records(
    room: ComplianceRoom, tmp_path: Path, seqs: range | list[int]
) -> None:
    service, before = room.service, await stored(room)
    old = await service.checkpoint(CALLER)
    proofs = {seq: await service.inclusion(CALLER, InclusionQuery(seq=seq, tree_size=RECORDS)) for seq in (1, 300, 700)}
    count = await service.pruning.prune("acme", seqs, run_id="run-1")
    assert (count.pruned, count.held, count.missing) == (len(seqs), 0, 0)
    assert await service.pruning.prune("acme", seqs, run_id="run-1") == count, "asked for again it counts the same"
    again = await service.pruning.prune("acme", seqs, run_id="run-2")
    assert (again.pruned, again.missing) == (0, len(seqs)), "and nothing is there for another run"

    after = await stored(room)
    gone = set(seqs)
    for was, now in zip(before, after, strict=False):
        if was.seq in gone:
            assert (now.seq, now.hash, now.body, now.leaf) == (was.seq, was.hash, b"", leaf_hash(was.body))
        else:
            assert now == was
    verified = await service.verify(CALLER, VerifyQuery())
    assert verified.ok, verified.fault
    assert [tuple(pair) for pair in verified.pruned] == ranges_of(seqs)
    part = await service.verify(CALLER, VerifyQuery(from_seq=402, to_seq=640))
    assert part.ok, part.fault
    for seq, proof in proofs.items():
        found = await service.inclusion(CALLER, InclusionQuery(seq=seq, tree_size=RECORDS))
        assert found == proof
        leaf = after[seq - 1].leaf or leaf_hash(after[seq - 1].body)
        verify_inclusion(seq - 1, RECORDS, leaf, [bytes.fromhex(h) for h in found.hashes], bytes.fromhex(old.root))
    new = await service.checkpoint(CALLER)
    grown = await service.consistency(CALLER, ConsistencyQuery(from_=RECORDS, to=new.tree_size))
    hashes = [bytes.fromhex(h) for h in grown.hashes]
    verify_consistency(RECORDS, new.tree_size, bytes.fromhex(old.root), bytes.fromhex(new.root), hashes)

    lines = [export_line(record) for record in after]
    report = verify_export(lines, checkpoints=[old.checkpoint, new.checkpoint], keys=[parse_key(new.public_key)])
    assert report.ok, report.fault
    assert report.pruned == ranges_of(seqs)
    shown = await service.query(CALLER, AuditQuery(action="message.sent", limit=1000))
    assert [r.seq for r in shown.items] == [s for s in range(1, RECORDS + 1) if s not in gone]


async def test_the_log_goes_on_from_a_pruned_tail_after_a_restart(tmp_path: Path) -> None:
    async with open_compliance(tmp_path, config=CONFIG) as room:
        await room.service.append(CALLER, AuditBatch(records=[entry(i) for i in range(300)]))
        await room.service.pruning.prune("acme", range(1, 301), run_id="run")
    async with open_compliance(tmp_path, config=CONFIG) as room:
        for i in range(300, 700):
            await room.service.append(CALLER, AuditBatch(records=[entry(i)]))
        verified = await room.service.verify(CALLER, VerifyQuery())
        assert verified.ok, verified.fault
        assert verified.pruned == [[1, 300]]


async def test_what_a_hold_covers_stays(room: ComplianceRoom) -> None:
    hold = await room.service.hold(ADMIN, NewHold(reason="a case", subject_id="ben"))
    due = await room.service.pruning.due("acme", before_us=1_000_000 + 400, after_seq=0, limit=1000)
    bens = [i + 1 for i in range(400) if i % 100 == 7]
    assert [d.seq for d in due if d.held] == bens
    assert [d.seq for d in due] == list(range(1, 401))
    count = await room.service.pruning.prune("acme", [d.seq for d in due], run_id="run")
    assert (count.pruned, count.held) == (396, 4)
    verified = await room.service.verify(CALLER, VerifyQuery())
    assert verified.ok, verified.fault
    assert without(ranges_of(range(1, 401)), [tuple(p) for p in verified.pruned]) == ranges_of(bens)  # type: ignore[misc]  # pairs
    await room.service.release(ADMIN, hold.hold_id)
    count = await room.service.pruning.prune("acme", bens, run_id="run-2")
    assert count.pruned == 4
    assert (await room.service.verify(CALLER, VerifyQuery())).pruned == [[1, 400]]


async def test_somebody_who_prunes_by_hand_is_found(room: ComplianceRoom, tmp_path: Path) -> None:
    """Records emptied with their right hashes beside them, as pruning leaves them, and no record that says so."""
    before = await stored(room)
    conn = apsw.Connection(str(tmp_path / "compliance.db"))
    conn.set_busy_timeout(60_000)
    from sealwire.adapters.embedded import audit_pruning

    with conn:
        number = conn.execute("SELECT number FROM tenant WHERE tenant_id = 'acme'").get
        audit_pruning.prune(conn, number, "acme", [300])
    conn.close()
    verified = await room.service.verify(CALLER, VerifyQuery())
    assert (verified.ok, verified.first_bad_seq) == (False, 300)
    assert verified.fault is not None
    assert verified.fault.startswith("removed")
    await room.service.pruning.prune("acme", [5], run_id="an honest run")
    verified = await room.service.verify(CALLER, VerifyQuery())
    assert verified.first_bad_seq == 300, "the next run does not launder it"
    assert before[299].body


@pytest.mark.parametrize("member", ["hash", "leaf", "seq"])
async def test_what_is_left_of_a_pruned_record_can_not_be_changed(room: ComplianceRoom, member: str) -> None:
    await room.service.pruning.prune("acme", range(1, 301), run_id="run")
    checkpoint = await room.service.checkpoint(CALLER)
    lines = [export_line(record) for record in await stored(room)]
    key = parse_key(checkpoint.public_key)
    assert verify_export(lines, checkpoints=[checkpoint.checkpoint], keys=[key]).ok
    line = lines[299] if member == "hash" else lines[100]
    at = line.index(f'"{member}":'.encode()) + len(member) + (4 if member != "seq" else 3)
    digit = b"0" if line[at : at + 1] != b"0" else b"1"
    if member == "seq":
        digit = b"9"
    lines[lines.index(line)] = line[:at] + digit + line[at + 1 :]
    report = verify_export(lines, checkpoints=[checkpoint.checkpoint], keys=[key])
    assert not report.ok
    assert report.fault is not None
    kinds = {"hash": Tampering.CHANGED, "leaf": Tampering.FORKED, "seq": Tampering.REMOVED}
    assert report.fault.kind is kinds[member], report.fault


@given(st.sets(st.integers(1, 60)), st.sets(st.integers(1, 60)))
def test_ranges(a: set[int], b: set[int]) -> None:
    def numbers(ranges: list[tuple[int, int]]) -> set[int]:
        return {n for first, last in ranges for n in range(first, last + 1)}

    assert numbers(ranges_of(a)) == a
    assert read_ranges(write_ranges(ranges_of(a))) == ranges_of(a)
    assert joined([*ranges_of(a), *ranges_of(b)]) == ranges_of(a | b)
    assert numbers(without(ranges_of(a), ranges_of(b))) == a - b
