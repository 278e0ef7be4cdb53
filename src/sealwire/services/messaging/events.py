"""Events of conversations: outbox and publication stream at once; and what the audit log hears of them."""

from __future__ import annotations

from typing import Any, Literal, cast

import msgspec

from sealwire.contracts.audit_log import Actor as AuditActor
from sealwire.contracts.audit_log import AuditEntry
from sealwire.ports.events import Event
from sealwire.services.messaging.model import audited

# The index of a kind is what is stored: append only.
KINDS = (
    "",
    "conversation.created",
    "conversation.changed",
    "conversation.removed",
    "member.joined",
    "member.left",
    "member.changed",
    "message.created",
    "message.edited",
    "message.deleted",
    "reaction.added",
    "reaction.removed",
    "messages.purged",
)
KIND_NUMBER = {kind: number for number, kind in enumerate(KINDS)}
MEMBERSHIP_KINDS = frozenset({"member.joined", "member.left", "member.changed", "conversation.removed"})


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an event says beyond ids: never a body, never a title. `message_ids` are those of several messages."""

    emoji: str = ""
    role: str = ""
    reason: str = ""
    message_ids: tuple[str, ...] = ()


class ConversationEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its global `position` and its conversation's `offset`.

    `seq` and `message_id` when it speaks of a message; `subject_id` when it is about a member.
    """

    position: int
    event_id: str
    tenant_id: str
    conversation_id: str
    offset: int
    kind: str
    at_us: int
    actor_kind: str
    actor_id: str
    subject_id: str = ""
    seq: int = 0
    message_id: str = ""
    detail: Detail = Detail()


class Announcement(msgspec.Struct, frozen=True):
    """A committed event, with what its writer gave along (this process only)."""

    event: ConversationEvent
    carried: Any = None


class EventFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`Event.data` of the feed that the audit relay follows."""

    conversation_id: str
    offset: int
    actor_kind: str
    actor_id: str
    subject_id: str = ""
    seq: int = 0
    message_id: str = ""
    detail: Detail = Detail()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(EventFacts).decode


def outbox_event(event: ConversationEvent) -> Event:
    """Return the event as consumers of the outbox get it."""
    return Event(
        position=event.position,
        event_id=event.event_id,
        tenant_id=event.tenant_id,
        kind=event.kind,
        at_us=event.at_us,
        data=_encode(
            EventFacts(
                conversation_id=event.conversation_id,
                offset=event.offset,
                actor_kind=event.actor_kind,
                actor_id=event.actor_id,
                subject_id=event.subject_id,
                seq=event.seq,
                message_id=event.message_id,
                detail=event.detail,
            )
        ),
    )


def audit_entry(event: Event) -> AuditEntry:
    """Return the audit record of an event: `audit_id` is the event's id, so repeating it is harmless."""
    facts = _decode(event.data)
    metadata: dict[str, str | int | float | bool | None] = {
        "conversation_id": facts.conversation_id,
        "offset": facts.offset,
    }
    if facts.seq:
        metadata["seq"] = facts.seq
    if facts.subject_id:
        metadata["user_id"] = facts.subject_id
    if facts.detail.role:
        metadata["role"] = facts.detail.role
    if facts.detail.reason:
        metadata["reason"] = facts.detail.reason
    if facts.detail.message_ids:
        metadata["count"] = len(facts.detail.message_ids)
    of_message = bool(facts.message_id)
    actor = audited(facts.actor_kind, facts.actor_id)
    return AuditEntry(
        audit_id=event.event_id,
        tenant_id=event.tenant_id,
        actor=AuditActor(type=cast("Literal['user', 'api_key', 'service']", actor.kind), id=actor.id),
        action=event.kind,
        resource_type="message" if of_message else "conversation",
        resource_id=facts.message_id if of_message else facts.conversation_id,
        metadata=metadata,
        created_at_us=event.at_us,
    )
