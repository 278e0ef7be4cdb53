"""What messaging promises of conversations."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from sealwire.contracts.messaging_terms import SHAPE, SHAPE_READ, MemberRole
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page, ShortText
from sealwire.kit.operation import Operation, Repeat, table


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


CREATE = Operation(
    name="create",
    verb="POST",
    path="/conversations",
    takes=NewConversation,
    gives=Conversation,
    status=lambda c: 200 if c.existed else 201,
    summary="Start a conversation",
    **SHAPE,
)
LIST = Operation(
    name="list",
    verb="GET",
    path="/conversations",
    takes=Page,
    gives=Conversations,
    summary="The caller's conversations",
    **SHAPE_READ,
)
GET = Operation(
    name="get",
    verb="GET",
    path="/conversations/{conversation_id}",
    gives=Conversation,
    summary="One conversation",
    **SHAPE_READ,
)
CHANGE = Operation(
    name="change",
    verb="PATCH",
    path="/conversations/{conversation_id}",
    takes=ConversationChange,
    gives=Conversation,
    repeat=Repeat.IDEMPOTENT,
    summary="Change a conversation",
    **SHAPE,
)
REMOVE = Operation(
    name="remove",
    verb="DELETE",
    path="/conversations/{conversation_id}",
    repeat=Repeat.IDEMPOTENT,
    summary="Delete a conversation (its owner)",
    **SHAPE,
)

OPERATIONS = table(
    CREATE,
    LIST,
    GET,
    CHANGE,
    REMOVE,
)


class ConversationDesk(Protocol):
    """Conversations. Every call on one may raise `ConversationNotFound`."""

    async def create(self, caller: Caller, conversation: NewConversation) -> Conversation:
        """Raises: Invalid (`member_ids` unknown in the tenant, a direct one with other than one other member)."""

    async def list(self, caller: Caller, page: Page) -> Conversations: ...
    async def get(self, caller: Caller, conversation_id: str) -> Conversation: ...
    async def change(self, caller: Caller, conversation_id: str, change: ConversationChange) -> Conversation: ...
    async def remove(self, caller: Caller, conversation_id: str) -> None: ...
