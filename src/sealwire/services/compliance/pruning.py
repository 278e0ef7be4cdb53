"""Pruning (R4.6): records past their time leave the log, their hashes stay, so chain, tree and proofs still verify.

Before records leave, the log itself says which: a record `audit.pruned` names all that are gone, ranges of `seq` from
the first on. So verification tells a pruned record from one that somebody took out. A legal hold that comes between the
two wins: the record stays, and another `audit.pruned` says so (`kept`): the first one's word is good for nothing then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from sealwire.contracts.audit_log import Accepted, Actor, AuditBatch, AuditEntry, LogBroken
from sealwire.contracts.compliance_terms import SERVICE
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.ids import new_id
from sealwire.services.compliance.chain import Record, read_record
from sealwire.services.compliance.ports import AuditStore, PruneCount, RecordFilter
from sealwire.services.compliance.sealing import day_scope

PRUNED_ACTION = "audit.pruned"
PRUNED_START = b'{"action":"audit.pruned",'
"""How the canonical bytes of a record of pruning begin."""
RECORDS_A_WRITE = 256
_RANGES_A_RECORD = 2_000
_DAY_US: Final = 86_400 * US_PER_S
_read_metadata = msgspec.json.Decoder(dict[str, Any]).decode
Append = Callable[[Caller, AuditBatch], Awaitable[Accepted]]
DestroyKeys = Callable[[str, str], Awaitable[object]]
"""Of tenant and scope."""
Range = tuple[int, int]


def concerns(record: Record) -> set[str]:
    """Return the ids of persons and conversations that a record is about: what a legal hold can cover."""
    found = {record.actor.id, record.resource_id}
    for name, value in _read_metadata(record.metadata).items():
        if type(value) is dict:
            found.add(value.get("of", ""))
        elif type(value) is str and name.endswith("_id"):
            found.add(value)
    found.discard("")
    return found


def ranges_of(seqs: Iterable[int]) -> list[Range]:
    """Return numbers as ranges, both ends included, in order."""
    ranges: list[Range] = []
    for seq in sorted(set(seqs)):
        if ranges and ranges[-1][1] == seq - 1:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    return ranges


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges in order, joined where they touch or overlap."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def without(ranges: Sequence[Range], taken: Sequence[Range]) -> list[Range]:
    """Return what of `ranges` lies outside of `taken`; both in order and joined."""
    left: list[Range] = []
    i = 0
    for first, last in ranges:
        at = first
        while i < len(taken) and taken[i][1] < at:
            i += 1
        j = i
        while j < len(taken) and taken[j][0] <= last:
            if taken[j][0] > at:
                left.append((at, taken[j][0] - 1))
            at = taken[j][1] + 1
            j += 1
        i = max(i, j - 1)
        if at <= last:
            left.append((at, last))
    return left


def write_ranges(ranges: Sequence[Range]) -> str:
    """Write ranges as `1-500,502`."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def read_ranges(text: str) -> list[Range]:
    """Read what `write_ranges` wrote. Raises: ValueError."""
    found: list[Range] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.append((int(first), int(last or first)))
    return found


def pruned_by(body: bytes) -> list[Range]:
    """Return which records before it a record of pruning says are gone; none for any other record."""
    return _named(body, "pruned")


def kept_by(body: bytes) -> list[Range]:
    """Return which records before it a record of pruning says are there after all; none for any other record."""
    return _named(body, "kept")


def _named(body: bytes, member: str) -> list[Range]:
    try:
        record = read_record(body)
        if (record.action, record.actor.type, record.actor.id) != (PRUNED_ACTION, "service", SERVICE):
            return []
        named = read_ranges(str(_read_metadata(record.metadata).get(member, "")))
        return [(first, min(last, record.seq - 1)) for first, last in named if first < record.seq]
    except (ValueError, msgspec.MsgspecError):
        return []


def gone_by(said: Iterable[tuple[Sequence[Range], Sequence[Range]]]) -> list[Range]:
    """Return which are gone by what records of pruning say, in their order: which are gone, which there after all."""
    gone: list[Range] = []
    for pruned, kept in said:
        gone += pruned
        if kept:
            gone = without(joined(gone), joined(kept))
    return joined(gone)


class DueRecord(msgspec.Struct, frozen=True):
    """A record past its time; `held` when a legal hold covers somebody it is about."""

    seq: int
    created_us: int
    held: bool


