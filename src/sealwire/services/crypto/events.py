"""What crypto tells the audit log: one event per operation on a key; never the plaintext, never a key."""

from __future__ import annotations

from typing import Literal

import msgspec

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.caller import Caller
from sealwire.ports.events import Event

Outcome = Literal["success", "failure", "denied"]
_encode = msgspec.json.Encoder().encode


class KeyEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operation on a key. `count` says how many items a batch had."""

    action: str
    tenant_id: str
    actor_type: Literal["user", "api_key", "service", "anonymous"]
    actor_id: str
    key_id: str
    at_us: int
    version: int = 0
    outcome: Outcome = "success"
    count: int = 1
    purpose: str = "tenant"
    detail: str = ""
    subject_id: str = ""
    trace_id: str = ""


def key_event(
    caller: Caller,
    action: str,
    *,
    key_id: str,
    at_us: int,
    tenant_id: str = "",
    version: int = 0,
    outcome: Outcome = "success",
    count: int = 1,
    purpose: str = "tenant",
    detail: str = "",
    subject_id: str = "",
) -> KeyEvent:
    """Write down who did what with which key; `tenant_id` other than the caller's is for crypto's own jobs."""
    principal = caller.principal
    return KeyEvent(
        action=action,
        tenant_id=tenant_id or principal.tenant_id,
        actor_type=principal.kind,
        actor_id=principal.actor_id,
        key_id=key_id,
        at_us=at_us,
        version=version,
        outcome=outcome,
        count=count,
        purpose=purpose,
        detail=detail,
        subject_id=subject_id,
        trace_id=caller.trace_id,
    )


def encode_event(event: KeyEvent) -> bytes:
    """Return the bytes that stand in the outbox."""
    return _encode(event)


_decoder = msgspec.json.Decoder(KeyEvent)


def audit_entry(event: Event) -> AuditEntry:
    """Return the audit record of an event; its id is the event's, so that sending it again adds nothing."""
    told = _decoder.decode(event.data)
    metadata: dict[str, str | int | float | bool | None] = {"purpose": told.purpose}
    if told.version:
        metadata["version"] = told.version
    if told.count != 1:
        metadata["count"] = told.count
    for name in ("detail", "subject_id", "trace_id"):
        if value := getattr(told, name):
            metadata[name] = value
    return AuditEntry(
        audit_id=event.event_id,
        tenant_id=told.tenant_id,
        actor=Actor(type=told.actor_type, id=told.actor_id),
        action=told.action,
        resource_type="key",
        resource_id=told.key_id,
        outcome=told.outcome,
        metadata=metadata,
        created_at_us=told.at_us,
    )
