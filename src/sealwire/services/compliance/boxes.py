"""Boxes: what a job knows of the person, sealed under a key of the job's own, which ends with the job."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.kit.envelopes import EnvelopeRefused, SealingKey, bind
from sealwire.services.compliance.job_ports import Box, StoredJob, StoredPart
from sealwire.services.compliance.zips import Entry

_PURPOSE: Final = "gdpr-job"
_REASONS: Final = "gdpr-restriction"
_PARTS: Final = "gdpr-export-part"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Box).decode


class Contents(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is in a part of an export: its members, and the files (id, name) that its items are about.

    `damaged`: the path and the reason of those that are in no part, as they could not be read.
    """

    entries: tuple[Entry, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()


_contents = msgspec.msgpack.Decoder(Contents).decode


class JobKeys(Protocol):
    """What jobs ask of the key ring (`clients.key_ring.KeyRing`)."""

    async def seal(self, tenant_id: str, scope: str, subject_id: str, plaintext: bytes, aad: bytes) -> bytes: ...
    async def open(self, tenant_id: str, scope: str, subject_id: str, envelope: bytes, aad: bytes) -> bytes: ...
    async def sealing_key(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey: ...
    async def key_by_id(self, tenant_id: str, scope: str, subject_id: str, key_id: bytes) -> SealingKey: ...
    async def destroy(self, tenant_id: str, *, scope: str = "", subject_id: str = "") -> int: ...


def scope_of(job_id: str) -> str:
    """Return the scope of a job's key."""
    return f"{_PURPOSE}:{job_id}"


class Boxes:
    """Seals and opens what belongs to jobs and restrictions."""

    def __init__(self, keys: JobKeys) -> None:
        self._keys = keys

    async def seal(self, tenant_id: str, job_id: str, box: Box) -> bytes:
        """Seal a box. Raises: Unavailable."""
        context = bind(tenant_id, _PURPOSE, job_id)
        return await self._keys.seal(tenant_id, scope_of(job_id), "", _encode(box), context)

    async def open(self, job: StoredJob) -> Box:
        """Open a job's box; an empty one where its key is gone. Raises: Unavailable."""
        if job.box is None:
            return Box()
        context = bind(job.tenant_id, _PURPOSE, job.job_id)
        try:
            return _decode(await self._keys.open(job.tenant_id, scope_of(job.job_id), "", job.box, context))
        except (KeyUnusable, DecryptionFailed):
            return Box()

    async def seal_contents(self, job: StoredJob, number: int, contents: Contents) -> bytes:
        """Seal what is in a part of an archive. Raises: Unavailable."""
        context = bind(job.tenant_id, _PARTS, job.job_id, str(number))
        return await self._keys.seal(job.tenant_id, scope_of(job.job_id), "", _encode(contents), context)

    async def open_contents(self, job: StoredJob, part: StoredPart) -> Contents:
        """Open it. Raises: Unavailable; KeyUnusable, DecryptionFailed, EnvelopeRefused where it can't be read."""
        context = bind(job.tenant_id, _PARTS, job.job_id, str(part.number))
        return _contents(await self._keys.open(job.tenant_id, scope_of(job.job_id), "", part.contents, context))

    async def destroy(self, job: StoredJob) -> None:
        """Destroy a job's key: nothing sealed for it can be read again, in backups too."""
        await self._keys.destroy(job.tenant_id, scope=scope_of(job.job_id))

    async def seal_reason(self, tenant_id: str, subject_id: str, reason: str) -> bytes:
        """Seal why somebody is restricted, under a key of that person."""
        context = bind(tenant_id, _REASONS, subject_id)
        return await self._keys.seal(tenant_id, _REASONS, subject_id, reason.encode(), context)

    async def open_reason(self, tenant_id: str, subject_id: str, sealed: bytes) -> str | None:
        """Open it; None where its key is gone."""
        context = bind(tenant_id, _REASONS, subject_id)
        try:
            return (await self._keys.open(tenant_id, _REASONS, subject_id, sealed, context)).decode()
        except (KeyUnusable, DecryptionFailed, EnvelopeRefused):
            return None
