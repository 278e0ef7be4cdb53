"""A messaging service on a folder, with the auth and crypto it needs: for tests that restart and race it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sealwire.adapters.embedded.messaging import SqliteMessaging
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.conversations import Conversation, NewConversation
from sealwire.contracts.messages import Draft, Message
from sealwire.contracts.messaging import OPERATIONS, Messaging
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.services.messaging.config import MessagingConfig
from sealwire.services.messaging.routes import routes
from sealwire.services.messaging.service import MessagingService
from sealwire.testing.auth_room import AuthRoom
from sealwire.testing.wirings import open_wiring


@asynccontextmanager
async def open_messaging_stores(family: str, folder: Path) -> AsyncIterator[SqliteMessaging]:
    """Give a family's stores that keep their state in `folder`. Raises: ValueError for a family that is not there."""
    if family != "embedded":
        raise ValueError(f"no family {family!r}")
    stores = SqliteMessaging.open(folder / "messaging.db")
    try:
        yield stores
    finally:
        await stores.close()


class MessagingRoom:
    """Messaging with its neighbours. Opening it again on the same folder is a restart."""

    def __init__(
        self,
        folder: Path,
        *,
        wiring: str = "direct",
        clock: Clock | None = None,
        config: MessagingConfig | None = None,
    ) -> None:
        self.folder = folder
        self.wiring = wiring
        self.config = config or MessagingConfig()
        self.people = AuthRoom(folder, clock=clock)
        self.clock = self.people.clock

    async def open(self) -> Messaging:
        """Start everything and return the service as its callers see it."""
        await self.people.open()
        self.stores = SqliteMessaging.open(self.folder / "messaging.db")
        self.ring = KeyRing(crypto=self.people.crypto, service="messaging", clock=self.clock)
        self.service = MessagingService(
            conversations=self.stores.conversations,
            messages=self.stores.messages,
            events=self.stores.events,
            keeping=self.stores.keeping,
            subjects=self.stores.subjects,
            keys=self.ring,
            crypto=self.people.crypto,
            auth=self.people.auth,
            clock=self.clock,
            config=self.config,
        )
        await self.service.start()
        self.messaging: Messaging = open_wiring(self.wiring, self.service, OPERATIONS, routes, clock=self.clock)
        return self.messaging

    async def close(self) -> None:
        """Stop everything in order."""
        await self.service.stop()
        await self.stores.close()
        await self.people.close()

    async def again(self) -> Messaging:
        """Restart."""
        await self.close()
        return await self.open()

    async def enter(self, name: str, *, tenant: str | None = None) -> Caller:
        """Register a person and log them in."""
        return (await self.people.enter(name, tenant=tenant))[0]

    async def group(self, owner: Caller, *others: Caller, title: str | None = None) -> Conversation:
        """Start a group."""
        new = NewConversation(kind="group", member_ids=[other.user_id for other in others], title=title)
        return await self.messaging.create(owner, new)

    async def say(self, who: Caller, where: Conversation, body: str, key: str = "") -> Message:
        """Send a message; without a key a new one each time."""
        self._said = getattr(self, "_said", 0) + 1
        draft = Draft(body=body, client_message_id=key or f"k{self._said}-{self.clock.monotonic()}")
        return await self.messaging.send(who, where.conversation_id, draft)
