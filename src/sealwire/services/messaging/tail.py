"""The tail of the stream: the newest events in memory, rendered once for everybody who follows."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from sealwire.contracts.messages import Draft, Message
from sealwire.contracts.messaging_stream import Passing, Publication
from sealwire.contracts.publications import ReceiptPublished
from sealwire.kit.codec import encode
from sealwire.services.messaging.events import Announcement, ConversationEvent
from sealwire.services.messaging.render import WITH_MESSAGE, created, render

ENTRY_BYTES = 700
"""What an entry takes besides its JSON, about."""
MOST_PASSING = 4_096


class Sent:
    """A message on its way, carried beside its sealed form; it is made once, when its `seq` is known."""

    __slots__ = ("_conversation_id", "_created_at", "_draft", "_expires_at", "_message_id", "_sender_id", "message")

    def __init__(
        self,
        draft: Draft,
        *,
        message_id: str,
        conversation_id: str,
        sender_id: str,
        created_at: str,
        expires_at: str | None,
    ) -> None:
        self._draft = draft
        self._message_id = message_id
        self._conversation_id = conversation_id
        self._sender_id = sender_id
        self._created_at = created_at
        self._expires_at = expires_at
        self.message: Message | None = None

    def complete(self, seq: int) -> Message:
        """Return the message with its number."""
        if self.message is None:
            draft = self._draft
            self.message = Message(
                message_id=self._message_id,
                conversation_id=self._conversation_id,
                seq=seq,
                sender_id=self._sender_id,
                body=draft.body,
                client_message_id=draft.client_message_id,
                created_at=self._created_at,
                content_type=draft.content_type,
                ciphertexts=draft.ciphertexts,
                reply_to=draft.reply_to,
                attachments=draft.attachments,
                mentions=draft.mentions,
                expires_at=self._expires_at,
            )
        return self.message


class Entry:
    """An event of the tail. `publication` is None while its message has to be read from the store."""

    __slots__ = ("bytes", "changes", "event", "publication")

    def __init__(self, event: ConversationEvent, publication: Publication | None) -> None:
        self.event = event
        self.publication = publication
        self.changes = 0
        self.bytes = ENTRY_BYTES if publication is None else ENTRY_BYTES + len(memoryview(publication.data))


class Tail:
    """The newest events, positions without a hole, and the read receipts that pass by.

    What an entry shows of a message is dropped as soon as the message changes (an edit, a deletion, a reaction), so
    that an edited or deleted body is never replayed: it is rendered again from the store when somebody asks for it.
    """

    def __init__(self, *, most_events: int, most_bytes: int) -> None:
        self._newest = 0
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._entries: list[Entry] = []
        self._first = 1
        self._bytes = 0
        self._by_message: dict[str, list[Entry]] = {}
        self._passing: OrderedDict[tuple[str, str], Passing] = OrderedDict()
        self._passed = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def begin(self, newest: int) -> None:
        """Say where the stream stands, before the first announcement or after."""
        if newest > self._newest:
            self._newest = newest
            self.clear()

    @property
    def newest(self) -> int:
        """The position of the newest event announced."""
        return self._newest

    @property
    def passed(self) -> int:
        """The number of the receipt that passed last."""
        return self._passed

    def announced(self, announcements: Sequence[Announcement]) -> None:
        """Hear of committed events, in position order."""
        for announcement in announcements:
            self._add(announcement)
        if len(self._entries) > self._most_events or self._bytes > self._most_bytes:
            self._shorten()
        self._wake()

    def read(self, after: int, limit: int) -> Sequence[Entry] | None:
        """Return up to `limit` entries above a position; None when the tail doesn't reach back so far."""
        start = after + 1 - self._first
        if start < 0:
            return None
        return self._entries[start : start + limit]

    def name(self, position: int) -> str:
        """Return the id of the event at a position; empty when the tail doesn't hold it."""
        place = position - self._first
        return self._entries[place].event.event_id if 0 <= place < len(self._entries) else ""

    def pass_by(self, tenant_id: str, receipt: ReceiptPublished) -> None:
        """Tell listeners of a receipt; only the newest of each member is kept."""
        key = (receipt.conversation_id, receipt.user_id)
        self._passed += 1
        self._passing[key] = Passing(
            number=self._passed,
            tenant_id=tenant_id,
            conversation_id=receipt.conversation_id,
            data=msgspec.Raw(encode(receipt)),
        )
        self._passing.move_to_end(key)
        if len(self._passing) > MOST_PASSING:
            self._passing.popitem(last=False)
        self._wake()

    def passing(self, after: int) -> list[Passing]:
        """Return the receipts with a number above `after`, oldest first."""
        found = []
        for receipt in reversed(self._passing.values()):
            if receipt.number <= after:
                break
            found.append(receipt)
        return found[::-1]

    async def wait(self, timeout_s: float) -> None:
        """Return when something came, or after `timeout_s`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.add(future)
        timer = loop.call_later(timeout_s, _resolve, future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiters.discard(future)

    def clear(self) -> None:
        """Forget what is held and rendered; followers are served from the store until new events come."""
        self._entries.clear()
        self._by_message.clear()
        self._first = self._newest + 1
        self._bytes = 0
        self._passing.clear()

    def _add(self, announcement: Announcement) -> None:
        event = announcement.event
        if event.position != self._newest + 1:  # a hole would be served as if nothing were missing
            self.clear()
            self._first = event.position
        self._newest = event.position
        publication: Publication | None = None
        if event.kind in WITH_MESSAGE:
            if event.kind == "message.created":
                sent: Sent | None = announcement.carried
                if sent is not None:
                    publication = created(event, sent.complete(event.seq))
            else:
                self._outdate(event.message_id)
            entry = Entry(event, publication)
            self._by_message.setdefault(event.message_id, []).append(entry)
        else:
            if event.message_id:
                self._outdate(event.message_id)
            elif event.kind == "conversation.removed":
                self._outdate_conversation(event.conversation_id)
            for message_id in event.detail.message_ids:
                self._outdate(message_id)
            publication = render(event, None)
            entry = Entry(event, publication)
        self._entries.append(entry)
        self._bytes += entry.bytes

    def _outdate(self, message_id: str) -> None:
        for entry in self._by_message.get(message_id, ()):
            self._drop(entry)

    def _outdate_conversation(self, conversation_id: str) -> None:
        for entry in self._entries:
            if entry.event.conversation_id == conversation_id and entry.event.kind in WITH_MESSAGE:
                self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        entry.changes += 1
        entry.publication = None

    def _shorten(self) -> None:
        """Let the oldest quarter go, and more until the bytes fit."""
        count = 0
        least = max(1, len(self._entries) // 4)
        for entry in self._entries:
            if count >= least and self._bytes <= self._most_bytes:
                break
            count += 1
            self._bytes -= entry.bytes
            entries = self._by_message.get(entry.event.message_id)
            if entries is not None and entry in entries:
                entries.remove(entry)
                if not entries:
                    del self._by_message[entry.event.message_id]
        del self._entries[:count]
        self._first += count

    def _wake(self) -> None:
        for future in self._waiters:
            _resolve(future)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
