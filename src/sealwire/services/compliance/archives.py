"""Archives: a ZIP written as its parts come, sealed as it is written, opened as it is read; memory stays flat."""

from __future__ import annotations

import os
import zipfile
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import IO, Final, cast

from sealwire.kit.envelopes import bind
from sealwire.kit.segments import CHUNK_BYTES, SegmentOpener, SegmentSealer, header_key_id, span
from sealwire.ports.blobs import BlobStore, BlobWriter
from sealwire.services.compliance.boxes import JobKeys, scope_of
from sealwire.services.compliance.job_ports import Archive

WRITE_BYTES: Final = 8 * CHUNK_BYTES
READ_CHUNKS: Final = 16
_WHEN: Final = (1980, 1, 1, 0, 0, 0)
"""The time of every member: the oldest a ZIP knows. When things happened stands in the data."""


class _Pipe:
    """What `zipfile` writes to: it can't seek, so sizes follow their data, as the format allows."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def write(self, data: bytes | memoryview) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._at += len(part)
        return len(part)

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing waits here that could be hurried."""

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


class Member:
    """A file in the archive, being written."""

    def __init__(self, writer: ArchiveWriter, name: str, *, pack: bool) -> None:
        self.name = name
        self._writer = writer
        info = zipfile.ZipInfo(name, _WHEN)
        info.compress_type = zipfile.ZIP_DEFLATED if pack else zipfile.ZIP_STORED
        self._file = writer.zip.open(info, "w", force_zip64=True)
        self._hash = sha256()
        self.size_bytes = 0

    async def write(self, data: bytes) -> None:
        """Add bytes."""
        self._hash.update(data)
        self.size_bytes += len(data)
        self._file.write(data)
        await self._writer.push()

    async def close(self) -> str:
        """End the file; return its SHA-256."""
        self._file.close()
        await self._writer.push()
        return self._hash.hexdigest()


class ArchiveWriter:
    """An archive being written. Nothing of it counts before `finish`; `abort` drops it."""

    def __init__(self, *, blobs: BlobStore, sealer: SegmentSealer) -> None:
        self._blobs = blobs
        self._sealer = sealer
        self._pipe = _Pipe()
        self._key = os.urandom(16).hex()
        self._blob: BlobWriter | None = None
        self._pending = bytearray(sealer.header)
        self.zip = zipfile.ZipFile(
            cast("IO[bytes]", self._pipe), "w"
        )  # zipfile asks no more of a stream than _Pipe has

    def member(self, name: str, *, pack: bool = True) -> Member:
        """Begin a file; one at a time."""
        return Member(self, name, pack=pack)

    async def push(self, *, all_of_it: bool = False) -> None:
        """Seal what was written and hand it to the disk."""
        if plain := self._pipe.take():
            self._pending += self._sealer.update(plain)
        if len(self._pending) >= WRITE_BYTES or (all_of_it and self._pending):
            if self._blob is None:
                self._blob = await self._blobs.create(self._key)
            await self._blob.write(bytes(self._pending))
            self._pending.clear()

    async def finish(self, *, expires_us: int) -> Archive:
        """Make it durable."""
        self.zip.close()
        await self.push(all_of_it=True)
        last = self._sealer.finish()
        if self._blob is None:
            await self._blobs.put(self._key, bytes(self._pending) + last)
        else:
            await self._blob.commit(bytes(self._pending) + last)
        return Archive(
            blob_key=self._key, header=self._sealer.header, size_bytes=self._sealer.plain_bytes, expires_us=expires_us
        )

    async def abort(self) -> None:
        """Drop it."""
        if self._blob is not None:
            await self._blob.abort()


class Archives:
    """Archives of jobs, each sealed under its job's key."""

    def __init__(self, *, blobs: BlobStore, keys: JobKeys) -> None:
        self._blobs = blobs
        self._keys = keys

    async def writer(self, tenant_id: str, job_id: str) -> ArchiveWriter:
        """Begin an archive. Raises: Unavailable."""
        key = await self._keys.sealing_key(tenant_id, scope_of(job_id), "")
        return ArchiveWriter(blobs=self._blobs, sealer=SegmentSealer(key=key, context=_context(tenant_id, job_id)))

    async def read(self, tenant_id: str, job_id: str, archive: Archive) -> AsyncIterator[bytes]:
        """Yield the archive. Raises: EnvelopeRefused for bytes that aren't what was stored; BlobMissing."""
        key = await self._keys.key_by_id(tenant_id, scope_of(job_id), "", header_key_id(archive.header))
        opener = SegmentOpener(
            key=key, header=archive.header, context=_context(tenant_id, job_id), plain_bytes=archive.size_bytes
        )
        for at in range(0, archive.size_bytes, READ_CHUNKS * CHUNK_BYTES):
            where = span(archive.size_bytes, at, min(at + READ_CHUNKS * CHUNK_BYTES, archive.size_bytes))
            sealed = await self._blobs.read(archive.blob_key, where.start, where.end)
            for plain in opener.chunks(where.first, where.last, sealed):
                yield bytes(plain)

    async def drop(self, tenant_id: str, job_id: str, archive: Archive) -> None:
        """Destroy the key, then delete the bytes. Dropping what is gone is no error."""
        await self._keys.destroy(tenant_id, scope=scope_of(job_id))
        await self._blobs.delete(archive.blob_key)

    async def leftovers(self, *, older_than_s: float) -> AsyncIterator[str]:
        """Yield the keys of blobs that old: those no job names were left by a crash."""
        async for key in self._blobs.leftovers(older_than_s=older_than_s):
            yield key

    async def delete(self, blob_key: str) -> None:
        """Delete bytes that no job names."""
        await self._blobs.delete(blob_key)


def _context(tenant_id: str, job_id: str) -> bytes:
    return bind(tenant_id, "gdpr-export", job_id)
