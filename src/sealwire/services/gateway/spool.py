"""The spool: records of API requests, kept safe on this machine until compliance has them (R2.3).

    put          takes a record and returns at once; the request is never held up
    every 100 ms what was put is sealed into a frame, written and synced: from then on a crash loses nothing of it
    sender       hands batches to compliance until they are acknowledged, then deletes the segment

A crash sends a segment again as a whole; compliance knows the records by their audit ids. When the disk is full or the
limit is reached, records are counted instead of kept, durably, and a record per tenant says how many were lost and why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec

from sealwire.contracts.audit_log import AuditEntry
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.files import sync_folder
from sealwire.kit.lifespan import Probe
from sealwire.kit.pages import DegradedOnly
from sealwire.resilience import deadline
from sealwire.resilience.backoff import full_jitter
from sealwire.services.gateway.gap_book import GapBook
from sealwire.services.gateway.spool_file import SegmentWriter, numbers_in, path_of, read_segment
from sealwire.services.gateway.spool_gaps import Gaps, damage_of, record_of

RECORDS_A_FRAME = 128
"""A frame of that many is below 128 KiB: larger pieces of memory malloc gets from the system anew each time."""
QUICK_SYNC_S = 0.002
NOT_DURABLE = "dies with this process"
_BACKOFF_S, _BACKOFF_CAP_S = 0.1, 5.0
_log = logging.getLogger("sealwire.spool")
Deliver = Callable[[Sequence[AuditEntry]], Awaitable[None]]
"""Hands records to compliance; returns when they are stored there. Raises: when they may not be."""


class SpoolConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept, how long is waited."""

    sync_every_s: float = 0.1
    batch: int = 100
    wait_s: float = 1.0
    segment_bytes: int = 1024 * 1024
    limit_bytes: int = 256 * 1024 * 1024
    memory_records: int = 20_000
    gap_every_s: float = 5.0


class SpoolStats(msgspec.Struct):
    """What the spool did and how it is."""

    put: int = 0
    delivered: int = 0
    dropped: int = 0
    damaged_frames: int = 0
    failures: int = 0
    write_error: str = ""
    sync_s: float = 0.0
    bytes: int = 0


class _Segment:
    """A segment that is not all delivered. `records` is None when they have to be read from the file; a segment with
    number 0 has no file: the disk refused it."""

    __slots__ = ("bytes", "number", "records")

    def __init__(self, number: int, records: deque[AuditEntry] | None, size_bytes: int = 0) -> None:
        self.number = number
        self.records = records
        self.bytes = size_bytes


class Mark(NamedTuple):
    """A moment of the spool: the last segment that holds a record put before it."""

    last: _Segment | None


