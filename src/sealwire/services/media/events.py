"""What media tells the audit log and other services: ids and sizes, never names, never contents."""

from __future__ import annotations

from typing import Literal

import msgspec

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.caller import Caller
from sealwire.kit.ids import new_id
from sealwire.ports.events import Event, NewEvent

Outcome = Literal["success", "failure", "denied"]


class MediaEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to a file."""

    media_id: str
    actor_type: Literal["user", "api_key", "service", "anonymous"]
    actor_id: str
    owner_id: str = ""
    conversation_id: str = ""
    size_bytes: int = 0
    detail: str = ""
    outcome: Outcome = "success"
    trace_id: str = ""


_encode = msgspec.json.Encoder().encode
decode_event = msgspec.json.Decoder(MediaEvent).decode


def media_event(
    caller: Caller,
    kind: str,
    *,
    media_id: str,
    at_us: int,
    owner_id: str = "",
    conversation_id: str | None = None,
    size_bytes: int = 0,
    detail: str = "",
    outcome: Outcome = "success",
) -> NewEvent:
    """Return the event for the outbox; `kind` is also the audit record's action."""
    principal = caller.principal
    event = MediaEvent(
        media_id=media_id,
        actor_type=principal.kind,
        actor_id=principal.actor_id,
        owner_id=owner_id,
        conversation_id=conversation_id or "",
        size_bytes=size_bytes,
        detail=detail,
        outcome=outcome,
        trace_id=caller.trace_id,
    )
    return NewEvent(event_id=new_id(), tenant_id=caller.tenant_id, kind=kind, at_us=at_us, data=_encode(event))


def audit_entry(event: Event) -> AuditEntry:
    """Return the audit record of an event; its id is the event's, so that sending it again adds nothing."""
    told = decode_event(event.data)
    metadata: dict[str, str | int | float | bool | None] = {}
    for name in ("owner_id", "conversation_id", "size_bytes", "detail", "trace_id"):
        if value := getattr(told, name):
            metadata[name] = value
    return AuditEntry(
        audit_id=event.event_id,
        tenant_id=event.tenant_id,
        actor=Actor(type=told.actor_type, id=told.actor_id),
        action=event.kind,
        resource_type="media",
        resource_id=told.media_id,
        outcome=told.outcome,
        metadata=metadata,
        created_at_us=event.at_us,
    )
