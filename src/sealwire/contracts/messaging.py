"""What messaging promises: conversations, members, messages, reactions, receipts and the stream of their events."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import msgspec

from sealwire.contracts import custody
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Limit, Output, Page, ShortText
from sealwire.kit.operation import Degraded, Operation, Policy, RateClass, Repeat, table
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, Forbidden, NotFound, TooLarge

SERVICE = "messaging"
MAX_BODY_BYTES = 64 * 1024

Body = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_BODY_BYTES)]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
MemberRole = Literal["owner", "moderator", "member", "reader"]


class BodyTooLong(TooLarge):
    """The body exceeds the limit in UTF-8 bytes; `limit_bytes` tells it."""

    code, title = "body_too_long", "The message body is too long"


class ConversationNotFound(NotFound):
    """No such conversation, or the caller is not in it: which of the two is not told."""

    code, title = "conversation_not_found", "No such conversation"


class MessageNotFound(NotFound):
    """No message with this `seq` in the conversation."""

    code, title = "message_not_found", "No such message"


class IdempotencyConflict(Conflict):
    """The `client_message_id` was used with another request."""

    code, title = "idempotency_conflict", "This client_message_id was used with another message"


class NotYours(Forbidden):
    """Only its sender may edit a message; only its sender or a moderator may delete it."""

    code, title = "not_yours", "Only the sender may do this"


class MemberRoleNeeded(Forbidden):
    """The caller's role in the conversation does not allow this."""

    code, title = "member_role_needed", "Your role in the conversation does not allow this"


class OwnerNeeded(Conflict):
    """A conversation with members keeps at least one owner."""

    code, title = "owner_needed", "Appoint another owner first"


class DirectIsFixed(Conflict):
    """A direct conversation keeps its two members and has no title; nobody owns it."""

    code, title = "direct_is_fixed", "A direct conversation can't be changed like this"


class TooManyReactions(Conflict):
    """The message has as many different reactions as it may have."""

    code, title = "too_many_reactions", "The message has enough different reactions"


# ---- structs
class NewConversation(Input):
    """`direct` takes exactly one other member; the caller is a member always."""

    kind: Literal["direct", "group", "channel"]
    member_ids: Annotated[list[Id], msgspec.Meta(max_length=1000)] = []
    title: ShortText | None = None


class Conversation(Output):
    """A conversation as the caller sees it. `existed` only on creation of a direct one that was there."""

    conversation_id: str
    tenant_id: str
    kind: Literal["direct", "group", "channel"]
    title: str | None
    created_by: str
    created_at: str
    last_seq: int
    first_seq: int = 1
    last_offset: int = 0
    epoch: str = ""
    read_seq: int = 0
    unread: int = 0
    role: MemberRole = "member"
    member_count: int = 0
    existed: bool = False


class Conversations(Output):
    """The caller's conversations, the one with the newest event first."""

    items: list[Conversation]
    next_cursor: str | None = None


class ConversationChange(Input):
    """What may be changed of a conversation."""

    title: ShortText | msgspec.UnsetType = msgspec.UNSET


class NewMember(Input):
    """Who is to be added."""

    user_id: Id
    role: MemberRole = "member"


class MemberChange(Input):
    """The member's new role in the conversation."""

    role: MemberRole


class Member(Output):
    """A member of a conversation."""

    conversation_id: str
    user_id: str
    role: MemberRole
    joined_at: str
    read_seq: int = 0


class Members(Output):
    """Members in the order they joined."""

    items: list[Member]
    next_cursor: str | None = None


class Draft(Input):
    """A message to be sent. `client_message_id` makes sending it again harmless."""

    body: Body
    client_message_id: Key
    content_type: Annotated[str, msgspec.Meta(min_length=3, max_length=127, pattern=r"^[\w.+-]+/[\w.+-]+$")] = (
        "text/plain"
    )
    ciphertexts: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=1000)] | None = None
    reply_to: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] | None = None
    attachments: Annotated[list[Id], msgspec.Meta(max_length=32)] = []
    mentions: Annotated[list[Id], msgspec.Meta(max_length=100)] = []
    expires_in_s: Annotated[int, msgspec.Meta(ge=1, le=31_536_000)] | None = None


