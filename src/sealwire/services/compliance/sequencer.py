"""The sequencer: the one writer of a tenant's log. It gives `seq` and chains, from a head it holds in memory.

What arrives while a group is written waits and goes together in the next one. The head moves only when the store has
confirmed the group; whenever it has not, the head is forgotten and read anew. The store checks the head again inside
its transaction, so a wrong belief costs a retry and never a fork.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum

import msgspec

from sealwire.kit.problem import Unavailable
from sealwire.resilience import deadline
from sealwire.services.compliance.chain import begin_record_hash
from sealwire.services.compliance.merkle import Frontier, leaf_hashes, pair_up
from sealwire.services.compliance.ports import (
    AuditIdsTaken,
    AuditStore,
    HeadMoved,
    LogAppend,
    LogEdge,
    LogHead,
    StoredRecord,
)
from sealwire.services.compliance.sealing import Intake, same_entry
from sealwire.services.compliance.tiles import Tiling, split_hashes

_ATTEMPTS = 8
Same = Callable[[Intake, StoredRecord], Awaitable[bool]]


class Verdict(Enum):
    """What became of an entry."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


class LogBroken(Unavailable):
    """What is stored of the log can't be continued: pieces or tiles of its right edge are missing."""

    code, title = "audit_log_broken", "The audit log is damaged and takes no records"


class Tree(msgspec.Struct, frozen=True):
    """A log as it is in memory: head, frontier, unfinished tiles. Never changed; an append makes a new one."""

    head: LogHead
    frontier: Frontier
    tiling: Tiling


class _Waiting(msgspec.Struct):
    """A batch that waits for its place."""

    items: Sequence[Intake]
    future: asyncio.Future[list[Verdict]]


class Log:
    """One tenant's log. For one event loop."""

    def __init__(
        self,
        *,
        tenant_id: str,
        store: AuditStore,
        same: Same,
        group_records: int,
        waiting_records: int,
        grown: Callable[[str], None],
    ) -> None:
        self.tenant_id = tenant_id
        self._grown = grown
        self._store = store
        self._same = same
        self._group_records = group_records
        self._waiting_records = waiting_records
        self._pending: deque[_Waiting] = deque()
        self._pending_records = 0
        self._tree: Tree | None = None
        self._writer: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[Tree] | None = None
        self.broken = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is being written."""
        return self._writer is None and not self._pending

    def submit(self, items: Sequence[Intake]) -> asyncio.Future[list[Verdict]]:
        """Queue entries; the future gives a verdict for each once those stored are durable.

        Raises: Unavailable when too many wait; the future raises what the store raised, and then nothing is known of
        its entries: send them again.
        """
        if self._pending_records + len(items) > self._waiting_records and self._pending:
            raise Unavailable("Too many audit records wait for the disk.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(items, loop.create_future())
        self._pending.append(waiting)
        self._pending_records += len(items)
        if self._writer is None:
            with deadline.without():  # the writer serves all who wait, not only the first one's deadline
                self._writer = loop.create_task(self._write(), name=f"audit-log-{self.tenant_id}")
        return waiting.future

    async def tree(self) -> Tree:
        """Return the log as it is now, durable."""
        if self._tree is not None:
            return self._tree
        if self._loading is None:
            with deadline.without():
                self._loading = asyncio.get_running_loop().create_task(self._load())
        return await asyncio.shield(self._loading)

    async def settle(self) -> None:
        """Wait until all that was submitted is written or refused."""
        while self._writer is not None:
            with suppress(Exception):
                await asyncio.shield(self._writer)

    async def _load(self) -> Tree:
        try:
            tree = grow_from(await self._store.edge(self.tenant_id))
            self.broken = False
            if self._tree is None:
                self._tree = tree
            return self._tree
        except LogBroken:
            self.broken = True
            raise
        finally:
            self._loading = None

    async def _write(self) -> None:
        try:
            while self._pending:
                await self._write_group(self._take())
        finally:
            self._writer = None

    def _take(self) -> list[_Waiting]:
        """Take the batches of one group: all that wait, up to about `group_records`."""
        group: list[_Waiting] = []
        count = 0
        while self._pending and (not group or count + len(self._pending[0].items) <= self._group_records):
            waiting = self._pending.popleft()
            group.append(waiting)
            count += len(waiting.items)
        self._pending_records -= count
        return group

    async def _write_group(self, group: list[_Waiting]) -> None:
        items = [item for waiting in group for item in waiting.items]
        try:
            verdicts = await self._store_items(items)
        except BaseException as error:
            self._tree = None
            for waiting in group:
                if not waiting.future.done():
                    waiting.future.set_exception(error if isinstance(error, Exception) else Unavailable("Stopped."))
            if not isinstance(error, Exception):
                raise
            return
        at = 0
        for waiting in group:
            end = at + len(waiting.items)
            if not waiting.future.done():
                waiting.future.set_result(verdicts[at:end])
            at = end

    async def _store_items(self, items: list[Intake]) -> list[Verdict]:
        """Store what isn't stored yet; return a verdict for each item."""
        verdicts = [Verdict.STORED] * len(items)
        fresh = self._unrepeated(items, verdicts)
        for _ in range(_ATTEMPTS):
            if not fresh:
                return verdicts
            tree = await self.tree()
            append, grown = chain_on(self.tenant_id, tree, [items[i] for i in fresh])
            try:
                await self._store.append(append)
            except HeadMoved:
                self._tree = None
            except AuditIdsTaken:
                fresh = await self._unstored(items, fresh, verdicts)
            else:
                self._tree = grown
                self._grown(self.tenant_id)
                return verdicts
        raise Unavailable("The log is being written by somebody else.")

    @staticmethod
    def _unrepeated(items: list[Intake], verdicts: list[Verdict]) -> list[int]:
        """Return the indexes of the items whose audit id comes for the first time in this group."""
        if len({item.entry.audit_id for item in items}) == len(items):
            return list(range(len(items)))
        first: dict[str, int] = {}
        for i, item in enumerate(items):
            known = first.setdefault(item.entry.audit_id, i)
            if known != i:
                same = same_entry(items[known].entry, item.entry)
                verdicts[i] = Verdict.DUPLICATE if same else Verdict.CONFLICT
        return list(first.values())

    async def _unstored(self, items: list[Intake], fresh: list[int], verdicts: list[Verdict]) -> list[int]:
        """Return those of `fresh` that are not in the log; the others are duplicates or conflicts."""
        taken = await self._store.find(self.tenant_id, [items[i].entry.audit_id for i in fresh])
        left = []
        for i in fresh:
            seq = taken.get(items[i].entry.audit_id)
            if seq is None:
                left.append(i)
                continue
            stored = await self._store.records(self.tenant_id, seq, 1)
            same = bool(stored) and await self._same(items[i], stored[0])
            verdicts[i] = Verdict.DUPLICATE if same else Verdict.CONFLICT
        return left


