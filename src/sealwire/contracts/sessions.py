"""What auth promises of sessions: refreshing, ending, what the boundary asks of them."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from sealwire.contracts.auth_terms import BOUNDARY, INTERNAL, OPEN, PROFILE, Count, Token
from sealwire.contracts.logins import LoginResult
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page
from sealwire.kit.operation import Degraded, Operation, Repeat, table
from sealwire.kit.permission import Role
from sealwire.kit.problem import NotFound, Unauthenticated


class RefreshReused(Unauthenticated):
    """An old refresh token came back; its whole family is revoked."""

    code, title = "refresh_reused", "The refresh token was used before"


class RefreshInvalid(Unauthenticated):
    """The refresh token is unknown, expired or revoked."""

    code, title = "refresh_invalid", "The refresh token is not valid"


class SessionNotFound(NotFound):
    """No such session of this user."""

    code, title = "session_not_found", "No such session"


class RefreshRequest(Input):
    """The refresh token last received."""

    refresh_token: Token


class Session(Output):
    """A session as its owner sees it."""

    session_id: str
    created_at: str
    last_seen_at: str
    expires_at: str
    ip: str
    user_agent: str
    current: bool = False


class Sessions(Output):
    """The caller's live sessions."""

    items: list[Session]
    next_cursor: str | None = None


class SessionState(Output):
    """What the session boundary needs to know of one session.

    A token of the session is good exactly while `active` and the token's `epoch` is not below `epoch` (the least one
    this session accepts; a password change leaves the session it was made in as it is). `enrol_only`: the tenant asks
    for a second factor and the session has none. `kind` is None where nobody said it.
    """

    session_id: str
    tenant_id: str
    user_id: str
    role: Role
    email: str
    epoch: int
    active: bool
    expires_at_s: int
    enrol_only: bool = False
    kind: Literal["user", "api_key"] | None = None


class SessionQuery(Input):
    """Which session."""

    session_id: Id


class SeenSession(Input):
    """A session was used at that time."""

    session_id: Id
    at_us: Count


class Seen(Input):
    """Uses of sessions, coalesced by the boundary: the newest per session, some seconds apart."""

    items: Annotated[list[SeenSession], msgspec.Meta(max_length=1000)]


REFRESH = Operation(
    name="refresh",
    verb="POST",
    path="/auth/refresh",
    takes=RefreshRequest,
    gives=LoginResult,
    summary="Exchange a refresh token for a new pair",
    **OPEN,
)
LOGOUT = Operation(
    name="logout",
    verb="POST",
    path="/auth/logout",
    repeat=Repeat.IDEMPOTENT,
    status=204,
    degraded=Degraded.ALLOW,
    summary="End this session",
    **PROFILE,
)
LOGOUT_ALL = Operation(
    name="logout_all",
    verb="POST",
    path="/auth/logout-all",
    repeat=Repeat.IDEMPOTENT,
    status=204,
    degraded=Degraded.ALLOW,
    summary="End every session of the caller",
    **PROFILE,
)
SESSIONS = Operation(
    name="sessions",
    verb="GET",
    path="/auth/sessions",
    takes=Page,
    gives=Sessions,
    repeat=Repeat.SAFE,
    summary="The caller's sessions",
    **PROFILE,
)
END_SESSION = Operation(
    name="end_session",
    verb="DELETE",
    path="/auth/sessions/{session_id}",
    status=204,
    repeat=Repeat.IDEMPOTENT,
    degraded=Degraded.ALLOW,
    summary="End one session",
    **PROFILE,
)
SESSION = Operation(
    name="session",
    verb="GET",
    path="/auth/internal/session",
    takes=SessionQuery,
    gives=SessionState,
    callers=BOUNDARY | {"media"},
    summary="State of one session, for the boundary",
    **INTERNAL,
)
SEEN = Operation(
    name="seen",
    verb="POST",
    path="/auth/internal/seen",
    takes=Seen,
    callers=BOUNDARY,
    summary="Note when sessions were last used",
    **INTERNAL,
)

OPERATIONS = table(REFRESH, LOGOUT, LOGOUT_ALL, SESSIONS, END_SESSION, SESSION, SEEN)


class SessionBook(Protocol):
    """The part of auth that keeps sessions."""

    async def refresh(self, caller: Caller, request: RefreshRequest) -> LoginResult:
        """Rotate. Raises: RefreshReused (family revoked), RefreshInvalid."""

    async def logout(self, caller: Caller) -> None:
        """End the caller's session; durable before it returns."""

    async def logout_all(self, caller: Caller) -> None:
        """End every session of the caller."""

    async def sessions(self, caller: Caller, page: Page) -> Sessions: ...

    async def end_session(self, caller: Caller, session_id: str) -> None:
        """Raises: SessionNotFound."""

    async def session(self, caller: Caller, query: SessionQuery) -> SessionState:
        """Raises: SessionNotFound."""

    async def seen(self, caller: Caller, seen: Seen) -> None:
        """Note uses; unknown sessions are passed over. Stored some seconds later, off the path of any request."""
