"""SIGKILL while records are taken in: what was acknowledged, or promised by the spool, is in the log exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sealwire.contracts.audit_log import AuditBatch, AuditEntry, AuditQuery, AuditRecord, VerifyQuery
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig
from sealwire.services.gateway.spool_file import numbers_in
from sealwire.testing.compliance import ComplianceRoom, open_compliance

CALLER = service_caller("gateway", "t0")
ROUNDS = 3

COMMON = """
import asyncio, os, sys
from pathlib import Path
from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry
from sealwire.kit.caller import service_caller
from sealwire.testing.compliance import open_compliance

folder, round_ = Path(sys.argv[1]), sys.argv[2]
caller = service_caller("gateway", "t0")

def entry(name, tenant="t0"):
    return AuditEntry(audit_id=name, tenant_id=tenant, actor=Actor(type="user", id="anna"), action="a",
                      resource_type="r", metadata={"name": name}, personal={"ip_address": "192.0.2.1"},
                      subject_id="anna", created_at_us=1_000_000)

def say(text):
    os.write(1, text.encode() + b"\\n")
"""

INTAKE = (
    COMMON
    + """
async def main():
    async with open_compliance(folder) as room:
        async def write(w):
            for i in range(100_000):
                names = [f"{round_}.{w}.{i}.{k}" for k in range(7)]
                records = [entry(n, f"t{k % 2}") for k, n in enumerate(names)]
                await room.service.append(caller, AuditBatch(records=records))
                say(" ".join(names))
        await asyncio.gather(*(write(w) for w in range(6)))

asyncio.run(main())
"""
)

SPOOL = (
    COMMON
    + """
from random import Random
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.problem import Unavailable
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig

async def main():
    async with open_compliance(folder) as room:
        async def deliver(entries):
            if chance.random() < 0.3:
                raise Unavailable("now and then")
            await room.service.append(caller, AuditBatch(records=list(entries)))
            if chance.random() < 0.2:
                raise Unavailable("stored, but the answer was lost")
        chance = Random(round_)
        spool = RecordSpool(folder=folder / "spool", key=SealingKey(key_id=b"k" * 16, key=b"s" * 32), deliver=deliver,
                            clock=SystemClock(), rng=chance,
                            config=SpoolConfig(sync_every_s=0.005, wait_s=0.01, batch=50, segment_bytes=20_000))
        await spool.start()
        promised = put = 0
        while True:
            for _ in range(20):
                spool.put(entry(f"{round_}.{put}"))
                put += 1
            await asyncio.sleep(0.006)
            while put % 60 == 0 and (spool.stats.put < put or spool._unsynced or spool._syncing):
                await asyncio.sleep(0.001)  # or a slow disk would never be done with what was put
            if not spool._unsynced and not spool._syncing and spool.stats.put > promised:
                promised = spool.stats.put
                say(f"{promised}")

asyncio.run(main())
"""
)


def run_and_kill(script: str, folder: Path, round_: int, lines: int) -> list[str]:
    """Run `script` until it has said `lines` lines, then kill it in the middle of its work. Return all it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(round_)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line.decode())
            if len(said) == lines:
                break
    finally:
        os.kill(process.pid, signal.SIGKILL)
        rest, errors = process.communicate(timeout=30)
    assert len(said) == lines, errors.decode()
    said += rest.decode().splitlines(keepends=True)
    return [line.strip() for line in said if line.endswith("\n")]


async def all_records(room: ComplianceRoom, tenant: str) -> list[AuditRecord]:
    caller: Caller = service_caller("gateway", tenant)
    items: list[AuditRecord] = []
    cursor = None
    while True:
        page = await room.service.query(caller, AuditQuery(limit=1000, cursor=cursor))
        items += page.items
        if (cursor := page.next_cursor) is None:
            return items


async def test_acknowledged_records_survive_and_resending_adds_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    acknowledged: list[str] = []
    for round_ in range(ROUNDS):
        for line in run_and_kill(INTAKE, tmp_path, round_, rng.randrange(30, 90)):
            acknowledged += line.split()
        async with open_compliance(tmp_path) as room:
            for tenant in ("t0", "t1"):
                verified = await room.service.verify(service_caller("gateway", tenant), VerifyQuery())
                assert verified.ok, verified.fault
            records = {t: await all_records(room, t) for t in ("t0", "t1")}
            ids = [r.audit_id for found in records.values() for r in found]
            assert len(ids) == len(set(ids)), "nothing twice"
            assert set(acknowledged) <= set(ids), "nothing lost"
            for found in records.values():
                assert [r.seq for r in found] == list(range(1, len(found) + 1))
                assert {r.metadata["ip_address"] for r in found} == {"192.0.2.1"}
    async with open_compliance(tmp_path) as room:
        again = [r for found in records.values() for r in found][:700]
        batch = AuditBatch(
            records=[
                AuditEntry(
                    audit_id=r.audit_id,
                    tenant_id=r.tenant_id,
                    actor=r.actor,
                    action="a",
                    resource_type="r",
                    metadata={"name": r.audit_id},
                    personal={"ip_address": "192.0.2.1"},
                    subject_id="anna",
                    created_at_us=1_000_000,
                )
                for r in again
            ]
        )
        answer = await room.service.append(CALLER, batch)
        assert (answer.accepted, answer.duplicates) == (0, len(again))


@pytest.mark.parametrize("lines", [3, 15])
async def test_what_the_spool_promised_arrives_once(tmp_path: Path, lines: int) -> None:
    promised: dict[int, int] = {}
    for round_ in range(2):
        promised[round_] = int(run_and_kill(SPOOL, tmp_path, round_, lines)[-1])
    async with open_compliance(tmp_path) as room:

        async def deliver(entries: object) -> None:
            await room.service.append(CALLER, AuditBatch(records=list(entries)))  # type: ignore[call-overload]  # a sequence of unknowns

        spool = RecordSpool(
            folder=tmp_path / "spool",
            key=SealingKey(key_id=b"k" * 16, key=b"s" * 32),
            deliver=deliver,
            clock=SystemClock(),
            rng=random.Random(1),
            config=SpoolConfig(sync_every_s=0.005, wait_s=0.0),
        )
        await spool.start()
        await spool.stop(grace_s=30)
        assert numbers_in(tmp_path / "spool") == []
        ids = [r.audit_id for r in await all_records(room, "t0")]
        assert len(ids) == len(set(ids)), "nothing twice"
        for round_, count in promised.items():
            assert {f"{round_}.{i}" for i in range(count)} <= set(ids), "nothing lost"
        assert spool.stats.damaged_frames == 0
        assert (await room.service.verify(CALLER, VerifyQuery())).ok
