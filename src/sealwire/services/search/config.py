"""Settings of the search service."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class SearchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[search]`."""

    commit_every_s: Annotated[
        float,
        Meta(description="Seconds between commits of the index at least: how late a message is found", ge=0.01, le=60),
    ] = 0.3
    linger_s: Annotated[
        float,
        Meta(description="Seconds waited after news for more of them, so that they are read together", ge=0, le=5),
    ] = 0.1
    snapshot_every_s: Annotated[
        float,
        Meta(description="Seconds between sealed snapshots; what is newer is read again after a start", ge=1, le=3600),
    ] = 30.0
    dead_keep_s: Annotated[
        float,
        Meta(
            description="Seconds until edited and deleted text is gone from memory and snapshots physically",
            ge=1,
            le=604_800,
        ),
    ] = 3600.0
    bound_bytes: Annotated[
        int, Meta(description="Bytes of memory one tenant's index may take", ge=1 << 20, le=1 << 40)
    ] = 256 << 20
    plain_tenants: Annotated[
        tuple[str, ...],
        Meta(
            description="Tenants whose index may lie on the disk in the clear, without bound: whoever reads the disk "
            "then reads every word of their messages, who wrote it, when, and in which conversation"
        ),
    ] = ()
    most_rounds: Annotated[
        int, Meta(description="How often a search asks the index again when hits were outdated", ge=1, le=20)
    ] = 5
    media_patience_s: Annotated[
        float,
        Meta(description="Seconds to try to learn the names of attached files before doing without", ge=0, le=600),
    ] = 20.0
