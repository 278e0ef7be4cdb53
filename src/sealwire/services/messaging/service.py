"""Messaging: the list of use cases, and what belongs to it in this process."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from sealwire.contracts.auth import Auth
from sealwire.contracts.conversations import Conversation, ConversationChange, Conversations, NewConversation
from sealwire.contracts.crypto import Crypto
from sealwire.contracts.custody import (
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectFindings,
    SubjectItems,
    SubjectProbe,
    SubjectQuery,
    SubjectRectified,
    SubjectRestriction,
)
from sealwire.contracts.members import Member, MemberChange, Members, NewMember
from sealwire.contracts.messages import Draft, Edit, History, Message, Messages, Read, ReadState
from sealwire.contracts.messaging_stream import (
    Catalogue,
    CatalogueQuery,
    Current,
    CurrentQuery,
    Membership,
    PublicationQuery,
    Publications,
    Readable,
    ReadableQuery,
    StreamPage,
    StreamQuery,
)
from sealwire.contracts.messaging_terms import SERVICE
from sealwire.contracts.tenancy import QuotaSource
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.codec import Page
from sealwire.kit.lifespan import Probe
from sealwire.services.messaging.bodies import Bodies
from sealwire.services.messaging.config import MessagingConfig
from sealwire.services.messaging.conversations import ConversationCases
from sealwire.services.messaging.feeds import FeedCases
from sealwire.services.messaging.jobs import Jobs
from sealwire.services.messaging.keeping import KeepingCases
from sealwire.services.messaging.keeping_ports import Keeping
from sealwire.services.messaging.messages import MessageCases
from sealwire.services.messaging.meter import SendMeter
from sealwire.services.messaging.ports import ConversationEvents, ConversationStore, Keys, MessageStore
from sealwire.services.messaging.request_marks import RequestMarks
from sealwire.services.messaging.seats import Seats
from sealwire.services.messaging.subject_ports import SubjectStore
from sealwire.services.messaging.subjects import SubjectCases
from sealwire.services.messaging.tail import Tail

T = TypeVar("T")
Answer = Coroutine[Any, Any, T]


class MessagingService:
    """The contract `Messaging` over its stores. Every use case is documented where it is done."""

    def __init__(
        self,
        *,
        conversations: ConversationStore,
        messages: MessageStore,
        events: ConversationEvents,
        subjects: SubjectStore,
        keeping: Keeping,
        keys: Keys,
        crypto: Crypto,
        auth: Auth,
        clock: Clock,
        config: MessagingConfig,
        quotas: QuotaSource | None = None,
        holds_told: Callable[[], bool] = lambda: True,
    ) -> None:
        """`keys` is messaging's key ring; `crypto` keeps the key of request marks; `auth` knows the people.

        `quotas`: how many messages tenants may send; without it as many as they like. `holds_told`: see `Jobs`.
        """
        bodies = Bodies(keys=keys, clock=clock)
        seats = Seats(conversations, most=config.seats_cached)
        self._events = events
        self._tail = tail = Tail(most_events=config.tail_events, most_bytes=config.tail_bytes)
        self._request_marks = RequestMarks(crypto=crypto, service=SERVICE, clock=clock)
        self._rooms = ConversationCases(
            store=conversations,
            seats=seats,
            bodies=bodies,
            auth=auth,
            clock=clock,
            config=config,
            epoch=lambda: events.epoch,
        )
        self._posts = MessageCases(
            store=messages,
            seats=seats,
            keys=keys,
            request_marks=self._request_marks,
            bodies=bodies,
            tail=tail,
            clock=clock,
            config=config,
            meter=None if quotas is None else SendMeter(store=messages, quotas=quotas),
        )
        self._feeds = FeedCases(
            conversations=conversations,
            messages=messages,
            events=events,
            seats=seats,
            bodies=bodies,
            tail=tail,
        )
        cases = KeepingCases(store=keeping, clock=clock)
        self.put_hold, self.release_hold = cases.put_hold, cases.release_hold
        self.knows_conversation = cases.knows_conversation
        self.due, self.dispose, self.reclaim, self.forgotten = cases.due, cases.dispose, cases.reclaim, cases.forgotten
        self.held_files = cases.held_files
        self._jobs = Jobs(
            conversations=conversations,
            messages=messages,
            events=events,
            keeping=keeping,
            released=cases.purge_released,
            keys=keys,
            clock=clock,
            config=config,
            holds_told=holds_told,
        )
        self._subjects = SubjectCases(
            store=subjects, former=keeping.former, seats=seats, bodies=bodies, keys=keys, clock=clock
        )
        events.listen(seats.announced)
        events.listen(tail.announced)

    async def start(self) -> None:
        """Take up the stream where it stands, and begin the background work."""
        self._tail.begin(await self._events.newest())
        await self._subjects.start()
        self._jobs.start()

    async def stop(self) -> None:
        """End the background work and forget keys and bodies. The stores are closed by who opened them."""
        await self._jobs.stop()
        self._request_marks.clear()
        self._tail.clear()

    def checks(self) -> Mapping[str, Probe]:
        """Return what messaging depends on."""
        return {"storage": self._probe_storage}

    async def _probe_storage(self) -> None:
        await self._events.newest()

    # ---- conversations and members

    def create(self, caller: Caller, conversation: NewConversation) -> Answer[Conversation]:
        """Start a conversation."""
        return self._rooms.create(caller, conversation)

    def list(self, caller: Caller, page: Page) -> Answer[Conversations]:
        """Page through the caller's conversations."""
        return self._rooms.list(caller, page)

    def get(self, caller: Caller, conversation_id: str) -> Answer[Conversation]:
        """Return one."""
        return self._rooms.get(caller, conversation_id)

    def change(self, caller: Caller, conversation_id: str, change: ConversationChange) -> Answer[Conversation]:
        """Change one."""
        return self._rooms.change(caller, conversation_id, change)

    def remove(self, caller: Caller, conversation_id: str) -> Answer[None]:
        """Remove one."""
        return self._rooms.remove(caller, conversation_id)

    def members(self, caller: Caller, conversation_id: str, page: Page) -> Answer[Members]:
        """Page through its members."""
        return self._rooms.members(caller, conversation_id, page)

    def add_member(self, caller: Caller, conversation_id: str, member: NewMember) -> Answer[Member]:
        """Add one."""
        return self._rooms.add_member(caller, conversation_id, member)

    def remove_member(self, caller: Caller, conversation_id: str, user_id: str) -> Answer[None]:
        """Remove one, or leave."""
        return self._rooms.remove_member(caller, conversation_id, user_id)

    def change_member(self, caller: Caller, conversation_id: str, user_id: str, change: MemberChange) -> Answer[Member]:
        """Give one another role."""
        return self._rooms.change_member(caller, conversation_id, user_id, change)

    # ---- messages

    def send(self, caller: Caller, conversation_id: str, draft: Draft) -> Answer[Message]:
        """Send a message."""
        return self._posts.send(caller, conversation_id, draft)

    def history(self, caller: Caller, conversation_id: str, query: History) -> Answer[Messages]:
        """Page through the messages."""
        return self._posts.history(caller, conversation_id, query)

    def edit(self, caller: Caller, conversation_id: str, seq: int, edit: Edit) -> Answer[Message]:
        """Edit one."""
        return self._posts.edit(caller, conversation_id, seq, edit)

    def delete(self, caller: Caller, conversation_id: str, seq: int) -> Answer[None]:
        """Delete one."""
        return self._posts.delete(caller, conversation_id, seq)

    def react(self, caller: Caller, conversation_id: str, seq: int, emoji: str) -> Answer[None]:
        """Put a reaction."""
        return self._posts.react(caller, conversation_id, seq, emoji)

    def unreact(self, caller: Caller, conversation_id: str, seq: int, emoji: str) -> Answer[None]:
        """Take a reaction back."""
        return self._posts.unreact(caller, conversation_id, seq, emoji)

    def read(self, caller: Caller, conversation_id: str, read: Read) -> Answer[ReadState]:
        """Say up to where it was read."""
        return self._posts.read(caller, conversation_id, read)

    # ---- for the other services

    def publications(self, caller: Caller, query: PublicationQuery) -> Answer[Publications]:
        """Follow all conversations."""
        return self._feeds.publications(caller, query)

    def stream(self, caller: Caller, conversation_id: str, query: StreamQuery) -> Answer[StreamPage]:
        """Recover one conversation."""
        return self._feeds.stream(caller, conversation_id, query)

    def membership(self, caller: Caller, conversation_id: str) -> Answer[Membership]:
        """Tell the caller's membership."""
        return self._feeds.membership(caller, conversation_id)

    def readable(self, caller: Caller, query: ReadableQuery) -> Answer[Readable]:
        """Tell what the caller may read."""
        return self._feeds.readable(caller, query)

    def current(self, caller: Caller, query: CurrentQuery) -> Answer[Current]:
        """Return messages as they are now."""
        return self._feeds.current(caller, query)

    def catalogue(self, caller: Caller, query: CatalogueQuery) -> Answer[Catalogue]:
        """Return every message there is."""
        return self._feeds.catalogue(caller, query)

    # ---- for compliance: one person's data

    def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> Answer[SubjectItems]:
        """Read it."""
        return self._subjects.export_subject(caller, subject_id, query)

    def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> Answer[SubjectErased]:
        """Erase it."""
        return self._subjects.erase_subject(caller, subject_id, erasure)

    def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> Answer[SubjectRectified]:
        """Put it right."""
        return self._subjects.rectify_subject(caller, subject_id, changes)

    def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> Answer[None]:
        """Keep it without processing it."""
        return self._subjects.restrict_subject(caller, subject_id, restriction)

    def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> Answer[SubjectFindings]:
        """Look for what is left of it."""
        return self._subjects.probe_subject(caller, subject_id, probe)