class Logs:
    """The logs of all tenants; those idle longest leave memory when there are more than `in_memory`."""

    def __init__(
        self,
        *,
        store: AuditStore,
        same: Same,
        group_records: int,
        waiting_records: int,
        in_memory: int,
        grown: Callable[[str], None] = lambda tenant_id: None,
    ) -> None:
        """`grown` is told the tenant whose log has new records, durable by then."""
        self._store = store
        self._grown = grown
        self._same = same
        self._group_records = group_records
        self._waiting_records = waiting_records
        self._in_memory = in_memory
        self._logs: OrderedDict[str, Log] = OrderedDict()

    def of(self, tenant_id: str) -> Log:
        """Return the tenant's log."""
        log = self._logs.get(tenant_id)
        if log is None:
            log = self._logs[tenant_id] = Log(
                tenant_id=tenant_id,
                store=self._store,
                same=self._same,
                group_records=self._group_records,
                waiting_records=self._waiting_records,
                grown=self._grown,
            )
            self._evict()
        else:
            self._logs.move_to_end(tenant_id)
        return log

    def _evict(self) -> None:
        if len(self._logs) > self._in_memory:
            for tenant_id, log in list(self._logs.items())[: len(self._logs) - self._in_memory]:
                if log.idle and not log.broken:
                    del self._logs[tenant_id]

    @property
    def broken(self) -> list[str]:
        """The tenants whose logs can't be continued."""
        return [tenant_id for tenant_id, log in self._logs.items() if log.broken]

    async def settle(self) -> None:
        """Wait until nothing is being written."""
        for log in list(self._logs.values()):
            await log.settle()


def grow_from(edge: LogEdge) -> Tree:
    """Rebuild what a writer holds in memory from what is stored. Raises: LogBroken."""
    size = edge.head.size
    edges = {0: (size // 256, list(edge.leaves))}
    edges |= {level: (number, split_hashes(hashes)) for level, (number, hashes) in edge.tiles.items()}
    peaks: list[bytes] = []
    for level in range(max(edges), -1, -1):
        peaks += _peaks(edges.get(level, (0, []))[1])
    try:
        return Tree(edge.head, Frontier(size, peaks), Tiling(edges))
    except ValueError:
        raise LogBroken("The audit log is damaged; run its verification.") from None


def _peaks(hashes: Sequence[bytes]) -> list[bytes]:
    """Return the roots of the perfect subtrees over hashes of one level, tallest first."""
    peaks, row = [], list(hashes)
    while row:
        if len(row) & 1:
            peaks.append(row.pop())
        row = pair_up(row)
    return peaks[::-1]


def chain_on(tenant_id: str, tree: Tree, items: Sequence[Intake]) -> tuple[LogAppend, Tree]:
    """Give entries their places after the head: return what to store, and the tree it leads to."""
    seq, prev, begin = tree.head.size, tree.head.last_hash, begin_record_hash
    bodies: list[bytes] = []
    hashes: list[str] = []
    for item in items:
        seq += 1
        form = item.form  # as `Form.bytes_at`: a call for each record is a tenth of all this
        body = b"".join((form.before, prev.encode(), form.middle, b"%d" % seq, form.after))
        h = begin()
        h.update(body)
        prev = h.hexdigest()
        bodies.append(body)
        hashes.append(prev)
    frontier, tiling = tree.frontier.copy(), tree.tiling.copy()
    tiles = tiling.add(frontier.extend(leaf_hashes(bodies)))
    head = LogHead(size=seq, last_hash=prev)
    append = LogAppend(
        tenant_id=tenant_id,
        before=tree.head,
        after=head,
        entries=[item.entry for item in items],
        bodies=bodies,
        hashes=hashes,
        created_us=[item.created_us for item in items],
        tiles=tiles,
    )
    return append, Tree(head, frontier, tiling)
