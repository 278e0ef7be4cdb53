"""The order of the log is `seq`, never a clock: the clock steps back an hour between records, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.test_compliance_evidence import AUDITOR, GATEWAY, get
from tests.independent.c2sp import split_note
from tests.independent.witness import Witness

from sealwire.contracts.audit import StreamQuery
from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry, AuditQuery, LogQuery, VerifyQuery
from sealwire.contracts.witness import Cosignatures
from sealwire.kit.clock import US_PER_S, rfc3339
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.notes import parse_key
from sealwire.services.compliance.verify import verify_export
from sealwire.testing.clock import ManualClock
from sealwire.testing.compliance import ComplianceRoom, open_compliance

HOUR_S = 3_600
STEPS = 6
BATCH = 60
W1 = Witness("witness.example/w1")
CONFIG = ComplianceConfig(checkpoint_every_s=HOUR_S, witnesses=[W1.vkey])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def add(room: ComplianceRoom, clock: ManualClock, first: int, count: int = BATCH) -> None:
    """Store records of this instant: those of one batch have equal times, half of them their own."""
    records = [
        AuditEntry(
            audit_id=f"id-{i}", tenant_id="acme", actor=Actor(type="user", id="anna"), action="message.sent",
            resource_type="message", metadata={"n": i}, created_at_us=clock.now_us() if i % 2 else 0,
        )
        for i in range(first, first + count)
    ]  # fmt: skip
    await room.service.append(GATEWAY, AuditBatch(records=records))


@pytest.fixture
async def room(tmp_path: Path, clock: ManualClock) -> AsyncIterator[ComplianceRoom]:
    """A log whose clock went back an hour after every batch, and had the service restarted in between."""
    for step in range(STEPS):
        async with open_compliance(tmp_path / "log", clock=clock, config=CONFIG) as room:
            await add(room, clock, step * BATCH)
            await room.service.checkpoint(AUDITOR, LogQuery())
        clock.step_wall(-HOUR_S)
    async with open_compliance(tmp_path / "log", clock=clock, config=CONFIG) as room:
        yield room


async def pages(room: ComplianceRoom, limit: int, **query: str) -> list[tuple[int, int, str]]:
    """Return seq, number and time of what matches, page by page."""
    found: list[tuple[int, int, str]] = []
    cursor = None
    while True:
        asked = AuditQuery(limit=limit, cursor=cursor, action="message.sent", **query)
        page = await room.service.query(AUDITOR, asked)
        found += [(r.seq, r.metadata["n"], r.created_at) for r in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 7, 59, 1000])
async def test_pages_go_by_seq_while_times_go_back(room: ComplianceRoom, limit: int) -> None:
    found = await pages(room, limit)
    assert [n for _, n, _ in found] == list(range(STEPS * BATCH)), "as they came, each once"
    seqs = [seq for seq, _, _ in found]
    assert seqs == sorted(set(seqs))
    times = [at for _, _, at in found]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == STEPS


async def test_a_filter_by_time_finds_all_of_that_time_wherever_they_stand(
    room: ComplianceRoom, clock: ManualClock
) -> None:
    now_us = clock.now_us()
    for step in range(STEPS):
        at_us = now_us + (STEPS - step) * HOUR_S * US_PER_S
        found = await pages(room, 7, from_=rfc3339(at_us), to=rfc3339(at_us + 1))
        assert [n for _, n, _ in found] == list(range(step * BATCH, (step + 1) * BATCH))


async def test_chain_tree_checkpoints_and_exports_hold(room: ComplianceRoom) -> None:
    verified = await room.service.verify(AUDITOR, VerifyQuery())
    assert verified.ok, verified.fault
    head = await room.service.checkpoint(AUDITOR, LogQuery())
    lines = (await get(room, "export?manifest=true")).body.splitlines(keepends=True)
    report = verify_export(lines, keys=[parse_key(head.first_key)])
    assert (report.ok, report.covered) == (True, head.tree_size), report.fault


async def test_a_live_stream_goes_on_by_seq_across_a_step_back(room: ComplianceRoom, clock: ManualClock) -> None:
    size = await room.service.log_size(AUDITOR)
    follower = await room.service.follow(AUDITOR, StreamQuery(action="message.sent"), size)
    try:
        seen: list[int] = []
        for step in range(3):
            await add(room, clock, (STEPS + step) * BATCH, 5)
            clock.step_wall(-HOUR_S)
        async with asyncio.timeout(30):
            while len(seen) < 15:
                for record in (await follower.next(1.0)).records:
                    shown = await room.service.show(record)
                    seen.append(shown.metadata["n"])
    finally:
        follower.close()
    assert seen == [(STEPS + step) * BATCH + i for step in range(3) for i in range(5)]


async def test_retention_goes_by_each_records_own_time(room: ComplianceRoom, clock: ManualClock) -> None:
    """The last batches are the oldest by their times: they are due first, and pruned they verify."""
    before_us = clock.now_us() + 2 * HOUR_S * US_PER_S + 1
    due = await room.service.pruning.due("acme", before_us=before_us, after_seq=0, limit=1_000)
    numbers = {seq: n for seq, n, _ in await pages(room, 1_000)}
    assert sorted(numbers[d.seq] for d in due if d.seq in numbers) == list(range((STEPS - 2) * BATCH, STEPS * BATCH))
    await room.service.pruning.prune("acme", [d.seq for d in due], run_id="run")
    verified = await room.service.verify(AUDITOR, VerifyQuery())
    assert verified.ok, verified.fault


async def test_a_witness_whose_clock_is_right_is_believed_after_ours_went_back_a_little(
    room: ComplianceRoom, clock: ManualClock
) -> None:
    head = await room.service.checkpoint(AUDITOR, LogQuery())
    at_s = clock.now_us() // US_PER_S + 200
    note = head.checkpoint + W1.sign(split_note(head.checkpoint.encode())[0], at_s)
    assert (await room.service.cosign(AUDITOR, Cosignatures(note=note))).witnesses == {W1.name: at_s}
