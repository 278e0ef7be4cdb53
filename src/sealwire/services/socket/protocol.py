"""The Centrifugo client protocol, JSON v2: commands in, replies and pushes out.

Several commands or replies stand in one frame, one JSON document a line. Unknown members are passed over (clients
newer than us), known members have their type or the frame is refused.
Source: the protocol's client.proto (centrifugal/protocol), as the `centrifuge` clients speak it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec

from sealwire.services.socket.frames import server_frame

Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Channel = Annotated[str, msgspec.Meta(max_length=255)]
NULL: Final = msgspec.Raw(b"null")


class Position(msgspec.Struct, frozen=True):
    """A place in a channel's stream."""

    offset: Offset = 0
    epoch: str = ""


class Recovery(msgspec.Struct, frozen=True):
    """What a client says of a server-side subscription when it connects again."""

    recover: bool = False
    offset: Offset = 0
    epoch: str = ""


class Connect(msgspec.Struct, frozen=True):
    """The first command; the token may have come with the handshake instead."""

    token: str = ""
    name: str = ""
    version: str = ""
    subs: dict[str, Recovery] = {}


class Refresh(msgspec.Struct, frozen=True):
    """A fresh token for the live connection."""

    token: str = ""


class Subscribe(msgspec.Struct, frozen=True):
    """Listen to a channel, from now or from a position."""

    channel: Channel
    token: str = ""
    recover: bool = False
    offset: Offset = 0
    epoch: str = ""
    flag: int = 0


class Unsubscribe(msgspec.Struct, frozen=True):
    """Stop listening."""

    channel: Channel


class ChannelOnly(msgspec.Struct, frozen=True):
    """Publish, presence, presence_stats, sub_refresh: what we read of them."""

    channel: Channel


class History(msgspec.Struct, frozen=True):
    """A page of a channel's stream; without a limit only its end is asked for."""

    channel: Channel
    limit: int = 0
    since: Position | None = None
    reverse: bool = False


class Rpc(msgspec.Struct, frozen=True):
    """A call of a method; `data` is read by whoever answers the method."""

    method: str = ""
    data: msgspec.Raw = NULL


class Empty(msgspec.Struct, frozen=True):
    """A command without members."""


class Command(msgspec.Struct, frozen=True):
    """One command: one member besides `id`, or none at all: a pong. Of several the first counts, in this order."""

    id: Uint32 = 0
    rpc: Rpc | None = None
    connect: Connect | None = None
    refresh: Refresh | None = None
    subscribe: Subscribe | None = None
    unsubscribe: Unsubscribe | None = None
    publish: ChannelOnly | None = None
    presence: ChannelOnly | None = None
    presence_stats: ChannelOnly | None = None
    history: History | None = None
    sub_refresh: ChannelOnly | None = None
    send: Empty | None = None
    ping: Empty | None = None


class Error(msgspec.Struct, frozen=True):
    """A failed command: codes below 100 are the client's own, 100 to 399 the protocol's, 400 and more HTTP's."""

    code: int
    message: str
    temporary: bool = False


class Close(msgspec.Struct, frozen=True):
    """How a connection ends: below 3500 and 4000-4499 the client comes back, others are final."""

    code: int
    reason: str


INTERNAL: Final = Error(100, "internal server error", temporary=True)
UNKNOWN_CHANNEL: Final = Error(102, "unknown channel")
PERMISSION_DENIED: Final = Error(103, "permission denied")
METHOD_NOT_FOUND: Final = Error(104, "method not found")
ALREADY_SUBSCRIBED: Final = Error(105, "already subscribed")
LIMIT_EXCEEDED: Final = Error(106, "limit exceeded")
BAD_REQUEST: Final = Error(107, "bad request")
NOT_AVAILABLE: Final = Error(108, "not available")
TOKEN_EXPIRED: Final = Error(109, "token expired")
TOKEN_EXPIRED_RETRY: Final = Error(109, "token expired", temporary=True)
TOO_MANY_REQUESTS: Final = Error(111, "too many requests", temporary=True)
UNRECOVERABLE_POSITION: Final = Error(112, "unrecoverable position")

SHUTDOWN: Final = Close(3001, "shutdown")
SERVER_ERROR: Final = Close(3004, "internal server error")
EXPIRED: Final = Close(3005, "connection expired")
SLOW: Final = Close(3008, "slow")
INSUFFICIENT_STATE: Final = Close(3010, "insufficient state")
NO_PONG: Final = Close(3012, "no pong")
MALFORMED: Final = Close(3501, "bad request")
CONNECTION_LIMIT: Final = Close(3504, "connection limit")
NO_SUCH_FEATURE: Final = Close(3508, "not available")
DEGRADED: Final = Close(4001, "degraded")
UNAUTHENTICATED: Final = Close(4501, "unauthenticated")
SESSION_REVOKED: Final = Close(4502, "session_revoked")
FORBIDDEN: Final = Close(4503, "forbidden")

UNSUBSCRIBED_BY_SERVER: Final = 2000
"""The client stays unsubscribed."""
RESUBSCRIBE: Final = 2500
"""The client subscribes again and recovers from its own position."""

FLAG_REJECT_UNRECOVERED: Final = 2
"""Set in `Subscribe.flag`: answer error 112 instead of `recovered: false`."""

PING_FRAME: Final = server_frame(b"{}")

