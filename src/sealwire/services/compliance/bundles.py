"""Makes bundles of evidence and export manifests out of a log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from sealwire.contracts.audit import EvidenceQuery, EvidenceTooLarge
from sealwire.contracts.audit_log import Checkpoint, ConsistencyQuery
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.problem import Invalid
from sealwire.services.compliance.audit import filter_of
from sealwire.services.compliance.bundle_file import (
    FORMAT,
    BundleHead,
    Exhibit,
    Later,
    Question,
    write_end,
    write_exhibit,
    write_head,
    write_later,
)
from sealwire.services.compliance.evidence import Evidence, size_of
from sealwire.services.compliance.log_tree import Tree
from sealwire.services.compliance.manifest import FORMAT as EXPORT_FORMAT
from sealwire.services.compliance.manifest import Manifest
from sealwire.services.compliance.ports import AuditStore, RecordFilter, StoredRecord
from sealwire.services.compliance.pruning import PRUNED_ACTION, Range, joined, kept_by, pruned_by, without
from sealwire.services.compliance.remains import PrunedRecord, line_or_damage

_PAGE = 256
_PAGE_OF_PRUNING = 16
"""Records of pruning are long."""


class Bundles:
    """Collects evidence."""

    def __init__(self, *, store: AuditStore, evidence: Evidence, clock: Clock, most_records: int) -> None:
        """A bundle holds `most_records` at most."""
        self._store = store
        self._evidence = evidence
        self._clock = clock
        self._most_records = most_records

    async def manifest(self, tenant_id: str, from_seq: int | None, to_seq: int | None) -> Manifest:
        """Return the manifest of an export over a range of the log as it is now; of a damaged one as it was signed last
        at `to_seq` or before. Raises: LogBroken when it never was, or there is no `to_seq`."""
        c, _ = await self._evidence.answer_for(tenant_id, from_seq or 1, to_seq)
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

    async def collect(self, tenant_id: str, query: EvidenceQuery) -> AsyncIterator[bytes]:
        """Return a bundle's file in parts, each made when it is asked for.

        Raises: EvidenceTooLarge when more records match than a bundle holds; LogBroken as `manifest` does, and where
        what is stored proves nothing any more; Invalid.
        """
        if query.to_seq is not None and query.to_seq < (query.from_seq or 1):
            raise Invalid("`to_seq` may not be below `from_seq`.", path="$.to_seq")
        checkpoint, tree = await self._evidence.answer_for(tenant_id, query.from_seq or 1, query.to_seq)
        last = min(query.to_seq or checkpoint.tree_size, checkpoint.tree_size)
        await self._refuse_too_many(tenant_id, query, last)
        head = self._head(tenant_id, query, checkpoint, last)
        if older := size_of(checkpoint.cosigned):
            proof = await self._consistency(tenant_id, older, checkpoint.tree_size, tree)
            head = msgspec.structs.replace(head, consistency=proof)
        if last:
            await self._evidence.prover(tenant_id, [last], checkpoint.tree_size, tree)  # refused before it begins
        return self._written(tenant_id, query, head, checkpoint, tree, last)

    async def _refuse_too_many(self, tenant_id: str, query: EvidenceQuery, last: int) -> None:
        count = 0 if not query.is_range else last - (query.from_seq or 1) + 1
        if not query.is_range:
            async for page in self._pages(tenant_id, query, last):
                count += len(page)
                if count > self._most_records:
                    break
        if count > self._most_records:
            raise EvidenceTooLarge(f"A bundle holds {self._most_records} records; ask for less.")

    async def _written(
        self, tenant_id: str, query: EvidenceQuery, head: BundleHead, under: Checkpoint, tree: Tree | None, last: int
    ) -> AsyncIterator[bytes]:
        yield write_head(head)
        size = under.tree_size
        gone: list[Range] = []
        first = True
        async for page in self._pages(tenant_id, query, last):
            parts: list[bytes] = []
            prove = await self._evidence.prover(tenant_id, [r.seq for r in page], size, tree)
            for record in page:
                parts.append(write_exhibit(_exhibit(record, prove(record.seq)), first=first))
                first = False
                await asyncio.sleep(0)
            gone = joined([*gone, *((r.seq, r.seq) for r in page if r.leaf)])
            if parts:
                yield b"".join(parts)
        if gone:  # perhaps since it began: by now the log says so of each, and a checkpoint covers what it says
            now = under if tree is not None else await self._evidence.answer(tenant_id)
            proof = await self._consistency(tenant_id, size, now.tree_size, tree)
            rotations = now.rotations[len(head.rotations) :]
            yield write_later(Later(checkpoint=now.checkpoint, consistency=proof, rotations=rotations), empty=first)
            first = True
            async for record in self._naming(tenant_id, gone, now.tree_size):
                prove = await self._evidence.prover(tenant_id, [record.seq], now.tree_size, tree)
                yield write_exhibit(_exhibit(record, prove(record.seq)), first=first)
                first = False
        yield write_end(empty=first)

    async def _consistency(self, tenant_id: str, older: int, newer: int, tree: Tree | None) -> list[str]:
        """Prove that the tree of one size continues that of another."""
        return (await self._evidence.consistency(tenant_id, ConsistencyQuery(from_=older, to=newer), tree)).hashes

    async def _naming(self, tenant_id: str, gone: Sequence[Range], size: int) -> AsyncIterator[StoredRecord]:
        """Yield the newest records of pruning that name these records, as few as do."""
        wanted = RecordFilter(action=PRUNED_ACTION)
        seqs: list[int] = []
        after: int | None = 0
        while after is not None:
            found = await self._store.search(tenant_id, wanted, after_seq=after, limit=_PAGE_OF_PRUNING)
            seqs += [r.seq for r in found.records if r.seq <= size]
            after = found.looked_up_to
            await asyncio.sleep(0)
        left = list(gone)
        while left and seqs:
            record = (await self._store.records(tenant_id, seqs.pop(), 1))[0]
            left = without(left, joined(kept_by(record.body)))  # no older one vouches for what this one takes back
            rest = without(left, joined(pruned_by(record.body)))
            if rest != left:
                yield record
            left = rest
            await asyncio.sleep(0)

    def _head(self, tenant_id: str, query: EvidenceQuery, c: Checkpoint, last: int) -> BundleHead:
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
        )

    async def _pages(self, tenant_id: str, query: EvidenceQuery, last: int) -> AsyncIterator[Sequence[StoredRecord]]:
        """Yield the records asked for, some at a time."""
        at = (query.from_seq or 1) - 1
        while at < last:
            if query.is_range:
                count = min(_PAGE, last - at)
                yield await self._store.records(tenant_id, at + 1, count)
                at += count
            else:
                found = await self._store.search(tenant_id, filter_of(query), after_seq=at, limit=_PAGE)
                yield [r for r in found.records if r.seq <= last]
                at = last if found.looked_up_to is None else found.looked_up_to
            await asyncio.sleep(0)


def _exhibit(record: StoredRecord, proof: list[str]) -> Exhibit:
    if record.leaf:
        return Exhibit(pruned=PrunedRecord(record.hash, record.leaf.hex(), record.seq), proof=proof)
    return Exhibit(record=msgspec.Raw(line_or_damage(record.body, record.hash, record.seq)), proof=proof)
