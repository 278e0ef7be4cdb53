"""Blobs: large immutable objects by key. What they hold is sealed before it comes here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class BlobMissing(Exception):
    """There is no blob under this key, or it is shorter than asked for."""


class BlobWriter(Protocol):
    """A blob that is being written. Nobody reads it before `commit`."""

    async def write(self, data: bytes) -> None:
        """Add bytes at the end. Memory stays flat: what is given here is not kept. Raises: Unavailable."""

    async def commit(self, last: bytes = b"") -> None:
        """Add the `last` bytes and make all durable and readable under the key, at once. Raises: Unavailable."""

    async def abort(self) -> None:
        """Drop it. Safe after `commit` (then it does nothing) and safe to call twice."""


class BlobStore(Protocol):
    """Blobs by key; a key is 32 lowercase hex digits, drawn at random by the one who writes, and never used twice.

    Atomic: a blob is there whole or not at all. Durable: once `commit` returned, neither a killed process nor a power
    cut loses it. Immutable: nothing changes a blob but `delete`. Ordering between blobs: none. Idempotent: deleting
    what isn't there is no error.

    Embedded: one file per blob; written under the temporary name `<key>.part`, fsynced, renamed, folder fsynced.
    S3: a multipart upload (or one PUT with `If-None-Match: *` below 5 MiB), completed by `commit`; `read` is a ranged
    GET, `abort` is AbortMultipartUpload; a lifecycle rule ends uploads nobody completed. Strong read-after-write
    consistency (S3 since 2020, MinIO, SeaweedFS) is asked for.
    """

    async def create(self, key: str) -> BlobWriter:
        """Begin a blob. Nothing need be stored before the first write. Raises: Unavailable."""

    async def put(self, key: str, data: bytes) -> None:
        """Write a small blob at once: `create`, `write` and `commit` in one. Raises: Unavailable."""

    async def read(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes `start` … `end` (exclusive). Raises: BlobMissing, Unavailable."""

    async def delete(self, key: str) -> None:
        """Delete a blob for good."""

    def leftovers(self, *, older_than_s: float) -> AsyncIterator[str]:
        """Yield the keys of all blobs and unfinished writes that weren't touched for so long, in any order."""

    async def check(self) -> None:
        """Prove that blobs can be written and read. Raises: what makes it fail."""