class Pruning:
    """What the retention engine asks of the log."""

    def __init__(
        self,
        *,
        store: AuditStore,
        append: Append,
        require_whole: Callable[[str], Awaitable[None]],
        destroy_keys: DestroyKeys,
        clock: Clock,
    ) -> None:
        """`append` stores records of compliance's own; `require_whole` raises LogBroken for a log that is damaged or
        beside which records wait; `destroy_keys` destroys those of the day keys of a tenant."""
        self._store = store
        self._append = append
        self._require_whole = require_whole
        self._destroy_keys = destroy_keys
        self._clock = clock

    async def due(self, tenant_id: str, *, before_us: int, after_seq: int, limit: int) -> list[DueRecord]:
        """Return up to `limit` records above `after_seq` that are older than a time, in `seq` order."""
        found = await self._store.due(tenant_id, before_us=before_us, after_seq=after_seq, limit=limit)
        return [DueRecord(seq, created_us, held) for seq, created_us, held in found]

    async def prune(self, tenant_id: str, seqs: Collection[int], *, run_id: str) -> PruneCount:
        """Take these records out of the log; idempotent. What a hold covers stays, and so do all hashes.

        First the log says that they go, then they go: after a crash call it again, with the same records; then it
        counts what went before the crash too. Of those that a hold kept which came between, it says so behind.
        Raises: LogBroken.
        """
        size = (await self._store.head(tenant_id)).size
        wanted = {seq for seq in seqs if 1 <= seq <= size}
        there = await self._store.prunable(tenant_id, wanted)
        if there:
            await self._say(tenant_id, there, run_id)
        pruned = await self._store.prune(tenant_id, sorted(set(seqs)), run_id=run_id, at_us=self._clock.now_us())
        if pruned.held:
            await self._take_back(tenant_id, wanted, run_id)
        await self._end_days(tenant_id, seqs)
        return pruned

    async def _end_days(self, tenant_id: str, seqs: Collection[int]) -> None:
        """Destroy the keys of days of which no record is left (R4.5): what nobody is known by is in copies too."""
        for day in await self._store.days(tenant_id, seqs):
            begins_us = day * _DAY_US
            ends_us = begins_us + _DAY_US
            for after in (max(seqs), 0):  # most often the next record is of that day
                if await self._store.kept_between(tenant_id, begins_us, ends_us, after_seq=after):
                    break
            else:
                await self._require_whole(tenant_id)  # what waits beside it may be of that day
                await self._destroy_keys(tenant_id, day_scope(rfc3339(begins_us)))

    async def _say(self, tenant_id: str, seqs: Collection[int], run_id: str) -> None:
        gone = joined([*await self._said(tenant_id), *ranges_of(seqs)])
        parts = [gone[start : start + _RANGES_A_RECORD] for start in range(0, len(gone), _RANGES_A_RECORD)]
        await self._tell(tenant_id, run_id, [{"pruned": write_ranges(part), "count": len(seqs)} for part in parts])

    async def _take_back(self, tenant_id: str, seqs: Collection[int], run_id: str) -> None:
        """Say of those records that the log says are gone and that are there, that they are; once."""
        said = ranges_of(seqs)
        left = deque(_each(without(said, without(said, await self._said(tenant_id)))))
        kept: list[int] = []
        while left:
            records = await self._store.records(tenant_id, left[0], RECORDS_A_WRITE)
            there = {record.seq for record in records if record.body}
            end = left[0] + RECORDS_A_WRITE
            while left and left[0] < end:
                if (seq := left.popleft()) in there:
                    kept.append(seq)
        if kept:
            await self._tell(tenant_id, run_id, [{"pruned": "", "count": 0, "kept": write_ranges(ranges_of(kept))}])

    async def _tell(self, tenant_id: str, run_id: str, what: Iterable[dict[str, str | int]]) -> None:
        records = [
            AuditEntry(
                audit_id=new_id(),
                tenant_id=tenant_id,
                actor=Actor(type="service", id=SERVICE),
                action=PRUNED_ACTION,
                resource_type="audit_record",
                resource_id=run_id,
                metadata={**metadata},
                created_at_us=self._clock.now_us(),
            )
            for metadata in what
        ]
        if (await self._append(service_caller(SERVICE, tenant_id), AuditBatch(records=records))).parked:
            raise LogBroken("The audit log is damaged: nothing is pruned that it can't name.")

    async def _said(self, tenant_id: str) -> list[Range]:
        """Return what the log says is gone: by its own records alone, so that nobody else's pruning is taken over."""
        said: list[tuple[list[Range], list[Range]]] = []
        after: int | None = 0
        while after is not None:
            found = await self._store.search(
                tenant_id, RecordFilter(action=PRUNED_ACTION), after_seq=after, limit=RECORDS_A_WRITE
            )
            said += [(pruned_by(record.body), kept_by(record.body)) for record in found.records]
            after = found.looked_up_to
        return gone_by(said)


def _each(ranges: Iterable[Range]) -> Iterable[int]:
    return (seq for first, last in ranges for seq in range(first, last + 1))
