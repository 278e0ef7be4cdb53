"""What a full spool or a full disk loses is counted, and a kill loses none of the count; nor does it count twice."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.pages import DegradedOnly
from sealwire.kit.problem import Unavailable
from sealwire.services.gateway.gap_book import BOOK_BYTES, NAME, Book, GapBook
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig
from sealwire.services.gateway.spool_file import SegmentWriter
from sealwire.services.gateway.spool_gaps import Gaps
from sealwire.testing.clock import ManualClock

PUT = 900
PATIENCE_S = 60
KEY = SealingKey(key_id=b"k" * 16, key=b"s" * 32)

VICTIM = """
import asyncio, os, signal, sys
from pathlib import Path
from random import Random
from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.problem import Unavailable
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig

folder, first, count, limit, memory = Path(sys.argv[1]), *map(int, sys.argv[2:])

def entry(i):
    return AuditEntry(audit_id=f"id-{i}", tenant_id=f"t{i % 3}", actor=Actor(type="user", id="anna"), action="GET_/x",
                      resource_type="api_request", metadata={"n": i}, created_at_us=1_000_000 + i)

async def main():
    async def away(entries):
        raise Unavailable("away")
    spool = RecordSpool(folder=folder, key=SealingKey(key_id=b"k" * 16, key=b"s" * 32), deliver=away,
                        clock=SystemClock(), rng=Random(1), config=SpoolConfig(
                            sync_every_s=0.002, wait_s=0.004, limit_bytes=limit, memory_records=memory))
    await spool.start()
    for i in range(first, first + count):
        spool.put(entry(i))
        if i % 10 == 0:
            await asyncio.sleep(0.003)
    while spool.stats.put < count:
        await asyncio.sleep(0.001)
    print(spool.stats.dropped, bool(spool.stats.write_error), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)  # long before a record of the gap is due again

