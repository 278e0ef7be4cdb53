"""One tenant's log: what waits for its place in it, and how that is written.

What comes for a log that is damaged is parked beside it (see `parking`), and goes into it in its order when it is whole
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import NamedTuple

from sealwire.contracts.audit_log import LogBroken
from sealwire.kit.problem import Unavailable
from sealwire.resilience import deadline
from sealwire.services.compliance.log_tree import Tree, chain_on, grow_from
from sealwire.services.compliance.parking import Parking
from sealwire.services.compliance.ports import AuditIdsTaken, AuditStore, HeadMoved, LogUnreadable, StoredRecord
from sealwire.services.compliance.pruning import PRUNED_ACTION
from sealwire.services.compliance.sealing import Intake, same_entry
from sealwire.services.compliance.stored_tree import require_signed

_log = logging.getLogger("sealwire.compliance")
_ATTEMPTS = 8
_STEPS_A_TURN = 8
"""How many times 256 parked records go into their log before what came meanwhile is parked behind the others."""
_OTHER_TYPES = (TypeError, ValueError, LookupError, AttributeError)
"""What is raised where stored values aren't of the kind that was stored: whoever writes the file can do that."""
Same = Callable[[Intake, StoredRecord], Awaitable[bool]]


class Verdict(Enum):
    """What became of an entry."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    PARKED = "parked"
    """As durable, and of a log that is damaged: it goes into it when that is whole again."""


Outcome = Sequence[Verdict] | Exception
Put = Callable[[list[Intake], list[int], list[Verdict]], Awaitable[None]]
Unknown = Callable[[list[Intake], list[int], list[Verdict]], Awaitable[list[int]]]


class Batch:
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


class Waiting(NamedTuple):
    """The entries of a batch for one log: they are its `at`-th."""

    items: Sequence[Intake]
    batch: Batch
    at: int


class Log:
    """One tenant's log. For one event loop."""

    __slots__ = (
        "_announced", "_group_records", "_grown", "_loading", "_parking", "_pending", "_pending_records", "_same",
        "_store", "_waiting_records", "broken", "due", "known", "parked", "tenant_id", "writing",
    )  # fmt: skip

    def __init__(
        self,
        *,
        tenant_id: str,
        store: AuditStore,
        parking: Parking,
        same: Same,
        group_records: int,
        waiting_records: int,
        grown: Callable[[str], None],
    ) -> None:
        self.tenant_id = tenant_id
        self._grown = grown
        self._store = store
        self._parking = parking
        self._same = same
        self._group_records = group_records
        self._waiting_records = waiting_records
        self._pending: deque[Waiting] = deque()
        self._pending_records = 0
        self._loading: asyncio.Task[Tree] | None = None
        self.known: Tree | None = None
        """The log as it is now, durable; None when it has to be read."""
        self.writing = False
        """Whether a group is written, or about to be: one at a time."""
        self.broken = False
        """Whether it could not be continued when it was looked at last."""
        self.parked = False
        """Whether records wait beside it: then those that come wait behind them."""
        self.due = False
        """Whether it is to be tried again."""
        self._announced = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is being written."""
        return not self.writing and not self._pending

    @property
    def waits(self) -> bool:
        """Whether entries wait for the next group."""
        return bool(self._pending)

    def queue(self, items: Sequence[Intake], batch: Batch, at: int) -> None:
        """Have entries wait for their place. Raises: Unavailable when too many wait."""
        if self._pending_records + len(items) > self._waiting_records and self._pending:
            raise Unavailable("Too many audit records wait for the disk.")
        self._pending.append(Waiting(items, batch, at))
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
            last = await self._store.last_checkpoint(self.tenant_id)
            await require_signed(self._store, self.tenant_id, tree, last)
            self.broken = False
            if self.known is None:
                self.known = tree
            return self.known
        except LogBroken:
            self.broken = True
            raise
        except (LogUnreadable, *_OTHER_TYPES) as error:
            self.broken = True
            raise LogBroken("The audit log can't be read; run its verification.") from error
        finally:
            self._loading = None

    def take(self) -> Group:
        """Take the batches of one group: all that wait, up to about `group_records`."""
        group: list[Waiting] = []
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
            verdicts = await self._store_or_park(group.items)
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

    async def _store_or_park(self, items: list[Intake]) -> list[Verdict]:
        if self.due:
            self.due = False
            await self._resume()
        if not self.parked and any(item.parks for item in items):
            _log.error("records of %s wait beside its audit log: its keys are damaged", self.tenant_id)
            self.parked = True
        if not self.parked:
            try:
                return await self._store_items(items)
            except (LogBroken, LogUnreadable, *_OTHER_TYPES) as error:
                _log.error("the audit log of %s can't be continued, its records wait: %r", self.tenant_id, error)
                self.parked = True
                self.known = None
        if any(item.entry.action == PRUNED_ACTION for item in items):
            raise LogBroken("The audit log is damaged: what it says is pruned can't be said later.")
        return await self._each_once(items, self._park_fresh, self._not_parked)

    async def _resume(self) -> None:
        """Put what was parked behind the log, in its order, if the log can be continued again; some of it at a time."""
        parking, tenant_id = self._parking, self.tenant_id
        try:
            await self.tree()
            for _ in range(_STEPS_A_TURN):
                up_to, items = await parking.first(tenant_id)
                if not items:
                    self.parked = self.due = self._announced = False
                    _log.warning("the audit log of %s goes on, with all that waited", tenant_id)
                    return
                if not self._announced:
                    await self._store_items(await parking.announcement(tenant_id))
                    self._announced = True
                verdicts = await self._store_items(items)
                conflicts = [item for item, v in zip(items, verdicts, strict=True) if v is Verdict.CONFLICT]
                await self._store_items(await parking.alarms(tenant_id, conflicts))
                await parking.remove(tenant_id, up_to, len(items))
            self.due = True
        except LogBroken:
            self._announced = False
        except Exception as error:
            self.known, self._announced = None, False
            _log.error("records wait beside the audit log of %s: %r", tenant_id, error)

    async def _store_items(self, items: list[Intake]) -> list[Verdict]:
        """Store what isn't stored yet; return a verdict for each item."""
        return await self._each_once(items, self._store_fresh, self._unstored)

    async def _each_once(self, items: list[Intake], put: Put, unknown: Unknown) -> list[Verdict]:
        """Put what isn't there yet; return a verdict for each item."""
        verdicts = [Verdict.STORED] * len(items)
        first = _firsts(items)
        await put(items, list(first.values()), verdicts)
        for i, item in enumerate(items) if len(first) < len(items) else ():
            at = first[item.entry.audit_id]
            if i == at:
                continue
            verdicts[i] = Verdict.DUPLICATE if same_entry(items[at].entry, item.entry) else Verdict.CONFLICT
            if verdicts[at] is Verdict.CONFLICT:  # it says nothing of what is stored
                await unknown(items, [i], verdicts)
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

    async def _park_fresh(self, items: list[Intake], fresh: list[int], verdicts: list[Verdict]) -> None:
        """Park those of `fresh` that aren't parked yet; correct the verdicts. Which the log has is seen later."""
        if left := await self._not_parked(items, fresh, verdicts):
            await self._parking.park(self.tenant_id, [items[i] for i in left])
            for i in left:
                verdicts[i] = Verdict.PARKED

    async def _not_parked(self, items: list[Intake], fresh: list[int], verdicts: list[Verdict]) -> list[int]:
        """Return those of `fresh` that don't wait beside the log; the others are duplicates or conflicts."""
        parked = await self._parking.find(self.tenant_id, [items[i].entry.audit_id for i in fresh])
        left = []
        for i in fresh:
            body = parked.get(items[i].entry.audit_id)
            if body is None:
                left.append(i)
                continue
            same = await self._same(items[i], StoredRecord(0, "", body))
            verdicts[i] = Verdict.DUPLICATE if same else Verdict.CONFLICT
        return left


class Group:
    """Batches that are written together to one log, in their order."""

    __slots__ = ("_waiting", "items", "log")

    def __init__(self, log: Log, waiting: Sequence[Waiting]) -> None:
        self.log = log
        self._waiting = waiting
        self.items = list(waiting[0].items) if len(waiting) == 1 else [i for some in waiting for i in some.items]

    @property
    def is_odd(self) -> bool:
        """Whether an audit id is in it twice, or an entry that is to wait."""
        items = self.items
        return len({item.entry.audit_id for item in items}) < len(items) or any(item.parks for item in items)

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
