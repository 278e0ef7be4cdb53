"""Verification of a stored log: every record, tile and checkpoint against one another, with progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import chain

import msgspec

from sealwire.contracts.audit_log import AuditRangeEmpty, LogBroken, Verification, VerifyQuery
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Invalid, NotFound, RateLimited
from sealwire.kit.tasks import cancel_and_wait
from sealwire.resilience import deadline
from sealwire.services.compliance.evidence import Evidence
from sealwire.services.compliance.key_chain import KeyChain
from sealwire.services.compliance.merkle import HASH_BYTES, TILE_WIDTH
from sealwire.services.compliance.notes import NoteInvalid, TreeHead, parse_key, verify_note
from sealwire.services.compliance.ports import AuditStore, LogHead, LogUnreadable, StoredCheckpoint, StoredRecord
from sealwire.services.compliance.remains import pruned_item
from sealwire.services.compliance.tiles import Tile, Tiling
from sealwire.services.compliance.walk import Fault, Item, Tampering, Walk, removed

_CHECKPOINTS_A_LOOK = 64
_JOBS_KEPT = 1_000
_JOBS_AT_ONCE = 2
_JOBS_A_TENANT = 4


class StoredLog:
    """Goes over one stored log, or a part of it."""

    def __init__(
        self,
        *,
        store: AuditStore,
        evidence: Evidence,
        tenant_id: str,
        progress: Callable[[int], None],
        canonical: bool = False,
    ) -> None:
        """`canonical` also asks for the canonical form of every record (see `walk`)."""
        self._store = store
        self._evidence = evidence
        self._tenant_id = tenant_id
        self._progress = progress
        self._tiling = Tiling()
        self._waiting: list[StoredCheckpoint] = []
        self._seen_size = -1
        self._more = True
        """Whether there may be checkpoints behind those that wait to be reached."""
        self._chain = KeyChain(())
        self.walk = Walk(strict=canonical)

    async def verify(self, first: int, last: int, head: LogHead) -> Fault | None:
        """Check records `first` to `last` of a log with this head; from 1 on with its tree and checkpoints."""
        try:
            self._chain = await self._evidence.chain(self._tenant_id)
        except NoteInvalid as error:
            return Fault(Tampering.CHECKPOINT, None, str(error))
        fault = await self._begin(first)
        if fault is None:
            fault = await self._go(last)
        to_end = last == head.size
        if fault is None and to_end and self.walk.frontier is not None and self.walk.unsaid() is not None:
            head = await self._store.head(self._tenant_id)  # pruned meanwhile: then what came since says so
            fault = await self._go(head.size)
        if fault is None and to_end:
            fault = await self._check_excess(head) or self._check_head(head)
        if fault is None and to_end and self.walk.frontier is not None:
            fault = await self._check_edges(head) or self.walk.unsaid()
        return fault

    async def _begin(self, first: int) -> Fault | None:
        if first == 1:
            return None
        before = await self._store.records(self._tenant_id, first - 1, 1)
        if not before:
            return Fault(Tampering.REMOVED, first - 1, "1 record missing")
        prev_hash = sha256(before[0].body).hexdigest() if before[0].body else before[0].hash
        self.walk = Walk(first_seq=first, prev_hash=prev_hash, strict=self.walk.strict)
        return None

    async def _go(self, last: int) -> Fault | None:
        """Walk in steps that end at a tile's border or at a checkpoint, giving way to others in between."""
        walk = self.walk
        self._more = True
        while True:
            checkpoint = await self._next_checkpoint(last) if walk.frontier is not None else None
            if checkpoint is not None and checkpoint.size == walk.records:
                self._waiting.pop(0)
                if fault := await self._check_checkpoint(checkpoint):
                    return fault
                continue
            at = walk.expected
            if at > last:
                return None
            stop = min(last, (at - 1) // TILE_WIDTH * TILE_WIDTH + TILE_WIDTH, checkpoint.size if checkpoint else last)
            if fault := await self._step(at, stop, last):
                return fault
            self._progress(walk.records)
            await asyncio.sleep(0)

    async def _step(self, at: int, stop: int, last: int) -> Fault | None:
        span = await self._store.span(self._tenant_id, at, stop - at + 1)
        if span is not None and (leaves := self.walk.feed_all(span.bodies, span.hashes)) is not None:
            return await self._check_tiles(at, leaves)
        records = await self._store.records(self._tenant_id, at, stop - at + 1)
        if not records or records[0].seq != at:
            return await self._missing(at, last)
        items = [(r.body, r.hash) if r.body or not r.leaf else (pruned_item(r.seq, r.leaf), r.hash) for r in records]
        good, leaves = self.walk.feed(items)
        if good < len(items):
            return await self._diagnose(items, good, stop)
        if len(items) < stop - at + 1:
            return await self._missing(self.walk.expected, last)
        return await self._check_tiles(at, leaves)

    async def _missing(self, at: int, last: int) -> Fault:
        """Tell a gap from a cut: is there any record behind it?"""
        for first in range(at + 1, last + 1, TILE_WIDTH):
            if found := await self._store.records(self._tenant_id, first, min(TILE_WIDTH, last - first + 1)):
                return removed(at, found[0].seq - at)
        return Fault(Tampering.TRUNCATED, at, f"the log has {last} records, the last {last - at + 1} are missing")

    async def _diagnose(self, items: Sequence[Item], bad: int, stop: int) -> Fault:
        following: Sequence[StoredRecord] = await self._store.records(self._tenant_id, stop + 1, TILE_WIDTH)
        rest = chain(items[bad + 1 :], ((r.body, r.hash) for r in following))
        return self.walk.diagnose(items[bad], rest)

    # ---- the tree

    async def _check_tiles(self, at: int, leaves: Sequence[bytes]) -> Fault | None:
        """Compare leaves and the nodes they complete with the stored tiles."""
        if self.walk.frontier is not None:
            for tile in self._tiling.add(self.walk.gained):
                if len(tile.hashes) == TILE_WIDTH * HASH_BYTES and (fault := await self._check_tile(tile)):
                    return fault
            return None
        number, start = divmod(at - 1, TILE_WIDTH)
        stored = (await self._store.tiles(self._tenant_id, [(0, number)])).get((0, number))
        expected = b"".join(leaves)
        if stored is None or stored[start * HASH_BYTES : start * HASH_BYTES + len(expected)] == expected:
            return None  # the unfinished tile is not stored
        return _tree_fault(Tile(0, number, expected), stored[start * HASH_BYTES :], at)

    async def _check_tile(self, tile: Tile) -> Fault | None:
        stored = (await self._store.tiles(self._tenant_id, [(tile.level, tile.number)])).get((tile.level, tile.number))
        return None if stored == tile.hashes else _tree_fault(tile, stored or b"", self._first_of(tile))

    @staticmethod
    def _first_of(tile: Tile) -> int:
        step: int = TILE_WIDTH ** (tile.level + 1)
        return tile.number * step + 1

    async def _check_edges(self, head: LogHead) -> Fault | None:
        """Compare the unfinished tiles above level 0, which are stored as they grow: also while this goes on."""
        level = 1
        while (edge := self._tiling.edge(level)) != (0, []):
            number, hashes = edge
            if hashes and (fault := await self._check_edge(Tile(level, number, b"".join(hashes)), head)):
                return fault
            level += 1
        return None

    async def _check_edge(self, tile: Tile, head: LogHead) -> Fault | None:
        place = (tile.level, tile.number)
        stored = (await self._store.tiles(self._tenant_id, [place])).get(place, b"")
        if stored != tile.hashes and (await self._store.head(self._tenant_id)).size > head.size:
            stored = stored[: len(tile.hashes)]  # what came since is not looked at
        return None if stored == tile.hashes else _tree_fault(tile, stored, self._first_of(tile))

    # ---- head and checkpoints

    def _check_head(self, head: LogHead) -> Fault | None:
        if self.walk.records and self.walk.prev_hash != head.last_hash:
            return Fault(Tampering.CHANGED, head.size, "the last record is not the one the log's head names")
        return None

    async def _check_excess(self, head: LogHead) -> Fault | None:
        checkpoint = await self._store.last_checkpoint(self._tenant_id)
        if checkpoint is not None and checkpoint.size > max(head.size, (await self._store.head(self._tenant_id)).size):
            missing = checkpoint.size - head.size
            detail = f"the checkpoint covers {checkpoint.size} records, the last {missing} are missing"
            return Fault(Tampering.TRUNCATED, head.size + 1, detail)
        return None

    async def _next_checkpoint(self, last: int) -> StoredCheckpoint | None:
        """Return the next one to be reached.

        Of those that are signed while this goes on only one where it ends is looked at: no root is known any more of
        what was passed.
        """
        if not self._waiting and (self._more or self.walk.expected > last):
            above = max(self._seen_size, self.walk.records - 1)
            found = await self._store.checkpoints(self._tenant_id, above=above, limit=_CHECKPOINTS_A_LOOK)
            self._waiting = list(found)
            self._seen_size = found[-1].size if found else above
            self._more = len(found) == _CHECKPOINTS_A_LOOK
        return self._waiting[0] if self._waiting and self._waiting[0].size <= last else None

    async def _check_checkpoint(self, checkpoint: StoredCheckpoint) -> Fault | None:
        frontier = self.walk.frontier
        assert frontier is not None  # only walked with a tree
        root = frontier.root()
        try:
            verify_note(checkpoint.note, [parse_key(checkpoint.public_key)])
            head = self._chain.checkpoint(checkpoint.note)
        except NoteInvalid as error:
            return Fault(Tampering.CHECKPOINT, None, f"the checkpoint of size {checkpoint.size}: {error}")
        stated = TreeHead(origin=self._evidence.origin(self._tenant_id), size=checkpoint.size, root=checkpoint.root)
        if head != stated:
            return Fault(Tampering.CHECKPOINT, None, f"the checkpoint of size {checkpoint.size} was changed")
        if head.root != root:
            detail = f"the records lead to another root than the checkpoint of size {checkpoint.size}"
            return Fault(Tampering.FORKED, self.walk.records, detail)
        return None


def _tree_fault(tile: Tile, stored: bytes, first_seq: int) -> Fault:
    """Name the first record whose leaf, or whose subtree, the stored tile contradicts."""
    step = TILE_WIDTH**tile.level
    for i in range(0, len(tile.hashes), HASH_BYTES):
        if stored[i : i + HASH_BYTES] != tile.hashes[i : i + HASH_BYTES]:
            return Fault(
                Tampering.TREE,
                first_seq + i // HASH_BYTES * step,
                f"tile {tile.level}/{tile.number} does not fit the records",
            )
    return Fault(Tampering.TREE, first_seq, f"tile {tile.level}/{tile.number} is too long")


class _Job(msgspec.Struct):
    """A verification in the background."""

    tenant_id: str
    query: VerifyQuery
    result: Verification
    task: asyncio.Task[None] | None = None


class Verifier:
    """Answers verification requests: short ones at once, long ones as jobs, two jobs at a time."""

    def __init__(self, *, store: AuditStore, evidence: Evidence, at_once: int) -> None:
        self._store = store
        self._evidence = evidence
        self._at_once = at_once
        self._jobs: dict[str, _Job] = {}
        self._turns = asyncio.Semaphore(_JOBS_AT_ONCE)

    async def verify(self, tenant_id: str, query: VerifyQuery) -> Verification:
        """Verify the range, or begin a job when it is long. Raises: AuditRangeEmpty, Invalid, RateLimited."""
        head = await self._store.head(tenant_id)
        first, last = _range(query, head)
        if last - first + 1 <= self._at_once:
            return await self._run(tenant_id, first, last, head, query, lambda records: None)
        under_way = [
            job
            for job in self._jobs.values()
            if job.tenant_id == tenant_id and job.task is not None and not job.task.done()
        ]
        for job in under_way:
            if job.query == query:
                return job.result
        if len(under_way) >= _JOBS_A_TENANT:  # the turns are everybody's
            raise RateLimited(f"{_JOBS_A_TENANT} verifications of this log are under way.", retry_after_s=10.0)
        return self._begin(tenant_id, query, first, last, head)

    async def job(self, job_id: str, may_read: Callable[[str], bool]) -> Verification:
        """Return how far a job is, or its result, if its log may be read. Raises: NotFound."""
        job = self._jobs.get(job_id)
        if job is None or not may_read(job.tenant_id):
            raise NotFound("There is no such verification.")
        return job.result

    async def stop(self) -> None:
        """End the jobs under way."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None and not job.task.done()]
        await cancel_and_wait(*tasks)

    def _begin(self, tenant_id: str, query: VerifyQuery, first: int, last: int, head: LogHead) -> Verification:
        job_id = new_id()
        result = Verification(
            ok=False, records=0, first_bad_seq=None, root="", checkpoint="", job_id=job_id, progress=0.0
        )
        job = self._jobs[job_id] = _Job(tenant_id, query, result)
        total = last - first + 1

        def progress(records: int) -> None:
            job.result = msgspec.structs.replace(job.result, records=records, progress=min(0.999, records / total))

        async def run() -> None:
            async with self._turns:
                try:
                    done = await self._run(tenant_id, first, last, head, query, progress)
                    job.result = msgspec.structs.replace(done, job_id=job_id)
                except Exception as error:
                    fault = f"the verification could not be finished: {type(error).__name__}"
                    job.result = msgspec.structs.replace(job.result, fault=fault, progress=1.0)

        with deadline.without():
            job.task = asyncio.get_running_loop().create_task(run(), name=f"verify-{job_id}")
        self._forget_old()
        return result

    def _forget_old(self) -> None:
        done = [job_id for job_id, job in self._jobs.items() if job.task is not None and job.task.done()]
        for job_id in done[: max(0, len(self._jobs) - _JOBS_KEPT)]:
            del self._jobs[job_id]

    async def _run(
        self,
        tenant_id: str,
        first: int,
        last: int,
        head: LogHead,
        query: VerifyQuery,
        progress: Callable[[int], None],
    ) -> Verification:
        note = await self._sign_first(tenant_id)
        log = StoredLog(
            store=self._store,
            evidence=self._evidence,
            tenant_id=tenant_id,
            progress=progress,
            canonical=query.canonical,
        )
        try:
            fault = await log.verify(first, last, head) or await self._check_last(tenant_id)
            if fault is None and query.index:
                fault = await self._check_index(tenant_id, first, last)
        except LogUnreadable as error:
            fault = Fault(Tampering.CHANGED, log.walk.expected, f"what is stored here can't be read: {error}")
        return Verification(
            ok=fault is None,
            records=log.walk.records,
            first_bad_seq=fault.seq if fault else None,
            root=log.walk.frontier.root().hex() if log.walk.frontier else "",
            checkpoint=note,
            fault=f"{fault.kind}: {fault.detail}" if fault else None,
            pruned=[list(pair) for pair in log.walk.pruned],
        )

    async def _sign_first(self, tenant_id: str) -> str:
        """Return the note over the log as it is; of a broken log the last one, for the walk to say what is wrong."""
        try:
            return (await self._evidence.checkpoint(tenant_id)).note
        except (LogBroken, LogUnreadable):
            last = await self._store.last_checkpoint(tenant_id)
            return last.note if last else ""

    async def _check_index(self, tenant_id: str, first: int, last: int) -> Fault | None:
        """Compare what queries find records by with the records, which fit."""
        for at in range(first - (first - 1) % TILE_WIDTH, last + 1, TILE_WIDTH):
            start, stop = max(first, at), min(last, at + TILE_WIDTH - 1)
            seq = await self._store.misfiled(tenant_id, start, stop - start + 1)
            if seq is not None:
                return Fault(Tampering.INDEX, seq, "queries know the record by something else than it says")
            await asyncio.sleep(0)
        return None

    async def _check_last(self, tenant_id: str) -> Fault | None:
        last = await self._store.last_checkpoint(tenant_id)
        try:
            if last is not None:
                (await self._evidence.chain(tenant_id)).checkpoint(last.note)
        except NoteInvalid as error:
            return Fault(Tampering.CHECKPOINT, None, f"the last checkpoint: {error}")
        return None


def _range(query: VerifyQuery, head: LogHead) -> tuple[int, int]:
    """Return the first and last `seq` to look at. Raises: AuditRangeEmpty, Invalid."""
    first, last = query.from_seq or 1, min(query.to_seq or head.size, head.size)
    if query.to_seq is not None and query.to_seq < first:
        raise Invalid("`to_seq` may not be below `from_seq`.", path="$.to_seq")
    if first > max(head.size, 1):
        raise AuditRangeEmpty("The log has no record with this seq yet.")
    return first, last
