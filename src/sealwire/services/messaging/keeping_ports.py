"""What messaging asks of storage to keep what legal holds cover and to let go what is past its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sealwire.contracts.custody import Disposed, Due
from sealwire.ports.holds import HoldBook
from sealwire.services.messaging.former_ports import FormerStore
from sealwire.services.messaging.model import Actor


class Keeping(Protocol):
    """Holds, retention and disk space, in the same place as the messages.

    Every change is one transaction, durable on return, and looks at the holds inside of it. A message is held by a hold
    on its sender, on its conversation, or on anybody it mentions.
    MongoDB: as `ConversationStore`, holds as `HoldBook` says.
    """

    @property
    def holds(self) -> HoldBook:
        """Return messaging's copy of the legal holds."""

    @property
    def former(self) -> FormerStore:
        """Return what was replaced while a hold covered it."""

    async def knows_conversation(self, tenant_id: str, conversation_id: str) -> bool:
        """Whether there is such a conversation, or was one of which something is left."""

    async def purge_released(self, after: int, limit: int) -> int:
        """Purge the content of deleted messages that no hold keeps any more, of `limit` kept ones above a place.

        Return the place of the last looked at, 0 when there was none.
        """

    async def held_files(self, tenant_id: str, media_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return those of these files that are attached to held messages, with the ids of the holds that keep them."""

    async def due(self, tenant_id: str, before_us: int, *, rows: bool, cursor: int, limit: int) -> Due:
        """Return messages made before `before_us`: those with content; with `rows` tombstones too."""

    async def dispose(
        self, tenant_id: str, run_id: str, message_ids: Sequence[str], *, rows: bool, actor: Actor, at_us: int
    ) -> Disposed:
        """Leave bodiless tombstones of these, with `rows` such that go one day too; the same batch again does nothing.

        One event per conversation tells of it.
        """

    async def sweep_purged(self, after: int, limit: int) -> int:
        """Delete rows that go, up to `limit` of a conversation above a place; raise its `first_seq` past them.

        A row goes when all before it went and no event of it is left. Return the place to go on from, 0 at the end.
        """

    async def reclaim(self) -> int:
        """Give the next part of the free space back; return how many bytes."""

    async def forgotten(self, after: int, limit: int) -> Sequence[tuple[int, str, str]]:
        """Return (number, tenant id, conversation id) of conversations whose content is gone."""

    async def drop_husks(self, before_us: int, limit: int) -> int:
        """Delete what is left of conversations forgotten that long ago, once no event names them; return how many."""
