"""What media asks of storage: files and their segments. The bytes themselves are blobs (ports/blobs.py)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from sealwire.contracts.data_keys import Destroyed
from sealwire.kit.envelopes import SealingKey
from sealwire.ports.events import NewEvent
from sealwire.services.media.keeping_ports import MediaKeeping, Spared
from sealwire.services.media.model import FileState
from sealwire.services.media.subject_ports import MediaSubjects


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file or an upload on its way. `meta` and `facts` are sealed: name and claimed type; type found and SHA-256.

    `length` is None while the uploader hasn't said it. `offset` is what is durable of it. `parts` are the uploads a
    joined file was made of.
    """

    media_id: str
    tenant_id: str
    owner_id: str
    conversation_id: str | None
    state: FileState
    partial: bool
    length: int | None
    offset: int
    meta: bytes
    facts: bytes
    parts: tuple[str, ...]
    created_at_us: int
    expires_at_us: int | None


class StoredSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a file: `length` plain bytes from `start`, sealed in one blob.

    `origin_id` and `origin_start` say for which place it was sealed (a joined file keeps the pieces of its parts);
    `scope` is the scope of its data key, `header` the segment's header.
    """

    start: int
    length: int
    blob_key: str
    header: bytes
    origin_id: str
    origin_start: int
    scope: str


class DataKeys(Protocol):
    """Data keys per scope (a conversation, or what else) and subject: the key ring of `clients/crypto.py`."""

    def ready(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey | None:
        """Return the key to seal with when it is at hand."""

    async def sealing_key(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey:
        """Return the key to seal with. Raises: Unavailable."""

    async def key_by_id(self, tenant_id: str, scope: str, subject_id: str, key_id: bytes) -> SealingKey:
        """Return the key of this id. Raises: DecryptionFailed, KeyUnusable, Unavailable."""

    async def seal(self, tenant_id: str, scope: str, subject_id: str, plaintext: bytes, aad: bytes) -> bytes:
        """Seal under the key of scope and subject. Raises: Unavailable."""

    async def open(self, tenant_id: str, scope: str, subject_id: str, envelope: bytes, aad: bytes) -> bytes:
        """Open an envelope. Raises: EnvelopeRefused, DecryptionFailed, KeyUnusable, Unavailable."""

    async def destroy(self, tenant_id: str, *, scope: str = "", subject_id: str = "") -> int:
        """Destroy the data keys of a scope or subject for good. Raises: LegalHold."""

    async def destroy_free(self, tenant_id: str, *, subject_id: str, spare: Collection[str] = ()) -> Destroyed:
        """Destroy the data keys of a person for good but for those that a hold keeps, and of these scopes; say what
        stays."""

    def sweep(self) -> None:
        """Wipe what is past its time."""


class MediaStore(Protocol):
    """Files, segments, the room a tenant's files take, and the outbox.

    Every method is atomic, and what it changed is durable on return, together with its events (one transaction).
    Embedded: one SQLite file, group commit. MongoDB: a document per file with its segments embedded (above some
    thousand segments: a collection of their own), the tenant's room a counter document, in a multi-document transaction
    with majority write concern; the condition on `offset` is part of the update's filter. Blobs that no segment names
    any more are listed in the same transaction (`doomed`), so that a crash before their deletion forgets none.
    """

    async def create(
        self, file: StoredFile, *, max_tenant_bytes: int, most_open: int, max_open_bytes: int, event: NewEvent
    ) -> None:
        """Store a new upload and take its length of the tenant's room.

        Raises: QuotaExceeded; also past `most_open` unfinished uploads of one person, or past `max_open_bytes` that
        these have reserved and not sent.
        """

    async def join(self, file: StoredFile, *, event: NewEvent, max_tenant_bytes: int) -> bool:
        """Store a file made of its `parts`' segments in their order; the parts stay until they expire.

        False, and nothing done, when a part isn't a complete partial upload of the same owner. Raises:
        QuotaExceeded.
        """

    async def tell(self, event: NewEvent) -> None:
        """Store an event about a file that stays as it is."""

    async def file(self, tenant_id: str, media_id: str) -> StoredFile | None:
        """Return a file."""

    async def files(self, tenant_id: str, media_ids: Sequence[str]) -> list[StoredFile]:
        """Return those of the files that are there."""

    async def segments(self, media_id: str) -> list[StoredSegment]:
        """Return a file's segments in the order of their bytes."""

    async def set_length(
        self, media_id: str, length: int, *, max_tenant_bytes: int, most_open: int, max_open_bytes: int
    ) -> bool:
        """Say the length of an upload that was begun without; False when it has one. Raises: as `create`."""

    async def append(
        self,
        media_id: str,
        *,
        offset: int,
        segments: Sequence[StoredSegment],
        state: FileState,
        facts: bytes,
        expires_at_us: int | None,
        events: Sequence[NewEvent],
    ) -> bool:
        """Add segments to an open upload that stands at `offset`; False, and nothing done, when it doesn't."""

    async def conclude(self, media_id: str, *, state: FileState, facts: bytes, event: NewEvent) -> bool:
        """Store what a look at the whole file found; False when it isn't `scanning` any more."""

    async def delete(self, media_id: str, *, event: NewEvent, spared: Spared) -> bool:
        """Delete a file, give its room back, doom the blobs that only it named; False when it wasn't there.

        While a hold covers it, it is only found no more, until `MediaKeeping.purge`. Raises: HoldCame.
        """

    async def expired(self, now_us: int, limit: int) -> list[StoredFile]:
        """Return uploads and parts whose time is over."""

    async def scanning(self, after: str, limit: int) -> list[StoredFile]:
        """Return files that wait for a look, with ids above `after`, in the order of their ids."""

    async def doomed(self, limit: int) -> list[str]:
        """Return keys of blobs to be deleted."""

    async def buried(self, blob_keys: Sequence[str]) -> None:
        """Forget doomed blobs that are gone."""

    async def trim(self, before_us: int) -> None:
        """Drop events older than this that every consumer has passed."""

    async def unknown(self, blob_keys: Sequence[str]) -> list[str]:
        """Return those of the keys that no segment names."""

    @property
    def keeping(self) -> MediaKeeping:
        """Return what holds and retention ask of the same place."""

    @property
    def subjects(self) -> MediaSubjects:
        """Return what people's rights ask of the same place."""

    async def check(self) -> None:
        """Prove that the store answers. Raises: what makes it fail."""
