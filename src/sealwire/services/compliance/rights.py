"""The rights of people (R4.4): who may ask for what, the jobs that do it, and what is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Final, NamedTuple, Protocol

from sealwire.contracts.crypto import Crypto
from sealwire.contracts.custody import OwnersOnly, SubjectQuery, SubjectRestriction
from sealwire.contracts.gdpr import (
    DOWNLOAD_PATH,
    ExportGone,
    ExportNotReady,
    GdprJob,
    GdprJobs,
    JobKind,
    JobNotFound,
    JobQuery,
    NewErasure,
    NewExport,
    NewRectification,
    NewRestriction,
    PersonNotFound,
    Restriction,
    Restrictions,
)
from sealwire.contracts.holds import Hold, HoldGap, LegalHold
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Conflict, Forbidden, NotFound, Unavailable
from sealwire.ports.blobs import BlobStore
from sealwire.services.compliance.archives import Archives
from sealwire.services.compliance.boxes import Boxes, JobKeys
from sealwire.services.compliance.certificates import SERVICE, Certificates, digest, policy_of
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.deadlines import a_month_after
from sealwire.services.compliance.erasures import AUDIT, ORDER, Custodians, Erasures
from sealwire.services.compliance.events import change_event
from sealwire.services.compliance.exports import Exports
from sealwire.services.compliance.job_ports import Box, JobFilter, RightsStore, StoredJob, StoredRestriction
from sealwire.services.compliance.jobs import JobRunner
from sealwire.services.compliance.rectifications import Rectifications
from sealwire.services.compliance.retention_ports import HoldStore
from sealwire.services.compliance.sealing import Keys

SWEEP_S: Final = 60.0
JOBS_A_LOOK: Final = 40
PREFIX: Final = "/api/v1"


class ServiceKeys(Keys, JobKeys, Protocol):
    """All that compliance asks of its key ring."""


class Surroundings(NamedTuple):
    """What is around compliance: the services that hold data of people, by name, asked anew for every step; where
    archives lie; how to count texts in every file of the installation; chance."""

    custodians: Custodians
    blobs: BlobStore
    count_in_data: Callable[[Sequence[bytes]], Awaitable[int]]
    rng: Random


class Rights:
    """`contracts.gdpr.Rights` in this process."""

    def __init__(
        self,
        *,
        store: RightsStore,
        holds: HoldStore,
        crypto: Crypto,
        keys: JobKeys,
        around: Surroundings,
        deleting: Custodians,
        forget_person: Callable[[str, str], None],
        clock: Clock,
        config: ComplianceConfig,
    ) -> None:
        """`deleting` gives the same custodians, once each has every hold, to what deletes or replaces; `forget_person`
        has what still comes of an erased person stored so that nobody can read it."""
        self._store = store
        self._holds = holds
        self._custodians, self._forget_person = around.custodians, forget_person
        self._clock = clock
        self._config = config
        self._boxes = boxes = Boxes(keys)
        self.exports = Exports(
            store=store, boxes=boxes, archives=Archives(blobs=around.blobs, keys=keys), custodians=around.custodians,
            clock=clock, keep_s=config.export_keep_hours * 3600, file_items=config.export_file_items,
        )  # fmt: skip
        self._erasures = Erasures(
            store=store, boxes=boxes, keys=keys, custodians=deleting,
            certificates=Certificates(crypto=crypto, origin=config.origin),
            forget_person=forget_person, count_in_data=around.count_in_data, clock=clock,
            is_held=lambda tenant_id, subject_id: holds.covers(tenant_id, subject_id=subject_id),
            holds_on=holds.on,
        )  # fmt: skip
        self.runner = JobRunner(
            store=store, clock=clock, rng=around.rng, at_once=config.jobs_at_once, retry_base_s=config.job_retry_base_s,
            retry_cap_s=config.job_retry_cap_s,
        )  # fmt: skip
        self.runner.register("export", self.exports.run)
        self.runner.register("erasure", self._erasures.run)
        rectifications = Rectifications(store=store, boxes=boxes, custodians=deleting, clock=clock)
        self.runner.register("rectification", rectifications.run)
        self._fetching: dict[str, bool] = {}  # and whether all of it was taken
        self._sweeping: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Learn who is erased: before the first audit record is taken in."""
        for tenant_id, subject_id in await self._store.erased(""):
            self._forget_person(tenant_id, subject_id)

    async def start(self) -> None:
        """Go on with what is unfinished. Its services may come up later than this one: it waits for them."""
        await self.runner.start()
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="gdpr-archives")

    async def stop(self) -> None:
        """Leave what is unfinished to the next start."""
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
        await self.runner.stop()

    async def _sweep(self) -> None:
        told = False
        while True:
            with suppress(Unavailable):
                if not told:  # what is written down is in force, whatever a crash left of the telling
                    for (tenant_id, subject_id), sparing in (await self._store.restricted()).items():
                        with suppress(Conflict, Forbidden, NotFound):  # refused as when it was asked for
                            await self._put_in_force(service_caller(SERVICE, tenant_id), subject_id, sparing=sparing)
                        if (tenant_id, subject_id) not in await self._store.restricted():  # lifted meanwhile
                            await self._tell(tenant_id, subject_id, restricted=False)
                    told = True
                await self.exports.sweep()
            await asyncio.sleep(SWEEP_S if told else 1.0)

    # ---- exports

    async def request_export(self, caller: Caller, export: NewExport) -> GdprJob:
        """See `contracts.gdpr.Rights`."""
        return await self._ask(caller, "export", await self._person(caller, export.subject_id), Box())

    async def export_job(self, caller: Caller, job_id: str) -> GdprJob:
        """Return an export. Raises: JobNotFound."""
        return self._view(await self._look(caller, "export", job_id), caller)

    async def download(self, caller: Caller, job_id: str) -> tuple[int, AsyncGenerator[bytes, None]]:
        """Return size and bytes of an archive; once all of them were taken, it is gone. Close it when done.

        Raises: JobNotFound, ExportNotReady (also while another download of it runs), ExportGone; Forbidden for who may
        no longer ask for it, however it was when they did.
        """
        job = await self._look(caller, "export", job_id)
        if job.requested_by != caller.user_id or caller.principal.kind != "user":
            raise Forbidden("An export is fetched by the person who asked for it.")
        self._whose(caller, job.subject_id)
        if not job.finished:
            raise ExportNotReady("Ask for the job until it is done.")
        if job.archive is None or job.archive.expires_us <= self._clock.now_us():
            raise ExportGone
        if (taken := self._fetching.get(job_id)) is not None:
            raise ExportGone if taken else ExportNotReady("It is being fetched at this moment.")
        parts = self._fetch(job, caller.user_id)
        await anext(parts)  # it is being fetched from here on, not from the first byte on
        return job.archive.size_bytes, parts

    async def _fetch(self, job: StoredJob, actor: str) -> AsyncGenerator[bytes, None]:
        self._fetching[job.job_id] = False
        try:
            await self.exports.require_readable(job, actor)
            yield b""
            async for part in self.exports.read(job):
                yield part
            self._fetching[job.job_id] = True
            await self.exports.drop(job, "fetched", actor)
        finally:
            del self._fetching[job.job_id]

    async def end_job(self, job: StoredJob) -> bool:
        """Stop working on a job, and let go of what it knows and made. Return whether it had made something."""
        await self.runner.end(job.job_id)
        stored = await self._store.job(job.tenant_id, job.job_id) or job
        await self._boxes.destroy(stored)
        return await self.exports.drop(stored)

    # ---- erasures

    async def request_erasure(self, caller: Caller, erasure: NewErasure) -> GdprJob:
        """See `contracts.gdpr.Rights`."""
        subject_id = self._whose(caller, erasure.subject_id)
        tenant_id, spares_owners = caller.tenant_id, False
        before = await self._erased_before(tenant_id, subject_id)
        kept = before is not None and before.finished and any(receipt.kept for receipt in before.receipts)
        if before is not None and not (erasure.again or kept):
            return self._view(before, caller)
        try:  # who was erased may be back, as an owner too, when older data was put back
            spares_owners = await self._require_changeable(caller, subject_id)
        except PersonNotFound:
            if before is None and not erasure.again:
                raise
        if await self._holds.covers(tenant_id, subject_id=subject_id):
            raise LegalHold("A legal hold covers this person; erasing waits until it is released.")
        await self._erasures.check(tenant_id, subject_id)
        messages = erasure.messages or self._config.erased_messages
        box = Box(reason=erasure.reason, pseudonym=new_id(), messages=messages, spares_owners=spares_owners)
        return await self._ask(caller, "erasure", subject_id, box, messages=messages)

    async def erase_what_was_kept(self, tenant_id: str) -> None:
        """Begin again with everybody of whom a hold kept something: one was released.

        What another hold keeps is kept again. Done twice, what is under way or done by then is left alone.
        """
        await self._erasures.between_steps_of(tenant_id)  # one that is being certified is done then, and looked at
        seen: set[str] = set()
        caller, wanted, before = service_caller(SERVICE, tenant_id), JobFilter(kind="erasure", status="done"), ""
        while found := await self._store.jobs(tenant_id, wanted, before=before, limit=JOBS_A_LOOK):
            before = found[-1].job_id
            for job in found:  # the newest first: what it kept is what is still there
                if job.subject_id not in seen and await self._erasures.let_go(job):
                    assert job.certificate is not None  # done
                    box = Box(reason="a hold was released", pseudonym=new_id(), messages=policy_of(job.certificate))
                    await self._ask(caller, "erasure", job.subject_id, box, waits=True, after=job.job_id)
                seen.add(job.subject_id)
            await asyncio.sleep(0)  # there are as many as ever were

    async def gaps(self, tenant_id: str, hold: Hold) -> list[HoldGap]:
        """Return what erasures have taken of what a hold covers; of other people, those that are under way.

        Waits for the steps that were begun before every service had the hold, of whomever: they may take of it.
        """
        await self._erasures.between_steps_of(tenant_id)
        jobs = [job for job in await self._store.unfinished() if job.tenant_id == tenant_id]
        others = ("messaging", "media")  # of the conversation, or what mentioned the person, with its files
        if hold.subject_id is not None:
            jobs = [job for job in jobs if job.subject_id != hold.subject_id]
            jobs += await self._store.of_subject(tenant_id, hold.subject_id)
        gaps = []
        for job in (job for job in jobs if job.kind == "erasure"):
            stored = await self._store.job(tenant_id, job.job_id) or job
            told = (*ORDER, AUDIT) if job.subject_id == hold.subject_id else others
            if taken := {r.service: r.counts for r in stored.receipts if r.service in told and r.counts}:
                gaps.append(HoldGap(job_id=job.job_id, subject_id=job.subject_id, erased=taken))
        return gaps

    async def _erased_before(self, tenant_id: str, subject_id: str) -> StoredJob | None:
        """Return the newest job that erases, or erased, this person."""
        wanted = JobFilter(kind="erasure", subject_id=subject_id)
        found = await self._store.jobs(tenant_id, wanted, before="", limit=20)
        return next((job for job in found if job.status != "failed"), None)

    async def erasure_job(self, caller: Caller, job_id: str) -> GdprJob:
        """Return an erasure. Raises: JobNotFound."""
        return self._view(await self._look(caller, "erasure", job_id), caller)

    # ---- rectification

    async def request_rectification(self, caller: Caller, rectification: NewRectification) -> GdprJob:
        """See `contracts.gdpr.Rights`."""
        subject_id = self._whose(caller, rectification.subject_id)
        spares_owners = await self._require_changeable(caller, subject_id)
        changes = rectification.changes
        box = Box(email=changes.email, display_name=changes.display_name, spares_owners=spares_owners)
        return await self._ask(caller, "rectification", subject_id, box)

    async def rectification_job(self, caller: Caller, job_id: str) -> GdprJob:
        """Return a rectification. Raises: JobNotFound."""
        return self._view(await self._look(caller, "rectification", job_id), caller)

    # ---- jobs

    async def gdpr_jobs(self, caller: Caller, query: JobQuery) -> GdprJobs:
        """Return jobs, the newest first: those of the tenant, or for others those about the caller."""
        everybody = caller.may(Permission.READ_AUDIT) or caller.may(Permission.MANAGE_GDPR)
        if not everybody and query.subject_id not in (None, caller.user_id):
            return GdprJobs(items=[])
        wanted = JobFilter(
            kind=query.kind,
            subject_id=query.subject_id if everybody else caller.user_id,
            status=query.status,
            due_before_us=self._clock.now_us() if query.overdue else None,
        )
        before = read_cursor(query.cursor)
        found = await self._store.jobs(caller.tenant_id, wanted, before=before, limit=query.limit + 1)
        shown = found[: query.limit]
        return GdprJobs(
            items=[self._view(job, caller) for job in shown],
            next_cursor=write_cursor(shown[-1].job_id) if len(found) > len(shown) else None,
        )

    async def _ask(
        self, caller: Caller, kind: JobKind, subject_id: str, box: Box, *, waits: bool = False, **facts: str
    ) -> GdprJob:
        """Store a job and begin it; `waits`: also when it has to wait for a hold. Raises: Unavailable, LegalHold."""
        now_us, job_id = self._clock.now_us(), new_id()
        job = StoredJob(
            job_id=job_id, tenant_id=caller.tenant_id, kind=kind, subject_id=subject_id, status="pending",
            requested_by=caller.user_id, requested_us=now_us, due_us=a_month_after(now_us),
            box=await self._boxes.seal(caller.tenant_id, job_id, box),
        )  # fmt: skip
        event = change_event(
            caller, f"gdpr.{kind}.requested", resource_type=f"gdpr_{kind}", resource_id=job_id, at_us=now_us,
            subject_id=subject_id, **facts,
        )  # fmt: skip
        stored = await self._store.add(job, event, waits=waits)
        self.runner.begin(stored)
        return self._view(stored, caller)

    async def _look(self, caller: Caller, kind: JobKind, job_id: str) -> StoredJob:
        job = await self._store.job(caller.tenant_id, job_id)
        if job is None or job.kind != kind:
            raise JobNotFound
        mine = caller.user_id in (job.subject_id, job.requested_by)
        if not (mine or caller.may(Permission.READ_AUDIT) or caller.may(Permission.MANAGE_GDPR)):
            raise JobNotFound
        return job

    def _view(self, job: StoredJob, caller: Caller) -> GdprJob:
        archive, at = job.archive, rfc3339
        fetchable = archive is not None and job.requested_by == caller.user_id
        return GdprJob(
            job_id=job.job_id,
            kind=job.kind,
            subject_id=job.subject_id,
            status=job.status,
            progress=job.progress,
            requested_at=at(job.requested_us),
            requested_by=job.requested_by,
            due_at=at(job.due_us),
            overdue=not job.finished and self._clock.now_us() > job.due_us,
            finished_at=None if job.finished_us is None else at(job.finished_us),
            receipts=list(job.receipts),
            problem=job.problem,
            certificate=job.certificate,
            certificate_sha256=None if job.certificate is None else digest(job.certificate),
            public_key=job.public_key,
            download=PREFIX + DOWNLOAD_PATH.replace("{job_id}", job.job_id) if fetchable else None,
            expires_at=None if archive is None else at(archive.expires_us),
            size_bytes=None if archive is None else archive.size_bytes,
        )

    # ---- restriction

    async def restrict(self, caller: Caller, restriction: NewRestriction) -> Restriction:
        """Keep a person's data without processing it: written down, then in force in every service, then answered."""
        tenant_id, subject_id = caller.tenant_id, restriction.subject_id
        sparing = await self._require_changeable(caller, subject_id)
        now_us, by = self._clock.now_us(), caller.user_id
        event = change_event(caller, "gdpr.restricted", resource_type="person", resource_id=subject_id, at_us=now_us)
        reason = await self._boxes.seal_reason(tenant_id, subject_id, restriction.reason)
        new = StoredRestriction(subject_id=subject_id, at_us=now_us, by=by, reason=reason, spares_owners=sparing)
        stored = await self._store.restrict(tenant_id, new, event)
        await self._put_in_force(caller, subject_id, sparing=sparing)
        return await self._restriction(tenant_id, stored)

    async def _put_in_force(self, caller: Caller, subject_id: str, *, sparing: bool) -> None:
        try:
            await self._tell(caller.tenant_id, subject_id, restricted=True, spares_owners=sparing)
        except OwnersOnly:  # they were made one meanwhile; auth is asked first, so nothing is in force
            await self._lift(caller, subject_id)
            raise

    async def _lift(self, caller: Caller, subject_id: str) -> bool:
        kind, at_us = "gdpr.restriction_lifted", self._clock.now_us()
        event = change_event(caller, kind, resource_type="person", resource_id=subject_id, at_us=at_us)
        return await self._store.lift(caller.tenant_id, subject_id, event)

    async def lift_restriction(self, caller: Caller, subject_id: str) -> None:
        """Process a person's data again. Raises: NotFound when it isn't restricted, Forbidden."""
        spares_owners = await self._require_changeable(caller, subject_id)
        await self._tell(caller.tenant_id, subject_id, restricted=False, spares_owners=spares_owners)
        if not await self._lift(caller, subject_id):
            raise NotFound("There is no restriction in force for this person.")

    async def restrictions(self, caller: Caller, page: Page) -> Restrictions:
        """Return restrictions in force."""
        found = await self._store.restrictions(caller.tenant_id, after=read_cursor(page.cursor), limit=page.limit + 1)
        shown = found[: page.limit]
        return Restrictions(
            items=[await self._restriction(caller.tenant_id, restriction) for restriction in shown],
            next_cursor=write_cursor(shown[-1].subject_id) if len(found) > len(shown) else None,
        )

    async def _tell(self, tenant_id: str, subject_id: str, *, restricted: bool, spares_owners: bool = False) -> None:
        caller = service_caller(SERVICE, tenant_id)
        change = SubjectRestriction(restricted=restricted, spares_owners=spares_owners)
        there = self._custodians()
        for custodian in [there[name] for name in ORDER if name in there]:
            await custodian.restrict_subject(caller, subject_id, change)

    async def _restriction(self, tenant_id: str, stored: StoredRestriction) -> Restriction:
        return Restriction(
            subject_id=stored.subject_id,
            restricted_at=rfc3339(stored.at_us),
            restricted_by=stored.by,
            reason=await self._boxes.open_reason(tenant_id, stored.subject_id, stored.reason),
        )

    # ---- who

    def _whose(self, caller: Caller, subject_id: str | None) -> str:
        """Return whose data it is about. Raises: Forbidden for another person's without the right to it."""
        if subject_id is None or subject_id == caller.user_id:
            if caller.principal.kind != "user":
                raise Forbidden("A person asks for this, or names a person by `subject_id`.")
            return caller.user_id
        if not caller.may(Permission.MANAGE_GDPR):
            raise Forbidden("Only owners and admins ask for another person.")
        return subject_id

    async def _person(self, caller: Caller, subject_id: str | None) -> str:
        whose = self._whose(caller, subject_id)
        await self._require_person(caller.tenant_id, whose)
        return whose

    async def _require_changeable(self, caller: Caller, subject_id: str) -> bool:
        """Hold an admin to what `change_user` holds them to: only an owner changes an owner.

        Who may give an owner another address could have a new password sent there. Returns whether auth has to look
        at that once more, as it writes (`spares_owners`). Raises: PersonNotFound, OwnersOnly.
        """
        role = await self._require_person(caller.tenant_id, subject_id)
        may = caller.principal.role in (Role.OWNER, Role.SERVICE) or subject_id == caller.user_id
        if role == Role.OWNER and not may:
            raise OwnersOnly
        return not may

    async def _require_person(self, tenant_id: str, subject_id: str) -> object:
        """Return the person's role. Raises: PersonNotFound when auth has nothing of them."""
        auth = self._custodians().get("auth")
        if auth is None:
            raise Unavailable("The directory of people is not there for the moment.")
        caller = service_caller(SERVICE, tenant_id)
        found = (await auth.export_subject(caller, subject_id, SubjectQuery(limit=1))).items
        if not found:
            raise PersonNotFound
        return found[0].data.get("role")
