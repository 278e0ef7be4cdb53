"""What messaging asks of storage, of key management and of the directory of people.

Every change and its events are one transaction, and durable when the method returns. Positions (global) and offsets
(per conversation) are given in that transaction, gapless, in commit order; so are `seq`s. Embedded: one SQLite file
with one writer. MongoDB: a multi-document transaction with majority write concern per method; the conversation's
document holds `last_seq` and `last_offset`, one counter document the position, all raised in the transaction by `$inc`,
so that two transactions which would share a number conflict and one is tried again; `append` batches like the embedded
writer does, one transaction per group. Listeners may be told of an event late (`listen` is a change stream there), but
in the same order. Kafka gets the events from there by the outbox's relay, keyed by conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from sealwire.contracts.data_keys import Destroyed
from sealwire.contracts.messaging_terms import MemberRole
from sealwire.kit.envelopes import SealingKey
from sealwire.ports.events import EventFeed
from sealwire.services.messaging.events import Announcement, ConversationEvent
from sealwire.services.messaging.model import (
    Actor,
    Appended,
    ConversationRecord,
    ConversationView,
    MemberRecord,
    SealedDraft,
    Seat,
    StoredMessage,
)


class Keys(Protocol):
    """Data keys per author and conversation (the key ring of `clients/crypto.py`)."""

    def ready(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey | None:
        """Return the key to seal with when it is at hand."""

    async def sealing_key(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey:
        """Return the key to seal with. Raises: Unavailable."""

    def ready_for(self, tenant_id: str, envelope: bytes) -> SealingKey | None:
        """Return the key that the envelope names when it is at hand."""

    async def opening_key(self, tenant_id: str, scope: str, subject_id: str, envelope: bytes) -> SealingKey:
        """Return the key that the envelope names. Raises: EnvelopeRefused, DecryptionFailed, KeyUnusable."""

    async def destroy(self, tenant_id: str, *, scope: str = "", subject_id: str = "") -> int:
        """Destroy the data keys of a scope or subject for good."""

    async def destroy_free(self, tenant_id: str, *, subject_id: str, spare: Collection[str]) -> Destroyed:
        """Destroy the data keys of a person for good but for those that a hold keeps, and of these scopes; say what
        stays."""

    def sweep(self) -> None:
        """Wipe what is past its time."""


class ConversationStore(Protocol):
    """Conversations and their members. A removed conversation is found only by what forgets it."""

    async def create(
        self, record: ConversationRecord, members: Sequence[tuple[str, MemberRole]], pair: str, actor: Actor
    ) -> tuple[str, bool]:
        """Store it with its members and events; for a direct one (`pair`) that is there already, store nothing.

        Return the conversation's id and whether it existed. Once per pair under any race.
        """

    async def seat(self, conversation_id: str, user_id: str) -> Seat | None:
        """Return the membership."""

    async def view(self, conversation_id: str, user_id: str) -> ConversationView | None:
        """Return the conversation as this member sees it."""

    async def views(self, tenant_id: str, user_id: str, before: int | None, limit: int) -> Sequence[ConversationView]:
        """Return the user's conversations with a place below `before`, the one with the newest event first."""

    async def readable(self, tenant_id: str, user_id: str) -> Sequence[str]:
        """Return the ids of the user's conversations."""

    async def retitle(self, conversation_id: str, title: bytes | None, actor: Actor, at_us: int) -> None:
        """Replace the sealed title; the former one is kept while a hold covers it, until `FormerStore.purge`."""

    async def remove(self, conversation_id: str, actor: Actor, at_us: int) -> None:
        """Let the conversation be found no more; its content stays until it is forgotten."""

    async def members(self, conversation_id: str, after: int, limit: int) -> Sequence[MemberRecord]:
        """Return members with a place above `after`, in the order they joined."""

    async def add_member(
        self, conversation_id: str, user_id: str, role: MemberRole, actor: Actor, at_us: int, *, most: int
    ) -> MemberRecord:
        """Add a member, or return the one who is there, unchanged.

        Raises: ConversationNotFound; Conflict when it has `most` members.
        """

    async def remove_member(self, conversation_id: str, user_id: str, actor: Actor, at_us: int) -> bool:
        """Remove a member; False when there is none. Raises: OwnerNeeded when members would stay without an owner."""

    async def change_member(
        self, conversation_id: str, user_id: str, role: MemberRole, actor: Actor, at_us: int
    ) -> MemberRecord | None:
        """Give a member another role. Raises: OwnerNeeded as `remove_member`."""

    async def forgettable(self, before_us: int, limit: int, skip: int = 0) -> Sequence[tuple[str, str]]:
        """Return (tenant id, conversation id) of those removed before `before_us`, but for those under a hold.

        The first `skip` are left out: who can't forget them yet says so.
        """

    async def forget(self, conversation_id: str, limit: int) -> bool:
        """Delete up to `limit` rows of a removed conversation's content; False when nothing is left of it.

        Raises: LegalHold, nothing done, while a hold covers it or a member.
        """

    async def mark_forgotten(self, conversation_id: str) -> None:
        """Tell, once, that it is forgotten: when its content and its keys are gone. Raises: LegalHold, as `forget`."""


