"""An operation is data: the route, the client, OpenAPI and the retry rule are all derived from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import msgspec

from sealwire.kit.permission import Permission

PARAMETER = re.compile(r"\{(\w+)(?::(int))?\}")
GATEWAY = "gateway"
SAFE_VERBS = frozenset({"GET", "HEAD", "OPTIONS"})


class Policy(StrEnum):
    """Who may reach a route. Every route declares one; a route without one does not exist."""

    PUBLIC = "public"
    """Anybody: registering, logging in, health."""
    CALLER = "caller"
    """A person or key with a valid credential, or a service on their behalf."""
    SERVICE = "service"
    """One of our services, with its identity. Never routed by the gateway."""
    FIRST_FRAME = "first_frame"
    """A WebSocket that authenticates before any other frame is answered."""
    LINK = "link"
    """The holder of a signed, expiring link."""
    LOOPBACK = "loopback"
    """This machine, an allow-list, or a principal with HEALTH_DETAILS."""


class Repeat(StrEnum):
    """Whether the call may be sent again when its answer was lost."""

    SAFE = "safe"
    IDEMPOTENT = "idempotent"
    BY_KEY = "by_key"
    NEVER = "never"


class Degraded(StrEnum):
    """What an unconfirmed session, or a legacy token, may do with it (R6.6)."""

    ALLOW = "allow"
    """Low risk: it goes on."""
    READ_ONLY = "read_only"
    """Of a thing that is low risk to look at and not to change: safe verbs go on, others are refused."""
    DENY = "deny"
    """Refused until the session is confirmed."""


class RateClass(StrEnum):
    """Which rate limit counts the call."""

    DEFAULT = "default"
    AUTH = "auth"
    WRITE = "write"
    SEARCH = "search"
    NONE = "none"


BODY_LIMIT_BYTES: Final = 256 * 1024
"""Of what an operation takes, unless it is made for more."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a contract.

    `path` holds parameters as `{name}` (text) or `{name:int}`. `takes` is the body's struct, or for GET and DELETE
    the query's. `gives` is the answer's struct; None answers `{}`, and with status 204 nothing. `status` is a number or
    read from the answer: 200 unless the wire contract names another.
    `step_up` asks for a proof of identity within the last 15 minutes. `callers` are the services that may call it on
    their own behalf, `carriers` those that may for somebody else; what is not internal the gateway may, for anybody.
    All else that a service's key signs is refused (kit/carrying.py).
    """

    name: str
    service: str
    verb: str
    path: str
    summary: str
    takes: type[Any] | None = None
    gives: type[Any] | None = None
    status: int | Callable[[Any], int] = 200
    policy: Policy = Policy.CALLER
    needs: Permission | None = None
    repeat: Repeat = Repeat.NEVER
    degraded: Degraded = Degraded.DENY
    step_up: bool = False
    rate: RateClass = RateClass.DEFAULT
    callers: frozenset[str] = frozenset()
    carriers: frozenset[str] = frozenset()
    form: bool = False
    body_limit_bytes: int = BODY_LIMIT_BYTES

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"{self.name}: the path starts with a slash")
        if self.policy is Policy.CALLER and self.needs is None:
            raise ValueError(f"{self.name}: an operation for callers names the permission it needs")
        if self.policy is Policy.SERVICE and not (self.callers or self.carriers):
            raise ValueError(f"{self.name}: an operation for services names those that call it")

    @property
    def called_by(self) -> frozenset[str]:
        """The services that may call it on their own behalf."""
        return self.callers if self.policy is Policy.SERVICE else self.callers | {GATEWAY}

    @property
    def carried_by(self) -> frozenset[str]:
        """The services that may call it for somebody else."""
        return self.carriers if self.policy is Policy.SERVICE else self.carriers | {GATEWAY}

    @property
    def parameters(self) -> tuple[tuple[str, type], ...]:
        """The path's parameters in order, each with its type."""
        return tuple((name, int if kind else str) for name, kind in PARAMETER.findall(self.path))

    @property
    def open_unconfirmed(self) -> bool:
        """Whether an unconfirmed session may call it."""
        return self.degraded is Degraded.ALLOW or (self.degraded is Degraded.READ_ONLY and self.verb in SAFE_VERBS)

    @property
    def takes_query(self) -> bool:
        """Whether `takes` is read from the query instead of the body."""
        return self.verb in ("GET", "DELETE", "HEAD")

    def url(self, *parameters: object) -> str:
        """Return the path with its parameters filled in (percent-encoded)."""
        from urllib.parse import quote

        values = iter(parameters)
        return PARAMETER.sub(lambda _: quote(str(next(values)), safe=""), self.path)


def table(*operations: Operation) -> dict[str, Operation]:
    """Index operations by the method's name. Raises: ValueError for a name given twice."""
    index = {operation.name: operation for operation in operations}
    if len(index) != len(operations):
        raise ValueError("two operations have one name")
    return index
