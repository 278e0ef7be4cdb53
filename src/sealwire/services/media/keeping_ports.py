"""What media asks of storage to keep what legal holds cover and to let go what is past its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sealwire.contracts.custody import Disposed, Due
from sealwire.ports.events import NewEvent
from sealwire.ports.holds import HoldBook

EventOf = Callable[[str, str, str | None, int], NewEvent]
"""Makes the event of a file that goes: of its id, owner, conversation and size in bytes."""


class MediaKeeping(Protocol):
    """Holds, retention and disk space, in the same place as the files.

    Every change is one transaction, durable on return, with its events, and looks at the holds inside of it. A file is
    held by a hold on its owner or on its conversation. MongoDB: as `MediaStore`, holds as `HoldBook` says.
    """

    @property
    def holds(self) -> HoldBook:
        """Return media's copy of the legal holds."""

    async def purge_released(self, after: str, limit: int) -> str:
        """Delete files for good that were deleted under a hold and that none keeps any more, of `limit` above an id.

        Return the id of the last looked at, empty when there was none.
        """

    async def due(self, tenant_id: str, before_us: int, *, after: tuple[int, str], limit: int) -> Due:
        """Return files made before `before_us`, above (time made, id); unfinished uploads expire by themselves."""

    async def dispose(
        self, tenant_id: str, run_id: str, media_ids: Sequence[str], *, at_us: int, event: EventOf
    ) -> Disposed:
        """Delete these for good but for what is held; the same batch again does nothing."""

    async def forget_conversation(
        self, tenant_id: str, conversation_id: str, *, at_us: int, limit: int, event: EventOf
    ) -> int:
        """Delete up to `limit` files of a conversation, those under a hold for their readers only; return how many."""

    async def followed(self, feed: str) -> int:
        """Return how far another service's list was followed."""

    async def follow(self, feed: str, number: int) -> None:
        """Store it."""

    async def reclaim(self) -> int:
        """Give the next part of the free space back; return how many bytes."""
