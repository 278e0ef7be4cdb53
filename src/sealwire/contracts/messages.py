"""What messaging promises of messages: sending, history, edits, reactions, receipts."""

from __future__ import annotations

from typing import Annotated, Any, Final, Protocol

import msgspec

from sealwire.contracts.messaging_terms import SAFE, SERVICE
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Limit, Output, form
from sealwire.kit.operation import Degraded, Operation, RateClass, Repeat, table
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, Forbidden, NotFound, TooLarge

MAX_BODY_BYTES = 64 * 1024
Body = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_BODY_BYTES)]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_MEDIA_TYPE: Final = form(r"^[\w.+-]+/[\w.+-]+$", "Write a media type, such as text/plain.")


class BodyTooLong(TooLarge):
    """The body exceeds the limit in UTF-8 bytes; `limit_bytes` tells it."""

    code, title = "body_too_long", "The message body is too long"


class MessageNotFound(NotFound):
    """No message with this `seq` in the conversation."""

    code, title = "message_not_found", "No such message"


class IdempotencyConflict(Conflict):
    """The `client_message_id` was used with another request."""

    code, title = "idempotency_conflict", "This client_message_id was used with another message"


class NotYours(Forbidden):
    """Only its sender may edit a message; only its sender or a moderator may delete it."""

    code, title = "not_yours", "Only the sender may do this"


class TooManyReactions(Conflict):
    """The message has as many different reactions as it may have."""

    code, title = "too_many_reactions", "The message has enough different reactions"


class Draft(Input):
    """A message to be sent. `client_message_id` makes sending it again harmless."""

    body: Body
    client_message_id: Key
    content_type: Annotated[str, msgspec.Meta(min_length=3, max_length=127, pattern=_MEDIA_TYPE)] = "text/plain"
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


_WRITE: dict[str, Any] = {
    "service": SERVICE,
    "needs": Permission.POST,
    "degraded": Degraded.ALLOW,
    "rate": RateClass.WRITE,
}
SEND = Operation(
    name="send",
    verb="POST",
    path="/conversations/{conversation_id}/messages",
    takes=Draft,
    gives=Message,
    status=lambda m: 200 if m.duplicate else 201,
    repeat=Repeat.BY_KEY,
    carriers=frozenset({"socket"}),
    summary="Send a message",
    **_WRITE,
)
HISTORY = Operation(
    name="history",
    verb="GET",
    path="/conversations/{conversation_id}/messages",
    takes=History,
    gives=Messages,
    carriers=frozenset({"socket"}),
    summary="Page through the messages",
    **SAFE,
)
EDIT = Operation(
    name="edit",
    verb="PATCH",
    path="/conversations/{conversation_id}/messages/{seq:int}",
    takes=Edit,
    gives=Message,
    repeat=Repeat.IDEMPOTENT,
    carriers=frozenset({"socket"}),
    summary="Edit a message",
    **_WRITE,
)
DELETE = Operation(
    name="delete",
    verb="DELETE",
    path="/conversations/{conversation_id}/messages/{seq:int}",
    repeat=Repeat.IDEMPOTENT,
    carriers=frozenset({"socket"}),
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
    carriers=frozenset({"socket"}),
    summary="Say up to where it was read",
)

OPERATIONS = table(
    SEND,
    HISTORY,
    EDIT,
    DELETE,
    REACT,
    UNREACT,
    READ,
)


class MessageDesk(Protocol):
    """Messages. Every call may raise `ConversationNotFound`."""

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
