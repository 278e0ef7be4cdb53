"""Settings of the media service."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MIB = 1024 * 1024


class MediaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[media]`."""

    max_file_bytes: Annotated[int, Meta(description="largest file that may be uploaded", ge=1, le=1 << 44)] = 1024 * MIB
    max_tenant_bytes: Annotated[int, Meta(description="bytes of files a tenant may have, uploads included", ge=1)] = (
        10 * 1024 * MIB
    )
    max_open_uploads: Annotated[int, Meta(description="unfinished uploads one person may have", ge=1, le=100_000)] = 200
    max_open_bytes: Annotated[
        int, Meta(description="bytes one person's unfinished uploads may reserve and not send; at least one file", ge=1)
    ] = 2 * 1024 * MIB
    blocked_types: Annotated[
        tuple[str, ...], Meta(description="content types that are refused, by what the file holds or claims")
    ] = ("application/x-msdownload", "application/x-executable", "application/x-mach-binary")
    upload_expires_s: Annotated[
        int, Meta(description="seconds without progress after which an unfinished upload is deleted", ge=60)
    ] = 86_400
    checkpoint_bytes: Annotated[
        int, Meta(description="bytes of one long request after which they are durable and acknowledged", ge=65_536)
    ] = 16 * MIB
    stall_s: Annotated[float, Meta(description="seconds without a byte after which a transfer is ended", ge=1)] = 60.0
    watch_s: Annotated[
        float,
        Meta(description="seconds between looks whether a transfer's session and membership still hold", gt=0, le=1),
    ] = 0.5
    scan_wait_s: Annotated[
        float, Meta(description="seconds a download waits for a scan that is under way", ge=0, le=30)
    ] = 5.0
    sweep_s: Annotated[float, Meta(description="seconds between looks for expired uploads", ge=0.05)] = 60.0
    orphan_age_s: Annotated[
        int, Meta(description="seconds after which stored bytes that belong to no file are deleted", ge=60)
    ] = 3_600
    public_prefix: Annotated[str, Meta(description="path before /media in links that are handed out")] = "/api/v1"
