"""Who is on a connection, and what the desk remembers of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

from sealwire.contracts.admission import Admission, Handshake
from sealwire.kit.problem import Unauthenticated

Job = Callable[[], Awaitable[None]]
Start = Callable[[], None]


class Lane:
    """The sends of a connection into one conversation, kept in order.

    Sends overlap, so that they share a commit, and are numbered in the order they began: once messaging holds what it
    needs to seal for this sender. So the first one goes alone, and those after it wait for its answer.
    """

    __slots__ = ("opening", "used_s", "waiting")

    def __init__(self) -> None:
        self.opening = True
        self.used_s = 0.0
        self.waiting: list[Start] = []


class Session:
    """The handshake of a connection and, once it is authenticated, its admission and identity.

    `jobs` is there from then on: what waits for a credential must weigh little.
    """

    jobs: deque[Job]

    __slots__ = (
        "admission",
        "handshake",
        "jobs",
        "kind",
        "lanes",
        "session_id",
        "tenant_id",
        "typing_s",
        "user_id",
        "working",
    )

    def __init__(self, handshake: Handshake) -> None:
        self.handshake = handshake
        self.admission: Admission | None = None
        self.tenant_id = self.user_id = self.session_id = ""
        self.kind: Literal["user", "api_key", "service", "anonymous"] = "anonymous"
        self.typing_s: dict[str, float] = {}
        self.lanes: dict[str, Lane] = {}
        self.working = False

    @property
    def actor_id(self) -> str:
        """What the audit log names as the actor: of an API key the key, not its owner."""
        return self.session_id if self.kind == "api_key" else self.user_id

    @property
    def admitted(self) -> Admission:
        """The admission. Raises: Unauthenticated before there is one."""
        if self.admission is None:
            raise Unauthenticated
        return self.admission
