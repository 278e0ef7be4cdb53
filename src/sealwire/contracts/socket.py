"""What a socket instance promises: the calls a client makes over `/ws`, and what passes by there.

The stream's own publications are in contracts/publications.py; the protocol in docs/reference/asyncapi.yaml.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from sealwire.contracts.messages import Draft, Edit, History, Read
from sealwire.kit.codec import Id, Input, Output

SERVICE = "socket"
CONVERSATION_CHANNEL = "conversation:"
USER_CHANNEL = "user:"

Seq = Annotated[int, msgspec.Meta(ge=1)]


# ---- rpc: the parameters of the REST call of the same name, its path's parameters among them
class SendCall(Draft, kw_only=True):
    """`message.send` gives the message as REST does."""

    conversation_id: Id


class EditCall(Edit, kw_only=True):
    """`message.edit` gives the message as REST does."""

    conversation_id: Id
    seq: Seq


class DeleteCall(Input):
    """`message.delete` gives nothing."""

    conversation_id: Id
    seq: Seq


class HistoryCall(History, kw_only=True):
    """`history` gives a page of messages as REST does."""

    conversation_id: Id


class ReadCall(Read, kw_only=True):
    """`read` gives where the caller stands."""

    conversation_id: Id


class TypingCall(Input):
    """`typing` gives nothing; others hear of it for as long as it is said again."""

    conversation_id: Id
    active: bool = True


class PresenceCall(Input):
    """`presence` gives who listens to a conversation now."""

    conversation_id: Id


class Present(Output):
    """Somebody who listens, and on how many connections."""

    user_id: str
    connections: int


class Presences(Output):
    """Who listens to a conversation now, on any instance."""

    conversation_id: str
    items: list[Present]


# ---- what passes by without an offset
class TypingPublished(Output):
    """In `conversation:<id>`: somebody types, or stopped."""

    conversation_id: str
    user_id: str
    active: bool
    type: Literal["typing"] = "typing"


class UnreadPublished(Output):
    """In `user:<id>`: a conversation the connection does not listen to has messages up to `last_seq`."""

    conversation_id: str
    last_seq: int
    type: Literal["unread"] = "unread"


class MentionPublished(Output):
    """In `user:<id>`: a message names the user."""

    conversation_id: str
    message_id: str
    seq: int
    by: str
    type: Literal["mention"] = "mention"


class SessionPublished(Output):
    """In `user:<id>`: a session of the user was opened or ended (`session_id`), or all but `session_id` ended, or their
    role changed.

    Front ends ask anew for what they show of it: sessions, or what the user may do. That one was opened is told
    within a second or so, and to the other sessions; where it ended at once, the end may be told first.
    """

    type: Literal["session.opened", "session.ended", "sessions.ended", "role.changed"]
    session_id: str
    reason: str
    change_id: str
    at: str
