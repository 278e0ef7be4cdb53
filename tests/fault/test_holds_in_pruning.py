"""A legal hold that comes between the record of pruning and the pruning wins, and the log says so; killed there too."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from sealwire.adapters.embedded import audit_pruning
from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry, VerifyQuery
from sealwire.contracts.holds import NewHold
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.permission import Role
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.export_route import export_line
from sealwire.services.compliance.notes import parse_key
from sealwire.services.compliance.ports import PruneCount, RecordFilter
from sealwire.services.compliance.pruning import PRUNED_ACTION
from sealwire.services.compliance.verify import verify_export
from sealwire.testing.compliance import ComplianceRoom, open_compliance

CALLER = service_caller("gateway", "acme")
ADMIN = Caller(principal=Principal(kind="user", tenant_id="acme", subject="olga", role=Role.ADMIN))
RECORDS = 300
BENS = [8, 108, 208]
CONFIG = ComplianceConfig(checkpoint_every_s=3600, retention_every_s=0, retention_pause_ms=0)


class Between:
    """An audit log that does something when records are about to be pruned, behind the record that names them."""

    def __init__(self, store: Any, then: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def prune(self, tenant_id: str, seqs: Sequence[int], *, run_id: str, at_us: int) -> PruneCount:
        await self._then()
        found: PruneCount = await self._store.prune(tenant_id, seqs, run_id=run_id, at_us=at_us)
        return found


async def fill(room: ComplianceRoom) -> None:
    batch = [
        AuditEntry(
            audit_id=f"id-{i}", tenant_id="acme", actor=Actor(type="user", id="ben" if i % 100 == 7 else "anna"),
            action="message.sent", resource_type="message", created_at_us=1_000_000 + i,
        )
        for i in range(RECORDS)
    ]  # fmt: skip
    await room.service.append(CALLER, AuditBatch(records=batch))


def hold_between(room: ComplianceRoom, then: Callable[[], None] = lambda: None) -> None:
    """From now on a hold on Ben is put right between the record of pruning and the pruning."""

    async def put() -> None:
        await room.service.hold(ADMIN, NewHold(reason="a case", subject_id="ben"))
        then()

    room.service.pruning._store = Between(room.stores.audit, put)


async def said_of_pruning(room: ComplianceRoom) -> list[int]:
    """Return where records of pruning stand; those of the hold itself may still come."""
    wanted = RecordFilter(action=PRUNED_ACTION)
    return [r.seq for r in (await room.stores.audit.search("acme", wanted, after_seq=0, limit=99)).records]


async def judge(room: ComplianceRoom, folder: Path) -> None:
    """Ben's records are there, the log says so, and nobody takes one out on the word of the record before."""
    bodies = {r.seq for first in (1, 257) for r in await room.stores.audit.records("acme", first, 256) if r.body}
    assert bodies & set(range(1, RECORDS + 1)) == set(BENS)
    verified = await room.service.verify(CALLER, VerifyQuery())
    assert verified.ok, verified.fault
    assert verified.pruned == [[1, 7], [9, 107], [109, 207], [209, 300]]
    conn = apsw.Connection(str(folder / "compliance.db"))
    conn.set_busy_timeout(60_000)
    with conn:  # by hand, with the hold out of the way, and all hashes left as pruning leaves them
        conn.execute("DELETE FROM hold")
        number = conn.execute("SELECT number FROM tenant WHERE tenant_id = 'acme'").get
        assert audit_pruning.prune(conn, number, "acme", [BENS[1]]).pruned == 1
    conn.close()
    verified = await room.service.verify(CALLER, VerifyQuery())
    assert (verified.ok, verified.first_bad_seq) == (False, BENS[1])
    assert (verified.fault or "").startswith("removed")
    signed = await room.service.checkpoint(CALLER)
    records = [r for first in (1, 257) for r in await room.stores.audit.records("acme", first, 256)]
    lines = [export_line(r) for r in records]
    report = verify_export(lines, checkpoints=[signed.checkpoint], keys=[parse_key(signed.public_key)])
    assert report.fault is not None
    assert report.fault.seq == BENS[1]


