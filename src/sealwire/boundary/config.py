"""Settings of the session boundary."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class BoundaryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The `[boundary]` section. Limits of sockets are off with `gateway.rate_limits`."""

    leeway_s: Annotated[
        int, Meta(ge=0, le=60, description="Seconds a token is still good past its end, for clocks that differ")
    ] = 5
    tokens_cached: Annotated[
        int, Meta(ge=100, le=1_000_000, description="Verified tokens kept in memory, about 2 KiB each")
    ] = 20_000
    sessions_cached: Annotated[
        int, Meta(ge=100, le=10_000_000, description="Sessions kept in memory and in the fallback's sealed journal")
    ] = 100_000
    memory_ttl_s: Annotated[
        float, Meta(ge=1, le=600, description="Seconds after which a session in memory is confirmed again")
    ] = 30.0
    cache_ttl_s: Annotated[
        float, Meta(ge=1, le=3600, description="Seconds after which a session in the shared cache is confirmed again")
    ] = 60.0
    unconfirmed_s: Annotated[
        int, Meta(ge=0, le=900, description="Seconds a session may go on, for low-risk operations, unconfirmed")
    ] = 900
    feed_bound_s: Annotated[
        float, Meta(ge=0.2, le=1.0, description="Age of the revocation feed past which no cached session is trusted")
    ] = 1.0
    seen_every_s: Annotated[
        float, Meta(ge=1, le=600, description="Seconds between two reports of when sessions were last used")
    ] = 10.0
    origins: Annotated[
        list[str], Meta(description="Origins beside our own whose pages may open a WebSocket by cookie")
    ] = []
    url_tokens: Annotated[
        bool, Meta(description="Accept a WebSocket's token in the URL, where proxies and logs see it")
    ] = False
    sockets_per_user: Annotated[
        int, Meta(ge=1, le=1_000_000, description="WebSockets of one person; past it a new one is closed with 3504")
    ] = 100
    sockets_per_ip: Annotated[
        int, Meta(ge=1, le=1_000_000, description="WebSockets of one address (IPv6: /64); past it the answer is 429")
    ] = 5_000
    waiting_per_ip: Annotated[
        int, Meta(ge=1, le=1_000_000, description="WebSockets of one address that have not authenticated yet")
    ] = 500
    handshakes_per_minute: Annotated[
        int, Meta(ge=1, le=10_000_000, description="WebSocket handshakes a minute from one address")
    ] = 3_000
    self_test_every_s: Annotated[
        float, Meta(ge=0, le=86_400, description="Seconds between scheduled self-tests; 0: none")
    ] = 60.0
