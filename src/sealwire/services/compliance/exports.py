"""Exporting a person's data: page by page from every service into one sealed ZIP, with a manifest of checksums.

`<service>/<kind>.json` holds what each service has (`<kind>.2.json` and so on go on with it), `media/<id>/<name>` the
files, `manifest.json` the SHA-256 and size of each. A job that was interrupted goes on behind its last durable part.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from sealwire.contracts.custody import Disposed
from sealwire.contracts.gdpr import ExportGone
from sealwire.kit.clock import Clock
from sealwire.ports.events import NewEvent
from sealwire.services.compliance.archives import Archives, Part
from sealwire.services.compliance.boxes import Boxes
from sealwire.services.compliance.erasures import Custodians
from sealwire.services.compliance.events import job_event
from sealwire.services.compliance.export_run import Desk, ExportRun
from sealwire.services.compliance.job_ports import RightsStore, StoredJob

ORPHAN_AGE_S: Final = 86_400.0
_AT_ONCE: Final = 20


class Exports:
    """Runs export jobs, gives their archives out and drops them."""

    def __init__(
        self, *, store: RightsStore, boxes: Boxes, archives: Archives, custodians: Custodians, clock: Clock,
        keep_s: int, file_items: int,
    ) -> None:  # fmt: skip
        """`keep_s` is how long a finished archive may be fetched; `file_items` go into one JSON file."""
        self._store = store
        self._boxes = boxes
        self._archives = archives
        self._clock = clock
        self._desk = Desk(store, boxes, archives, custodians, clock, keep_s, file_items)

    async def run(self, job: StoredJob) -> StoredJob:
        """Write the archive, or what is missing of it, and finish the job. Raises: Unavailable."""
        box = await self._boxes.open(job)
        if box.written is None:  # parts of which nothing is known are of no use
            await self._delete_parts(job.job_id)
        return await ExportRun(self._desk, job, box).run()

    def read(self, job: StoredJob) -> AsyncIterator[bytes]:
        """Yield a finished archive. Raises: EnvelopeRefused for bytes that aren't what was stored; BlobMissing."""
        return self._archives.read(job.tenant_id, job.job_id, self._parts(job))

    async def require_readable(self, job: StoredJob, actor: str) -> None:
        """Drop an archive whose key is gone: a crash came between the ends of the two. Raises: ExportGone."""
        async for part in self._parts(job):
            if await self._archives.is_readable(job.tenant_id, job.job_id, part):
                return
            break
        await self.drop(job, "fetched", actor)
        raise ExportGone

    async def _parts(self, job: StoredJob) -> AsyncIterator[Part]:
        archive = job.archive
        if archive is not None and archive.blob_key:
            yield Part(0, archive.blob_key, archive.header, archive.size_bytes)
            return
        after = 0
        while found := await self._store.parts(job.job_id, after=after, limit=_AT_ONCE):
            for part in found:
                yield Part(part.number, part.blob_key, part.header, part.size_bytes)
            after = found[-1].number

    # ---- afterwards

    async def drop(self, job: StoredJob, why: str = "erased", actor: str = "") -> bool:
        """Drop what there is of a job's archive, and return whether there was something.

        Once it was fetched, when its time is over, or with the person. The key goes first: without it the rest can't
        be read, whatever a crash leaves of it; the sweep finds that.
        """
        there = job.archive is not None or await self._store.count_parts(job.job_id) > 0
        if there:
            await self._archives.forget(job.tenant_id, job.job_id)
            if job.archive is not None:
                event = job_event(f"gdpr.export.{why}", job, at_us=self._clock.now_us(), actor=actor)
                await self._store.clear_archive(job.job_id, [event])
                if job.archive.blob_key:
                    await self._archives.delete(job.archive.blob_key)
            await self._delete_parts(job.job_id)
        return there

    async def dispose(self, tenant_id: str, run_id: str, job_ids: Sequence[str]) -> Disposed:
        """Drop the archives of these jobs but for what a hold covers, as a retention run asks.

        Which of them go is decided and counted in transactions that look at the holds; the bytes follow. Asked for
        again after a crash it counts the same, and deletes what is left of them.
        """
        blobs: dict[str, str] = {}

        def event_of(job: StoredJob) -> NewEvent:
            if job.archive is not None and job.archive.blob_key:
                blobs[job.job_id] = job.archive.blob_key
            return job_event("gdpr.export.expired", job, at_us=self._clock.now_us(), actor="")

        done = await self._store.clear_archives(tenant_id, run_id, job_ids, self._clock.now_us(), event_of)
        for job_id in job_ids:
            job = await self._store.job(tenant_id, job_id)
            if job is not None and job.kind == "export" and job.finished and job.archive is None:
                await self._archives.forget(tenant_id, job_id)
                if job_id in blobs:
                    await self._archives.delete(blobs[job_id])
                await self._delete_parts(job_id)
        return done

    async def _delete_parts(self, job_id: str) -> None:
        while found := await self._store.parts(job_id, after=0, limit=_AT_ONCE):
            for part in found:
                await self._archives.delete(part.blob_key)
                await self._store.drop_part(job_id, part.number)

    async def sweep(self) -> None:
        """Drop archives whose time is over, and bytes that a crash left where no job goes on with them."""
        while due := await self._store.expired(self._clock.now_us(), _AT_ONCE):
            for job in due:
                await self.drop(job, "expired")
        while left := await self._store.abandoned(_AT_ONCE):
            for job in left:
                await self.drop(job)
        known = await self._store.archive_keys()
        async for blob_key in self._archives.leftovers(older_than_s=ORPHAN_AGE_S):
            if blob_key not in known and not await self._store.names_blob(blob_key):
                await self._archives.delete(blob_key)
