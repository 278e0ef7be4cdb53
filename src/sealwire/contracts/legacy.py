"""What auth promises of the move away from legacy tokens: who still uses them, and what refusing them would mean."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from sealwire.contracts.auth_terms import BOUNDARY, SERVICE
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output
from sealwire.kit.operation import Degraded, Operation, Policy, RateClass, Repeat, table
from sealwire.kit.permission import Permission

Time = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Unix seconds, to the end of the year 9999: later ones can't be written as RFC 3339."""


class LegacyUse(Input):
    """A legacy token was used: `session_id` is its hash, `kid` the key that verified it."""

    tenant_id: Id
    session_id: Id
    user_id: Id
    kid: Annotated[str, msgspec.Meta(max_length=64)]
    expires_at_s: Time
    at_s: Time


class LegacyUses(Input):
    """Uses, the newest per token, some seconds apart."""

    items: Annotated[list[LegacyUse], msgspec.Meta(max_length=1000)]


class LegacyQuery(Input):
    """`refuse_from` (RFC 3339) asks what refusing legacy tokens from then on means; without it: from now on."""

    refuse_from: Annotated[str, msgspec.Meta(min_length=20, max_length=40)] | None = None


class LegacyTenant(Output):
    """Legacy tokens of one tenant. A session is one token.

    `would_refuse_*`: tokens used at or after `refuse_from`, and those seen that are still good then.
    """

    tenant_id: str
    issuers: int
    sunset_at: str | None
    sessions: int
    users: int
    live_sessions: int
    first_seen_at: str | None
    last_seen_at: str | None
    would_refuse_sessions: int
    would_refuse_users: int


class LegacyReport(Output):
    """An owner's or admin's own tenant; for operators every tenant that has a legacy issuer, or had one used."""

    as_of: str
    refuse_from: str
    kept_days: int
    items: list[LegacyTenant]


LEGACY_REPORT = Operation(
    name="legacy_report",
    verb="GET",
    path="/auth/legacy",
    takes=LegacyQuery,
    gives=LegacyReport,
    service=SERVICE,
    needs=Permission.HEALTH_DETAILS,
    repeat=Repeat.SAFE,
    summary="Who still uses legacy tokens, and what refusing them would mean",
)
NOTE_LEGACY = Operation(
    name="note_legacy",
    verb="POST",
    path="/auth/internal/legacy",
    takes=LegacyUses,
    service=SERVICE,
    status=204,
    policy=Policy.SERVICE,
    degraded=Degraded.ALLOW,
    repeat=Repeat.IDEMPOTENT,
    rate=RateClass.NONE,
    callers=BOUNDARY,
    summary="Note that legacy tokens were used",
)

OPERATIONS = table(LEGACY_REPORT, NOTE_LEGACY)


class Legacy(Protocol):
    """The part of auth that deals with them."""

    async def legacy_report(self, caller: Caller, query: LegacyQuery) -> LegacyReport:
        """Raises: Forbidden; Invalid for a time that is none."""

    async def note_legacy(self, caller: Caller, uses: LegacyUses) -> None:
        """Note uses; what is noted again moves the last use forward, never back."""
