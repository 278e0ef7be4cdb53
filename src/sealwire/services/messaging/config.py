"""Settings of the messaging service."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class MessagingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[messaging]`."""

    max_members: Annotated[int, Meta(description="members a conversation may have", ge=2, le=1_000_000)] = 10_000
    max_reactions: Annotated[int, Meta(description="different reactions a message may have", ge=1, le=1_000)] = 50
    seats_cached: Annotated[
        int, Meta(description="conversations whose memberships are held in memory", ge=16, le=1_000_000)
    ] = 20_000
    tail_events: Annotated[
        int, Meta(description="newest events held in memory, rendered, for sockets and search", ge=16, le=1_000_000)
    ] = 8_192
    tail_bytes: Annotated[int, Meta(description="bytes those events may take together", ge=1 << 16, le=1 << 32)] = (
        16 << 20
    )
    stream_keep_days: Annotated[
        int, Meta(description="days an event can be recovered from; older ones are trimmed", ge=1, le=3_650)
    ] = 30
    removed_keep_days: Annotated[
        int, Meta(description="days a removed conversation stays before its content is destroyed", ge=0, le=3_650)
    ] = 7
    purge_every_s: Annotated[
        float, Meta(description="seconds between looks for messages that expired", ge=0.05, le=3_600)
    ] = 1.0
    trim_every_s: Annotated[
        float, Meta(description="seconds between trims of old events and removed conversations", ge=1, le=86_400)
    ] = 600.0
