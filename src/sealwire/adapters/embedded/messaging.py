"""Messaging's storage on one machine: one SQLite file."""

from __future__ import annotations

from pathlib import Path

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.messaging_conversations import SqliteConversationStore
from sealwire.adapters.embedded.messaging_events import SqliteConversationEvents
from sealwire.adapters.embedded.messaging_keeping import SqliteKeeping
from sealwire.adapters.embedded.messaging_messages import SqliteMessageStore
from sealwire.adapters.embedded.messaging_requests import RequestIndex
from sealwire.adapters.embedded.messaging_schema import MIGRATIONS
from sealwire.adapters.embedded.messaging_subjects import SqliteMessagingSubjects
from sealwire.adapters.embedded.outbox import SqlitePositions


class SqliteMessaging:
    """The stores of messaging over one file, and the positions of those who follow its events."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._requests = RequestIndex(db)
        self.events = SqliteConversationEvents(db, self._requests)
        self.conversations = SqliteConversationStore(db, self.events, self._requests)
        self.messages = SqliteMessageStore(db, self.events, self._requests)
        self.subjects = SqliteMessagingSubjects(db, self.events)
        self.keeping = SqliteKeeping(db, self.events, self._requests)
        self.positions = SqlitePositions(db)

    @classmethod
    def open(cls, path: Path) -> SqliteMessaging:
        """Open or make the file. Raises: as `Database.open`."""
        return cls(Database.open(path, MIGRATIONS))

    async def close(self) -> None:
        """Let what waits become durable and close the file."""
        await self._requests.settle()
        await self.db.close()
