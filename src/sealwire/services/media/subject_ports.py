"""What media asks of storage about the files of one person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sealwire.services.media.keeping_ports import EventOf, Spared

if TYPE_CHECKING:
    from sealwire.services.media.ports import StoredFile


class OwnedFile(NamedTuple):
    """A file of the person; `deleted_us` when it was deleted, and a hold keeps it."""

    file: StoredFile
    deleted_us: int | None


class MediaSubjects(Protocol):
    """Files by their owner, uploads under way and files hidden under a hold included.

    Every change is one transaction, durable on return, with its events. MongoDB: as `MediaStore`.
    """

    async def restrict(self, tenant_id: str, subject_id: str, restricted: bool) -> None:
        """Refuse new files of a person from now on, or take them again; of an erased person never again."""

    async def require_free(self, tenant_id: str, subject_id: str) -> None:
        """Raises: LegalHold while a hold covers the person."""

    async def owned(self, tenant_id: str, subject_id: str, after: str, limit: int) -> Sequence[str]:
        """Return the ids of a person's files above an id."""

    async def file(self, tenant_id: str, subject_id: str, media_id: str) -> OwnedFile | None:
        """Return a file of the person, also one that was deleted and that a hold keeps."""

    async def free(self, tenant_id: str, subject_id: str, after: str, limit: int) -> Sequence[str]:
        """Return the ids of a person's files above an id that no hold on their conversation keeps."""

    async def erase(
        self, tenant_id: str, subject_id: str, media_ids: Sequence[str], event: EventOf, *, spared: Spared
    ) -> int:
        """Refuse new files of the person for good and delete those of these that no hold keeps; return how many.

        Raises: LegalHold, HoldCame.
        """

    async def held(self, tenant_id: str, subject_id: str) -> int:
        """Return how many files of the person a hold on their conversation keeps."""

    async def scopes(self, media_ids: Sequence[str]) -> Sequence[str]:
        """Return the scopes of the data keys that these files are sealed under, in their order."""

    async def count_in_files(self, texts: Sequence[bytes]) -> int:
        """Return how often these texts stand in the raw bytes of the files and blobs."""

    async def compact(self) -> None:
        """See to it that nothing deleted is left in the files. Raises: Unavailable when it can't be done now."""
