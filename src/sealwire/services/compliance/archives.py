"""Archives: a ZIP written in parts, each sealed and durable on its own, so that the next goes on where the last ended.

A part holds whole members and is a blob of its own: what a crash cut off is dropped, what was durable stays. Nothing
here grows with the archive: who writes it keeps the entries of its members elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final, NamedTuple

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.kit.envelopes import bind
from sealwire.kit.segments import CHUNK_BYTES, SegmentOpener, SegmentSealer, header_key_id, span
from sealwire.ports.blobs import BlobStore, BlobWriter
from sealwire.services.compliance.boxes import JobKeys, scope_of
from sealwire.services.compliance.zips import Entry, Packer

WRITE_BYTES: Final = 8 * CHUNK_BYTES
READ_CHUNKS: Final = 16


class Part(NamedTuple):
    """A durable part: its place among the parts (from 1 on), its blob, the header of its segment, its plain size.

    Number 0 is the only part of an archive of a version that knew none.
    """

    number: int
    blob_key: str
    header: bytes
    size_bytes: int


class Member:
    """A file in the archive, being written."""

    def __init__(self, part: PartWriter, name: str, *, pack: bool) -> None:
        self._part = part
        self._packer = Packer(name, offset=part.offset + part.size_bytes, pack=pack)
        part.take(self._packer.head())

    @property
    def size_bytes(self) -> int:
        """How much was written."""
        return self._packer.size_bytes

    async def write(self, data: bytes) -> None:
        """Add bytes."""
        await self._part.write(self._packer.add(data))

    async def close(self, items: int | None = None) -> Entry:
        """End the file; return what manifest and directory say of it. `items`: how many things it lists."""
        await self._part.write(self._packer.end())
        entry = self._packer.entry(items)
        self._part.entries.append(entry)
        return entry


class PartWriter:
    """A part being written, of which `entries` are finished. Nothing of it counts before `commit`; `abort` drops it."""

    def __init__(self, *, blobs: BlobStore, sealer: SegmentSealer, number: int, offset: int) -> None:
        """`offset` is how long the archive is before this part."""
        self.number = number
        self.offset = offset
        self.entries: list[Entry] = []
        self._blobs = blobs
        self._sealer = sealer
        self._key = os.urandom(16).hex()
        self._blob: BlobWriter | None = None
        self._pending = bytearray(sealer.header)

    @property
    def size_bytes(self) -> int:
        """How many bytes of the archive are in this part so far."""
        return self._sealer.plain_bytes

    def member(self, name: str, *, pack: bool = True) -> Member:
        """Begin a file; one at a time."""
        return Member(self, name, pack=pack)

    def take(self, plain: bytes) -> None:
        """Seal a few bytes; they go to the disk with what follows."""
        self._pending += self._sealer.update(plain)

    async def write(self, plain: bytes) -> None:
        """Seal bytes and hand what is ready to the disk."""
        self.take(plain)
        if len(self._pending) >= WRITE_BYTES:
            if self._blob is None:
                self._blob = await self._blobs.create(self._key)
            await self._blob.write(bytes(self._pending))
            self._pending.clear()

    async def commit(self) -> Part:
        """Make the part durable. Raises: Unavailable."""
        last = bytes(self._pending) + self._sealer.finish()
        if self._blob is None:
            await self._blobs.put(self._key, last)
        else:
            await self._blob.commit(last)
        return Part(self.number, self._key, self._sealer.header, self._sealer.plain_bytes)

    async def abort(self) -> None:
        """Drop it. After `commit` it does nothing."""
        if self._blob is not None:
            await self._blob.abort()


class Archives:
    """Archives of jobs, each sealed under its job's key."""

    def __init__(self, *, blobs: BlobStore, keys: JobKeys) -> None:
        self._blobs = blobs
        self._keys = keys

    async def part(self, tenant_id: str, job_id: str, *, number: int, offset: int) -> PartWriter:
        """Begin a part of an archive that is `offset` long before it. Raises: Unavailable."""
        key = await self._keys.sealing_key(tenant_id, scope_of(job_id), "")
        sealer = SegmentSealer(key=key, context=_context(tenant_id, job_id, number))
        return PartWriter(blobs=self._blobs, sealer=sealer, number=number, offset=offset)

    async def read(self, tenant_id: str, job_id: str, parts: AsyncIterable[Part]) -> AsyncIterator[bytes]:
        """Yield an archive. Raises: EnvelopeRefused for bytes that aren't what was stored; BlobMissing."""
        async for part in parts:
            key = await self._keys.key_by_id(tenant_id, scope_of(job_id), "", header_key_id(part.header))
            context, size = _context(tenant_id, job_id, part.number), part.size_bytes
            opener = SegmentOpener(key=key, header=part.header, context=context, plain_bytes=size)
            for at in range(0, size, READ_CHUNKS * CHUNK_BYTES):
                where = span(size, at, min(at + READ_CHUNKS * CHUNK_BYTES, size))
                sealed = await self._blobs.read(part.blob_key, where.start, where.end)
                for plain in opener.chunks(where.first, where.last, sealed):
                    yield bytes(plain)

    async def is_readable(self, tenant_id: str, job_id: str, part: Part) -> bool:
        """Whether the key of a part is still there. Raises: Unavailable."""
        try:
            await self._keys.key_by_id(tenant_id, scope_of(job_id), "", header_key_id(part.header))
        except (KeyUnusable, DecryptionFailed):
            return False
        return True

    async def forget(self, tenant_id: str, job_id: str) -> None:
        """Destroy an archive's key: whatever is left of it can't be read. Twice is no error."""
        await self._keys.destroy(tenant_id, scope=scope_of(job_id))

    async def leftovers(self, *, older_than_s: float) -> AsyncIterator[str]:
        """Yield the keys of blobs that old: those no job names were left by a crash."""
        async for key in self._blobs.leftovers(older_than_s=older_than_s):
            yield key

    async def delete(self, blob_key: str) -> None:
        """Delete a part's bytes. What is gone is no error."""
        await self._blobs.delete(blob_key)


def _context(tenant_id: str, job_id: str, number: int) -> bytes:
    return bind(tenant_id, "gdpr-export", job_id, *([str(number)] if number else []))
