"""The sequencer: the one writer of a tenant's log. It gives `seq` and chains, from a head it holds in memory.

What arrives while a group is written waits and goes together in the next one. The head moves only when the store has
confirmed the group; whenever it has not, the head is forgotten and read anew. The store checks the head again inside
its transaction, so a wrong belief costs a retry and never a fork.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from sealwire.kit.problem import Unavailable
from sealwire.resilience import deadline
from sealwire.services.compliance.log_tree import LogBroken, Tree, chain_on, grow_from
from sealwire.services.compliance.ports import (
    AuditIdsTaken,
    AuditStore,
    HeadMoved,
    LogAppend,
    StoredRecord,
)
from sealwire.services.compliance.sealing import Intake, same_entry

_ATTEMPTS = 8
ROUND_RECORDS = 1_024
"""How many records are chained and written before the loop sees to others."""
Same = Callable[[Intake, StoredRecord], Awaitable[bool]]


class Verdict(Enum):
    """What became of an entry."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


Outcome = Sequence[Verdict] | Exception


class _Batch:
    """What came together: the entries of some tenants. Done when the logs of all of them are."""

    __slots__ = ("future", "left", "outcomes")

    def __init__(self, tenants: int) -> None:
        self.future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self.left = tenants
        self.outcomes: list[Outcome] = [[]] * tenants

    def settle(self, at: int, outcome: Outcome) -> None:
        """Note what became of the entries of a tenant."""
        self.outcomes[at] = outcome
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(self.outcomes)


class _Waiting(NamedTuple):
    """The entries of a batch for one log: they are its `at`-th."""

    items: Sequence[Intake]
    batch: _Batch
    at: int


class Log:
    """One tenant's log. For one event loop."""

    __slots__ = (
        "_group_records", "_grown", "_loading", "_pending", "_pending_records", "_same", "_store", "_waiting_records",
        "broken", "known", "tenant_id", "writing",
    )  # fmt: skip

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
        self._loading: asyncio.Task[Tree] | None = None
        self.known: Tree | None = None
        """The log as it is now, durable; None when it has to be read."""
        self.writing = False
        """Whether a group is written, or about to be: one at a time."""
        self.broken = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is being written."""
        return not self.writing and not self._pending

    @property
    def waits(self) -> bool:
        """Whether entries wait for the next group."""
        return bool(self._pending)

    def queue(self, items: Sequence[Intake], batch: _Batch, at: int) -> None:
        """Have entries wait for their place. Raises: Unavailable when too many wait."""
        if self._pending_records + len(items) > self._waiting_records and self._pending:
            raise Unavailable("Too many audit records wait for the disk.")
        self._pending.append(_Waiting(items, batch, at))
        self._pending_records += len(items)

    async def tree(self) -> Tree:
        """Return the log as it is now, durable."""
        if self.known is not None:
            return self.known
        if self._loading is None:
            with deadline.without():
                self._loading = asyncio.get_running_loop().create_task(self._load())
        return await asyncio.shield(self._loading)

    async def _load(self) -> Tree:
        try:
            tree = grow_from(await self._store.edge(self.tenant_id))
            self.broken = False
            if self.known is None:
                self.known = tree
            return self.known
        except LogBroken:
            self.broken = True
            raise
        finally:
            self._loading = None

    def take(self) -> Group:
        """Take the batches of one group: all that wait, up to about `group_records`."""
        group: list[_Waiting] = []
        count = 0
        while self._pending and (not group or count + len(self._pending[0].items) <= self._group_records):
            waiting = self._pending.popleft()
            group.append(waiting)
            count += len(waiting.items)
        self._pending_records -= count
        return Group(self, group)

    async def write_alone(self, group: Group) -> None:
        """Write a group that can't just be put behind the log as it is known: which entries are there is asked first.

        It settles its batches, whatever comes of it.
        """
        try:
            verdicts = await self._store_items(group.items)
        except BaseException as error:
            group.fail(error)
            if not isinstance(error, Exception):
                raise
            return
        group.settle(verdicts)

    def grew(self, tree: Tree) -> None:
        """Take note that the store has confirmed a group."""
        self.known = tree
        self._grown(self.tenant_id)

    async def _store_items(self, items: list[Intake]) -> list[Verdict]:
        """Store what isn't stored yet; return a verdict for each item."""
        verdicts = [Verdict.STORED] * len(items)
        first = _firsts(items)
        await self._store_fresh(items, list(first.values()), verdicts)
        for i, item in enumerate(items) if len(first) < len(items) else ():
            at = first[item.entry.audit_id]
            if i == at:
                continue
            verdicts[i] = Verdict.DUPLICATE if same_entry(items[at].entry, item.entry) else Verdict.CONFLICT
            if verdicts[at] is Verdict.CONFLICT:  # it says nothing of what is stored
                await self._unstored(items, [i], verdicts)
        return verdicts

    async def _store_fresh(self, items: list[Intake], fresh: list[int], verdicts: list[Verdict]) -> None:
        """Store those of `fresh` that aren't stored yet; correct the verdicts of the others."""
        for _ in range(_ATTEMPTS):
            if not fresh:
                return
            tree = await self.tree()
            append, grown = chain_on(self.tenant_id, tree, [items[i] for i in fresh])
            try:
                await self._store.append(append)
            except HeadMoved:
                self.known = None
            except AuditIdsTaken:
                fresh = await self._unstored(items, fresh, verdicts)
            else:
                self.grew(grown)
                return
        raise Unavailable("The log is being written by somebody else.")

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