class MessageStore(Protocol):
    """Messages: gapless `seq` per conversation, one message per request key."""

    async def append(self, draft: SealedDraft) -> Appended | StoredMessage:
        """Give the next `seq` and store the message and its event; or return the message that has the request key.

        Writers that arrive together share one commit. The announcement is made before this returns.
        Raises: ConversationNotFound; SeatStale when the members changed since `seat_version`; Invalid when `reply_to`
        names no message.
        """

    async def of_request(self, request_key: bytes) -> StoredMessage | None:
        """Return the message that has the request key, also of an append that waits for its commit."""

    async def sent(self, tenant_id: str) -> int:
        """Return how many messages were ever sent in the tenant's conversations. Slow: reads all of these."""

    async def history(
        self, conversation_id: str, *, after: int | None, before: int | None, limit: int
    ) -> Sequence[StoredMessage]:
        """Return messages in `seq` order: the first above `after`, or else the last below `before` (or of all)."""

    async def message(self, conversation_id: str, seq: int) -> StoredMessage | None:
        """Return one message."""

    async def by_ids(self, tenant_id: str, message_ids: Sequence[str]) -> Sequence[StoredMessage]:
        """Return those of the tenant's messages that are no tombstones."""

    async def all_after(self, place: int, limit: int) -> Sequence[tuple[int, StoredMessage]]:
        """Return (place, message) of all tenants' messages that are no tombstones, above a place, in a fixed order."""

    async def edit(self, message: StoredMessage, sealed: bytes, actor: Actor, at_us: int) -> StoredMessage:
        """Replace the body of `message` and keep the former one. Raises: MessageMoved when it changed since read."""

    async def delete(self, conversation_id: str, seq: int, actor: Actor, at_us: int, reason: str = "") -> bool:
        """Leave a tombstone: no body, no former bodies, no reactions. False when there was nothing to delete.

        While a hold covers the message they are kept, for nobody to read, until `Keeping.purge_released`.
        """

    async def react(
        self, conversation_id: str, seq: int, emoji: str, user_id: str, actor: Actor, at_us: int, *, most: int
    ) -> bool:
        """Put a reaction; False when it is there. Raises: MessageNotFound, TooManyReactions past `most` emoji."""

    async def unreact(self, conversation_id: str, seq: int, emoji: str, user_id: str, actor: Actor, at_us: int) -> bool:
        """Take a reaction back; False when there is none. Kept, for nobody to see, as a former title is."""

    async def mark_read(self, conversation_id: str, user_id: str, seq: int) -> tuple[int, int, bool]:
        """Raise the member's `read_seq` to `seq`, at most to the last. Return it, the unread, and whether it rose.

        No event. Raises: ConversationNotFound when the user is no member.
        """

    async def expired(self, now_us: int, limit: int) -> Sequence[tuple[str, int]]:
        """Return (conversation id, seq) of messages whose time is over and that are no tombstones yet."""


class ConversationEvents(EventFeed, Protocol):
    """The one stream of events: the outbox of consumers (`EventFeed`), and what publications are rendered from."""

    def listen(self, listener: Callable[[Sequence[Announcement]], None]) -> None:
        """Call `listener` with committed events, in position order, before their writers go on."""

    run: str
    """An id of this opening of the storage; another copy can't be in its place before the next one."""

    @property
    def epoch(self) -> str:
        """What offsets and positions count in. Durable."""

    async def renew_epoch(self) -> None:
        """Take another epoch for good: the store was restored from a backup, and offsets mean something else."""

    async def name(self, position: int) -> str:
        """Return the `event_id` at a position; empty where there is none."""

    async def after(self, position: int, limit: int) -> Sequence[tuple[ConversationEvent, StoredMessage | None]]:
        """Return events above a position, with the current state of the message each speaks of."""

    async def stream(
        self, conversation_id: str, offset: int, limit: int
    ) -> tuple[Sequence[tuple[ConversationEvent, StoredMessage | None]], int]:
        """Return a conversation's events above an offset, and the offset of its newest event."""

    async def trim(self, before_us: int, limit: int) -> int:
        """Delete up to `limit` events older than `before_us` that all consumers passed; never the newest."""
