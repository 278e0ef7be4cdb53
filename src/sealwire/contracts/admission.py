"""What the session boundary promises the socket service: who is on a WebSocket, and when that ends.

Spoken within a process: every process that holds sockets has a boundary of its own, fed by auth's revocations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from sealwire.kit.caller import Caller
from sealwire.kit.exchange import Scope
from sealwire.kit.problem import Problem, RateLimited, Unauthenticated

SUBPROTOCOL = "sealwire.v1"
"""The one WebSocket subprotocol that is echoed when a client offers it."""


class CredentialExpired(Unauthenticated):
    """The token is genuine and its time is over: error reply 109 at connect, close 3005 later."""

    code, title = "token_expired", "The token has expired"


class SessionRevoked(Unauthenticated):
    """The session ended: logout, revocation, password change, user disabled. Close 4502."""

    code, title = "session_revoked", "The session has ended"


class ConnectionLimit(RateLimited):
    """The person, or the address, has as many sockets as it may have: close 3504, or 429 before the socket opens."""

    code, title = "connection_limit", "Too many connections"


class Seat(Protocol):
    """A socket's place among those of its address, from the handshake on."""

    def take(self) -> None:
        """Count the socket as authenticated."""

    def leave(self) -> None:
        """Give the place back: the socket is gone. Safe to call twice."""


class Handshake(msgspec.Struct, frozen=True, kw_only=True):
    """What the opening request of a WebSocket told. `token` is its credential, empty when it brought none.

    `instance` is the socket instance it came to, `seat` its place there; both are empty for one that was only read.
    """

    token: str
    subprotocol: str
    ip: str
    user_agent: str
    trace_id: str
    instance: str = ""
    seat: Seat | None = None


class Admission(Protocol):
    """An authenticated socket. `expires_at_s` and `until_s` move with `renew`."""

    @property
    def caller(self) -> Caller:
        """Who is on the socket, as of now. Costs about as much as a few attribute reads.

        `confirmed` is False while the session can't be confirmed. Raises: SessionRevoked, CredentialExpired.
        """

    @property
    def expires_at_s(self) -> int:
        """When its token ends, in Unix seconds: by then the client should have renewed it."""

    @property
    def until_s(self) -> float:
        """When the socket has to be closed with 3005 unless it was renewed, on the monotonic clock.

        As long as its token is good anywhere, a little past its end for a renewal that is late; never past its session.
        """


class SocketGateway(Protocol):
    """Lets sockets in and ends them (R6.4). Every refusal is a Problem; its text helps no attacker."""

    def read(self, scope: Scope) -> Handshake:
        """Read credential and subprotocol of an opening request, without judging the credential.

        Raises: Unauthenticated for two different credentials, or a cookie from a foreign origin.
        """

    def enter(self, scope: Scope, instance: str) -> Handshake:
        """Read an opening request and give it a seat, which its socket leaves when it is gone.

        Raises: RateLimited, ConnectionLimit for an address over its limits, before anything else is looked at; what
        `read` raises.
        """

    def address(self, scope: Scope) -> str:
        """Return the address an opening request comes from, as trusted proxies tell it."""

    async def admit(self, handshake: Handshake, token: str, *, ended: Callable[[Problem], None]) -> Admission:
        """Authenticate a socket by its handshake's token or its first frame's `token`.

        `ended` is called once, on the loop, when the session ends (SessionRevoked), or can no longer be trusted
        unconfirmed (SessionUnconfirmed: close 4001); then the socket must close. Not called after `release`.
        Raises: CredentialExpired, SessionRevoked, Unauthenticated (none or two different), Unavailable (close 4001),
        ConnectionLimit (close 3504) for a person with as many sockets as one may have: the open ones stay.
        """

    async def renew(self, admission: Admission, token: str) -> None:
        """Take a fresh token on a live socket: of the same subject, tenant and session. Raises: as `admit`."""

    def release(self, admission: Admission) -> None:
        """Forget a socket that is gone. Safe to call twice."""