async def test_a_hold_between_the_record_and_the_pruning_wins(tmp_path: Path) -> None:
    async with open_compliance(tmp_path, config=CONFIG) as room:
        await fill(room)
        hold_between(room)
        count = await room.service.pruning.prune("acme", range(1, RECORDS + 1), run_id="run")
        assert (count.pruned, count.held, count.missing) == (RECORDS - 3, 3, 0)
        said = await said_of_pruning(room)
        room.service.pruning._store = room.stores.audit
        assert await room.service.pruning.prune("acme", range(1, RECORDS + 1), run_id="run") == count
        assert await said_of_pruning(room) == said, "what was taken back is taken back once"
        await judge(room, tmp_path)


async def test_what_such_a_hold_kept_goes_with_a_later_run(tmp_path: Path) -> None:
    async with open_compliance(tmp_path, config=CONFIG) as room:
        await fill(room)
        hold_between(room)
        await room.service.pruning.prune("acme", range(1, RECORDS + 1), run_id="run")
        room.service.pruning._store = room.stores.audit
        (hold,) = await room.stores.holds.page("acme", after="", limit=9)
        await room.service.release(ADMIN, hold.hold_id)
        assert (await room.service.pruning.prune("acme", BENS, run_id="run-2")).pruned == 3
        verified = await room.service.verify(CALLER, VerifyQuery())
        assert verified.ok, verified.fault
        assert verified.pruned == [[1, RECORDS]]


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.fault import test_holds_in_pruning as t
from sealwire.contracts.retention import NewRetentionRun
from sealwire.contracts.retention_policies import NewRetentionPolicy
from sealwire.kit.caller import service_caller
from sealwire.testing.compliance import open_compliance

async def main():
    caller = service_caller("compliance", "acme")
    async with open_compliance(Path(sys.argv[1]), config=t.CONFIG) as room:
        await t.fill(room)
        t.hold_between(room, lambda: os.kill(os.getpid(), signal.SIGKILL))
        await room.service.set_policy(caller, "audit", NewRetentionPolicy(keep_days=30, action="delete"))
        run = await room.service.start_run(caller, NewRetentionRun())
        await room.service.keeping.engine.settled(run.run_id)

asyncio.run(main())
"""


def test_killed_between_the_two_with_a_hold_put_the_hold_wins(tmp_path: Path) -> None:
    (folder := tmp_path / "data").mkdir()
    command = [sys.executable, "-c", CHILD, str(folder)]
    assert subprocess.run(command, check=False, timeout=300).returncode == -signal.SIGKILL

    async def again() -> None:
        async with open_compliance(folder, config=CONFIG) as room:
            (run,) = await room.stores.runs.runs("acme", before="", limit=9)
            await room.service.keeping.engine.settled(run.run_id)
            (run,) = await room.stores.runs.runs("acme", before="", limit=9)
            assert run.status == "done"
            (part,) = run.parts
            assert (part.listed, part.disposed, part.held, part.missing) == (RECORDS, RECORDS - 3, 3, 0)
            await judge(room, folder)

    asyncio.run(again())


@pytest.mark.parametrize("seqs", [BENS, [BENS[1]]])
async def test_a_bundle_does_not_believe_what_was_taken_back(tmp_path: Path, seqs: list[int]) -> None:
    """The server shows no record of pruning for what a later one says is there."""
    async with open_compliance(tmp_path, config=CONFIG) as room:
        await fill(room)
        hold_between(room)
        await room.service.pruning.prune("acme", range(1, RECORDS + 1), run_id="run")
        size = (await room.stores.audit.head("acme")).size
        bundles = room.service._bundles
        shown = [r async for r in bundles._naming("acme", [(seq, seq) for seq in seqs], size)]
        assert shown == []
        assert [r async for r in bundles._naming("acme", [(5, 5)], size)]