asyncio.run(main())
"""


class Log:
    """Compliance, as a spool sees it: each audit id once, and never with other content."""

    def __init__(self) -> None:
        self.entries: dict[str, AuditEntry] = {}
        self.away = False

    async def deliver(self, entries: Sequence[AuditEntry]) -> None:
        if self.away:
            raise Unavailable("away")
        for entry in entries:
            assert self.entries.setdefault(entry.audit_id, entry) == entry, "another record under the same id"

    @property
    def numbers(self) -> set[int]:
        return {int(str(e.metadata["n"])) for e in self.entries.values() if "n" in e.metadata}

    def lost(self, tenant: str = "") -> int:
        gaps = [e for e in self.entries.values() if e.action == "audit.gap" and tenant in ("", e.tenant_id)]
        return sum(int(str(gap.metadata["dropped"])) for gap in gaps)


def killed(folder: Path, first: int, *, limit: int = 30_000, memory: int = 20_000) -> int:
    """Put records until many are lost, and be killed; return how many were dropped."""
    command = [sys.executable, "-c", VICTIM, str(folder), str(first), str(PUT), str(limit), str(memory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return int(done.stdout.split()[0])


async def deliver_all(folder: Path, log: Log) -> None:
    spool = RecordSpool(
        folder=folder, key=KEY, deliver=log.deliver, clock=SystemClock(), rng=Random(1),
        config=SpoolConfig(sync_every_s=0.002, wait_s=0.0),
    )  # fmt: skip
    await spool.start()
    await spool.stop(grace_s=PATIENCE_S)


async def test_a_kill_loses_nothing_of_what_a_full_spool_counted(tmp_path: Path) -> None:
    """Three lives, each killed right after it dropped records; compliance is back in the fourth."""
    folder, log = tmp_path / "spool", Log()
    dropped = [await asyncio.to_thread(killed, folder, life * PUT) for life in range(3)]
    assert all(dropped)
    shutil.copytree(folder, tmp_path / "again")
    await deliver_all(folder, log)
    assert len(log.numbers) + log.lost() == 3 * PUT
    assert log.lost() == sum(dropped)
    for n in range(3):
        kept = sum(number % 3 == n for number in log.numbers)
        assert kept + log.lost(f"t{n}") == PUT, "per tenant"
    known = dict(log.entries)
    await deliver_all(folder, log)
    assert log.entries == known, "the book is empty now"
    await deliver_all(tmp_path / "again", log)
    assert len(log.numbers) + log.lost() == 3 * PUT, "a life that was not recorded as over counts nothing twice"


DISK = """
set -e
mount -t tmpfs -o size=1m none "$1"
mkdir "$1/spool"
"$2" -c "$3" "$1/spool" 0 "$4" 100000000 "$5" || true
cp -r "$1/spool" "$6"
"""


def can_mount() -> bool:
    tried = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here (unshare -rm)")
@pytest.mark.parametrize("memory", [100, 20_000], ids=["memory full too", "in memory only"])
async def test_a_kill_on_a_full_disk_loses_nothing_of_the_count(tmp_path: Path, memory: int) -> None:
    """A disk of 1 MiB, half of it the book: it fills up, what comes then is dropped or dies with the process."""
    (tmp_path / "disk").mkdir()
    count = 4_000
    script = ["unshare", "-rm", "sh", "-c", DISK, "sh", str(tmp_path / "disk"), sys.executable, VICTIM, str(count)]
    script += [str(memory), str(tmp_path / "after")]
    done = await asyncio.to_thread(subprocess.run, script, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    dropped, refused = done.stdout.split()[:2]
    assert refused == "True", "the disk was not full"
    assert (int(dropped) > 0) == (memory == 100)
    log = Log()
    await deliver_all(tmp_path / "after", log)
    assert len(log.numbers) + log.lost() == count
    gaps = [e.metadata for e in log.entries.values() if e.action == "audit.gap"]
    assert {gap["reason"] for gap in gaps} >= {"memory_lost"}
    assert sum(int(str(gap["dropped"])) for gap in gaps if gap["reason"] == "disk_error") == int(dropped)


async def test_a_disk_that_was_full_from_the_start_is_said_so_and_used_once_it_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    (folder / NAME).mkdir(parents=True)
    log = Log()
    config = SpoolConfig(sync_every_s=0.002, wait_s=0.0, limit_bytes=1)
    spool = RecordSpool(folder=folder, key=KEY, deliver=log.deliver, clock=SystemClock(), rng=Random(1), config=config)
    await spool.start()
    try:
        with pytest.raises(DegradedOnly, match="dies with this process"):
            await spool.checks()["audit_spool"]()
        (folder / NAME).rmdir()
        log.away = True
        async with asyncio.timeout(PATIENCE_S):
            for i in range(3):
                spool.put(entry(i))
                await flushed(spool, i + 1)
        assert spool.stats.dropped == 2
        assert (folder / NAME).stat().st_size == 2 * BOOK_BYTES
        with pytest.raises(DegradedOnly, match=r"the spool is full$"):
            await spool.checks()["audit_spool"]()
        log.away = False
    finally:
        await spool.stop(grace_s=PATIENCE_S)
    assert (log.numbers, log.lost()) == ({0}, 2)


async def flushed(spool: RecordSpool, count: int) -> None:
    """Wait until the spool has looked at so many records."""
    for _ in range(60_000):
        if spool.stats.put >= count:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not within a minute")


async def test_a_damaged_segment_is_counted_once_however_often_it_is_read(tmp_path: Path) -> None:
    folder, log = tmp_path / "spool", Log()
    folder.mkdir()
    writer = SegmentWriter(folder=folder, number=7, key=KEY)
    for i in range(3):
        writer.append([entry(i)])
    writer.end()
    writer.close()
    content = bytearray(writer.path.read_bytes())
    content[60] ^= 1
    writer.path.write_bytes(content)
    shutil.copytree(folder, tmp_path / "again")  # as after a kill between the delivery and the removal
    await deliver_all(folder, log)
    await deliver_all(tmp_path / "again", log)
    assert (log.numbers, log.lost()) == ({1, 2}, 1)


# ---- the book


def entry(i: int) -> AuditEntry:
    return AuditEntry(
        audit_id=f"id-{i}",
        tenant_id="t0",
        actor=Actor(type="user", id="anna"),
        action="GET_/x",
        resource_type="api_request",
        metadata={"n": i},
        created_at_us=1_000_000 + i,
    )


def gaps_in(folder: Path, clock: ManualClock) -> Gaps:
    return Gaps(clock=clock, service="gateway", every_s=5, book=GapBook(folder=folder, key=KEY))


def test_a_torn_or_changed_copy_leaves_the_one_before(tmp_path: Path) -> None:
    clock, rng = ManualClock(), Random(3)
    book = GapBook(folder=tmp_path, key=KEY)
    assert book.open() == Book()
    gaps = gaps_in(tmp_path, clock)
    assert gaps.load() == []
    for i in range(20):
        gaps.count([entry(i)], "spool_full")
        gaps.save()
    path = tmp_path / NAME
    whole = path.read_bytes()
    for _ in range(100):
        changed = bytearray(whole)
        length = rng.choice([1, 50])
        at = rng.randrange(4, int.from_bytes(whole[:4], "big") - length)  # of the first copy: it is the newer one
        changed[at : at + length] = rng.randbytes(length)
        path.write_bytes(changed)
        found = GapBook(folder=tmp_path, key=KEY).open()
        assert found.gaps[0].count == (20 if changed == whole else 19)
    path.write_bytes(whole[: BOOK_BYTES + 10])
    assert GapBook(folder=tmp_path, key=KEY).open().gaps[0].count == 20, "what is lacking is filled up, no more"
    path.write_bytes(bytes([255] * len(whole)))
    damaged = gaps_in(tmp_path, clock).load()
    assert [record.metadata["reason"] for record in damaged] == ["count_damaged"]
    path.write_bytes(whole)
    with_other_key = GapBook(folder=tmp_path, key=SealingKey(key_id=b"k" * 16, key=b"t" * 32))
    with pytest.raises(Exception, match=NAME):
        with_other_key.open()


def test_a_record_of_a_gap_is_the_same_until_it_is_delivered_and_gone_then(tmp_path: Path) -> None:
    clock = ManualClock()
    gaps = gaps_in(tmp_path, clock)
    gaps.load()
    gaps.count([entry(1), entry(2)], "spool_full")
    (first,) = gaps.due()
    gaps.count([entry(3)], "spool_full")
    clock.advance(60)
    assert gaps.due() == [], "the first is not delivered yet: the second counts on"
    gaps.count([entry(4)], "spool_full")
    gaps.save()
    after = gaps_in(tmp_path, clock).load()
    assert after[0] == first
    assert [record.metadata["dropped"] for record in after] == [2, 2]
    life = gaps_in(tmp_path, clock)
    assert life.load() == after, "made once, they stay the same"
    life.delivered(after, held=False)
    life.save()
    assert gaps_in(tmp_path, clock).load() == []


def test_what_is_only_in_memory_is_lost_with_a_kill_and_not_when_it_was_delivered(tmp_path: Path) -> None:
    clock = ManualClock()
    gaps = gaps_in(tmp_path, clock)
    gaps.load()
    gaps.hold([entry(i) for i in range(10)])
    gaps.delivered([entry(i) for i in range(4)], held=True)
    gaps.save()
    (lost,) = gaps_in(tmp_path, clock).load()
    assert (lost.metadata["dropped"], lost.metadata["reason"], lost.tenant_id) == (6, "memory_lost", "t0")


def test_as_many_tenants_as_there_are_fit_the_book(tmp_path: Path) -> None:
    gaps = gaps_in(tmp_path, ManualClock())
    gaps.load()
    for n in range(3_000):
        tenant = {"tenant_id": f"{n:064d}", "created_at_us": 2**52}
        lost = AuditEntry(audit_id=f"id-{n}", actor=Actor(type="user", id="a"), action="x", resource_type="y", **tenant)  # type: ignore[arg-type]  # two members of it
        gaps.count([lost], "disk_error")
        gaps.hold([lost])
        if n == 400:
            gaps.due()
    gaps.save()
    assert gaps.durable
    assert sum(int(str(record.metadata["dropped"])) for record in gaps_in(tmp_path, ManualClock()).load()) == 6_000


def test_a_book_that_opens_late_is_added_to_what_was_counted_meanwhile(tmp_path: Path) -> None:
    clock = ManualClock()
    before = gaps_in(tmp_path, clock)
    before.load()
    before.count([entry(1), entry(4)], "spool_full")
    (closed,) = before.due()
    before.count([entry(1)] * 7, "disk_error")
    before.close()
    (tmp_path / NAME).rename(tmp_path / "away")
    (tmp_path / NAME).symlink_to(tmp_path / "away")  # which is not followed: the book can't be opened
    gaps = gaps_in(tmp_path, clock)
    assert gaps.load() == []
    gaps.count([entry(1)] * 3, "disk_error")
    gaps.save()
    (tmp_path / NAME).unlink()
    (tmp_path / "away").rename(tmp_path / NAME)
    gaps.save()
    assert gaps.durable
    assert gaps, "there is something to be told"
    clock.advance(60)
    told = gaps.due()
    assert closed in told, "its record was on its way when the former life ended"
    assert sorted(int(str(record.metadata["dropped"])) for record in told) == [2, 10]
