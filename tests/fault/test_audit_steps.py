"""Killed at every step, by anybody's side: a record that was accepted is in the log, once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw
import pytest

from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry, AuditQuery, AuditRecord, VerifyQuery
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig
from sealwire.services.gateway.spool_file import numbers_in
from sealwire.testing.compliance import ComplianceRoom, open_compliance

CALLER = service_caller("gateway", "t0")
KEY = SealingKey(key_id=b"k" * 16, key=b"s" * 32)
PATIENCE_S = 900
pytestmark = pytest.mark.timeout(2 * PATIENCE_S)
"""Each kill is a start of one or two interpreters, and their stores sync: on a busy machine that takes minutes."""

COMMON = """
import asyncio, os, signal, sys
from pathlib import Path
from random import Random
from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig
from sealwire.testing.compliance import open_compliance
from sealwire.testing.compliance_process import FarCompliance

folder = Path(sys.argv[1])
caller = service_caller("gateway", "t0")
say_it = os.write

def say(text):
    say_it(1, text.encode() + b"\\n")

def entry(name):
    return AuditEntry(audit_id=str(name), tenant_id="t0", actor=Actor(type="user", id="anna"), action="a",
                      resource_type="r", metadata={"name": str(name)}, created_at_us=1_000_000)

def spool_of(deliver, config):
    return RecordSpool(folder=folder / "spool", key=SealingKey(key_id=b"k" * 16, key=b"s" * 32), deliver=deliver,
                       clock=SystemClock(), rng=Random(1), config=config)

class Killer:
    '''Counts the steps that touch the disk, and ends this process before the one that was chosen.'''
    def __init__(self, at):
        self.at, self.count = at, 0
    def step(self):
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
    def around(self, fn):
        def stepped(*args, **kw):
            self.step()
            return fn(*args, **kw)
        return stepped
"""

SENDER = (
    COMMON
    + """
TOTAL = int(sys.argv[4])

async def main():
    far = FarCompliance(Path(sys.argv[2]))
    start = int(sys.argv[3])
    spool = spool_of(far.deliver, SpoolConfig(sync_every_s=0.02, wait_s=0.05, batch=1000, segment_bytes=400_000))
    await spool.start()
    put, promised = start, start
    while promised < TOTAL or spool.waiting:
        if put < TOTAL and spool.waiting < 30_000:
            for _ in range(min(500, TOTAL - put)):
                spool.put(entry(put))
                put += 1
        await asyncio.sleep(0.005)
        if not spool._unsynced and not spool._syncing and start + spool.stats.put > promised:
            promised = start + spool.stats.put
            say(str(promised))
    await spool.stop(grace_s=60)
    say("done")

asyncio.run(main())
"""
)

STEPS = (
    COMMON
    + """
async def main():
    killer = Killer(int(sys.argv[2]))
    os.write, os.fdatasync, os.open = killer.around(os.write), killer.around(os.fdatasync), killer.around(os.open)
    Path.unlink = killer.around(Path.unlink)
    async with open_compliance(folder) as room:
        async def deliver(entries):
            killer.step()
            await room.service.append(caller, AuditBatch(records=list(entries)))
            killer.step()
        spool = spool_of(deliver, SpoolConfig(sync_every_s=0.002, wait_s=0.004, batch=40, segment_bytes=6_000))
        await spool.start()
        put = 0
        while put < 400:
            for _ in range(20):
                spool.put(entry(put))
                put += 1
            while spool.stats.put < put or spool._unsynced or spool._syncing:
                await asyncio.sleep(0.001)  # what is not synced is not promised, however slow the disk is
            say(str(put))
        await spool.stop()
        say(f"steps {killer.count}")

asyncio.run(main())
"""
)

DISK = """
import apsw

BASE = apsw.vfs_names()[0]
counting = False

class Disk(apsw.VFS):
    def __init__(self):
        super().__init__("killing", base=BASE, makedefault=True)
    def xOpen(self, name, flags):
        return DiskFile(name, flags)

class DiskFile(apsw.VFSFile):
    def __init__(self, name, flags):
        super().__init__(BASE, name, flags)
    def xWrite(self, data, offset):
        if counting: killer.step()
        return super().xWrite(data, offset)
    def xSync(self, flags):
        if counting: killer.step()
        return super().xSync(flags)

disk = Disk()
"""
"""Every write and sync of a SQLite file is a step of `killer`, while `counting`."""

TRANSACTION = (
    COMMON
    + DISK
    + """
