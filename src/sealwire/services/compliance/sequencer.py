"""The sequencer: the one writer of every tenant's log. It gives `seq` and chains, from heads it holds in memory.

What arrives while a group is written waits and goes together in the next one. A head moves only when the store has
confirmed the group; whenever it has not, the head is forgotten and read anew. The store checks the head again inside
its transaction, so a wrong belief costs a retry and never a fork.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from sealwire.contracts.audit_log import LogBroken
from sealwire.resilience import deadline
from sealwire.services.compliance.log_tree import Tree, chain_on
from sealwire.services.compliance.parking import Parking
from sealwire.services.compliance.ports import AuditIdsTaken, AuditStore, HeadMoved, LogAppend, LogUnreadable
from sealwire.services.compliance.sealing import Intake
from sealwire.services.compliance.tenant_log import Batch, Group, Log, Outcome, Same, Verdict

ROUND_RECORDS = 1_024
"""How many records are chained and written before the loop sees to others."""


class Logs:
    """The logs of all tenants; those idle longest leave memory when there are more than `in_memory`."""

    def __init__(
        self,
        *,
        store: AuditStore,
        parking: Parking,
        same: Same,
        group_records: int,
        waiting_records: int,
        in_memory: int,
        grown: Callable[[str], None] = lambda tenant_id: None,
    ) -> None:
        """`grown` is told the tenant whose log has new records, durable by then."""
        self._store = store
        self._parking = parking
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
        batch = Batch(len(by_tenant))
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
            if tree is None or group.log.parked or group.is_odd:
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
            elif isinstance(refused, (HeadMoved, AuditIdsTaken, LogUnreadable)):
                if not isinstance(refused, AuditIdsTaken):
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
        if log.waits or (log.parked and log.due):
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
                parking=self._parking,
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
                if log.idle and not log.broken and not log.parked:
                    del self._logs[tenant_id]

    @property
    def broken(self) -> list[str]:
        """The tenants whose logs can't be continued, or are not yet with all that waits beside them."""
        return [tenant_id for tenant_id, log in self._logs.items() if log.broken or log.parked]

    def park(self, tenants: Iterable[str]) -> None:
        """Have what comes of these tenants wait behind what waits already beside their logs."""
        for tenant_id in tenants:
            self.of(tenant_id).parked = True

    async def require_whole(self, tenant_id: str) -> None:
        """Raises: LogBroken when the log can't be continued, or not before what waits beside it."""
        log = self.of(tenant_id)
        await log.tree()
        if log.parked:
            raise LogBroken("Records wait beside the audit log; they go first.")

    def try_parked(self) -> None:
        """Look whether the logs beside which records wait are whole again, and put those into them."""
        for log in [log for log in self._logs.values() if log.parked]:
            log.due = True
            if not log.writing:
                self._make_ready(log)

    async def settle(self) -> None:
        """Wait until nothing is being written."""
        while self._tasks or self._ready:
            if self._tasks:
                await asyncio.wait(self._tasks)
            await asyncio.sleep(0)
