"""The channel `user:<id>`: what concerns a person outside the conversations their connections listen to.

Holds, for people with a connection here, which conversations they are in and don't listen to: those hear of a new
message by its number only (`unread`), at most once per quarter of a second and conversation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from sealwire.contracts.messaging_stream import Publication
from sealwire.contracts.opened import Opened
from sealwire.contracts.revocations import Revocation
from sealwire.contracts.socket import USER_CHANNEL, MentionPublished, SessionPublished, UnreadPublished
from sealwire.kit.clock import rfc3339
from sealwire.kit.codec import encode
from sealwire.services.socket.hub import Hub, RoomKey
from sealwire.services.socket.protocol import encode_publication, publication_frame

UNREAD_EVERY_S = 0.25
_CHANGES: Final[dict[str, Literal["session.ended", "sessions.ended", "role.changed"]]] = {
    "session": "session.ended",
    "subject": "sessions.ended",
    "role": "role.changed",
}
_MENTIONING = b'"mentions":["'  # can't stand inside a JSON string, where quotes are escaped


class _Mentioning(msgspec.Struct):
    message_id: str
    seq: int
    sender_id: str
    mentions: list[str] = []


class _Created(msgspec.Struct):
    message: _Mentioning


_read_created = msgspec.json.Decoder(_Created).decode


class Person:
    """A user with a connection here. `listens` counts connections per conversation."""

    __slots__ = ("connections", "conversations", "listens", "pending")

    def __init__(self) -> None:
        self.connections = 0
        self.conversations: set[str] = set()
        self.listens: dict[str, int] = {}
        self.pending: dict[str, bool] | None = {}


class Audience:
    """People with connections on this instance."""

    def __init__(self, hub: Hub, *, most_conversations: int) -> None:
        self._hub = hub
        self._most = most_conversations
        self._people: dict[RoomKey, Person] = {}
        self._idle: dict[str, dict[RoomKey, None]] = {}
        self._unread: dict[tuple[RoomKey, str], int] = {}

    def arrive(self, tenant_id: str, user_id: str) -> bool:
        """A connection of the user opened; True when their conversations have to be learnt (`learn`)."""
        person = self._people.get((tenant_id, user_id))
        if person is None:
            person = self._people[tenant_id, user_id] = Person()
        person.connections += 1
        return person.connections == 1

    def depart(self, tenant_id: str, user_id: str) -> None:
        """A connection of the user ended."""
        who = (tenant_id, user_id)
        person = self._people.get(who)
        if person is None:
            return
        person.connections -= 1
        if not person.connections:
            for conversation_id in person.conversations:
                self._rest(conversation_id, who, idle=False)
            del self._people[who]

    def learn(self, tenant_id: str, user_id: str, conversation_ids: Iterable[str]) -> None:
        """Hear of the user's conversations; what changed while they were looked up counts more."""
        who = (tenant_id, user_id)
        person = self._people.get(who)
        if person is None or person.pending is None:
            return
        pending, person.pending = person.pending, None
        for conversation_id in conversation_ids:
            if pending.get(conversation_id, True):
                self._add(who, person, conversation_id)
        for conversation_id, joined in pending.items():
            if joined:
                self._add(who, person, conversation_id)

    def listen(self, tenant_id: str, user_id: str, conversation_id: str, *, on: bool) -> None:
        """A connection of the user began or stopped to listen to a conversation."""
        who = (tenant_id, user_id)
        person = self._people.get(who)
        if person is None:
            return
        count = person.listens.get(conversation_id, 0) + (1 if on else -1)
        if count > 0:
            person.listens[conversation_id] = count
        else:
            person.listens.pop(conversation_id, None)
        if conversation_id in person.conversations:
            self._rest(conversation_id, who, idle=count <= 0)

    def member(self, publication: Publication) -> None:
        """Tell the person a membership event is about, and remember what it says."""
        who = (publication.tenant_id, publication.subject_id)
        person = self._people.get(who)
        if person is None:
            return
        joined = publication.kind != "member.left"
        if person.pending is not None:
            person.pending[publication.conversation_id] = joined
        elif joined:
            self._add(who, person, publication.conversation_id)
        elif publication.conversation_id in person.conversations:
            person.conversations.discard(publication.conversation_id)
            self._rest(publication.conversation_id, who, idle=False)
        self.tell(*who, bytes(publication.data))

    def removed(self, publication: Publication) -> None:
        """Tell everybody who was in a conversation and did not listen that it is gone."""
        for who in tuple(self._idle.get(publication.conversation_id, ())):
            self.tell(*who, bytes(publication.data))
            self._people[who].conversations.discard(publication.conversation_id)
        self._idle.pop(publication.conversation_id, None)

    def message(self, publication: Publication) -> None:
        """Tell of a new message: its number to those who don't listen, its mention to whom it names."""
        idle = self._idle.get(publication.conversation_id)
        if idle:
            if not self._unread:
                asyncio.get_running_loop().call_later(UNREAD_EVERY_S, self._tell_unread)
            for who in idle:
                if who[1] != publication.actor_id:
                    self._unread[who, publication.conversation_id] = publication.seq
        data = bytes(publication.data)
        if _MENTIONING in data:
            self._mention(publication, data)

    def changed(self, change: Revocation) -> None:
        """Tell the person whose sessions or role a change is about; a token's end, or a tenant's, concerns nobody who
        could still hear of it."""
        kind = _CHANGES.get(change.kind)
        if kind is not None and change.subject:
            told = SessionPublished(
                type=kind,
                session_id=change.session_id,
                reason=change.reason,
                change_id=change.change_id,
                at=rfc3339(change.at_us),
            )
            self.tell(change.tenant_id, change.subject, encode(told))

    def opened(self, login: Opened) -> int:
        """Tell the other sessions of a person that one was opened; return how many connections hear it."""
        key = (login.tenant_id, USER_CHANNEL + login.subject)
        if not self._hub.room(key):
            return 0
        told = SessionPublished(
            type="session.opened",
            session_id=login.session_id,
            reason=login.kind,
            change_id=login.change_id,
            at=rfc3339(login.at_us),
        )
        frame = publication_frame(key[1], encode_publication(encode(told)))
        return self._hub.publish_beside(login.session_id, key, frame)

    def tell(self, tenant_id: str, user_id: str, data: bytes) -> None:
        """Publish in the channel of a user; nobody hears it when they have no connection here."""
        key = (tenant_id, USER_CHANNEL + user_id)
        if self._hub.room(key):
            self._hub.publish(key, publication_frame(key[1], encode_publication(data)))

    def _mention(self, publication: Publication, data: bytes) -> None:
        message = _read_created(data).message
        told = encode(
            MentionPublished(
                conversation_id=publication.conversation_id,
                message_id=message.message_id,
                seq=message.seq,
                by=message.sender_id,
            )
        )
        for user_id in dict.fromkeys(message.mentions):
            person = self._people.get((publication.tenant_id, user_id))
            conversation_id = publication.conversation_id
            if person and (conversation_id in person.conversations or conversation_id in person.listens):
                self.tell(publication.tenant_id, user_id, told)

    def _tell_unread(self) -> None:
        unread, self._unread = self._unread, {}
        for (who, conversation_id), seq in unread.items():
            self.tell(*who, encode(UnreadPublished(conversation_id=conversation_id, last_seq=seq)))

    def _add(self, who: RoomKey, person: Person, conversation_id: str) -> None:
        if len(person.conversations) < self._most:
            person.conversations.add(conversation_id)
            self._rest(conversation_id, who, idle=conversation_id not in person.listens)

    def _rest(self, conversation_id: str, who: RoomKey, *, idle: bool) -> None:
        """Note whether a member does not listen to the conversation."""
        people = self._idle.get(conversation_id)
        if idle:
            if people is None:
                people = self._idle[conversation_id] = {}
            people[who] = None
        elif people is not None:
            people.pop(who, None)
            if not people:
                del self._idle[conversation_id]
