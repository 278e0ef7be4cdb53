"""What compliance tells the audit log about itself: one event per change of a consent, a policy or a hold."""

from __future__ import annotations

from typing import Literal

import msgspec

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.caller import Caller
from sealwire.kit.ids import new_id
from sealwire.ports.events import Event, NewEvent
from sealwire.services.compliance.job_ports import StoredJob

_encode = msgspec.json.Encoder().encode


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who changed what. Ids and settings only; reasons and names stay in the books."""

    actor_type: Literal["user", "api_key", "service", "anonymous"]
    actor_id: str
    resource_type: str
    resource_id: str
    metadata: dict[str, str | int | float | bool | None] = {}
    trace_id: str = ""


_decode = msgspec.json.Decoder(Change).decode


def change_event(
    caller: Caller, kind: str, *, resource_type: str, resource_id: str, at_us: int, **metadata: str | int
) -> NewEvent:
    """Return the event of a change, to be stored in its transaction; `kind` becomes the record's action."""
    change = Change(
        actor_type=caller.principal.kind,
        actor_id=caller.principal.actor_id,
        resource_type=resource_type,
        resource_id=resource_id,
        metadata=dict(metadata),
        trace_id=caller.trace_id,
    )
    return NewEvent(event_id=new_id(), tenant_id=caller.tenant_id, kind=kind, at_us=at_us, data=_encode(change))


def job_event(kind: str, job: StoredJob, *, at_us: int, actor: str, **metadata: str | int) -> NewEvent:
    """Return the event of a job; `actor` is the person who asked, empty for the service itself."""
    change = Change(
        actor_type="user" if actor else "service",
        actor_id=actor or "compliance",
        resource_type=f"gdpr_{job.kind}",
        resource_id=job.job_id,
        metadata={"subject_id": job.subject_id, **metadata},
    )
    return NewEvent(event_id=new_id(), tenant_id=job.tenant_id, kind=kind, at_us=at_us, data=_encode(change))


def audit_entry(event: Event) -> AuditEntry:
    """Return the audit record of an event; its id is the event's, so that sending it again adds nothing."""
    change = _decode(event.data)
    metadata = {**change.metadata, "trace_id": change.trace_id} if change.trace_id else change.metadata
    return AuditEntry(
        audit_id=event.event_id,
        tenant_id=event.tenant_id,
        actor=Actor(type=change.actor_type, id=change.actor_id),
        action=event.kind,
        resource_type=change.resource_type,
        resource_id=change.resource_id,
        metadata=metadata,
        created_at_us=event.at_us,
    )
