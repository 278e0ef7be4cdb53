"""Compliance's own part of a person's rights: consents, restrictions, earlier jobs, what the log says of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from sealwire.contracts.custody import (
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectFindings,
    SubjectItem,
    SubjectItems,
    SubjectProbe,
    SubjectQuery,
    SubjectRectified,
    SubjectRestriction,
    require_custodian,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import rfc3339
from sealwire.kit.cursors import read_number
from sealwire.kit.problem import Invalid
from sealwire.services.compliance.job_ports import RightsStore, StoredJob
from sealwire.services.compliance.parking_ports import ParkingStore
from sealwire.services.compliance.ports import AuditStore, ConsentStore, RecordFilter, StoredRecord
from sealwire.services.compliance.sealing import Sealer

_PHASES: Final = ("consents", "jobs", "parked", "records")
_OF_THE_LOG: Final = frozenset({"seq", "hash", "prev_hash"})
"""What a record has only once it is in the log."""
_DAMAGED: Final = (ValueError, TypeError, RecursionError)
"""What reading a row raises that was changed on the disk: under no hash yet, it may hold anything."""
_Page = tuple[list[SubjectItem], str]


class OwnCustody:
    """`SubjectCustody` of compliance itself."""

    def __init__(
        self,
        *,
        store: RightsStore,
        consents: ConsentStore,
        audit: AuditStore,
        parking: ParkingStore,
        sealer: Sealer,
        end_job: Callable[[StoredJob], Awaitable[bool]],
    ) -> None:
        """`end_job` stops working on a job, destroys its key and its archive, and says whether there was one."""
        self._store = store
        self._consents = consents
        self._audit = audit
        self._parking = parking
        self._sealer = sealer
        self._end_job = end_job

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        """See `SubjectCustody`: consents, jobs, and what audit records say the person did, in the log or beside it."""
        tenant_id = require_custodian(caller)
        phase, _, after = (query.cursor or "consents:0").partition(":")
        if phase not in _PHASES:
            raise Invalid("Give a `next_cursor` as it was.", path="$.cursor")
        place = read_number(after)
        read = {
            "consents": self._consents_page,
            "jobs": self._jobs_page,
            "parked": self._parked_page,
            "records": self._records_page,
        }[phase]
        items, cursor = await read(tenant_id, subject_id, place, query.limit)
        return SubjectItems(items=items, next_cursor=cursor or None)

    async def _consents_page(self, tenant_id: str, subject_id: str, after: int, limit: int) -> _Page:
        found = await self._consents.history(tenant_id, subject_id, after=after, limit=limit)
        items = []
        for number, consent in found:
            data: dict[str, Any] = msgspec.to_builtins(consent)
            items.append(SubjectItem(kind="consent", resource_id=str(number), at=consent.given_at, data=data))
        return items, f"consents:{found[-1][0]}" if len(found) == limit else "jobs:0"

    async def _jobs_page(self, tenant_id: str, subject_id: str, after: int, limit: int) -> _Page:
        jobs = sorted(await self._store.of_subject(tenant_id, subject_id), key=lambda job: job.job_id)
        items = [
            SubjectItem(
                kind="request", resource_id=job.job_id, at=rfc3339(job.requested_us),
                data={"kind": job.kind, "status": job.status, "requested_by": job.requested_by},
            )
            for job in jobs[after : after + limit]
        ]  # fmt: skip
        return items, f"jobs:{after + limit}" if len(jobs) > after + limit else "parked:0"

    async def _parked_page(self, tenant_id: str, subject_id: str, after: int, limit: int) -> _Page:
        """Read what waits beside a damaged log (ADR 31) before the log: what goes into it meanwhile is told twice."""
        items = []
        up_to, waiting = await self._parked(tenant_id, subject_id, after, limit)
        for stored in waiting:
            try:
                data: dict[str, Any] = msgspec.to_builtins(await self._sealer.show(stored))
            except _DAMAGED:
                continue
            data = {name: value for name, value in data.items() if name not in _OF_THE_LOG} | {"waits": True}
            audit_id, at = data["audit_id"], data["created_at"]
            items.append(SubjectItem(kind="audit_record", resource_id=audit_id, at=at, data=data))
        return items, f"parked:{up_to}" if up_to else "records:0"

    async def _parked(
        self, tenant_id: str, subject_id: str, after: int, limit: int
    ) -> tuple[int, Sequence[StoredRecord]]:
        """Return the person's among the next records that wait, and where the next begin; 0 when there are no more."""
        up_to, records = await self._parking.first(tenant_id, limit, after=after)
        found = []
        for record in records:
            with suppress(*_DAMAGED):  # nobody can say whose it is
                entry = self._sealer.reopen(record.body, record.created_us).entry
                if (entry.tenant_id, entry.audit_id, entry.actor.id) == (tenant_id, record.audit_id, subject_id):
                    found.append(StoredRecord(0, "", record.body))
        return up_to, found

    async def _records_page(self, tenant_id: str, subject_id: str, after: int, limit: int) -> _Page:
        wanted = RecordFilter(actor=subject_id)
        found = await self._audit.search(tenant_id, wanted, after_seq=after, limit=limit)
        items = []
        for stored in found.records:
            record = await self._sealer.show(stored)
            data: dict[str, Any] = msgspec.to_builtins(record)
            items.append(SubjectItem(kind="audit_record", resource_id=record.audit_id, at=record.created_at, data=data))
        return items, "" if found.looked_up_to is None else f"records:{found.looked_up_to}"

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        """See `SubjectCustody`. Audit records stay; the keys of what is personal in them go at the job's end."""
        tenant_id = require_custodian(caller)
        if erasure.check_only:
            return SubjectErased(done=False)
        exports = 0
        for job in await self._store.of_subject(tenant_id, subject_id):
            if job.job_id != erasure.job_id and (job.archive is not None or not job.finished):
                exports += await self._end_job(job)
        boxes = await self._store.empty_boxes(tenant_id, subject_id, but=erasure.job_id)
        forgotten = await self._store.forget_subject(tenant_id, subject_id, erasure.limit)
        erased = {"consent": forgotten, "export": exports, "request": boxes}
        return SubjectErased(
            done=forgotten < erasure.limit, erased={kind: count for kind, count in erased.items() if count}
        )

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        """See `SubjectCustody`. A log is not rewritten: its records say what was known when they were written."""
        require_custodian(caller)
        return SubjectRectified()

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        """See `SubjectCustody`. The book of restrictions is kept by `Rights` itself."""
        require_custodian(caller)

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        """See `SubjectCustody`."""
        tenant_id = require_custodian(caller)
        books = await self._store.count_subject(tenant_id, subject_id)
        files = await self._store.count_in_files([word.encode() for word in probe.words])
        return SubjectFindings(
            places={"books": books, "files": files, "records": await self._readable(tenant_id, subject_id)}
        )

    async def _readable(self, tenant_id: str, subject_id: str) -> int:
        """Return how many of the person's newest records still show something personal, once they are erased."""
        if (tenant_id, subject_id) not in self._sealer.forgotten:
            return 0
        readable, after, place = 0, 0, 0
        while (waiting := await self._parked(tenant_id, subject_id, place, 200))[0]:
            place = waiting[0]
            for stored in waiting[1]:
                with suppress(*_DAMAGED):
                    readable += await self._sealer.is_readable(stored, subject_id)
        wanted = RecordFilter(actor=subject_id)
        while True:
            found = await self._audit.search(tenant_id, wanted, after_seq=after, limit=200)
            for stored in found.records:
                readable += await self._sealer.is_readable(stored, subject_id)
            if found.looked_up_to is None:
                return readable
            after = found.looked_up_to