class Reaction(Output):
    """One emoji and who put it."""

    emoji: str
    user_ids: list[str]


class Message(Output):
    """A message. `body` is None for a tombstone (`deleted`). `seq` is gapless among the conversation's messages."""

    message_id: str
    conversation_id: str
    seq: int
    sender_id: str
    body: str | None
    client_message_id: str
    created_at: str
    content_type: str = "text/plain"
    ciphertexts: list[dict[str, Any]] | None = None
    edited_at: str | None = None
    deleted: bool = False
    reply_to: int | None = None
    attachments: list[str] = []
    mentions: list[str] = []
    expires_at: str | None = None
    reactions: list[Reaction] = []
    duplicate: bool = False


class History(Input):
    """Which messages: after or before a `seq`, or on from a `next_cursor`; without any the newest."""

    after_seq: Annotated[int, msgspec.Meta(ge=0)] | None = None
    before_seq: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cursor: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    limit: Limit = 50


class Messages(Output):
    """Messages in `seq` order; `next_cursor` is None at the end of the direction asked."""

    items: list[Message]
    next_cursor: str | None = None


class Edit(Input):
    """The new body."""

    body: Body


class Read(Input):
    """Up to which `seq` the caller has read."""

    seq: Annotated[int, msgspec.Meta(ge=0)]


class ReadState(Output):
    """Where the caller stands. Never goes back."""

    read_seq: int
    unread: int


# ---- the stream, for sockets and search
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


class PublicationQuery(Input):
    """Publications after a global position; waits up to `wait_ms` for one.

    With `passing_after` (-1: without), what passes by after that number is given too, and ends the wait.
    """

    after: Annotated[int, msgspec.Meta(ge=0)]
    passing_after: Annotated[int, msgspec.Meta(ge=-1)] = -1
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 500
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0


class Publications(Output):
    """In `position` order. `newest` is the position of the newest event there is; `passing_newest` likewise."""

    items: list[Publication]
    newest: int
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


_SAFE: dict[str, Any] = {
    "service": SERVICE,
    "needs": Permission.READ,
    "repeat": Repeat.SAFE,
    "degraded": Degraded.ALLOW,
}
_SHAPE_READ: dict[str, Any] = {**_SAFE, "degraded": Degraded.READ_ONLY}
_WRITE: dict[str, Any] = {
    "service": SERVICE,
    "needs": Permission.POST,
    "degraded": Degraded.ALLOW,
    "rate": RateClass.WRITE,
}
_SHAPE: dict[str, Any] = {
    "service": SERVICE,
    "needs": Permission.START_CONVERSATION,
    "degraded": Degraded.READ_ONLY,
    "rate": RateClass.WRITE,
}
_INTERNAL: dict[str, Any] = {
    "service": SERVICE,
    "policy": Policy.SERVICE,
    "repeat": Repeat.SAFE,
    "degraded": Degraded.ALLOW,
}

