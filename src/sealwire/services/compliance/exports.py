"""Exporting a person's data: page by page from every service into one sealed ZIP, with a manifest of checksums.

`<service>/<kind>.json` holds what each service has, `media/<id>/<name>` the files, `manifest.json` the SHA-256 and size
of each. A job that was interrupted writes its archive anew: half an archive is of use to nobody.
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from sealwire.contracts.custody import ContentQuery, SubjectContent, SubjectCustody, SubjectItem, SubjectQuery
from sealwire.contracts.gdpr import Receipt
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.services.compliance.archives import Archives, ArchiveWriter, Member
from sealwire.services.compliance.boxes import Boxes
from sealwire.services.compliance.certificates import SERVICE
from sealwire.services.compliance.erasures import ORDER, Custodians
from sealwire.services.compliance.events import job_event
from sealwire.services.compliance.job_ports import RightsStore, StoredJob

KIND: Final = "sealwire.export.v1"
PAGE: Final = 50
ORPHAN_AGE_S: Final = 86_400.0
_UNSAFE: Final = re.compile(r"[^\w.,()+=@ -]|^\.+|\s+$")
_encode = msgspec.json.Encoder().encode


class Entry(msgspec.Struct, frozen=True):
    """A line of the manifest."""

    path: str
    sha256: str
    size_bytes: int
    items: int | None = None


class _Listing:
    """A JSON array of items of one kind, written one after another."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.items = 0

    async def add(self, item: SubjectItem) -> None:
        data: dict[str, Any] = {"id": item.resource_id, "at": item.at, **item.data}
        if item.media_id is not None:
            data["media_id"] = item.media_id
        await self.member.write((b",\n" if self.items else b"[\n") + _encode(data))
        self.items += 1

    async def close(self) -> Entry:
        await self.member.write(b"\n]\n" if self.items else b"[]\n")
        digest = await self.member.close()
        return Entry(self.member.name, digest, self.member.size_bytes, self.items)


class Exports:
    """Runs export jobs."""

    def __init__(
        self, *, store: RightsStore, boxes: Boxes, archives: Archives, custodians: Custodians, clock: Clock, keep_s: int
    ) -> None:
        """`keep_s` is how long a finished archive may be fetched."""
        self._store = store
        self._boxes = boxes
        self._archives = archives
        self._custodians = custodians
        self._clock = clock
        self._keep_s = keep_s

    async def run(self, job: StoredJob) -> StoredJob:
        """Write the archive and finish the job."""
        job = replace(job, receipts=(), progress=0.0)
        writer = await self._archives.writer(job.tenant_id, job.job_id)
        try:
            entries: list[Entry] = []
            there = self._custodians()
            names = [name for name in ORDER if name in there]
            for name in names:
                found, receipt = await self._service(job, name, there[name], writer)
                entries += found
                job = replace(
                    job, receipts=(*job.receipts, receipt),
                    progress=round((len(job.receipts) + 1) / (len(names) + 1), 2),
                )  # fmt: skip
                await self._store.save(job)
            await self._manifest(job, writer, entries)
            archive = await writer.finish(expires_us=self._clock.now_us() + self._keep_s * US_PER_S)
        except BaseException:
            await writer.abort()
            raise
        now_us = self._clock.now_us()
        done = replace(job, status="done", progress=1.0, finished_us=now_us, problem=None, box=None, archive=archive)
        event = job_event("gdpr.export.completed", done, at_us=now_us, actor="", size_bytes=archive.size_bytes)
        await self._store.save(done, [event])
        return done

    async def _service(
        self, job: StoredJob, name: str, custodian: SubjectCustody, writer: ArchiveWriter
    ) -> tuple[list[Entry], Receipt]:
        """Write what a service has of the person, a file per kind; then the files themselves."""
        caller = service_caller(SERVICE, job.tenant_id)
        entries: list[Entry] = []
        files: list[tuple[str, str]] = []
        counts: dict[str, int] = {}
        listing: _Listing | None = None
        parts: dict[str, int] = {}
        cursor: str | None = None
        while True:
            page = await custodian.export_subject(caller, job.subject_id, SubjectQuery(limit=PAGE, cursor=cursor))
            for item in page.items:
                kind = _safe(item.kind)
                if listing is None or not listing.member.name.startswith(f"{name}/{kind}."):
                    if listing is not None:
                        entries.append(await listing.close())
                    # Services give one kind after another; one that comes again gets a file of its own.
                    parts[kind] = part = parts.get(kind, 0) + 1
                    listing = _Listing(
                        writer.member(f"{name}/{kind}.{part}.json" if part > 1 else f"{name}/{kind}.json")
                    )
                await listing.add(item)
                counts[item.kind] = counts.get(item.kind, 0) + 1
                if item.media_id is not None:
                    files.append((item.media_id, str(item.data.get("filename") or "file")))
            cursor = page.next_cursor
            if cursor is None:
                break
        if listing is not None:
            entries.append(await listing.close())
        for media_id, filename in files:
            entries.append(await self._file(job, caller, custodian, writer, media_id, filename))
        return entries, Receipt(service=name, done=True, finished_at=rfc3339(self._clock.now_us()), counts=counts)

    async def _file(
        self, job: StoredJob, caller: Caller, custodian: Any, writer: ArchiveWriter, media_id: str, filename: str
    ) -> Entry:
        """Copy a file, part by part."""
        source: SubjectContent = custodian
        member = writer.member(f"media/{_safe(media_id)}/{_safe(filename)}", pack=False)
        offset = 0
        while True:
            part = await source.subject_content(caller, job.subject_id, media_id, ContentQuery(offset=offset))
            data = b64decode(part.data)
            await member.write(data)
            offset += len(data)
            if part.last or not data:
                break
        digest = await member.close()
        return Entry(member.name, digest, member.size_bytes)

    async def _manifest(self, job: StoredJob, writer: ArchiveWriter, entries: list[Entry]) -> None:
        member = writer.member("manifest.json")
        manifest = {
            "kind": KIND,
            "job_id": job.job_id,
            "tenant_id": job.tenant_id,
            "subject_id": job.subject_id,
            "created_at": rfc3339(self._clock.now_us()),
            "files": entries,
        }
        await member.write(msgspec.json.format(_encode(manifest), indent=1))
        await member.close()

    # ---- afterwards

    async def drop(self, job: StoredJob, why: str = "erased", actor: str = "") -> None:
        """Drop a job's archive: once it was fetched, when its time is over, or with the person."""
        if job.archive is not None:
            await self._archives.drop(job.tenant_id, job.job_id, job.archive)
            event = job_event(f"gdpr.export.{why}", job, at_us=self._clock.now_us(), actor=actor)
            await self._store.clear_archive(job.job_id, [event])

    async def sweep(self) -> None:
        """Drop archives whose time is over, and bytes that a crash left before any job named them."""
        while due := await self._store.expired(self._clock.now_us(), 20):
            for job in due:
                await self.drop(job, "expired")
        known = await self._store.archive_keys()
        async for blob_key in self._archives.leftovers(older_than_s=ORPHAN_AGE_S):
            if blob_key not in known:
                await self._archives.delete(blob_key)


def _safe(name: str) -> str:
    """Return a name that is one part of a path everywhere."""
    return _UNSAFE.sub("_", name.replace("/", "_").replace("\\", "_"))[:120] or "_"
