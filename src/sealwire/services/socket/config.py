"""Settings of the socket service."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sealwire.services.socket.connection import ConnectionLimits
from sealwire.services.socket.transport import TransportLimits


class SocketConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The `[socket]` section."""

    max_connections: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Connections of one instance; past it a handshake is answered 503")
    ] = 20_000
    max_unauthenticated: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Connections of one instance that have not authenticated yet")
    ] = 4_000
    authenticate_s: Annotated[float, Meta(ge=0.1, le=60, description="Seconds a client has to authenticate")] = 5.0
    ping_s: Annotated[int, Meta(ge=1, le=3_600, description="Seconds between pings")] = 25
    pong_s: Annotated[float, Meta(ge=0.1, le=600, description="Seconds a client has to answer a ping")] = 8.0
    refresh_lead_s: Annotated[
        int, Meta(ge=0, le=3_600, description="Seconds before its token ends that a client is told to refresh it")
    ] = 30
    message_bytes: Annotated[
        int, Meta(ge=1_024, le=1 << 24, description="Longest frame of an authenticated client")
    ] = 512 * 1024
    first_message_bytes: Annotated[
        int, Meta(ge=1_024, le=65_536, description="Longest frame of a client that has not authenticated yet")
    ] = 6 * 1024
    backlog_bytes: Annotated[
        int, Meta(ge=16_384, le=1 << 26, description="Unsent bytes after which a client is slow and gets no more")
    ] = 512 * 1024
    slow_grace_s: Annotated[
        float, Meta(ge=0.1, le=60, description="Seconds a slow client has to catch up before it is closed")
    ] = 10.0
    close_timeout_s: Annotated[
        float, Meta(ge=0.1, le=60, description="Seconds a client has to answer a close before it is cut")
    ] = 2.0
    in_flight: Annotated[
        int, Meta(ge=1, le=10_000, description="Commands of one connection that are worked on at a time")
    ] = 128
    subscriptions: Annotated[int, Meta(ge=1, le=100_000, description="Channels one connection may listen to")] = 1_000
    recover_events: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Missed events a client gets when it comes back; past it none"),
    ] = 2_000
    recover_bytes: Annotated[
        int, Meta(ge=1_024, le=1 << 26, description="Bytes of missed events a client gets when it comes back")
    ] = 1 << 20
    unread_conversations: Annotated[
        int, Meta(ge=0, le=100_000, description="Conversations of a person whose unread messages are told in user:<id>")
    ] = 500
    drain_s: Annotated[
        float, Meta(ge=0, le=60, description="Seconds that calls in work have to finish when the instance stops")
    ] = 3.0
    commands_per_minute: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Commands a minute of one person, other than messages and edits")
    ] = 6_000

    def transport(self) -> TransportLimits:
        """The bounds of a socket."""
        return TransportLimits(
            message_bytes=self.message_bytes,
            first_message_bytes=self.first_message_bytes,
            backlog_bytes=self.backlog_bytes,
            slow_grace_s=self.slow_grace_s,
            close_timeout_s=self.close_timeout_s,
        )

    def connection(self) -> ConnectionLimits:
        """The bounds of a connection."""
        return ConnectionLimits(
            authenticate_s=self.authenticate_s,
            ping_s=self.ping_s,
            pong_s=self.pong_s,
            in_flight=self.in_flight,
            subscriptions=self.subscriptions,
        )