CREATE = Operation(
    name="create",
    verb="POST",
    path="/conversations",
    takes=NewConversation,
    gives=Conversation,
    status=lambda c: 200 if c.existed else 201,
    summary="Start a conversation",
    **_SHAPE,
)
LIST = Operation(
    name="list",
    verb="GET",
    path="/conversations",
    takes=Page,
    gives=Conversations,
    summary="The caller's conversations",
    **_SHAPE_READ,
)
GET = Operation(
    name="get",
    verb="GET",
    path="/conversations/{conversation_id}",
    gives=Conversation,
    summary="One conversation",
    **_SHAPE_READ,
)
CHANGE = Operation(
    name="change",
    verb="PATCH",
    path="/conversations/{conversation_id}",
    takes=ConversationChange,
    gives=Conversation,
    repeat=Repeat.IDEMPOTENT,
    summary="Change a conversation",
    **_SHAPE,
)
REMOVE = Operation(
    name="remove",
    verb="DELETE",
    path="/conversations/{conversation_id}",
    status=204,
    repeat=Repeat.IDEMPOTENT,
    summary="Delete a conversation (its owner)",
    **_SHAPE,
)
MEMBERS = Operation(
    name="members",
    verb="GET",
    path="/conversations/{conversation_id}/members",
    takes=Page,
    gives=Members,
    summary="Members of a conversation",
    **_SHAPE_READ,
)
ADD_MEMBER = Operation(
    name="add_member",
    verb="POST",
    path="/conversations/{conversation_id}/members",
    takes=NewMember,
    gives=Member,
    status=201,
    repeat=Repeat.IDEMPOTENT,
    summary="Add a member",
    **_SHAPE,
)
REMOVE_MEMBER = Operation(
    name="remove_member",
    verb="DELETE",
    path="/conversations/{conversation_id}/members/{user_id}",
    status=204,
    repeat=Repeat.IDEMPOTENT,
    summary="Remove a member, or leave",
    **_SHAPE,
)
CHANGE_MEMBER = Operation(
    name="change_member",
    verb="PATCH",
    path="/conversations/{conversation_id}/members/{user_id}",
    takes=MemberChange,
    gives=Member,
    repeat=Repeat.IDEMPOTENT,
    summary="Change a member's role",
    **_SHAPE,
)
SEND = Operation(
    name="send",
    verb="POST",
    path="/conversations/{conversation_id}/messages",
    takes=Draft,
    gives=Message,
    status=lambda m: 200 if m.duplicate else 201,
    repeat=Repeat.BY_KEY,
    summary="Send a message",
    **_WRITE,
)
HISTORY = Operation(
    name="history",
    verb="GET",
    path="/conversations/{conversation_id}/messages",
    takes=History,
    gives=Messages,
    summary="Page through the messages",
    **_SAFE,
)
EDIT = Operation(
    name="edit",
    verb="PATCH",
    path="/conversations/{conversation_id}/messages/{seq:int}",
    takes=Edit,
    gives=Message,
    repeat=Repeat.IDEMPOTENT,
    summary="Edit a message",
    **_WRITE,
)
DELETE = Operation(
    name="delete",
    verb="DELETE",
    path="/conversations/{conversation_id}/messages/{seq:int}",
    status=204,
    repeat=Repeat.IDEMPOTENT,
    summary="Delete a message; a tombstone stays",
    **_WRITE,
)
REACT = Operation(
    name="react",
    verb="PUT",
    path="/conversations/{conversation_id}/messages/{seq:int}/reactions/{emoji}",
    status=204,
    repeat=Repeat.IDEMPOTENT,
    summary="Put a reaction",
    **_WRITE,
)
UNREACT = Operation(
    name="unreact",
    verb="DELETE",
    path="/conversations/{conversation_id}/messages/{seq:int}/reactions/{emoji}",
    status=204,
    repeat=Repeat.IDEMPOTENT,
    summary="Take a reaction back",
    **_WRITE,
)
READ = Operation(
    name="read",
    verb="POST",
    path="/conversations/{conversation_id}/read",
    takes=Read,
    gives=ReadState,
    service=SERVICE,
    needs=Permission.READ,
    degraded=Degraded.ALLOW,
    repeat=Repeat.IDEMPOTENT,
    summary="Say up to where it was read",
)
PUBLICATIONS = Operation(
    name="publications",
    verb="GET",
    path="/messaging/internal/publications",
    takes=PublicationQuery,
    gives=Publications,
    summary="The stream of all conversations",
    **_INTERNAL,
)
STREAM = Operation(
    name="stream",
    verb="GET",
    path="/messaging/internal/conversations/{conversation_id}/stream",
    takes=StreamQuery,
    gives=StreamPage,
    summary="One conversation's stream, for a member",
    **_INTERNAL,
)
MEMBERSHIP = Operation(
    name="membership",
    verb="GET",
    path="/messaging/internal/conversations/{conversation_id}/membership",
    gives=Membership,
    summary="The caller's membership",
    **_INTERNAL,
)
READABLE = Operation(
    name="readable",
    verb="GET",
    path="/messaging/internal/readable",
    takes=ReadableQuery,
    gives=Readable,
    summary="What the caller may read now",
    **_INTERNAL,
)
CURRENT = Operation(
    name="current",
    verb="POST",
    path="/messaging/internal/current",
    takes=CurrentQuery,
    gives=Current,
    summary="Messages by id as they are now",
    **_INTERNAL,
)
CATALOGUE = Operation(
    name="catalogue",
    verb="GET",
    path="/messaging/internal/catalogue",
    takes=CatalogueQuery,
    gives=Catalogue,
    summary="Every message there is, for indexing anew",
    **_INTERNAL,
)
FORGOTTEN = Operation(
    name="forgotten",
    verb="GET",
    path="/messaging/internal/forgotten",
    takes=ForgottenQuery,
    gives=Forgotten,
    summary="Conversations whose content is gone for good",
    **_INTERNAL,
)

