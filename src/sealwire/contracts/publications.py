"""What the subscribers of a conversation get: the JSON in `data` of each `contracts.messaging_stream.Publication`.

Every one has `type`, `conversation_id` and, being part of the stream, `offset`. Read receipts have no offset.
"""

from __future__ import annotations

from typing import Literal

from sealwire.contracts.messages import Message
from sealwire.kit.codec import Output


class MessagePublished(Output):
    """A message was sent or edited; `message` as REST gives it, in its current state."""

    type: Literal["message.created", "message.edited"]
    conversation_id: str
    offset: int
    message: Message


class MessageDeleted(Output):
    """A message became a tombstone; `by` is who did it, or `messaging` when its time was over."""

    conversation_id: str
    offset: int
    message_id: str
    seq: int
    by: str
    at: str
    type: Literal["message.deleted"] = "message.deleted"


class MessagesPurged(Output):
    """The content of these messages is gone: retention disposed of them. They are bodiless tombstones, or gone too."""

    conversation_id: str
    offset: int
    message_ids: list[str]
    by: str
    at: str
    type: Literal["messages.purged"] = "messages.purged"


class ReactionPublished(Output):
    """`user_id` put or took back a reaction."""

    type: Literal["reaction.added", "reaction.removed"]
    conversation_id: str
    offset: int
    message_id: str
    seq: int
    emoji: str
    user_id: str
    at: str


class MemberPublished(Output):
    """`user_id` joined, left, or has another role now."""

    type: Literal["member.joined", "member.left", "member.changed"]
    conversation_id: str
    offset: int
    user_id: str
    by: str
    at: str
    role: str = ""


class ConversationPublished(Output):
    """The conversation was made, changed (ask for its title) or removed."""

    type: Literal["conversation.created", "conversation.changed", "conversation.removed"]
    conversation_id: str
    offset: int
    by: str
    at: str


class ReceiptPublished(Output):
    """`user_id` has read up to `read_seq`."""

    conversation_id: str
    user_id: str
    read_seq: int
    at: str
    type: Literal["receipt.read"] = "receipt.read"
