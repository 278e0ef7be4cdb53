"""Settings of the gateway."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The `[gateway]` section."""

    rate_limits: Annotated[
        Literal["on", "off"], Meta(description="Rate limits; `off` is for load tests and refused in production")
    ] = "on"
    per_ip_per_minute: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Requests a minute from one address, before it is known who asks")
    ] = 6_000
    per_ip_in_flight: Annotated[
        int, Meta(ge=1, le=100_000, description="Requests of one address in work at once; past it the answer is 429")
    ] = 250
    default_per_minute: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Requests a minute of one person, operations without a class")
    ] = 1_200
    write_per_minute: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Messages, edits and reactions a minute of one person")
    ] = 1_200
    search_per_minute: Annotated[int, Meta(ge=1, le=10_000_000, description="Searches a minute of one person")] = 120
    auth_per_minute: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Logins, registrations and codes a minute from one address")
    ] = 60
    max_in_flight: Annotated[
        int, Meta(ge=1, le=100_000, description="Requests in work at once; past it the answer is 503 with Retry-After")
    ] = 1_000
    late_target_ms: Annotated[
        float,
        Meta(gt=0, le=60_000, description="While the event loop is later than this most of the time, fewer get in"),
    ] = 5.0
    always_admitted: Annotated[
        int, Meta(ge=1, le=100_000, description="Requests that may be in work at once however late the loop is")
    ] = 64
    shed_above_lag_ms: Annotated[
        int, Meta(ge=10, le=60_000, description="Event loop lag past which new requests are refused with 503")
    ] = 500
    request_timeout_s: Annotated[float, Meta(ge=0.1, le=600, description="After this a request is answered 504")] = 30.0
    header_limit_bytes: Annotated[
        int, Meta(ge=1024, le=1_048_576, description="All headers of a request together; past it 431")
    ] = 32_768
    header_timeout_s: Annotated[
        float, Meta(ge=0.1, le=600, description="Time a client has for a request's headers, and to be idle before")
    ] = 20.0
    cors_origins: Annotated[
        list[str], Meta(description="Origins that may call from a browser, such as https://app.example.org")
    ] = []
    trusted_proxies: Annotated[list[str], Meta(description="Addresses whose X-Forwarded-For is believed")] = []
    audit_batch: Annotated[int, Meta(ge=1, le=1000, description="API records sent to compliance at once")] = 100
    audit_wait_s: Annotated[float, Meta(ge=0.01, le=60, description="Longest wait before a batch is sent")] = 1.0
    spool_window_ms: Annotated[
        int, Meta(ge=1, le=100, description="Longest time until a record of a request is on disk")
    ] = 50
    spool_max_bytes: Annotated[
        int, Meta(ge=1 << 20, description="Records that wait for compliance; past it new ones are dropped and counted")
    ] = 256 << 20
    spool_full: Annotated[
        Literal["drop", "refuse"],
        Meta(
            description="What becomes of requests while the spool is full: answered, and their records counted as lost"
            " in a record of their own (drop); or refused with 503 (refuse)"
        ),
    ] = "drop"
    metrics_allow: Annotated[list[str], Meta(description="Addresses beside loopback that may read /metrics")] = []