from sealwire.clients.compliance import audit_relay
from sealwire.contracts.conversations import NewConversation
from sealwire.contracts.messages import Draft
from sealwire.services.messaging.events import audit_entry
from sealwire.testing.messaging_room import MessagingRoom

killer = Killer(int(sys.argv[2]))

async def main():
    global counting
    room = MessagingRoom(folder)
    (folder / "audit").mkdir(exist_ok=True)
    messaging = await room.open()
    async with open_compliance(folder / "audit") as compliance:
        async def entries(events):
            return [audit_entry(e) for e in events]
        relay = audit_relay(service="messaging", feed=room.stores.events, positions=room.stores.positions,
                            compliance=compliance.service, entries=entries, batch=10, linger_s=0.005)
        relay.start()
        anna = await room.enter("anna-" + sys.argv[2])
        say("tenant " + anna.tenant_id)
        counting = True
        where = await room.group(anna)
        for i in range(25):
            sent = await room.say(anna, where, f"body {i}")
            say("sent " + sent.message_id)
        await relay.stop(drain=True)
        say(f"steps {killer.count}")

asyncio.run(main())
"""
)

FULL_DISK = (
    COMMON
    + """
import resource
from sealwire.kit.problem import Problem

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main():
    acknowledged, refused = [], 0
    async with open_compliance(folder) as room:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))  # no file may grow past this: as on a full disk
        i = 0
        while refused < 5:
            names = [f"r{i}.{k}" for k in range(20)]
            i += 1
            try:
                await room.service.append(caller, AuditBatch(records=[entry(n) for n in names]))
                acknowledged += names
            except Problem as problem:
                refused += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        for k in range(3):
            names = [f"after{k}.{j}" for j in range(20)]
            await room.service.append(caller, AuditBatch(records=[entry(n) for n in names]))
            acknowledged += names
        say(" ".join(acknowledged))

asyncio.run(main())
"""
)

FULL_SPOOL = (
    COMMON
    + """
import resource
from sealwire.kit.problem import Unavailable

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main():
    out = True
    async with open_compliance(folder) as room:
        async def deliver(entries):
            if out:
                raise Unavailable("away")
            await room.service.append(caller, AuditBatch(records=list(entries)))
        spool = spool_of(deliver, SpoolConfig(sync_every_s=0.002, wait_s=0.004, memory_records=100, gap_every_s=0.05))
        await spool.start()
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
        full = False  # a new segment may take some again: that it said so once counts
        for i in range(600):
            spool.put(entry(i))
            full = full or spool.is_full
            if i % 20 == 0:
                await asyncio.sleep(0.005)
        while spool.stats.put < 600 or not full:
            full = full or spool.is_full
            await asyncio.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        out = False
        await spool.stop(grace_s=30)
        say(f"{int(full)} {spool.stats.dropped}")

asyncio.run(main())
"""
)


PARKED = (
    COMMON
    + DISK
    + """
import apsw
import msgspec
from sealwire.kit.pages import DegradedOnly
from sealwire.services.compliance.config import ComplianceConfig

killer = Killer(int(sys.argv[2]))
first, file, table = int(sys.argv[3]), sys.argv[4], sys.argv[5]

def of(name, tenant):
    return msgspec.structs.replace(entry(f"{tenant}.{name}"), tenant_id=tenant, subject_id="anna" if name % 2 else "",
                                   personal={"ip_address": f"ip of {tenant}.{name}"})

async def main():
    global counting
    async with open_compliance(folder, config=ComplianceConfig(parked_retry_s=0.05)) as room:
        counting = True
        for i in range(first, 12):
            names = range(30 * i, 30 * i + 30)
            batch = [of(name, tenant) for name in names for tenant in ("t0", "t1")]
            await room.service.append(caller, AuditBatch(records=batch))
            if i == 7:
                counting = False
                mend = apsw.Connection(str(folder / file))
                mend.set_busy_timeout(60_000)
                mend.execute(f"REPLACE INTO {table} SELECT * FROM kept")
                mend.close()
                counting = True
            say(f"stored {i}")  # behind the mending: who dies before it is said does both again
        while True:
            try:
                await room.service.checks()["audit_logs"]()
                break
            except DegradedOnly:
                await asyncio.sleep(0.005)
        say(f"steps {killer.count}")

