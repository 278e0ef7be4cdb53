"""Conversation channels on this instance: live events to the rooms, and joining one without a gap or a duplicate.

Who joins registers first, reads the stream's end or what it missed second, and enters the room third. Events that
arrive in between wait with the joiner, so what was read, what waited and what follows meet at one offset.
"""

from __future__ import annotations

import msgspec

from sealwire.contracts.messaging_stream import Publication, StreamPage
from sealwire.contracts.socket import CONVERSATION_CHANNEL
from sealwire.services.socket.frames import server_frame
from sealwire.services.socket.hub import Hub, Member, RoomKey
from sealwire.services.socket.protocol import Position, Subscribed, encode_publication

MOST_WAITING = 4_096
"""Events that may wait for one joiner; past it the joiner is told to try again."""


class Joiner:
    """Somebody between asking for a channel and being in its room."""

    __slots__ = ("events", "overrun")

    def __init__(self) -> None:
        self.events: list[tuple[int, bytes]] = []
        self.overrun = False

    def take(self, offset: int, publication: bytes) -> None:
        """Keep a live event until what came before it is read."""
        if len(self.events) < MOST_WAITING:
            self.events.append((offset, publication))
        else:
            self.overrun = True


class Gap(Exception):
    """What was read and what waited do not meet; the client has to try again."""


class _Stream:
    """`top` is the newest offset handed on here (0: none yet). `ahead` are members whose join read further."""

    __slots__ = ("ahead", "head", "joiners", "top")

    def __init__(self, channel: str) -> None:
        self.head = b'{"push":{"channel":%b,"pub":' % msgspec.json.encode(channel)
        self.joiners: dict[Joiner, None] = {}
        self.ahead: dict[Member, int] = {}
        self.top = 0


class Streams:
    """The conversation channels somebody here listens to or is about to."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._streams: dict[RoomKey, _Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def begin(self, key: RoomKey) -> Joiner:
        """Start joining a channel: from now on its live events are kept."""
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = _Stream(key[1])
        joiner = Joiner()
        stream.joiners[joiner] = None
        return joiner

    def enter(self, key: RoomKey, joiner: Joiner, member: Member, newest: int) -> None:
        """Put the member into the room, knowing everything up to `newest`. Then `end` the joiner."""
        stream = self._streams[key]
        if newest > stream.top:
            if len(stream.joiners) == 1 and not self._hub.room(key):
                stream.top = newest
            else:  # events that are stored but not handed on yet: the others wait for them, this one has them
                stream.ahead[member] = newest
        self._hub.join(key, member)

    def end(self, key: RoomKey, joiner: Joiner) -> None:
        """Stop keeping events for the joiner: it is in the room now, or gave up."""
        del self._streams[key].joiners[joiner]
        self._tidy(key)

    def leave(self, key: RoomKey, member: Member) -> bool:
        """Take the member out of the room; answer whether it was there."""
        left = self._hub.leave(key, member)
        stream = self._streams.get(key)
        if stream is not None:
            stream.ahead.pop(member, None)
            self._tidy(key)
        return left

    def publish(self, publication: Publication) -> bool:
        """Deliver an event to its room and its joiners; False when it doesn't follow the one before it.

        An event that was delivered already is passed over.
        """
        key = (publication.tenant_id, CONVERSATION_CHANNEL + publication.conversation_id)
        stream = self._streams.get(key)
        if stream is None:
            return True
        offset, top = publication.offset, stream.top
        if offset <= top:
            return True
        stream.top = offset
        encoded = encode_publication(bytes(publication.data), offset)
        frame = server_frame(b"%b%b}}" % (stream.head, encoded))
        if stream.ahead:
            self._publish_without(key, stream, offset, frame)
        else:
            self._hub.publish(key, frame)
        for joiner in stream.joiners:
            joiner.take(offset, encoded)
        return not top or offset == top + 1

    def _publish_without(self, key: RoomKey, stream: _Stream, offset: int, frame: bytes) -> None:
        """Publish to everybody but those who have the event from their join."""
        stream.ahead = {member: newest for member, newest in stream.ahead.items() if newest >= offset}
        for member in stream.ahead:
            self._hub.leave(key, member)
        self._hub.publish(key, frame)
        for member in stream.ahead:
            self._hub.join(key, member)

    def _tidy(self, key: RoomKey) -> None:
        if not self._streams[key].joiners and not self._hub.room(key):
            del self._streams[key]

    def pass_by(self, key: RoomKey, data: bytes) -> None:
        """Deliver what has no offset to the room."""
        stream = self._streams.get(key)
        if stream is not None:
            self._hub.publish(key, server_frame(b"%b%b}}" % (stream.head, encode_publication(data))))


def from_now(joiner: Joiner, *, top: int, epoch: str) -> Subscribed:
    """Answer a subscribe that asked for nothing older: it listens behind what is the newest at this moment."""
    if joiner.overrun:
        raise Gap
    newest = max([top, *(offset for offset, _ in joiner.events)])
    return Subscribed(offset=newest, epoch=epoch, positioned=True)


def from_position(joiner: Joiner, page: StreamPage, asked: Position, *, most: int, most_bytes: int) -> Subscribed:
    """Answer a subscribe that recovers: everything after the position once and in order, or `recovered: false`.

    Raises: Gap when events were lost on the way here; another try finds them stored.
    """
    if joiner.overrun:
        raise Gap
    newest = max([page.top_offset, *(offset for offset, _ in joiner.events)])
    lost = Subscribed(offset=newest, epoch=page.epoch, positioned=True, was_recovering=True)
    if asked.epoch not in ("", page.epoch) or asked.offset > newest:
        return lost
    missed = {item.offset: encode_publication(bytes(item.data), item.offset) for item in page.items}
    missed.update((offset, publication) for offset, publication in joiner.events if offset > asked.offset)
    if len(missed) != newest - asked.offset or len(missed) > most or sum(map(len, missed.values())) > most_bytes:
        return lost
    return Subscribed(
        offset=asked.offset,
        epoch=page.epoch,
        positioned=True,
        was_recovering=True,
        recovered=True,
        publications=[missed[offset] for offset in sorted(missed)],
    )
