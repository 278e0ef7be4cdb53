"""What the contracts of messaging have in common: its name, roles in a conversation, what is asked of its calls."""

from __future__ import annotations

from typing import Any, Final, Literal

from sealwire.kit.operation import Degraded, RateClass, Repeat
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, Forbidden, NotFound

SERVICE = "messaging"
MemberRole = Literal["owner", "moderator", "member", "reader"]
SAFE: Final[dict[str, Any]] = {
    "service": SERVICE,
    "needs": Permission.READ,
    "repeat": Repeat.SAFE,
    "degraded": Degraded.ALLOW,
}
SHAPE_READ: Final[dict[str, Any]] = {**SAFE, "degraded": Degraded.READ_ONLY}
SHAPE: Final[dict[str, Any]] = {
    "service": SERVICE,
    "needs": Permission.START_CONVERSATION,
    "degraded": Degraded.READ_ONLY,
    "rate": RateClass.WRITE,
}


class ConversationNotFound(NotFound):
    """No such conversation, or the caller is not in it: which of the two is not told."""

    code, title = "conversation_not_found", "No such conversation"


class MemberRoleNeeded(Forbidden):
    """The caller's role in the conversation does not allow this."""

    code, title = "member_role_needed", "Your role in the conversation does not allow this"


class DirectIsFixed(Conflict):
    """A direct conversation keeps its two members and has no title; nobody owns it."""

    code, title = "direct_is_fixed", "A direct conversation can't be changed like this"