asyncio.run(main())
"""
)


def start(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(script: str, *arguments: object) -> tuple[int, list[str]]:
    """Run to the end, or to its death. Return its code and what it said."""
    process = start(script, *arguments)
    said, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()[-3000:]
    lines = said.decode().splitlines(keepends=True)
    return process.returncode, [line.strip() for line in lines if line.endswith("\n")]


async def all_records(room: ComplianceRoom, tenant: str = "t0", **query: Any) -> list[AuditRecord]:
    items: list[AuditRecord] = []
    cursor = None
    while True:
        asked = AuditQuery(limit=1000, cursor=cursor, **query)
        page = await room.service.query(service_caller("gateway", tenant), asked)
        items += page.items
        if (cursor := page.next_cursor) is None:
            return items


async def drain(room: ComplianceRoom, folder: Path) -> RecordSpool:
    """Deliver what the spool holds, as the next start does."""

    async def deliver(entries: Any) -> None:
        await room.service.append(CALLER, AuditBatch(records=list(entries)))

    config = SpoolConfig(sync_every_s=0.005, wait_s=0.0)
    spool = RecordSpool(
        folder=folder / "spool", key=KEY, deliver=deliver, clock=SystemClock(), rng=random.Random(1), config=config
    )
    await spool.start()
    await spool.stop(grace_s=60)
    assert numbers_in(folder / "spool") == []
    return spool


async def check(room: ComplianceRoom, tenant: str = "t0") -> None:
    verified = await room.service.verify(service_caller("gateway", tenant), VerifyQuery())
    assert verified.ok, verified.fault


class Compliance:
    """Compliance in a process of its own."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._command = [sys.executable, "-m", "sealwire.testing.compliance_process", str(folder), str(path)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("total", [100_000])
async def test_a_hundred_thousand_records_whoever_dies(tmp_path: Path, total: int) -> None:
    path = tmp_path / "socket"
    rng = random.Random(11)
    promised = 0
    compliance = Compliance(tmp_path, path)
    deaths = ["sender", "compliance", "both", "sender", "compliance", "both"]
    deadline = time.monotonic() + PATIENCE_S
    done = False
    try:
        while not done:
            sender = start(SENDER, tmp_path, path, promised, total)
            assert sender.stdout is not None
            who = deaths.pop(0) if deaths else ""
            after = promised + rng.randrange(4_000, 12_000)
            for line in sender.stdout:
                assert time.monotonic() < deadline, "never done"
                if line == b"done\n":
                    done = not deaths and not who
                    break
                promised = int(line)
                if who == "compliance" and promised >= after:
                    compliance.kill()
                    compliance.start()
                    who = deaths.pop(0) if deaths else ""
                    after = promised + rng.randrange(4_000, 12_000)
                if who and promised >= after:
                    break
            sender.kill()
            _, errors = sender.communicate()
            assert b"AssertionError" not in errors, errors.decode()
            if who == "both":
                compliance.kill()
                compliance.start()
    finally:
        compliance.kill()
    async with open_compliance(tmp_path) as room:
        await drain(room, tmp_path)
        ids = [r.audit_id for r in await all_records(room)]
        assert len(ids) == len(set(ids)), "nothing twice"
        assert set(ids) == {str(i) for i in range(total)}, "nothing lost, nothing else"


