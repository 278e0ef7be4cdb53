"""The part of the service that answers for people's rights: each call handed to where it is done."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sealwire.contracts.custody import (
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectFindings,
    SubjectItems,
    SubjectProbe,
    SubjectQuery,
    SubjectRectified,
    SubjectRestriction,
)
from sealwire.contracts.gdpr import (
    GdprJob,
    GdprJobs,
    JobQuery,
    NewErasure,
    NewExport,
    NewRectification,
    NewRestriction,
    Restriction,
    Restrictions,
)
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Page
from sealwire.services.compliance.own_custody import OwnCustody
from sealwire.services.compliance.rights import Rights


class RightsAnswers:
    """`contracts.gdpr.Rights` and `contracts.custody.SubjectCustody` over `rights` and `own`."""

    rights: Rights
    own: OwnCustody

    async def request_export(self, caller: Caller, export: NewExport) -> GdprJob:
        """See `Rights.request_export`."""
        return await self.rights.request_export(caller, export)

    async def export_job(self, caller: Caller, job_id: str) -> GdprJob:
        """See `Rights.export_job`."""
        return await self.rights.export_job(caller, job_id)

    async def download(self, caller: Caller, job_id: str) -> tuple[int, AsyncGenerator[bytes, None]]:
        """See `Rights.download`."""
        return await self.rights.download(caller, job_id)

    async def request_erasure(self, caller: Caller, erasure: NewErasure) -> GdprJob:
        """See `Rights.request_erasure`."""
        return await self.rights.request_erasure(caller, erasure)

    async def erasure_job(self, caller: Caller, job_id: str) -> GdprJob:
        """See `Rights.erasure_job`."""
        return await self.rights.erasure_job(caller, job_id)

    async def request_rectification(self, caller: Caller, rectification: NewRectification) -> GdprJob:
        """See `Rights.request_rectification`."""
        return await self.rights.request_rectification(caller, rectification)

    async def rectification_job(self, caller: Caller, job_id: str) -> GdprJob:
        """See `Rights.rectification_job`."""
        return await self.rights.rectification_job(caller, job_id)

    async def gdpr_jobs(self, caller: Caller, query: JobQuery) -> GdprJobs:
        """See `Rights.gdpr_jobs`."""
        return await self.rights.gdpr_jobs(caller, query)

    async def restrict(self, caller: Caller, restriction: NewRestriction) -> Restriction:
        """See `Rights.restrict`."""
        return await self.rights.restrict(caller, restriction)

    async def restrictions(self, caller: Caller, page: Page) -> Restrictions:
        """See `Rights.restrictions`."""
        return await self.rights.restrictions(caller, page)

    async def lift_restriction(self, caller: Caller, subject_id: str) -> None:
        """See `Rights.lift_restriction`."""
        await self.rights.lift_restriction(caller, subject_id)

    # ---- compliance's own data of a person

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        """See `OwnCustody.export_subject`."""
        return await self.own.export_subject(caller, subject_id, query)

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        """See `OwnCustody.erase_subject`."""
        return await self.own.erase_subject(caller, subject_id, erasure)

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        """See `OwnCustody.rectify_subject`."""
        return await self.own.rectify_subject(caller, subject_id, changes)

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        """See `OwnCustody.restrict_subject`."""
        await self.own.restrict_subject(caller, subject_id, restriction)

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        """See `OwnCustody.probe_subject`."""
        return await self.own.probe_subject(caller, subject_id, probe)