OPERATIONS = table(
    CREATE,
    LIST,
    GET,
    CHANGE,
    REMOVE,
    MEMBERS,
    ADD_MEMBER,
    REMOVE_MEMBER,
    CHANGE_MEMBER,
    SEND,
    HISTORY,
    EDIT,
    DELETE,
    REACT,
    UNREACT,
    READ,
    PUBLICATIONS,
    STREAM,
    MEMBERSHIP,
    READABLE,
    CURRENT,
    CATALOGUE,
    FORGOTTEN,
    *custody.operations(SERVICE, custody.SUBJECT, custody.HOLDS, custody.RETENTION),
)


class Messaging(custody.Custody, Protocol):
    """Messaging, in this process or another. Every call on a conversation may raise `ConversationNotFound`."""

    async def create(self, caller: Caller, conversation: NewConversation) -> Conversation:
        """Raises: Invalid (`member_ids` unknown in the tenant, a direct one with other than one other member)."""

    async def list(self, caller: Caller, page: Page) -> Conversations: ...
    async def get(self, caller: Caller, conversation_id: str) -> Conversation: ...
    async def change(self, caller: Caller, conversation_id: str, change: ConversationChange) -> Conversation: ...
    async def remove(self, caller: Caller, conversation_id: str) -> None: ...
    async def members(self, caller: Caller, conversation_id: str, page: Page) -> Members: ...
    async def add_member(self, caller: Caller, conversation_id: str, member: NewMember) -> Member: ...
    async def remove_member(self, caller: Caller, conversation_id: str, user_id: str) -> None: ...
    async def change_member(
        self, caller: Caller, conversation_id: str, user_id: str, change: MemberChange
    ) -> Member: ...

    async def send(self, caller: Caller, conversation_id: str, draft: Draft) -> Message:
        """Give the next `seq` and store the message and its event, once per key; durable on return.

        Raises: BodyTooLong, IdempotencyConflict, MemberRoleNeeded.
        """

    async def history(self, caller: Caller, conversation_id: str, query: History) -> Messages: ...
    async def edit(self, caller: Caller, conversation_id: str, seq: int, edit: Edit) -> Message:
        """Raises: MessageNotFound, NotYours, BodyTooLong."""

    async def delete(self, caller: Caller, conversation_id: str, seq: int) -> None:
        """Raises: MessageNotFound, NotYours."""

    async def react(self, caller: Caller, conversation_id: str, seq: int, emoji: str) -> None: ...
    async def unreact(self, caller: Caller, conversation_id: str, seq: int, emoji: str) -> None: ...
    async def read(self, caller: Caller, conversation_id: str, read: Read) -> ReadState: ...
    async def publications(self, caller: Caller, query: PublicationQuery) -> Publications: ...
    async def stream(self, caller: Caller, conversation_id: str, query: StreamQuery) -> StreamPage: ...
    async def membership(self, caller: Caller, conversation_id: str) -> Membership: ...
    async def readable(self, caller: Caller, query: ReadableQuery) -> Readable: ...
    async def current(self, caller: Caller, query: CurrentQuery) -> Current: ...
    async def catalogue(self, caller: Caller, query: CatalogueQuery) -> Catalogue: ...
    async def forgotten(self, caller: Caller, query: ForgottenQuery) -> Forgotten: ...
