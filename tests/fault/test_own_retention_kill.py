"""SIGKILL after any commit of a run over audit records and exports: every one is counted once, none as missing."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from sealwire.contracts.audit_log import VerifyQuery
from sealwire.kit.caller import service_caller
from sealwire.testing.compliance import open_compliance

RECORDS, EXPORTS = 700, 40
CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry
from sealwire.contracts.retention_policies import NewRetentionPolicy
from sealwire.contracts.retention import NewRetentionRun
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.ids import new_id
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.events import job_event
from sealwire.services.compliance.job_ports import Archive, StoredJob
from sealwire.testing.compliance import open_compliance

folder, step = Path(sys.argv[1]), sys.argv[2]
records, exports, commits = (int(word) for word in sys.argv[3:])
caller = service_caller("compliance", "acme")
config = ComplianceConfig(retention_every_s=0, retention_pause_ms=0, retention_batch=25, checkpoint_every_s=3600)
FAR_US = 4_000_000_000_000_000

async def fill(room):
    for start in range(0, records, 100):
        batch = [AuditEntry(audit_id=new_id(), tenant_id="acme", actor=Actor(type="user", id=f"u{k % 7}"), action="a",
                            resource_type="r", created_at_us=1_000_000) for k in range(start, start + 100)]
        await room.service.append(service_caller("gateway", "acme"), AuditBatch(records=batch))
    for k in range(exports):
        job = StoredJob(job_id=new_id(), tenant_id="acme", kind="export", subject_id=f"u{k % 7}", status="done",
                        requested_by="u1", requested_us=1, due_us=2, finished_us=3,
                        archive=Archive(size_bytes=1, expires_us=FAR_US))
        at_us = SystemClock().now_us()
        await room.stores.rights.add(job, job_event("gdpr.export.requested", job, at_us=at_us, actor="u1"))
    for kind in ("audit", "exports"):
        await room.service.set_policy(caller, kind, NewRetentionPolicy(keep_days=30, action="delete"))

async def main():
    async with open_compliance(folder, config=config) as room:
        left = commits

        def count():
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

        if step == "begin":
            await fill(room)
            run_id = (await room.service.start_run(caller, NewRetentionRun())).run_id
        else:
            run_id = (await room.stores.runs.runs("acme", before="", limit=1))[0].run_id
        room.stores.audit._db.on_commit(count)
        await room.service.keeping.engine.settled(run_id)

asyncio.run(main())
"""


def run(folder: Path, step: str, commits: int) -> int:
    command = [sys.executable, "-c", CHILD, str(folder), step, str(RECORDS), str(EXPORTS), str(commits)]
    return subprocess.run(command, check=False, timeout=120).returncode


def test_a_run_over_records_and_exports_that_is_killed_ends_exact(tmp_path: Path) -> None:
    (folder := tmp_path / "data").mkdir()
    assert run(folder, "begin", 12) == -signal.SIGKILL
    for commits in (7, 11, 16, 9):
        if run(folder, "go on", commits) == 0:
            break
    assert run(folder, "go on", 1_000_000) == 0
    asyncio.run(judge(folder))


async def judge(folder: Path) -> None:
    async with open_compliance(folder) as room:
        stored = (await room.stores.runs.runs("acme", before="", limit=1))[0]
        assert stored.status == "done"
        counts = {p.resource_type: (p.listed, p.disposed, p.held, p.missing) for p in stored.parts}
        assert counts["exports"] == (EXPORTS, EXPORTS, 0, 0)
        assert counts["audit"] == (RECORDS, RECORDS, 0, 0)
        assert (await room.service.verify(service_caller("compliance", "acme"), VerifyQuery())).ok
