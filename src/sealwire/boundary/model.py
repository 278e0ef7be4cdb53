"""The boundary's nouns: a verified token, an answer about it, how a component fares. No I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from sealwire.kit.caller import Principal
from sealwire.kit.permission import Permission, Role

ENROL_ONLY: Final = (Permission.OWN_PROFILE,)
"""What a session may do that lacks the second factor its tenant asks for: enrol one, and what else is its own."""


class VerifiedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token whose signature and claims hold, whichever format it came in. Times are Unix seconds.

    `role` and `email` are what the token says: hints. A legacy token's `session_id` is the hash of the token.
    """

    tenant_id: str
    subject: str
    session_id: str
    token_id: str
    role: Role
    email: str
    kid: str
    epoch: int
    issued_at_s: int
    expires_at_s: int
    auth_time_s: int
    amr: tuple[str, ...] = ()
    legacy: bool = False
    kind: Literal["user", "api_key"] = "user"
    scopes: tuple[Permission, ...] | None = None

    def principal(self, *, role: Role, email: str, enrol_only: bool = False) -> Principal:
        """Return the principal, with role and address as the user record has them (or as far as they are known).

        `enrol_only`: the tenant asks for a second factor, which the token says nothing of.
        """
        return Principal(
            kind=self.kind,
            tenant_id=self.tenant_id,
            subject=self.subject,
            role=role,
            session_id=self.session_id,
            email=email,
            epoch=self.epoch,
            auth_time_s=self.auth_time_s,
            amr=self.amr,
            expires_at_s=self.expires_at_s,
            token_id=self.token_id,
            legacy=self.legacy,
            scopes=ENROL_ONLY if enrol_only else self.scopes,
        )


class Status(StrEnum):
    """What is known of a session."""

    VALID = "valid"
    """Confirmed by auth, directly or by what auth said and the revocation feed has not taken back."""
    UNCONFIRMED = "unconfirmed"
    """Nobody who knows can be asked. Low-risk operations only, for a bounded time (R6.6)."""
    UNKNOWN = "unknown"
    """Neither confirmed nor within the bound for going on unconfirmed."""
    REVOKED = "revoked"
    """Ended."""


class Source(StrEnum):
    """Who said so."""

    MEMORY = "memory"
    CACHE = "cache"
    AUTH = "auth"
    FALLBACK = "fallback"
    TOKEN = "token"  # noqa: S105 - the name of a source
    REVOCATIONS = "revocations"


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """The one shape of every answer about a session (R6.2). `checked_at` is in microseconds since the epoch.

    `principal` is None unless the status is `valid` or `unconfirmed`. `until_s` is when, on the monotonic clock, the
    answer has to be asked for again. `session_ends_at_s` is when the session ends by itself, in Unix seconds; 0 where
    nobody could say.
    """

    status: Status
    principal: Principal | None
    source: Source
    degraded: bool
    reason: str
    checked_at: int
    until_s: float = 0.0
    session_ends_at_s: int = 0

    def good_until_s(self, token: VerifiedToken, leeway_s: int) -> int:
        """Return until when the token opens anything, in Unix seconds: past its end by `leeway_s`, as clocks may
        differ, but not past that of its session, which no token to come would prolong."""
        return max(token.expires_at_s, min(token.expires_at_s + leeway_s, self.session_ends_at_s))


class Health(StrEnum):
    """How a component fares."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class ComponentHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a component fares, and figures for those who may see them."""

    status: Health
    details: dict[str, Any]
