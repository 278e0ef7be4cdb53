"""What messages keep of files: a legal hold covers a message with what is attached to it, and messaging knows which.

Two services can't delete in one transaction. So messaging is asked first, and the deletion looks whether a hold came
since: a hold is in force only when media has it too, and messaging has every hold before media.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from sealwire.contracts.media import SERVICE
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import HeldFilesQuery
from sealwire.kit.caller import service_caller
from sealwire.ports.events import NewEvent
from sealwire.services.media.keeping_ports import HoldCame, Spared
from sealwire.services.media.ports import MediaStore, StoredFile

T = TypeVar("T")
_AT_ONCE: Final = 1000


class Sparing:
    """Asks messaging before files are deleted, where there is a hold at all."""

    def __init__(self, *, store: MediaStore, messaging: Messaging) -> None:
        self._store = store
        self._messaging = messaging

    async def ask(self, tenant_id: str, media_ids: Sequence[str]) -> Spared:
        """Return which of these files are attached to messages that a hold keeps. Raises: Unavailable."""
        looked = await self._store.keeping.in_force(tenant_id)
        holds: dict[str, frozenset[str]] = {}
        for start in range(0, len(media_ids) if looked else 0, _AT_ONCE):
            query = HeldFilesQuery(media_ids=list(media_ids[start : start + _AT_ONCE]))
            for held in (await self._messaging.held_files(service_caller(SERVICE, tenant_id), query)).items:
                if keeping := looked.intersection(held.hold_ids):  # one being released is let go here first
                    holds[held.media_id] = keeping
        return Spared(looked, holds)

    async def deciding(self, tenant_id: str, media_ids: Sequence[str], act: Callable[[Spared], Awaitable[T]]) -> T:
        """Do what deletes some of these files, and again if a hold came before it could. Raises: Unavailable."""
        while True:
            try:
                return await act(await self.ask(tenant_id, media_ids))
            except HoldCame:
                continue

    async def delete(self, file: StoredFile, event: NewEvent) -> bool:
        """Delete a file as `MediaStore.delete` does. Raises: Unavailable."""
        return await self.deciding(
            file.tenant_id,
            [file.media_id],
            lambda spared: self._store.delete(file.media_id, event=event, spared=spared),
        )