_decode = msgspec.json.Decoder(Command).decode_lines
_encode = msgspec.json.Encoder().encode


class BadFrame(Exception):
    """The frame is no list of commands; the client is not told why."""


def decode_commands(frame: bytes) -> list[Command]:
    """Read a frame of one command or more. Raises: BadFrame for anything else."""
    try:
        commands = _decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadFrame from None
    if not commands:
        raise BadFrame
    return commands


PONG: Final = Command()
"""The empty command, which answers a ping."""


def encode_error(id_: int, error: Error) -> bytes:
    """Write the reply of a failed command."""
    temporary = b',"temporary":true' if error.temporary else b""
    return b'{"id":%d,"error":{"code":%d,"message":%b%b}}' % (id_, error.code, _encode(error.message), temporary)


def encode_rpc(id_: int, data: bytes) -> bytes:
    """Write the reply of a call; `data` is the result as JSON, empty for none."""
    return b'{"id":%d,"rpc":{"data":%b}}' % (id_, data or b"{}")


def encode_empty(id_: int, kind: bytes) -> bytes:
    """Write a reply without members (`unsubscribe`, `ping`, ...)."""
    return b'{"id":%d,"%b":{}}' % (id_, kind)


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a subscribe.

    `offset` is the position the publications follow: the client's own when it recovered, else the channel's end.
    `publications` are encoded ones (`encode_publication`).
    """

    offset: int = 0
    epoch: str = ""
    positioned: bool = False
    was_recovering: bool = False
    recovered: bool = False
    publications: Sequence[bytes] = ()


def encode_subscribed(result: Subscribed) -> bytes:
    """Write the body of a subscribe reply, as it also stands in a connect reply."""
    parts = []
    if result.positioned:
        parts.append(
            b'"recoverable":true,"positioned":true,"offset":%d,"epoch":%b' % (result.offset, _encode(result.epoch))
        )
    if result.was_recovering:
        parts.append(b'"was_recovering":true')
    if result.recovered:
        parts.append(b'"recovered":true')
    if result.publications:
        parts.append(b'"publications":[%b]' % b",".join(result.publications))
    return b"{%b}" % b",".join(parts)


def encode_subscribe(id_: int, result: Subscribed) -> bytes:
    """Write the reply of a subscribe."""
    return b'{"id":%d,"subscribe":%b}' % (id_, encode_subscribed(result))


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a connect; `ttl_s` of 0 means that the connection does not expire."""

    client: str
    version: str
    node: str
    ping_s: int
    ttl_s: int
    subs: Mapping[str, Subscribed]


def encode_connect(id_: int, result: Connected) -> bytes:
    """Write the reply of a connect."""
    subs = b",".join(b"%b:%b" % (_encode(name), encode_subscribed(sub)) for name, sub in result.subs.items())
    expires = b'"expires":true,"ttl":%d,' % result.ttl_s if result.ttl_s else b""
    return b'{"id":%d,"connect":{"client":%b,"version":%b,"node":%b,%b"ping":%d,"pong":true,"subs":{%b}}}' % (
        id_,
        _encode(result.client),
        _encode(result.version),
        _encode(result.node),
        expires,
        result.ping_s,
        subs,
    )


def encode_refresh(id_: int, *, client: str, version: str, ttl_s: int) -> bytes:
    """Write the reply of a refresh."""
    expires = b',"expires":true,"ttl":%d' % ttl_s if ttl_s else b""
    return b'{"id":%d,"refresh":{"client":%b,"version":%b%b}}' % (id_, _encode(client), _encode(version), expires)


def encode_history(id_: int, *, offset: int, epoch: str, publications: Sequence[bytes]) -> bytes:
    """Write the reply of a history command."""
    return b'{"id":%d,"history":{"publications":[%b],"offset":%d,"epoch":%b}}' % (
        id_,
        b",".join(publications),
        offset,
        _encode(epoch),
    )


def encode_presence(id_: int, clients: Mapping[str, str]) -> bytes:
    """Write the reply of a presence command: client id to user id."""
    entries = b",".join(
        b'%b:{"client":%b,"user":%b}' % (_encode(client), _encode(client), _encode(user))
        for client, user in clients.items()
    )
    return b'{"id":%d,"presence":{"presence":{%b}}}' % (id_, entries)


def encode_presence_stats(id_: int, *, clients: int, users: int) -> bytes:
    """Write the reply of a presence_stats command."""
    return b'{"id":%d,"presence_stats":{"num_clients":%d,"num_users":%d}}' % (id_, clients, users)


def encode_publication(data: bytes, offset: int = 0) -> bytes:
    """Write one publication; without an offset it is not part of the channel's stream (typing, read receipts)."""
    return b'{"data":%b,"offset":%d}' % (data, offset) if offset else b'{"data":%b}' % data


def publication_frame(channel: str, publication: bytes) -> bytes:
    """Return the frame that carries a publication to every subscriber of the channel: made once, written many times."""
    return server_frame(b'{"push":{"channel":%b,"pub":%b}}' % (_encode(channel), publication))


def encode_unsubscribe_push(channel: str, code: int, reason: str) -> bytes:
    """Tell a client that it is not subscribed any more."""
    return b'{"push":{"channel":%b,"unsubscribe":{"code":%d,"reason":%b}}}' % (_encode(channel), code, _encode(reason))
