"""Writing one export: what is durable is never asked for again, and nothing in memory grows with the person's data.

A part of the archive, with how far the job is by then (`Written`), is stored in one transaction, and always between two
files: so an interrupted export goes on behind the last file that was durable.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from sealwire.contracts.custody import ContentPart, ContentQuery, SubjectCustody, SubjectItem, SubjectQuery
from sealwire.contracts.gdpr import Receipt
from sealwire.contracts.media import MediaDamaged
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.problem import NotFound, Unavailable
from sealwire.services.compliance.archives import Archives, Member, PartWriter
from sealwire.services.compliance.boxes import Boxes, Contents
from sealwire.services.compliance.certificates import SERVICE
from sealwire.services.compliance.erasures import ORDER, Custodians
from sealwire.services.compliance.events import job_event
from sealwire.services.compliance.job_ports import Archive, Box, RightsStore, StoredJob, StoredPart, Written
from sealwire.services.compliance.zips import Entry, directory_end, directory_line

KIND: Final = "sealwire.export.v1"
PAGE: Final = 50
PART_BYTES: Final = 4 * 1024 * 1024
PART_MEMBERS: Final = 64
PART_S: Final = 5.0
"""A part is made durable once it is that large, holds so many files, or was begun that long ago."""
GONE: Final = "file_gone_meanwhile"
DAMAGED: Final = "file_damaged"
NAME_BYTES: Final = 200
"""File systems take 255 bytes of a name."""
_UNSAFE: Final = re.compile(r"[^\w.,()+=@ -]|^\.+")
_ENDING: Final = re.compile(r"\.\w{1,10}$")
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_encode = msgspec.json.Encoder().encode


class Desk(NamedTuple):
    """What every export works with. `file_items` go into one JSON file; an archive is kept for `keep_s`."""

    store: RightsStore
    boxes: Boxes
    archives: Archives
    custodians: Custodians
    clock: Clock
    keep_s: int
    file_items: int


class _Line(msgspec.Struct, frozen=True):
    """A line of the manifest."""

    path: str
    sha256: str
    size_bytes: int
    items: int | None = None


class _Damage(msgspec.Struct, frozen=True):
    """A line of the manifest about a file that is not in the archive."""

    path: str
    reason: str


class _Listing:
    """A JSON array of items of one kind, written one after another."""

    def __init__(self, kind: str, member: Member) -> None:
        self.kind = kind
        self.items = 0
        self._member = member

    async def add(self, item: SubjectItem) -> None:
        data: dict[str, Any] = {"id": item.resource_id, "at": item.at, **item.data}
        if item.media_id is not None:
            data["media_id"] = item.media_id
        await self._member.write((b",\n" if self.items else b"[\n") + _encode(data))
        self.items += 1

    async def close(self) -> None:
        await self._member.write(b"\n]\n")
        await self._member.close(self.items)


class ExportRun:
    """One export on its way, from what is durable of it."""

    def __init__(self, desk: Desk, job: StoredJob, box: Box) -> None:
        self._desk = desk
        self._job = job if box.written is not None else replace(job, receipts=(), progress=0.0)
        self._box = box
        self._at = box.written or Written()
        self._caller = service_caller(SERVICE, job.tenant_id)
        self._part: PartWriter | None = None
        self._begun_s = 0.0
        self._files: list[tuple[str, str]] = []
        self._items = 0
        """Files named, and items listed, since the last durable part."""

    async def run(self) -> StoredJob:
        """Write what is missing and finish the job. Raises: Unavailable; what is durable by then stays."""
        there = self._desk.custodians()
        names = [name for name in ORDER if name in there]
        try:
            for name in names:
                if all(receipt.service != name for receipt in self._job.receipts):
                    await self._service(name, there[name], len(names) + 1)
            return await self._finish()
        finally:
            if self._part is not None:
                await self._part.abort()

    # ---- one service

    async def _service(self, name: str, custodian: SubjectCustody, of: int) -> None:
        """Write what a service has of the person, files of items first; then the files that these name."""
        if self._at.service != name:
            self._at = Written(
                parts=self._at.parts, size_bytes=self._at.size_bytes, members=self._at.members, service=name,
                file_part=self._at.parts + 1, damaged=self._at.damaged,
            )  # fmt: skip
        if self._at.listed_to is None:
            await self._list(name, custodian)
        await self._copy(custodian)
        receipt = Receipt(
            service=name, done=True, finished_at=rfc3339(self._desk.clock.now_us()), counts=self._at.counts
        )
        receipts = (*self._job.receipts, receipt)
        self._job = replace(self._job, receipts=receipts, progress=round((len(receipts) + 1) / of, 2))
        await self._make_durable()

    async def _list(self, name: str, custodian: SubjectCustody) -> None:
        listing: _Listing | None = None
        while True:
            query = SubjectQuery(limit=PAGE, cursor=self._at.cursor)
            page = await custodian.export_subject(self._caller, self._job.subject_id, query)
            counts, listings = dict(self._at.counts), dict(self._at.listings)
            for item in page.items:
                kind = _safe(item.kind)
                if listing is None or listing.kind != kind:
                    if listing is not None:
                        await listing.close()
                    listings[kind] = number = listings.get(kind, 0) + 1
                    path = f"{name}/{kind}.{number}.json" if number > 1 else f"{name}/{kind}.json"
                    listing = _Listing(kind, (await self._writer()).member(path))
                await listing.add(item)
                counts[item.kind] = counts.get(item.kind, 0) + 1
                if item.media_id is not None:
                    self._files.append((item.media_id, str(item.data.get("filename") or "file")))
            self._items += len(page.items)
            self._at = replace(self._at, cursor=page.next_cursor, counts=counts, listings=listings)
            over = page.next_cursor is None
            full = self._items >= self._desk.file_items or (self._part is not None and self._is_large(self._part))
            if listing is not None and (over or full):
                await listing.close()
                listing = None
            if over:
                break
            if full:
                await self._make_durable()
        # Which files there are is read from durable parts: one that is under way becomes one of them.
        self._at = replace(self._at, listed_to=self._at.parts + (self._part is not None))
        if self._files:
            await self._make_durable()

    async def _copy(self, custodian: Any) -> None:
        """Copy the files that the items of this service named, one after another."""
        while self._at.file_part <= (self._at.listed_to or 0):
            found = await self._desk.store.parts(self._job.job_id, after=self._at.file_part - 1, limit=1)
            files: tuple[tuple[str, str], ...] = ()
            if found and found[0].number == self._at.file_part:
                files = (await self._desk.boxes.open_contents(self._job, found[0])).files
            for media_id, filename in files[self._at.file :]:
                left_out = await self._file(custodian, media_id, filename)
                counts = self._at.counts
                if left_out:
                    counts = {**counts, left_out: counts.get(left_out, 0) + 1}
                self._at = replace(self._at, file=self._at.file + 1, counts=counts)
                if len(self._at.damaged) >= PART_MEMBERS:  # a part tells of them: none is kept in memory
                    await self._writer()
                    await self._make_durable()
                if self._part is not None and self._is_large(self._part):
                    await self._make_durable()
            self._at = replace(self._at, file_part=self._at.file_part + 1, file=0)

    async def _file(self, custodian: Any, media_id: str, filename: str) -> str:
        """Copy a file, piece by piece; return why it was left out: it went before the copy was begun, or is damaged."""
        path = f"media/{_safe(media_id)}/{_safe(filename)}"
        member: Member | None = None
        while True:
            query = ContentQuery(offset=0 if member is None else member.size_bytes)
            try:
                piece: ContentPart = await custodian.subject_content(
                    self._caller, self._job.subject_id, media_id, query
                )
            except NotFound:
                if member is None:
                    return GONE
                raise Unavailable("A file went while it was copied; the export goes on without it.") from None
            except MediaDamaged as damaged:
                if member is not None:
                    await self._drop_part()
                line = (path, str(damaged.extra.get("reason", "")))
                self._at = replace(self._at, damaged=(*self._at.damaged, line))
                return DAMAGED
            if member is None:
                if not piece.last and self._part is not None:
                    await self._make_durable()  # then the part begins with this file, and may be dropped with it
                member = (await self._writer()).member(path, pack=False)
            data = b64decode(piece.data)
            await member.write(data)
            if piece.last or not data:
                await member.close()
                return ""

    # ---- parts

    async def _writer(self) -> PartWriter:
        if self._part is None:
            self._part = await self._desk.archives.part(
                self._job.tenant_id, self._job.job_id, number=self._at.parts + 1, offset=self._at.size_bytes
            )
            self._begun_s = monotonic()
        return self._part

    def _is_large(self, part: PartWriter) -> bool:
        long_ago = monotonic() - self._begun_s >= PART_S
        return part.size_bytes >= PART_BYTES or len(part.entries) >= PART_MEMBERS or long_ago

    async def _drop_part(self) -> None:
        """Drop the part under way, of which nothing is wanted."""
        part, self._part = self._part, None
        if part is not None:
            await part.abort()

    async def _make_durable(self) -> None:
        """Store the part that is under way, and how far the job is, at once."""
        part, damaged = self._part, self._at.damaged
        if part is not None:
            self._at = replace(
                self._at, parts=part.number, size_bytes=part.offset + part.size_bytes,
                members=self._at.members + len(part.entries), damaged=(),
            )  # fmt: skip
        self._box = replace(self._box, written=self._at)
        sealed = await self._desk.boxes.seal(self._job.tenant_id, self._job.job_id, self._box)
        self._job = replace(self._job, box=sealed)
        if part is None:
            await self._desk.store.save(self._job)
            return
        await self._store_part(part, self._job, damaged)
        self._files.clear()
        self._items = 0

    async def _store_part(
        self, part: PartWriter, job: StoredJob, damaged: tuple[tuple[str, str], ...], *events: Any
    ) -> None:
        contents = Contents(entries=tuple(part.entries), files=tuple(self._files), damaged=damaged)
        sealed = await self._desk.boxes.seal_contents(job, part.number, contents)
        durable = await part.commit()
        stored = StoredPart(
            job_id=job.job_id, number=part.number, blob_key=durable.blob_key, header=durable.header,
            size_bytes=durable.size_bytes, contents=sealed,
        )  # fmt: skip
        self._part = None
        if not await self._desk.store.save_part(job, stored, events):
            await self._desk.archives.delete(durable.blob_key)
            raise Unavailable("The job has ended meanwhile.")

    # ---- the end

    async def _finish(self) -> StoredJob:
        """Write manifest and directory, both read from the durable parts, and finish the job."""
        part = await self._writer()
        member = part.member("manifest.json")
        head = {
            "kind": KIND,
            "job_id": self._job.job_id,
            "tenant_id": self._job.tenant_id,
            "subject_id": self._job.subject_id,
            "created_at": rfc3339(self._desk.clock.now_us()),
        }
        await member.write(_encode(head)[:-1] + b',"files":[')
        comma = b"\n"
        async for entry in self._entries():
            line = _Line(entry.path, entry.sha256, entry.size_bytes, entry.items)
            await member.write(comma + _encode(line))
            comma = b",\n"
        await member.write(b'\n],"damaged":[')
        comma = b"\n"
        async for damage in self._damages():
            await member.write(comma + _encode(damage))
            comma = b",\n"
        await member.write(b"\n]}\n")
        last = await member.close()
        offset = part.offset + part.size_bytes
        async for entry in self._entries():
            await part.write(directory_line(entry))
        await part.write(directory_line(last))
        size = part.offset + part.size_bytes - offset
        await part.write(directory_end(members=self._at.members + 1, offset=offset, size_bytes=size))
        now_us = self._desk.clock.now_us()
        archive = Archive(size_bytes=part.offset + part.size_bytes, expires_us=now_us + self._desk.keep_s * US_PER_S)
        done = replace(
            self._job, status="done", progress=1.0, finished_us=now_us, problem=None, box=None, archive=archive
        )
        event = job_event("gdpr.export.completed", done, at_us=now_us, actor="", size_bytes=archive.size_bytes)
        await self._store_part(part, done, self._at.damaged, event)
        return done

    async def _entries(self) -> AsyncIterator[Entry]:
        """Yield what is in the durable parts, in order."""
        async for contents in self._contents():
            for entry in contents.entries:
                yield entry

    async def _damages(self) -> AsyncIterator[_Damage]:
        """Yield what could not be read: what the durable parts tell of, and what comes behind them."""
        async for contents in self._contents():
            for path, reason in contents.damaged:
                yield _Damage(path, reason)
        for path, reason in self._at.damaged:
            yield _Damage(path, reason)

    async def _contents(self) -> AsyncIterator[Contents]:
        for number in range(self._at.parts):
            for part in await self._desk.store.parts(self._job.job_id, after=number, limit=1):
                yield await self._desk.boxes.open_contents(self._job, part)


def _safe(name: str) -> str:
    """Return a name that is one part of a path everywhere; of a long one the beginning and the ending."""
    safe = _UNSAFE.sub("_", name.replace("/", "_").replace("\\", "_")).rstrip(". ")
    if len(safe.encode()) > NAME_BYTES:
        ending = found[0] if (found := _ENDING.search(safe)) else ""
        room = NAME_BYTES - len(ending.encode())
        safe = safe[: -len(ending) or None].encode()[:room].decode(errors="ignore").rstrip(". ") + ending
    return "_" + safe if not safe or _DEVICE.match(safe) else safe
