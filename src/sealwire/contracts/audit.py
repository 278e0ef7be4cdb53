"""What is asked of the audit log beside its JSON operations: the live stream, the export."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from sealwire.contracts.audit_log import Action, Outcome
from sealwire.kit.codec import Id, Input
from sealwire.kit.problem import Problem, RateLimited, Retry, TooLarge, Unavailable

Seq = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
Format = Literal["record", "sealed", "ocsf"]
"""How a record is told: as readers see it, as it is hashed (personal data sealed), or as an OCSF event."""


class StreamsTaken(RateLimited):
    """The tenant has as many live streams open as it may have."""

    code, title = "too_many_streams", "Too many live streams are open"


class SlowReader(Problem):
    """The client of a live stream took nothing for too long; it goes on where it stopped with `Last-Event-ID`."""

    code, title, status, retry = "slow_reader", "The stream was not read in time", 408, Retry.NOW


class AuditUnavailable(Unavailable):
    """What is asked can't be recorded for now, and this installation answers nothing unrecorded."""

    code, title = "audit_unavailable", "Requests can't be recorded for the moment"


class EvidenceTooLarge(TooLarge):
    """More records match than a bundle of evidence holds."""

    code, title = "evidence_too_large", "Too many records for one bundle"


class ExportQuery(Input):
    """A range of records, inclusive; without it all.

    `manifest` puts a manifest first and an end line last; `checkpoint` only the signed checkpoint over the whole log
    first, as the line `{"checkpoint": "<note>"}`. With either the file alone can be verified with the public key.
    """

    from_seq: Seq | None = None
    to_seq: Seq | None = None
    checkpoint: bool = False
    manifest: bool = False
    format: Literal["sealed", "ocsf"] = "sealed"
    tenant_id: Id | None = None


class EvidenceQuery(Input):
    """Which records a bundle of evidence holds: all conditions must hold; times are RFC 3339."""

    from_seq: Seq | None = None
    to_seq: Seq | None = None
    actor: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    action: Action | None = None
    resource_type: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    resource_id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    outcome: Outcome | None = None
    from_: Annotated[str, msgspec.Meta(max_length=40)] | None = msgspec.field(default=None, name="from")
    to: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    tenant_id: Id | None = None

    @property
    def is_range(self) -> bool:
        """Whether every record of a range is asked for, so that none may be missing."""
        filters = (self.actor, self.action, self.resource_type, self.resource_id, self.outcome, self.from_, self.to)
        return all(value is None for value in filters)


class StreamQuery(Input):
    """Which records, from where on: behind `after_seq`, without it those to come. `Last-Event-ID` overrides it."""

    after_seq: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = None
    format: Format = "record"
    actor: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    action: Action | None = None
    resource_type: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    resource_id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    outcome: Outcome | None = None
    tenant_id: Id | None = None
