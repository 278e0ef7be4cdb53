"""What media asks of storage to keep what legal holds cover and to let go what is past its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sealwire.contracts.custody import Disposed, Due
from sealwire.ports.events import NewEvent
from sealwire.ports.holds import HoldBook

if TYPE_CHECKING:
    from sealwire.services.media.ports import StoredFile

EventOf = Callable[[str, str, str | None, int], NewEvent]
"""Makes the event of a file that goes: of its id, owner, conversation and size in bytes."""


class Spared(NamedTuple):
    """Which holds were in force when messaging was asked, and which of them keep a file with a message.

    What deletes looks at it: a hold that isn't in `looked` by then raises HoldCame, and nothing is deleted.
    """

    looked: frozenset[str]
    holds: Mapping[str, frozenset[str]]


class HoldCame(Exception):
    """A hold came since messaging was asked: ask again."""


class MediaKeeping(Protocol):
    """Holds, retention and disk space, in the same place as the files.

    Every change is one transaction, durable on return, with its events, and looks at the holds inside of it. A file is
    held by a hold on its owner or on its conversation, or by what `Spared` says. MongoDB: as `MediaStore`, holds as
    `HoldBook` says.
    """

    @property
    def holds(self) -> HoldBook:
        """Return media's copy of the legal holds."""

    async def in_force(self, tenant_id: str) -> frozenset[str]:
        """Return the ids of the tenant's holds."""

    async def hidden(self, after: str, limit: int) -> Sequence[tuple[str, str, bool]]:
        """Return files that were deleted under a hold, above an id: id, tenant, whether a hold on their owner or
        conversation keeps them."""

    async def purge(self, tenant_id: str, media_ids: Sequence[str], *, spared: Spared) -> None:
        """Delete those of these files for good that were deleted under a hold and that none keeps any more.

        Raises: HoldCame.
        """

    async def due(self, tenant_id: str, before_us: int, *, after: tuple[int, str], limit: int) -> Due:
        """Return files made before `before_us`, above (time made, id); unfinished uploads expire by themselves."""

    async def dispose(
        self, tenant_id: str, run_id: str, media_ids: Sequence[str], *, at_us: int, event: EventOf, spared: Spared
    ) -> Disposed:
        """Delete these for good but for what is held; the same batch again does nothing. Raises: HoldCame."""

    async def of_conversation(self, tenant_id: str, conversation_id: str, limit: int) -> Sequence[StoredFile]:
        """Return files of a conversation that aren't deleted."""

    async def keeps_any(self, tenant_id: str, conversation_id: str) -> bool:
        """Whether any file of the conversation is left, deleted or not."""

    async def followed(self, feed: str) -> int:
        """Return how far another service's list was followed."""

    async def follow(self, feed: str, number: int) -> None:
        """Store it."""

    async def reclaim(self) -> int:
        """Give the next part of the free space back; return how many bytes."""
