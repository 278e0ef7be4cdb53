"""The vault: plain bytes in, sealed segments in blobs; ranges of plain bytes out. Memory stays flat in the size."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import Final

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.contracts.media import MediaDamaged
from sealwire.kit.envelopes import EnvelopeRefused, bind
from sealwire.kit.segments import CHUNK_BYTES, SegmentOpener, SegmentSealer, header_key_id, span
from sealwire.ports.blobs import BlobMissing, BlobStore, BlobWriter
from sealwire.services.media.model import PERSONAL
from sealwire.services.media.ports import DataKeys, StoredSegment

WRITE_BYTES: Final = 8 * CHUNK_BYTES
"""Sealed bytes that are handed to the blob store at once; one hop to a thread costs as much as sealing 64 KiB."""
READ_CHUNKS: Final = 4


class SegmentWriter:
    """One segment being written; nothing of it counts before `finish`."""

    def __init__(self, *, blobs: BlobStore, sealer: SegmentSealer, origin_id: str, start: int, scope: str) -> None:
        self._blobs = blobs
        self._sealer = sealer
        self._origin_id = origin_id
        self._start = start
        self._scope = scope
        self._key = os.urandom(16).hex()
        self._pending = [sealer.header]
        self._pending_bytes = len(sealer.header)
        self._blob: BlobWriter | None = None

    @property
    def length(self) -> int:
        """Plain bytes taken so far."""
        return self._sealer.plain_bytes

    async def write(self, data: bytes) -> None:
        """Seal and store. Raises: Unavailable."""
        self._add(self._sealer.update(data))
        if self._pending_bytes >= WRITE_BYTES:
            if self._blob is None:
                self._blob = await self._blobs.create(self._key)
            await self._blob.write(self._take())

    async def finish(self) -> StoredSegment:
        """Make it durable and return what is to be remembered of it. Raises: Unavailable."""
        self._add(self._sealer.finish())
        if self._blob is None:
            await self._blobs.put(self._key, self._take())
        else:
            await self._blob.commit(self._take())
        return StoredSegment(
            start=self._start,
            length=self._sealer.plain_bytes,
            blob_key=self._key,
            header=self._sealer.header,
            origin_id=self._origin_id,
            origin_start=self._start,
            scope=self._scope,
        )

    async def abort(self) -> None:
        """Drop it."""
        if self._blob is not None:
            await self._blob.abort()

    def _add(self, sealed: bytes) -> None:
        if sealed:
            self._pending.append(sealed)
            self._pending_bytes += len(sealed)

    def _take(self) -> bytes:
        data = b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0
        return data


class Vault:
    """Seals files under data keys of their owner and conversation, and opens any range of them."""

    def __init__(self, *, blobs: BlobStore, keys: DataKeys) -> None:
        self._blobs = blobs
        self._keys = keys

    async def writer(
        self, tenant_id: str, owner_id: str, conversation_id: str | None, media_id: str, start: int
    ) -> SegmentWriter:
        """Begin a segment of a file at the plain offset `start`. Raises: what crypto raises."""
        scope = conversation_id or PERSONAL
        key = self._keys.ready(tenant_id, scope, owner_id) or await self._keys.sealing_key(tenant_id, scope, owner_id)
        sealer = SegmentSealer(key=key, context=_place(tenant_id, media_id, start))
        return SegmentWriter(blobs=self._blobs, sealer=sealer, origin_id=media_id, start=start, scope=scope)

    async def read(
        self, tenant_id: str, owner_id: str, segments: Sequence[StoredSegment], start: int, end: int
    ) -> AsyncIterator[bytes]:
        """Yield the plain bytes `start` … `end` (exclusive), opening only the chunks they lie in.

        Raises: EnvelopeRefused for bytes that aren't what was stored; BlobMissing; what crypto raises.
        """
        for segment in segments:
            first = max(start, segment.start)
            last = min(end, segment.start + segment.length)
            if first < last:
                opener = await self._opener(tenant_id, owner_id, segment)
                async for data in self._read(segment, opener, first - segment.start, last - segment.start):
                    yield data

    async def read_all(
        self, tenant_id: str, owner_id: str, segments: Sequence[StoredSegment], start: int, end: int
    ) -> AsyncIterator[bytes]:
        """As `read`, and all of it. Raises: MediaDamaged, behind what is whole, never with a byte that isn't."""
        left = end - start
        try:
            async for data in self.read(tenant_id, owner_id, segments, start, end):
                left -= len(data)
                yield data
        except BlobMissing:
            raise MediaDamaged(reason="bytes_missing") from None
        except EnvelopeRefused:
            raise MediaDamaged(reason="bytes_refused") from None
        except (KeyUnusable, DecryptionFailed):
            raise MediaDamaged(reason="key_unusable") from None
        if left:
            raise MediaDamaged(reason="bytes_missing")

    async def _read(self, segment: StoredSegment, opener: SegmentOpener, start: int, end: int) -> AsyncIterator[bytes]:
        at = start
        while at < end:
            stop = min(end, (at // CHUNK_BYTES + READ_CHUNKS) * CHUNK_BYTES)
            where = span(segment.length, at, stop)
            sealed = await self._blobs.read(segment.blob_key, where.start, where.end)
            skip = at - where.first * CHUNK_BYTES
            for plain in opener.chunks(where.first, where.last, sealed):
                data = plain[skip : skip + stop - at]
                skip = 0
                at += len(data)
                yield data

    async def _opener(self, tenant_id: str, owner_id: str, segment: StoredSegment) -> SegmentOpener:
        key_id = header_key_id(segment.header)
        key = await self._keys.key_by_id(tenant_id, segment.scope, owner_id, key_id)
        return SegmentOpener(
            key=key,
            header=segment.header,
            context=_place(tenant_id, segment.origin_id, segment.origin_start),
            plain_bytes=segment.length,
        )

    async def drop(self, segments: Sequence[StoredSegment]) -> None:
        """Delete segments that came to belong to no file."""
        for segment in segments:
            await self._blobs.delete(segment.blob_key)

    async def seal_note(
        self, tenant_id: str, owner_id: str, conversation_id: str | None, media_id: str, kind: str, note: bytes
    ) -> bytes:
        """Seal what is written about a file (its name …)."""
        scope = conversation_id or PERSONAL
        return await self._keys.seal(tenant_id, scope, owner_id, note, bind(tenant_id, kind, media_id))

    async def open_note(
        self, tenant_id: str, owner_id: str, conversation_id: str | None, media_id: str, kind: str, sealed: bytes
    ) -> bytes:
        """Open it. Raises: EnvelopeRefused, what crypto raises."""
        scope = conversation_id or PERSONAL
        return await self._keys.open(tenant_id, scope, owner_id, sealed, bind(tenant_id, kind, media_id))


def _place(tenant_id: str, media_id: str, start: int) -> bytes:
    """Say where a segment belongs; it opens nowhere else."""
    return bind(tenant_id, "media", media_id, str(start))


__all__ = ["EnvelopeRefused", "SegmentWriter", "Vault"]