class Group:
    """Batches that are written together to one log, in their order."""

    __slots__ = ("_waiting", "items", "log")

    def __init__(self, log: Log, waiting: Sequence[_Waiting]) -> None:
        self.log = log
        self._waiting = waiting
        self.items = list(waiting[0].items) if len(waiting) == 1 else [i for some in waiting for i in some.items]

    @property
    def repeats(self) -> bool:
        """Whether an audit id is in it twice."""
        return len({item.entry.audit_id for item in self.items}) < len(self.items)

    def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Tell the batches what became of each entry."""
        start = 0
        for items, batch, at in self._waiting:
            end = start + len(items)
            batch.settle(at, verdicts[start:end])
            start = end

    def fail(self, error: BaseException) -> None:
        """Tell the batches that nothing is known of their entries, and forget how the log stood."""
        self.log.known = None
        for _, batch, at in self._waiting:
            batch.settle(at, error if isinstance(error, Exception) else Unavailable("Stopped."))


def _firsts(items: list[Intake]) -> dict[str, int]:
    """Return for each audit id the index of the item with which it comes for the first time in this group."""
    first: dict[str, int] = {}
    for i, item in enumerate(items):
        first.setdefault(item.entry.audit_id, i)
    return first


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
        self._ready: list[Log] = []
        """Logs for which entries wait and nothing is written."""
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, by_tenant: Mapping[str, Sequence[Intake]]) -> asyncio.Future[list[Outcome]]:
        """Queue the entries of some tenants; the future gives for each a verdict per entry, once those are durable.

        Where the store failed it gives the exception instead: then nothing is known of the entries, send them again.
        Raises: Unavailable when too many wait; what was queued of other tenants is stored all the same.
        """
        batch = _Batch(len(by_tenant))
        for at, (tenant_id, items) in enumerate(by_tenant.items()):
            log = self.of(tenant_id)
            log.queue(items, batch, at)
            if not log.writing:
                self._make_ready(log)
        return batch.future

    def _make_ready(self, log: Log) -> None:
        log.writing = True
        self._ready.append(log)
        if len(self._ready) == 1:
            with deadline.without():  # a round serves all who wait, not only the first one's deadline
                asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Take a group of each log that is ready, up to about so many records as a round has, and write them."""
        groups: list[Group] = []
        records = 0
        for log in self._ready:
            group = log.take()
            groups.append(group)
            records += len(group.items)
            if records >= ROUND_RECORDS:
                break
        del self._ready[: len(groups)]
        self._start(self._write(groups))
        if self._ready:
            asyncio.get_running_loop().call_soon(self._begin)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="audit-logs")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, groups: Sequence[Group]) -> None:
        """Write groups of different logs, with one call of the store for those that are as most are."""
        chained: list[tuple[Group, LogAppend, Tree]] = []
        for group in groups:
            tree = group.log.known
            if tree is None or group.repeats:
                self._start(self._write_alone(group))
                continue
            try:
                chained.append((group, *chain_on(group.log.tenant_id, tree, group.items)))
            except Exception as error:
                self._failed(group, error)
        if not chained:
            return
        try:
            outcomes = await self._store.append_all([append for _, append, _ in chained])
        except BaseException as error:
            for group, _, _ in chained:
                self._failed(group, error)
            if not isinstance(error, Exception):
                raise
            return
        for (group, _, tree), refused in zip(chained, outcomes, strict=True):
            if refused is None:
                group.log.grew(tree)
                group.settle([Verdict.STORED] * len(group.items))
                self._after(group.log)
            elif isinstance(refused, (HeadMoved, AuditIdsTaken)):
                if isinstance(refused, HeadMoved):
                    group.log.known = None
                self._start(self._write_alone(group))
            else:
                self._failed(group, refused)

    def _failed(self, group: Group, error: BaseException) -> None:
        group.fail(error)
        self._after(group.log)

    async def _write_alone(self, group: Group) -> None:
        try:
            await group.log.write_alone(group)
        finally:
            self._after(group.log)

    def _after(self, log: Log) -> None:
        """See to what came while a log was written."""
        if log.waits:
            self._make_ready(log)
        else:
            log.writing = False

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
        while self._tasks or self._ready:
            if self._tasks:
                await asyncio.wait(self._tasks)
            await asyncio.sleep(0)