@pytest.mark.parametrize("part", range(6))
async def test_the_spool_killed_before_any_step(tmp_path: Path, part: int) -> None:
    (tmp_path / "whole").mkdir()
    code, said = run(STEPS, tmp_path / "whole", 10**9)
    assert code == 0
    steps = int(said[-1].split()[1])
    assert steps > 60, "there are steps to die at"
    for at in random.Random(part).sample(range(1 + part * steps // 6, 1 + (part + 1) * steps // 6), 3):
        folder = tmp_path / str(at)
        folder.mkdir()
        code, said = run(STEPS, folder, at)
        promised = max((int(line) for line in said if line.isdigit()), default=0)
        async with open_compliance(folder) as room:
            spool = await drain(room, folder)
            assert spool.stats.damaged_frames == 0
            ids = [r.audit_id for r in await all_records(room)]
            assert len(ids) == len(set(ids)), f"step {at}: nothing twice"
            assert {str(i) for i in range(promised)} <= set(ids), f"step {at}: nothing lost"
            await check(room)


@pytest.mark.parametrize("part", range(6))
async def test_a_change_and_its_record_exist_together_whatever_the_step(tmp_path: Path, part: int) -> None:
    """Messaging, its outbox and the relay, killed before a write or a sync of any of their files."""
    from sealwire.clients.compliance import audit_relay
    from sealwire.services.messaging.events import audit_entry
    from sealwire.testing.messaging_room import MessagingRoom

    at = random.Random(part).randrange(1 + part * 35, 1 + (part + 1) * 35)
    _, said = run(TRANSACTION, tmp_path, at)
    tenant = next(line.split()[1] for line in said if line.startswith("tenant"))
    acknowledged = {line.split()[1] for line in said if line.startswith("sent")}

    messaging = MessagingRoom(tmp_path)
    await messaging.open()
    stored = {str(UUID(bytes=row[0])) for row in messaging.stores.events._db.read("SELECT message_id FROM message")}  # type: ignore[attr-defined]  # what is on disk, not what is told
    async with open_compliance(tmp_path / "audit") as room:

        async def entries(events: Any) -> Any:
            return [audit_entry(e) for e in events]

        relay = audit_relay(
            service="messaging", feed=messaging.stores.events, positions=messaging.stores.positions,
            compliance=room.service, entries=entries, linger_s=0.0,
        )  # fmt: skip
        relay.start()
        await relay.stop(drain=True)
        recorded = [r.resource_id for r in await all_records(room, tenant, action="message.created")]
        await check(room, tenant)
    await messaging.close()
    assert acknowledged <= stored
    assert sorted(recorded) == sorted(stored), "neither without the other, and none twice"


async def test_a_disk_that_fills_up_loses_nothing_accepted(tmp_path: Path) -> None:
    _, said = run(FULL_DISK, tmp_path)
    acknowledged = said[-1].split()
    assert len(acknowledged) > 100
    async with open_compliance(tmp_path) as room:
        ids = [r.audit_id for r in await all_records(room)]
        assert len(ids) == len(set(ids))
        assert set(acknowledged) <= set(ids)
        await check(room)


async def test_a_spool_on_a_full_disk_says_how_many_and_why(tmp_path: Path) -> None:
    _, said = run(FULL_SPOOL, tmp_path)
    full, dropped = map(int, said[-1].split())
    assert full
    assert dropped > 0
    async with open_compliance(tmp_path) as room:
        await drain(room, tmp_path)
        records = await all_records(room)
        gaps = [r for r in records if r.action == "audit.gap"]
        kept = {r.audit_id for r in records if r.action == "a"}
        assert len(kept) + sum(r.metadata["dropped"] for r in gaps) == 600
        assert {r.metadata["reason"] for r in gaps} == {"disk_error"}
        checkpoint = await room.service.checkpoint(CALLER)
        assert checkpoint.tree_size == len(records), "the gap stands under the same signature as all else"
        await check(room)


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize(("file", "table"), [("compliance.db", "piece"), ("crypto.db", "versions")])
async def test_what_waits_beside_its_log_survives_whoever_dies(
    tmp_path: Path, part: int, file: str, table: str
) -> None:
    """Killed before a write or a sync: while records are parked, and while they go into the log, which is mended, or
    its tenant's keys are."""
    async with open_compliance(tmp_path) as room:
        before = [
            AuditEntry(
                audit_id=f"before{i}",
                tenant_id="t0",
                actor=Actor(type="user", id="anna"),
                action="a",
                resource_type="r",
                personal={"ip_address": "192.0.2.7"},
            )
            for i in range(20)
        ]
        await room.service.append(CALLER, AuditBatch(records=before))
    conn = apsw.Connection(str(tmp_path / file))
    where = {
        "piece": "TRUE",
        "versions": "key_id = (SELECT key_id FROM keys WHERE tenant_id = 't0' AND name = 'master')",
    }
    conn.execute(
        f"CREATE TABLE kept AS SELECT * FROM {table} WHERE {where[table]}; DELETE FROM {table} WHERE {where[table]}"
    )
    assert conn.changes() == 1
    conn.close()
    rng = random.Random(part)
    done = died = 0
    at = rng.randrange(2 + part * 15, 2 + (part + 1) * 15)
    while True:  # whoever sends begins anew with what was not acknowledged
        code, said = run(PARKED, tmp_path, at, done, file, table)
        done = max((int(line.split()[1]) + 1 for line in said if line.startswith("stored")), default=done)
        if code == 0:
            break
        died, at = died + 1, rng.randrange(5, 60) if died < 2 else 10**9
    assert died, "there were steps to die at"
    async with open_compliance(tmp_path) as room:
        for tenant in ("t0", "t1"):
            found = await all_records(room, tenant)
            expected = [f"{tenant}.{name}" for name in range(360)]
            of_tenant = [r for r in found if r.audit_id.startswith(tenant)]
            assert [r.audit_id for r in of_tenant] == expected, "once, and in order"
            assert [r.metadata["ip_address"] for r in of_tenant] == [f"ip of {name}" for name in expected]
            await check(room, tenant)
        assert [r.action for r in await all_records(room)][20] == "audit.resumed"
