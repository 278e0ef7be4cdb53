"""Auth's events: one for every state change, and the audit entry that each becomes."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from sealwire.contracts.audit_log import Actor, AuditEntry, Outcome
from sealwire.contracts.crypto_terms import KeyDamaged
from sealwire.contracts.opened import Opened
from sealwire.kit.caller import ANONYMOUS_TENANT, Caller
from sealwire.kit.clock import Clock
from sealwire.kit.ids import new_id
from sealwire.ports.events import Event, NewEvent
from sealwire.services.auth.vault import Vault

Fact = str | int | float | bool | None


class Kind(StrEnum):
    """What happened. The words after `auth.` are the audit record's action; CAEP names where they fit."""

    USER_REGISTERED = "auth.user.registered"
    USER_ADDED = "auth.user.added"
    USER_CHANGED = "auth.user.changed"
    PROFILE_CHANGED = "auth.profile.changed"
    LOGIN = "auth.session-established"
    LOGIN_FAILED = "auth.login.failed"
    MFA_WANTED = "auth.mfa.wanted"
    MFA_FAILED = "auth.mfa.failed"
    SESSION_ENDED = "auth.session-revoked"
    SESSIONS_ENDED = "auth.sessions-revoked"
    TOKEN_REFRESHED = "auth.token.refreshed"  # noqa: S105 - the name of an event
    TOKEN_REUSED = "auth.token.reused"  # noqa: S105 - the name of an event
    TOKEN_REVOKED = "auth.token.revoked"  # noqa: S105 - the name of an event
    PASSWORD_CHANGED = "auth.credential-change"  # noqa: S105 - the name of an event
    PROOF_FAILED = "auth.proof.failed"
    STEPPED_UP = "auth.assurance-level-change"
    TOTP_ENROLLED = "auth.totp.enrolled"
    TOTP_CONFIRMED = "auth.totp.confirmed"
    TOTP_REMOVED = "auth.totp.removed"
    RECOVERY_USED = "auth.recovery.used"
    RECOVERY_MADE = "auth.recovery.made"
    FACTORS_RESET = "auth.factors.reset"
    EMAIL_CHANGE_ASKED = "auth.email-change.asked"
    EMAIL_CHANGED = "auth.email-change.done"
    PASSKEY_ADDED = "auth.passkey.added"
    PASSKEY_RENAMED = "auth.passkey.renamed"
    PASSKEY_REMOVED = "auth.passkey.removed"
    PASSKEY_SUSPENDED = "auth.passkey.suspended"
    RESET_ASKED = "auth.password-reset.asked"
    PASSWORD_RESET = "auth.password-reset.done"  # noqa: S105 - the name of an event
    INVITED = "auth.invitation.added"
    INVITATION_WITHDRAWN = "auth.invitation.withdrawn"
    API_KEY_ADDED = "auth.api-key.added"
    API_KEY_ENDED = "auth.api-key.ended"
    API_KEY_ENDING = "auth.api-key.ending"
    LETTER_DROPPED = "auth.letter.dropped"
    TENANT_ADDED = "auth.tenant.added"
    TENANT_REMOVED = "auth.tenant.removed"
    USER_ERASED = "auth.user.erased"
    USER_RESTRICTED = "auth.user.restricted"
    TENANT_CHANGED = "auth.tenant.changed"
    TENANT_SUSPENDED = "auth.tenant.suspended"
    TENANT_RESUMED = "auth.tenant.resumed"
    CLIENT_ADDED = "auth.openid-client.added"
    CLIENT_ENDED = "auth.openid-client.ended"
    CONSENT_GIVEN = "auth.openid-consent.given"
    CONSENT_WITHDRAWN = "auth.openid-consent.withdrawn"
    APP_SIGNED_IN = "auth.openid.signed-in"
    CODE_REPLAYED = "auth.openid.code-replayed"
    APP_TOLD = "auth.openid.logout-told"
    IDENTITY_LINKED = "auth.external-identity.linked"
    IDENTITY_UNLINKED = "auth.external-identity.unlinked"
    KEY_ROTATED = "auth.signing-key.rotated"


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event's data: opaque ids, plain facts, and personal data only as sealed bytes."""

    actor_type: Literal["user", "api_key", "service", "anonymous"]
    actor_id: str
    subject_id: str = ""
    resource_type: str = "user"
    resource_id: str = ""
    outcome: Outcome = "success"
    facts: dict[str, Fact] = {}
    sealed: bytes = b""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Body).decode
