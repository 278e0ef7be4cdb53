"""Putting a person's data right: one service after another, each with its receipt."""

from __future__ import annotations

from msgspec.structs import replace

from sealwire.contracts.custody import SubjectChanges
from sealwire.contracts.gdpr import Receipt
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.services.compliance.boxes import Boxes
from sealwire.services.compliance.certificates import SERVICE
from sealwire.services.compliance.erasures import ORDER, Custodians
from sealwire.services.compliance.events import job_event
from sealwire.services.compliance.job_ports import RightsStore, StoredJob


class Rectifications:
    """Runs rectification jobs."""

    def __init__(self, *, store: RightsStore, boxes: Boxes, custodians: Custodians, clock: Clock) -> None:
        self._store = store
        self._boxes = boxes
        self._custodians = custodians
        self._clock = clock

    async def run(self, job: StoredJob) -> StoredJob:
        """Take a job up where it stands and bring it to its end. Raises: EmailTaken, Unavailable."""
        box = await self._boxes.open(job)
        changes = SubjectChanges(
            job_id=job.job_id, email=box.email, display_name=box.display_name, spares_owners=box.spares_owners
        )
        caller = service_caller(SERVICE, job.tenant_id)
        there = self._custodians()
        names = [name for name in ORDER if name in there]
        done = {receipt.service for receipt in job.receipts}
        for name in names:
            if name in done:
                continue
            answer = await there[name].rectify_subject(caller, job.subject_id, changes)
            at = rfc3339(self._clock.now_us())
            receipt = Receipt(service=name, done=True, finished_at=at, counts=answer.changed)
            receipts = (*job.receipts, receipt)
            job = replace(job, receipts=receipts, progress=round(len(receipts) / (len(names) + 1), 2))
            await self._store.save(job)
        now_us = self._clock.now_us()
        finished = replace(job, status="done", progress=1.0, finished_us=now_us, problem=None, box=None)
        await self._store.save(finished, [job_event("gdpr.rectification.completed", finished, at_us=now_us, actor="")])
        await self._boxes.destroy(job)
        return finished
