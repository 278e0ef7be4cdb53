"""Makes bundles of evidence and export manifests out of a log."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Sequence

import msgspec

from sealwire.contracts.audit import EvidenceQuery, EvidenceTooLarge
from sealwire.contracts.audit_log import Checkpoint, ConsistencyQuery, InclusionQuery
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.problem import Invalid
from sealwire.services.compliance.audit import filter_of
from sealwire.services.compliance.bundle import FORMAT, BundleHead, Exhibit, Question
from sealwire.services.compliance.chain import line_of
from sealwire.services.compliance.evidence import Evidence
from sealwire.services.compliance.manifest import FORMAT as EXPORT_FORMAT
from sealwire.services.compliance.manifest import Manifest
from sealwire.services.compliance.notes import parse_checkpoint, parse_note
from sealwire.services.compliance.ports import AuditStore, RecordFilter, StoredRecord
from sealwire.services.compliance.pruning import PRUNED_ACTION, pruned_by
from sealwire.services.compliance.remains import PrunedRecord

MAX_RECORDS = 10_000
MAX_BYTES = 64 * 1024 * 1024
_PAGE = 256


class Bundles:
    """Collects evidence."""

    def __init__(self, *, store: AuditStore, evidence: Evidence, clock: Clock) -> None:
        self._store = store
        self._evidence = evidence
        self._clock = clock

    async def manifest(self, tenant_id: str, from_seq: int | None, to_seq: int | None) -> Manifest:
        """Return the manifest of an export over a range of the log as it is now."""
        c = await self._evidence.answer(tenant_id)
        return Manifest(
            format=EXPORT_FORMAT,
            origin=self._evidence.origin(tenant_id),
            tenant_id=tenant_id,
            from_seq=from_seq or 1,
            to_seq=min(to_seq or c.tree_size, c.tree_size),
            tree_size=c.tree_size,
            made_at=rfc3339(self._clock.now_us()),
            checkpoint=c.checkpoint,
            public_key=c.public_key,
            first_key=c.first_key,
            rotations=c.rotations,
            cosigned=c.cosigned,
        )

    async def collect(self, tenant_id: str, query: EvidenceQuery) -> tuple[BundleHead, AsyncIterator[Exhibit]]:
        """Return a bundle's head, and its exhibits one by one.

        Raises: EvidenceTooLarge past 10,000 records or 64 MiB; Invalid.
        """
        if query.to_seq is not None and query.to_seq < (query.from_seq or 1):
            raise Invalid("`to_seq` is not below `from_seq`.", path="$.to_seq")
        checkpoint = await self._evidence.answer(tenant_id)
        last = min(query.to_seq or checkpoint.tree_size, checkpoint.tree_size)
        records = await self._find(tenant_id, query, last)
        gone = [r.seq for r in records if r.leaf]
        if gone:  # perhaps just now: by then the log says so, and this checkpoint covers what it says
            checkpoint = await self._evidence.answer(tenant_id)
        size = checkpoint.tree_size
        pruning = [e async for e in self._exhibits(tenant_id, size, await self._said_of(tenant_id, gone, size))]
        head = self._head(tenant_id, query, checkpoint, last, pruning)
        head = msgspec.structs.replace(head, consistency=await self._consistency(tenant_id, checkpoint))
        return head, self._exhibits(tenant_id, size, records)

    async def _consistency(self, tenant_id: str, c: Checkpoint) -> list[str]:
        """Prove that the checkpoint continues the one that a witness cosigned."""
        if not c.cosigned:
            return []
        older = parse_checkpoint(parse_note(c.cosigned).text).size
        if not older:
            return []
        return (await self._evidence.consistency(tenant_id, ConsistencyQuery(from_=older, to=c.tree_size))).hashes

    async def _said_of(self, tenant_id: str, gone: Sequence[int], size: int) -> list[StoredRecord]:
        """Return the newest records of pruning that name these records, as few as do."""
        named: dict[int, int] = {}
        after: int | None = 0 if gone else None
        while after is not None:
            wanted = RecordFilter(action=PRUNED_ACTION)
            found = await self._store.search(tenant_id, wanted, after_seq=after, limit=_PAGE)
            for record in found.records:
                for first, end in pruned_by(record.body) if record.seq <= size else ():
                    for seq in gone[bisect_left(gone, first) : bisect_right(gone, end)]:
                        named[seq] = record.seq
            after = found.looked_up_to
            await asyncio.sleep(0)
        return [(await self._store.records(tenant_id, seq, 1))[0] for seq in sorted(set(named.values()))]

    def _head(
        self, tenant_id: str, query: EvidenceQuery, c: Checkpoint, last: int, pruning: list[Exhibit]
    ) -> BundleHead:
        asked = msgspec.to_builtins(query)
        asked = {name: asked[name] for name in asked if name not in {"from_seq", "to_seq", "tenant_id"}}
        filters = {name: str(value) for name, value in asked.items() if value is not None}
        return BundleHead(
            format=FORMAT,
            origin=self._evidence.origin(tenant_id),
            tenant_id=tenant_id,
            made_at=rfc3339(self._clock.now_us()),
            question=Question(from_seq=query.from_seq or 1, to_seq=last, filters=filters),
            checkpoint=c.checkpoint,
            public_key=c.public_key,
            first_key=c.first_key,
            rotations=c.rotations,
            cosigned=c.cosigned,
            pruning=pruning,
        )

    async def _find(self, tenant_id: str, query: EvidenceQuery, last: int) -> list[StoredRecord]:
        found: list[StoredRecord] = []
        size_bytes = 0
        at = (query.from_seq or 1) - 1
        while at < last:
            page, at = await self._page(tenant_id, query, at, last)
            found += [r for r in page if r.seq <= last]
            size_bytes += sum(len(r.body) for r in page)
            if len(found) > MAX_RECORDS or size_bytes > MAX_BYTES:
                raise EvidenceTooLarge(f"A bundle holds {MAX_RECORDS} records and {MAX_BYTES} bytes; ask for less.")
            await asyncio.sleep(0)
        return found

    async def _page(
        self, tenant_id: str, query: EvidenceQuery, at: int, last: int
    ) -> tuple[Sequence[StoredRecord], int]:
        """Return records above `at`, and up to where was looked."""
        if query.is_range:
            count = min(_PAGE, last - at)
            return await self._store.records(tenant_id, at + 1, count), at + count
        found = await self._store.search(tenant_id, filter_of(query), after_seq=at, limit=_PAGE)
        return found.records, last if found.looked_up_to is None else found.looked_up_to

    async def _exhibits(
        self, tenant_id: str, tree_size: int, records: Sequence[StoredRecord]
    ) -> AsyncIterator[Exhibit]:
        for record in records:
            question = InclusionQuery(seq=record.seq, tree_size=tree_size)
            proof = (await self._evidence.inclusion(tenant_id, question)).hashes
            if record.leaf:
                pruned = PrunedRecord(record.hash, record.leaf.hex(), record.seq)
                yield Exhibit(pruned=pruned, proof=proof)
            else:
                yield Exhibit(record=msgspec.Raw(line_of(record.body, record.hash)), proof=proof)
            await asyncio.sleep(0)
