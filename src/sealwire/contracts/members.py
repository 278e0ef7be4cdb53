"""What messaging promises of the members of a conversation."""

from __future__ import annotations

from typing import Protocol

from sealwire.contracts.messaging_terms import SHAPE, SHAPE_READ, MemberRole
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page
from sealwire.kit.operation import Operation, Repeat, table
from sealwire.kit.problem import Conflict


class OwnerNeeded(Conflict):
    """A conversation with members keeps at least one owner."""

    code, title = "owner_needed", "Appoint another owner first"


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


MEMBERS = Operation(
    name="members",
    verb="GET",
    path="/conversations/{conversation_id}/members",
    takes=Page,
    gives=Members,
    summary="Members of a conversation",
    **SHAPE_READ,
)
ADD_MEMBER = Operation(
    name="add_member",
    verb="POST",
    path="/conversations/{conversation_id}/members",
    takes=NewMember,
    gives=Member,
    repeat=Repeat.IDEMPOTENT,
    summary="Add a member",
    **SHAPE,
)
REMOVE_MEMBER = Operation(
    name="remove_member",
    verb="DELETE",
    path="/conversations/{conversation_id}/members/{user_id}",
    repeat=Repeat.IDEMPOTENT,
    summary="Remove a member, or leave",
    **SHAPE,
)
CHANGE_MEMBER = Operation(
    name="change_member",
    verb="PATCH",
    path="/conversations/{conversation_id}/members/{user_id}",
    takes=MemberChange,
    gives=Member,
    repeat=Repeat.IDEMPOTENT,
    summary="Change a member's role",
    **SHAPE,
)

OPERATIONS = table(
    MEMBERS,
    ADD_MEMBER,
    REMOVE_MEMBER,
    CHANGE_MEMBER,
)


class MemberDesk(Protocol):
    """Members. Every call may raise `ConversationNotFound`."""

    async def members(self, caller: Caller, conversation_id: str, page: Page) -> Members: ...
    async def add_member(self, caller: Caller, conversation_id: str, member: NewMember) -> Member: ...
    async def remove_member(self, caller: Caller, conversation_id: str, user_id: str) -> None: ...
    async def change_member(
        self, caller: Caller, conversation_id: str, user_id: str, change: MemberChange
    ) -> Member: ...
