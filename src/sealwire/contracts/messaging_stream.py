"""What messaging promises to other services: the stream of its events, who reads what, messages as they are now."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import msgspec

from sealwire.contracts.messages import Message
from sealwire.contracts.messaging_terms import SERVICE, MemberRole
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output
from sealwire.kit.operation import Degraded, Operation, Policy, Repeat, table


class Publication(Output):
    """A durable event of a conversation, rendered for its members.

    `position` is global and gapless in commit order within this installation; `offset` is gapless in the conversation.
    `data` is the JSON object that subscribers get, holding the current state of the message it speaks of (an edited or
    deleted body is never replayed). `actor_id` is who did it; `subject_id` is whom a member event is about.
    """

    position: int
    tenant_id: str
    conversation_id: str
    offset: int
    kind: str
    data: msgspec.Raw
    seq: int = 0
    actor_id: str = ""
    subject_id: str = ""


class Passing(Output):
    """What is told to whoever listens now and is never replayed: read receipts, the newest per member.

    No event of the stream: it has a `number` of its own, which starts again when messaging does.
    """

    number: int
    tenant_id: str
    conversation_id: str
    data: msgspec.Raw


FROM_NOW = 2**62
"""A position that no stream reaches: the answer only says where it stands."""


class PublicationQuery(Input):
    """Publications after a global position; waits up to `wait_ms` for one.

    `last` is what the answer before said: with it this one says whether it is still the stream which the reader has
    read so far. With `passing_after` (-1: without), what passes by after that number is given too, and ends the wait.
    """

    after: Annotated[int, msgspec.Meta(ge=0)]
    last: Annotated[str, msgspec.Meta(max_length=128)] = ""
    passing_after: Annotated[int, msgspec.Meta(ge=-1)] = -1
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 500
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0


class Publications(Output):
    """In `position` order. `newest` is the position of the newest event there is; `passing_newest` likewise.

    `broken`: the event `after` is not the one that the reader knows by that position. Messaging came back from an older
    copy (or the event was trimmed), so nothing is given; conversations have a new `epoch`. `last` names the last event
    given, of an empty answer the one it is given after (at most the newest): to be handed in with its position.
    """

    items: list[Publication]
    newest: int
    broken: bool = False
    last: str = ""
    passing: list[Passing] = []
    passing_newest: int = 0


class StreamQuery(Input):
    """Publications of one conversation after an offset (recovery)."""

    after_offset: Annotated[int, msgspec.Meta(ge=0)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 500


class StreamPage(Output):
    """In `offset` order, up to `top_offset`, the newest at the time of reading."""

    items: list[Publication]
    top_offset: int
    epoch: str


class Membership(Output):
    """Whether, and as what, the caller is in a conversation, and where its stream stands."""

    conversation_id: str
    role: MemberRole
    last_seq: int
    top_offset: int
    epoch: str


class ReadableQuery(Input):
    """Nothing to say: everything the caller may read now."""


class Readable(Output):
    """The ids of the conversations the caller may read at this moment."""

    conversation_ids: list[str]


class CurrentQuery(Input):
    """Which messages, by id."""

    message_ids: Annotated[list[Id], msgspec.Meta(max_length=200)]


class ForgottenQuery(Input):
    """Forgotten conversations after a number."""

    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200


class ForgottenConversation(Output):
    """A conversation that was removed and whose content is gone for good."""

    number: int
    tenant_id: str
    conversation_id: str


class Forgotten(Output):
    """In the order of their numbers."""

    items: list[ForgottenConversation]


_MediaId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""As `Disposal` names what is to go: there may be no such file."""


class HeldFilesQuery(Input):
    """Which files, by id."""

    media_ids: Annotated[list[_MediaId], msgspec.Meta(max_length=1000)]


class HeldFile(Output):
    """A file that is attached to messages which these legal holds keep."""

    media_id: str
    hold_ids: list[str]


class HeldFiles(Output):
    """Those of the files that were asked for which a held message has attached, in no order."""

    items: list[HeldFile]