_decode_personal: Final = msgspec.msgpack.Decoder(dict[str, str]).decode


class Origin(msgspec.Struct, frozen=True):
    """Who asked, with the personal data of the request sealed already, so that events can be made inside a write."""

    tenant_id: str
    actor_type: Literal["user", "api_key", "service", "anonymous"]
    actor_id: str
    sealed: bytes


class Journal:
    """Makes events out of what use cases say, and audit entries out of events."""

    def __init__(self, *, vault: Vault, clock: Clock) -> None:
        self._vault = vault
        self._clock = clock

    async def origin(self, caller: Caller, tenant_id: str = "", **personal: str) -> Origin:
        """Seal what is personal about a request. `tenant_id`: whose log it belongs in, when not the caller's."""
        tenant_id = tenant_id or caller.tenant_id
        known = {"ip_address": caller.ip, "user_agent": caller.user_agent, **personal}
        given = {name: value for name, value in known.items() if value}
        sealed = b""
        if given:
            owner = tenant_id if tenant_id != ANONYMOUS_TENANT else ""
            sealed = await self._vault.seal(owner, "event", _encode(given))
        principal = caller.principal
        return Origin(tenant_id, principal.kind, principal.actor_id or ANONYMOUS_TENANT, sealed)

    def event(
        self,
        kind: Kind,
        origin: Origin,
        *,
        subject_id: str = "",
        resource_type: str = "user",
        resource_id: str = "",
        outcome: Outcome = "success",
        as_subject: bool = False,
        **facts: Fact,
    ) -> NewEvent:
        """Make an event. `as_subject`: the person acted themself although the request came without a credential."""
        body = Body(
            actor_type="user" if as_subject else origin.actor_type,
            actor_id=subject_id if as_subject else origin.actor_id,
            subject_id=subject_id,
            resource_type=resource_type,
            resource_id=resource_id or subject_id,
            outcome=outcome,
            facts=facts,
            sealed=origin.sealed,
        )
        return NewEvent(
            event_id=new_id(), tenant_id=origin.tenant_id, kind=kind, at_us=self._clock.now_us(), data=_encode(body)
        )

    async def audit_entry(self, event: Event) -> AuditEntry:
        """Turn an event into what compliance stores; its id is the event's, so sending it twice changes nothing."""
        body = _decode(event.data)
        metadata = _metadata(body.facts)
        personal: dict[str, str] = {}
        if body.sealed:
            owner = event.tenant_id if event.tenant_id != ANONYMOUS_TENANT else ""
            try:
                opened = await self._vault.open_if_possible(owner, "event", body.sealed)
                personal = _decode_personal(opened) if opened is not None else {}
            except KeyDamaged:  # all tenants' events stand in one row: none waits for the keys of another's
                metadata["personal"] = "key_damaged"
        return AuditEntry(
            audit_id=event.event_id,
            tenant_id=event.tenant_id,
            actor=Actor(type=body.actor_type, id=body.actor_id),
            action=event.kind,
            resource_type=body.resource_type,
            resource_id=body.resource_id,
            outcome=body.outcome,
            metadata=metadata,
            personal=personal,
            subject_id=body.subject_id,
            created_at_us=event.at_us,
        )


def opened_of(event: Event) -> Opened:
    """Return what is told of a login: who and which session, and nothing of the request."""
    body = _decode(event.data)
    return Opened(
        number=event.position,
        change_id=event.event_id,
        tenant_id=event.tenant_id,
        subject=body.subject_id,
        session_id=body.resource_id,
        at_us=event.at_us,
    )


def _metadata(facts: dict[str, Any]) -> dict[str, Fact]:
    return {name: value for name, value in facts.items() if value is not None}
