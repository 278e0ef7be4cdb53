"""Settings of the compliance service."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class ComplianceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[compliance]`."""

    origin: Annotated[
        str,
        Meta(
            description="First part of every log's name in checkpoints; the tenant follows", pattern=r"^[^\s+]{1,200}$"
        ),
    ] = "sealwire.local/audit"
    checkpoint_every_s: Annotated[
        float, Meta(ge=0.05, le=86_400, description="Seconds between signed checkpoints of a log that grew")
    ] = 60.0
    checkpoints_keep_days: Annotated[
        int, Meta(ge=0, le=36_500, description="Days all checkpoints are kept; of older days the last; 0: all for good")
    ] = 30
    witnesses: Annotated[
        list[Annotated[str, Meta(max_length=512)]],
        Meta(max_length=16, description="Key lines (name+id+base64, type 4) of the witnesses whose cosignatures count"),
    ] = []
    verify_at_once: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Records verified within the request; more are a job (202)")
    ] = 100_000
    group_records: Annotated[
        int, Meta(ge=1, le=10_000, description="Records of one tenant written in one transaction at most")
    ] = 1_024
    waiting_records: Annotated[
        int, Meta(ge=1, description="Records of one tenant that may wait for the disk; past it 503")
    ] = 50_000
    logs_in_memory: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Tenants whose log's right edge is kept in memory (25 KiB each)")
    ] = 1_000
    parked_retry_s: Annotated[
        float, Meta(ge=0.05, le=3_600, description="Seconds between looks whether a damaged log is whole again")
    ] = 10.0
    erased_messages: Annotated[
        Literal["tombstone", "anonymise"],
        Meta(description="What becomes of an erased person's messages when the request doesn't say"),
    ] = "tombstone"
    export_keep_hours: Annotated[int, Meta(ge=1, le=24 * 365, description="Hours a finished export may be fetched")] = (
        72
    )
    export_file_items: Annotated[
        int,
        Meta(ge=50, le=100_000, description="Items in one file of an export; after a crash it goes on behind the last"),
    ] = 5_000
    jobs_at_once: Annotated[int, Meta(ge=1, le=64, description="Exports, erasures … worked on at the same time")] = 2
    job_retry_base_s: Annotated[
        float, Meta(gt=0, le=3_600, description="First wait before a job that failed, or is held, is tried again")
    ] = 0.5
    job_retry_cap_s: Annotated[
        float, Meta(gt=0, le=86_400, description="Longest wait before such a job is tried again")
    ] = 60.0
    relay_wait_s: Annotated[
        float, Meta(ge=0.0, le=60.0, description="Longest wait for more before own changes are recorded")
    ] = 0.2
    evidence_at_once: Annotated[
        int,
        Meta(ge=1, le=64, description="Bundles of evidence made at once, half for a tenant; past it 503"),
    ] = 4
    evidence_records: Annotated[
        int, Meta(ge=1, le=100_000_000, description="Records in one bundle of evidence at most; more are refused (413)")
    ] = 100_000
    evidence_s: Annotated[
        float, Meta(ge=0.05, le=86_400, description="Longest a bundle of evidence may take; then it is broken off")
    ] = 900.0
    stream_heartbeat_s: Annotated[
        float, Meta(ge=0.05, le=300, description="Longest silence on a live stream of the audit log")
    ] = 15.0
    stream_stall_s: Annotated[
        float, Meta(ge=0.05, le=600, description="A live stream whose reader takes nothing for this long is ended")
    ] = 30.0
    streams_per_tenant: Annotated[
        int, Meta(ge=1, le=1_000, description="Live streams of one tenant's audit log at once; past it 429")
    ] = 32
    hold_patience_s: Annotated[
        float, Meta(ge=0.1, le=60, description="Seconds a legal hold waits for all services before it answers 503")
    ] = 10.0
    retention_every_s: Annotated[
        float, Meta(ge=0, le=31_536_000, description="Seconds between retention runs by schedule; 0: none by itself")
    ] = 86_400.0
    anonymous_keep_days: Annotated[
        int, Meta(ge=0, le=36_500, description="Days to keep audit records of who is not known; 0: for ever")
    ] = 0
    retention_batch: Annotated[
        int, Meta(ge=1, le=1000, description="Things a retention run disposes of at a time; in short transactions")
    ] = 1_000
    retention_pause_ms: Annotated[
        float, Meta(ge=0, le=10_000, description="Least pause of a retention run between two steps")
    ] = 5.0