class CatalogueQuery(Input):
    """Messages after a place."""

    after: Annotated[int, msgspec.Meta(ge=0)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 500


class Catalogued(Output):
    """A message as it is now, whose it is, and its place in the catalogue."""

    place: int
    tenant_id: str
    message: Message


class Catalogue(Output):
    """In the order of their places, which never change; empty at the end."""

    items: list[Catalogued]


class Current(Output):
    """The messages as they are now, of those conversations the caller may read; deleted ones are left out."""

    items: list[Message]


_INTERNAL: dict[str, Any] = {
    "service": SERVICE,
    "policy": Policy.SERVICE,
    "repeat": Repeat.SAFE,
    "degraded": Degraded.ALLOW,
}
PUBLICATIONS = Operation(
    name="publications",
    verb="GET",
    path="/messaging/internal/publications",
    takes=PublicationQuery,
    gives=Publications,
    callers=frozenset({"search", "socket"}),
    summary="The stream of all conversations",
    **_INTERNAL,
)
STREAM = Operation(
    name="stream",
    verb="GET",
    path="/messaging/internal/conversations/{conversation_id}/stream",
    takes=StreamQuery,
    gives=StreamPage,
    carriers=frozenset({"socket"}),
    summary="One conversation's stream, for a member",
    **_INTERNAL,
)
MEMBERSHIP = Operation(
    name="membership",
    verb="GET",
    path="/messaging/internal/conversations/{conversation_id}/membership",
    gives=Membership,
    carriers=frozenset({"media", "socket"}),
    summary="The caller's membership",
    **_INTERNAL,
)
READABLE = Operation(
    name="readable",
    verb="GET",
    path="/messaging/internal/readable",
    takes=ReadableQuery,
    gives=Readable,
    carriers=frozenset({"search", "socket"}),
    summary="What the caller may read now",
    **_INTERNAL,
)
CURRENT = Operation(
    name="current",
    verb="POST",
    path="/messaging/internal/current",
    takes=CurrentQuery,
    gives=Current,
    carriers=frozenset({"search"}),
    summary="Messages by id as they are now",
    **_INTERNAL,
)
CATALOGUE = Operation(
    name="catalogue",
    verb="GET",
    path="/messaging/internal/catalogue",
    takes=CatalogueQuery,
    gives=Catalogue,
    callers=frozenset({"search"}),
    summary="Every message there is, for indexing anew",
    **_INTERNAL,
)
FORGOTTEN = Operation(
    name="forgotten",
    verb="GET",
    path="/messaging/internal/forgotten",
    takes=ForgottenQuery,
    gives=Forgotten,
    callers=frozenset({"media"}),
    summary="Conversations whose content is gone for good",
    **_INTERNAL,
)

HELD_FILES = Operation(
    name="held_files",
    verb="POST",
    path="/messaging/internal/held-files",
    takes=HeldFilesQuery,
    gives=HeldFiles,
    callers=frozenset({"media"}),
    summary="Files that legal holds keep with a message",
    **_INTERNAL,
)

OPERATIONS = table(
    PUBLICATIONS,
    STREAM,
    MEMBERSHIP,
    READABLE,
    CURRENT,
    CATALOGUE,
    FORGOTTEN,
    HELD_FILES,
)


class MessagingStream(Protocol):
    """For sockets and search. Calls on a conversation may raise `ConversationNotFound`."""

    async def publications(self, caller: Caller, query: PublicationQuery) -> Publications: ...
    async def stream(self, caller: Caller, conversation_id: str, query: StreamQuery) -> StreamPage: ...
    async def membership(self, caller: Caller, conversation_id: str) -> Membership: ...
    async def readable(self, caller: Caller, query: ReadableQuery) -> Readable: ...
    async def current(self, caller: Caller, query: CurrentQuery) -> Current: ...
    async def catalogue(self, caller: Caller, query: CatalogueQuery) -> Catalogue: ...
    async def forgotten(self, caller: Caller, query: ForgottenQuery) -> Forgotten: ...
    async def held_files(self, caller: Caller, query: HeldFilesQuery) -> HeldFiles: ...
