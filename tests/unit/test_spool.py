"""The spool: what was put is delivered, once the disk has it whatever happens; what is lost is counted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.ids import new_id
from sealwire.kit.pages import DegradedOnly
from sealwire.kit.problem import Unavailable
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig
from sealwire.services.gateway.spool_file import SegmentWriter, numbers_in, path_of, read_segment

QUICK = SpoolConfig(sync_every_s=0.002, wait_s=0.004)


def key() -> SealingKey:
    return SealingKey(key_id=b"k" * 16, key=b"s" * 32)


def entry(number: int, tenant: str = "acme") -> AuditEntry:
    return AuditEntry(
        audit_id=new_id(),
        tenant_id=tenant,
        actor=Actor(type="user", id="anna"),
        action="GET_/api/v1/conversations",
        resource_type="api_request",
        metadata={"n": number},
        personal={"ip_address": "192.0.2.55"},
        subject_id="anna",
        created_at_us=1_000_000 + number,
    )


class Log:
    """A compliance that takes records, or not."""

    def __init__(self) -> None:
        self.batches: list[list[AuditEntry]] = []
        self.open = True
        self.changed = asyncio.Event()

    async def deliver(self, entries: Sequence[AuditEntry]) -> None:
        if not self.open:
            raise Unavailable("closed")
        self.batches.append(list(entries))
        self.changed.set()

    @property
    def entries(self) -> list[AuditEntry]:
        return [e for batch in self.batches for e in batch]

    @property
    def numbers(self) -> list[Any]:
        return [e.metadata["n"] for e in self.entries if "n" in e.metadata]

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.entries) < count:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def log() -> Log:
    return Log()


@asynccontextmanager
async def spool(
    folder: Path, log: Log, config: SpoolConfig = QUICK, *, grace_s: float = 5
) -> AsyncIterator[RecordSpool]:
    made = RecordSpool(
        folder=folder / "spool", key=key(), deliver=log.deliver, clock=SystemClock(), rng=Random(1), config=config
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop(grace_s=grace_s)


async def written(spool: RecordSpool, count: int) -> None:
    """Wait until `count` records are on disk."""
    for _ in range(10_000):
        if spool.stats.put >= count and not spool._unsynced and not spool._syncing:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not written within 10 s")


async def test_records_arrive_in_order_and_leave_nothing_behind(tmp_path: Path, log: Log) -> None:
    async with spool(tmp_path, log) as s:
        for i in range(250):
            s.put(entry(i))
            if i % 40 == 0:
                await asyncio.sleep(0.003)
        await log.wait_for(250)
    assert log.numbers == list(range(250))
    assert max(map(len, log.batches)) <= 100
    assert numbers_in(tmp_path / "spool") == []


async def test_a_stop_delivers_what_was_put(tmp_path: Path, log: Log) -> None:
    async with spool(tmp_path, log, SpoolConfig(sync_every_s=60, wait_s=60)) as s:
        for i in range(5):
            s.put(entry(i))
    assert log.numbers == [0, 1, 2, 3, 4]


async def test_records_wait_on_disk_while_compliance_is_out(tmp_path: Path, log: Log) -> None:
    log.open = False
    async with spool(tmp_path, log, grace_s=0.01) as s:
        for i in range(300):
            s.put(entry(i))
        await written(s, 300)
        (check,) = s.checks().values()
        with pytest.raises(DegradedOnly, match="wait on disk"):
            await check()
    assert log.entries == []
    for file in (tmp_path / "spool").iterdir():
        assert b"192.0.2" not in file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o600
    log.open = True
    async with spool(tmp_path, log) as s:
        await log.wait_for(300)
        await s.checks()["audit_spool"]()
    assert log.numbers == list(range(300))
    assert numbers_in(tmp_path / "spool") == []


async def test_a_crash_loses_nothing_that_was_on_disk(tmp_path: Path, log: Log) -> None:
    log.open = False
    async with spool(tmp_path, log, grace_s=0.01) as s:
        for i in range(50):
            s.put(entry(i))
        await written(s, 50)
        shutil.copytree(tmp_path / "spool", tmp_path / "after" / "spool")
    log.open = True
    async with spool(tmp_path / "after", log):
        await log.wait_for(50)
    assert log.numbers == list(range(50))


async def test_more_than_memory_holds_is_read_back_from_disk(tmp_path: Path, log: Log) -> None:
    log.open = False
    config = SpoolConfig(sync_every_s=0.002, wait_s=0.004, memory_records=60, segment_bytes=8_000)
    async with spool(tmp_path, log, config) as s:
        for i in range(400):
            s.put(entry(i))
            if i % 10 == 0:
                await asyncio.sleep(0.003)
        await written(s, 400)
        assert s.waiting <= 60
        assert len(numbers_in(tmp_path / "spool")) > 3
        log.open = True
        await log.wait_for(400)
    ids = [e.audit_id for e in log.entries]
    assert sorted(set(log.numbers)) == list(range(400))
    assert len(set(ids)) == 400, "sent again only under the same audit ids"
    assert s.stats.dropped == 0


async def test_a_full_spool_drops_and_says_so(tmp_path: Path, log: Log) -> None:
    log.open = False
    config = SpoolConfig(sync_every_s=0.002, wait_s=0.004, limit_bytes=20_000, gap_every_s=0.02)
    async with spool(tmp_path, log, config) as s:
        for i in range(600):
            s.put(entry(i, tenant="acme" if i % 3 else "other"))
            if i % 10 == 0:
                await asyncio.sleep(0.003)
        await written(s, 600)
        assert s.stats.bytes < 40_000
        (check,) = s.checks().values()
        with pytest.raises(DegradedOnly):
            await check()
        log.open = True
    gaps = [e for e in log.entries if e.action == "audit.gap"]
    for tenant in ("acme", "other"):
        kept = sum(e.tenant_id == tenant and "n" in e.metadata for e in log.entries)
        lost = sum(int(str(g.metadata["dropped"])) for g in gaps if g.tenant_id == tenant)
        assert kept + lost == sum((i % 3 > 0) == (tenant == "acme") for i in range(600))
    assert {g.metadata["reason"] for g in gaps} == {"spool_full"}
    assert s.stats.dropped == 600 - len(log.numbers)


async def test_a_disk_that_refuses_keeps_records_in_memory(tmp_path: Path, log: Log) -> None:
    log.open = False
    config = SpoolConfig(sync_every_s=0.002, wait_s=0.004, memory_records=100, gap_every_s=0.01)
    async with spool(tmp_path, log, config) as s:
        shutil.rmtree(tmp_path / "spool")
        (tmp_path / "spool").write_text("no folder")
        for i in range(150):
            s.put(entry(i))
            if i % 10 == 0:
                await asyncio.sleep(0.003)
        await asyncio.sleep(0.02)
        (check,) = s.checks().values()
        with pytest.raises(DegradedOnly):
            await check()
        (tmp_path / "spool").unlink()
        (tmp_path / "spool").mkdir()
        log.open = True
        s.put(entry(150))
        await written(s, 151)
    lost = sum(int(str(e.metadata["dropped"])) for e in log.entries if e.action == "audit.gap")
    assert len(log.numbers) + lost == 151
    assert lost > 0
    assert len(log.numbers) >= 80


# ---- the files


def segment(folder: Path, sizes: Sequence[int], *, number: int = 1, end: bool = True) -> list[list[AuditEntry]]:
    writer = SegmentWriter(folder=folder, number=number, key=key())
    frames = [[entry(100 * f + i) for i in range(size)] for f, size in enumerate(sizes)]
    for frame in frames:
        writer.append(frame)
    if end:
        writer.end()
    writer.close()
    return frames


def frames_of(content: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(content):
        end = at + 4 + int.from_bytes(content[at : at + 4], "big")
        found.append(content[at:end])
        at = end
    return found


def flat(frames: Sequence[Sequence[AuditEntry]]) -> list[AuditEntry]:
    return [e for frame in frames for e in frame]


def test_a_segment_reads_as_written(tmp_path: Path) -> None:
    frames = segment(tmp_path, [1, 3, 2])
    assert read_segment(path_of(tmp_path, 1), key()) == (flat(frames), 0, True)
    with pytest.raises(FileExistsError):
        SegmentWriter(folder=tmp_path, number=1, key=key())
    with_other_key = read_segment(path_of(tmp_path, 1), SealingKey(key_id=b"k" * 16, key=b"t" * 32))
    assert (with_other_key.entries, with_other_key.ended) == ([], False)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_torn_tail_loses_only_the_last_frame(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / new_id()
    folder.mkdir()
    frames = segment(folder, [2, 1, 3], end=False)
    path = path_of(folder, 1)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut] + data.draw(st.sampled_from([b"", bytes(50)])))
    whole, at = 0, 0
    for raw in frames_of(content):
        at += len(raw)
        whole += at <= cut
    assert read_segment(path, key()) == (flat(frames[:whole]), 0, False)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_bit_in_a_closed_segment_is_found(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / new_id()
    folder.mkdir()
    frames = segment(folder, [1, 2, 1])
    path = path_of(folder, 1)
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    found = read_segment(path, key())
    assert found.damaged or not found.ended
    assert all(e in flat(frames) for e in found.entries)


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 2, 3), (0, 1, 1, 2, 3), (0, 1, 2, 3, 0), (2, 1, 0, 3)])
def test_frames_moved_doubled_or_taken_out_are_found(tmp_path: Path, order: Sequence[int]) -> None:
    segment(tmp_path, [1, 1, 1])
    path = path_of(tmp_path, 1)
    raw = frames_of(path.read_bytes())
    path.write_bytes(b"".join(raw[i] for i in order))
    found = read_segment(path, key())
    assert found.damaged or not found.ended


def test_a_frame_of_another_segment_is_found(tmp_path: Path) -> None:
    segment(tmp_path, [1, 1], number=1)
    segment(tmp_path, [1, 1], number=2)
    one, two = path_of(tmp_path, 1), path_of(tmp_path, 2)
    a, b = frames_of(one.read_bytes()), frames_of(two.read_bytes())
    one.write_bytes(a[0] + b[1] + a[2])
    assert read_segment(one, key()).damaged == 1
    two.rename(path_of(tmp_path, 3))
    assert read_segment(path_of(tmp_path, 3), key()).entries == []


async def test_damage_is_recorded_and_the_rest_delivered(tmp_path: Path, log: Log) -> None:
    (tmp_path / "spool").mkdir()
    frames = segment(tmp_path / "spool", [2, 2, 2])
    path = path_of(tmp_path / "spool", 1)
    raw = frames_of(path.read_bytes())
    broken = raw[1][:-1] + bytes([raw[1][-1] ^ 1])
    path.write_bytes(raw[0] + broken + raw[2] + raw[3])
    async with spool(tmp_path, log) as s:
        await log.wait_for(5)
    assert [e.audit_id for e in log.entries[:4]] == [e.audit_id for e in flat([frames[0], frames[2]])]
    assert (log.entries[4].action, log.entries[4].metadata["reason"]) == ("audit.gap", "spool_damaged")
    assert s.stats.damaged_frames == 1


@pytest.mark.parametrize("former", [0, 40])
async def test_a_mark_is_passed_when_what_was_put_before_is_delivered_and_off_the_disk(
    tmp_path: Path, log: Log, former: int
) -> None:
    """Also behind records of a former life, and while others come."""
    log.open = False
    async with spool(tmp_path, log, grace_s=0.01) as s:
        for i in range(former):
            s.put(entry(i))
    async with spool(tmp_path, log, SpoolConfig(sync_every_s=0.002, wait_s=0.004, batch=10), grace_s=0.01) as s:
        for i in range(25):
            s.put(entry(former + i))
        await written(s, 25)
        s.put(entry(former + 25))
        mark = s.mark()
        for i in range(26, 60):
            s.put(entry(former + i))
        await written(s, 60)
        before = {path_of(tmp_path / "spool", number) for number in numbers_in(tmp_path / "spool")[:-1]}
        assert before
        assert not s.passed(mark)
        log.open = True
        async with asyncio.timeout(30):
            while not s.passed(mark):
                assert len(log.numbers) <= former + 60
                await asyncio.sleep(0)
        assert log.numbers[: former + 26] == list(range(former + 26))
        assert not any(path.exists() for path in before), "no segment that holds a record of before is left"
        await log.wait_for(former + 60)


async def test_a_mark_is_not_passed_by_records_that_are_lost_later(tmp_path: Path, log: Log) -> None:
    log.open = False
    config = SpoolConfig(sync_every_s=0.002, wait_s=0.004, limit_bytes=3_000)
    async with spool(tmp_path, log, config, grace_s=0.01) as s:
        s.put(entry(0))
        mark = s.mark()
        for i in range(1, 400):
            s.put(entry(i))
            if i % 10 == 0:
                await asyncio.sleep(0.003)
        await written(s, 400)
        assert s.stats.dropped > 1
        assert not s.passed(mark)