class RecordSpool:
    """The spool of one process in one folder. For one event loop."""

    def __init__(
        self,
        *,
        folder: Path,
        key: SealingKey,
        deliver: Deliver,
        clock: Clock,
        rng: Random,
        config: SpoolConfig | None = None,
        service: str = "gateway",
    ) -> None:
        """`key` seals and opens the segments in `folder`; it has to be the same after a restart."""
        self._folder = folder
        self._key = key
        self._deliver = deliver
        self._clock = clock
        self._rng = rng
        self._config = config or SpoolConfig()
        self._service = service
        self.stats = SpoolStats()
        self._fresh: list[AuditEntry] = []
        self._segments: deque[_Segment] = deque()
        self._writer: SegmentWriter | None = None
        self._open = _Segment(0, None)
        self._next_number = 1
        self._in_memory = 0
        book = GapBook(folder=folder, key=key)
        self._gaps = Gaps(clock=clock, service=service, every_s=self._config.gap_every_s, book=book)
        self._unsynced = False
        self._timer: asyncio.TimerHandle | None = None
        self._syncing: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "spool")
        self._arrived = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._waiting_since_s = 0.0
        self._stopping = False
        self._losing = False

    # ---- what the gateway uses

    def put(self, entry: AuditEntry) -> None:
        """Take a record. Never waits, never fails; durable within `sync_every_s` and the time of a sync."""
        self._fresh.append(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._config.sync_every_s, self._tick)

    async def start(self) -> None:
        """Find what a former life left behind, and begin to deliver."""
        if self._sender is not None:
            return
        self._stopping = False
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in numbers_in(self._folder):
            size_bytes = path_of(self._folder, number).stat().st_size
            self._segments.append(_Segment(number, None, size_bytes))
            self.stats.bytes += size_bytes
            self._next_number = number + 1
        lost_before = await asyncio.get_running_loop().run_in_executor(self._thread, self._gaps.load)
        if lost_before:
            self._write(lost_before, gaps=True)
            self._gaps.save()
        if self._segments:
            self._arrived.set()
        with deadline.without():
            self._sender = asyncio.get_running_loop().create_task(self._send(), name="spool-sender")

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """Make all durable, deliver what can be delivered within `grace_s`, and close."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush(last=True)
        await self._sync_soon()
        self._arrived.set()
        sender, self._sender = self._sender, None
        if sender is not None:
            await asyncio.wait({sender}, timeout=grace_s)
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender
        if self._writer is not None:
            self._close_writer()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self._gaps.close()
        self._thread = ThreadPoolExecutor(1, "spool")

    @property
    def is_full(self) -> bool:
        """Whether a record put now would be counted instead of kept, as far as the last ones tell."""
        return self._losing or self.stats.bytes >= self._config.limit_bytes

    @property
    def waiting(self) -> int:
        """How many records in memory are not delivered yet (those on disk alone not counted)."""
        return len(self._fresh) + self._in_memory

    def mark(self) -> Mark:
        """Return where the spool stands, to be shown to `passed` later. It ends the segment that is open, whose file
        would stay until others fill it."""
        self._flush()
        if self._writer is not None:
            self._close_writer()
        self._arrived.set()
        return Mark(self._segments[-1] if self._segments else None)

    def passed(self, mark: Mark) -> bool:
        """Whether every record put before `mark` was taken is delivered, or counted as lost, and off the disk."""
        return all(segment is not mark.last for segment in self._segments)

    def checks(self) -> dict[str, Probe]:
        """Return the probe of the spool."""
        return {"audit_spool": self._check}

    async def _check(self) -> str:
        """Tell the window within which a record becomes durable. Raises: DegradedOnly."""
        if self._gaps:
            counted = "" if self._gaps.durable else f"; the disk refuses the book of gaps: how many {NOT_DURABLE}"
            raise DegradedOnly(f"records are lost: the spool is full{counted}")
        if self.stats.write_error:
            raise DegradedOnly(f"records are in memory only: {self.stats.write_error}")
        if self.stats.failures:
            raise DegradedOnly("compliance takes no records; they wait on disk")
        if not self._gaps.durable:
            raise DegradedOnly(f"the disk refuses the book of gaps: how many records are lost {NOT_DURABLE}")
        return f"records are durable within {round(self._config.sync_every_s * 1000)} ms"

    # ---- to disk

    def _tick(self) -> None:
        self._timer = None
        self._flush()
        if self._syncing is None and self._unsynced:
            self._syncing = asyncio.ensure_future(self._sync_soon())
        if self._gaps:
            self._timer = asyncio.get_running_loop().call_later(self._config.sync_every_s, self._tick)

    def _flush(self, *, last: bool = False) -> None:
        """Write what was put since the last time; keep it for the sender too while there is room in memory."""
        fresh, self._fresh = self._fresh, []
        self.stats.put += len(fresh)
        lost = self.stats.dropped
        if gaps := self._gaps.due(now=last):  # kept past the limit
            self._write(gaps, gaps=True)
        for start in range(0, len(fresh), RECORDS_A_FRAME):
            frame = fresh[start : start + RECORDS_A_FRAME]
            if self.stats.bytes < self._config.limit_bytes:
                self._write(frame)
            else:
                self._lose(frame, "spool_full")
        self._gaps.save()
        self._unsynced = self._unsynced or self._gaps.unsynced
        if fresh:
            self._losing = self.stats.dropped > lost

    def _write(self, frame: list[AuditEntry], *, gaps: bool = False) -> None:
        """Put a frame on disk; when the disk refuses it, keep it in memory while there is room, `gaps` always."""
        try:
            writer = self._writer or self._begin_segment()
            before = writer.bytes
            writer.append(frame)
        except OSError as error:
            if not self.stats.write_error:
                _log.error("the spool can't be written: %r", error)
            self.stats.write_error = error.strerror or type(error).__name__
            if self._in_memory + len(frame) > self._config.memory_records and not gaps:
                self._lose(frame, "disk_error")
                return
            if not gaps:
                self._gaps.hold(frame)
            self._segments.append(_Segment(0, deque(frame)))
            self._in_memory += len(frame)
        else:
            self.stats.write_error = ""
            self._unsynced = True
            self._account(self._open, frame, writer.bytes - before)
            if writer.bytes >= self._config.segment_bytes:
                self._close_writer()
        if not self._arrived.is_set():
            self._waiting_since_s = self._clock.monotonic()
            self._arrived.set()

    def _begin_segment(self) -> SegmentWriter:
        writer = SegmentWriter(folder=self._folder, number=self._next_number, key=self._key)
        self._next_number += 1
        self._writer = writer
        self._open = _Segment(writer.number, deque())
        self._segments.append(self._open)
        self._thread.submit(sync_folder, self._folder)
        return writer

    def _account(self, segment: _Segment, frame: list[AuditEntry], grown_bytes: int) -> None:
        segment.bytes += grown_bytes
        self.stats.bytes += grown_bytes
        if segment.records is None:
            return
        if self._in_memory + len(frame) <= self._config.memory_records:
            segment.records.extend(frame)
            self._in_memory += len(frame)
        else:  # from here on this segment is read from its file
            self._in_memory -= len(segment.records)
            segment.records = None

    def _lose(self, frame: Sequence[AuditEntry], reason: str) -> None:
        self.stats.dropped += len(frame)
        self._gaps.count(frame, reason)

    def _close_writer(self) -> None:
        """End the segment; sync and close it in the thread."""
        writer, self._writer = self._writer, None
        assert writer is not None  # there is one
        with suppress(OSError):
            writer.end()
        self._thread.submit(_sync_and_close, writer)

    async def _sync_soon(self) -> None:
        try:
            while self._unsynced:
                self._unsynced = False
                await self._sync()
        finally:
            self._syncing = None

    async def _sync(self) -> None:
        """Make what was written durable: on the loop while the disk is quick, else in the thread."""
        writer = self._writer
        began = time.monotonic()
        try:
            if self.stats.sync_s <= QUICK_SYNC_S:
                if writer is not None:
                    os.fdatasync(writer.fd)
                self._gaps.sync()
            else:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._sync_both, writer)
        except OSError as error:
            self.stats.write_error = error.strerror or type(error).__name__
            _log.error("the spool can't be synced: %r", error)
        took_s = time.monotonic() - began
        self.stats.sync_s += (took_s - self.stats.sync_s) / 8

    def _sync_both(self, writer: SegmentWriter | None) -> None:
        if writer is not None:
            with suppress(OSError):  # closed meanwhile, which synced it
                os.fdatasync(writer.fd)
        self._gaps.sync()

    # ---- to compliance

    async def _send(self) -> None:
        while True:
            if not self._segments or not self._has_work():
                if self._stopping:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            try:
                await self._send_some(self._segments[0])
                self.stats.failures = 0
            except Exception as error:
                self.stats.failures += 1
                if self.stats.failures == 1:
                    _log.warning("records wait for compliance: %r", error)
                await self._pause()

    def _has_work(self) -> bool:
        segment = self._segments[0]
        is_open = self._writer is not None and segment.number == self._writer.number
        return segment.records is None or bool(segment.records) or not is_open or self._stopping

    async def _send_some(self, segment: _Segment) -> None:
        """Deliver a batch, or a segment that is on disk only, or put away a segment that is delivered."""
        is_open = self._writer is not None and segment.number == self._writer.number
        if segment.records is None:
            if is_open:
                self._close_writer()
            await self._send_from_disk(segment)
        elif segment.records:
            await self._gather(segment)
            if segment.records:  # not moved to the disk meanwhile
                batch = [segment.records[i] for i in range(min(self._config.batch, len(segment.records)))]
                await self._hand_over(batch, held=not segment.number)
                if segment.records:
                    for _ in batch:
                        segment.records.popleft()
                    self._in_memory -= len(batch)
        else:
            if is_open:
                self._close_writer()
            await self._remove(segment)

    async def _gather(self, segment: _Segment) -> None:
        """Wait until there is a batch, or the first has waited long enough, or no more can come."""
        config = self._config
        while segment is self._open and self._writer and segment.records and not self._stopping:
            if len(segment.records) >= config.batch:
                break
            left_s = self._waiting_since_s + config.wait_s - self._clock.monotonic()
            if left_s <= 0:
                break
            await asyncio.sleep(min(left_s, config.sync_every_s))
        self._waiting_since_s = self._clock.monotonic()

    async def _send_from_disk(self, segment: _Segment) -> None:
        loop = asyncio.get_running_loop()
        path = path_of(self._folder, segment.number)
        found = await loop.run_in_executor(self._thread, read_segment, path, self._key)
        for start in range(0, len(found.entries), self._config.batch):
            batch = found.entries[start : start + self._config.batch]
            await self._hand_over(batch)
        if found.damaged:
            self.stats.damaged_frames += found.damaged
            _log.error("segment %d of the spool was damaged: %d frames", segment.number, found.damaged)
            await self._deliver([record_of(damage_of(path, found.damaged), self._service)])
        await self._remove(segment)

    async def _hand_over(self, batch: Sequence[AuditEntry], *, held: bool = False) -> None:
        await self._deliver(batch)
        self.stats.delivered += len(batch)
        self._gaps.delivered(batch, held=held)
        self._gaps.save()

    async def _remove(self, segment: _Segment) -> None:
        if segment.number:
            path = path_of(self._folder, segment.number)
            await asyncio.get_running_loop().run_in_executor(self._thread, _unlink, path)
        self._segments.popleft()
        self.stats.bytes -= segment.bytes

    async def _pause(self) -> None:
        attempt = min(self.stats.failures - 1, 20)
        await asyncio.sleep(full_jitter(attempt, base_s=_BACKOFF_S, cap_s=_BACKOFF_CAP_S, rng=self._rng))


def _sync_and_close(writer: SegmentWriter) -> None:
    try:
        os.fdatasync(writer.fd)
    finally:
        writer.close()


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
