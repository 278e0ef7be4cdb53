"""Legacy tokens: who still uses them, and what refusing them from some day on would mean (R6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sealwire.contracts.legacy import LegacyQuery, LegacyReport, LegacyTenant, LegacyUses
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock, parse_rfc3339, rfc3339
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden, Invalid
from sealwire.services.auth.config import LegacyIssuer
from sealwire.services.auth.legacy_ports import LegacyCount, LegacyStore

KEPT_S: Final = 90 * 86_400
"""How long a token is remembered after its last use."""
_DAY_S: Final = 86_400


class LegacyService:
    """The part of `AuthService` that people who move away from legacy tokens use."""

    def __init__(self, *, store: LegacyStore, issuers: Sequence[LegacyIssuer], clock: Clock) -> None:
        self._legacy_store = store
        self._legacy_issuers = issuers
        self._legacy_clock = clock

    async def note_legacy(self, caller: Caller, uses: LegacyUses) -> None:
        if not caller.is_service:
            raise Forbidden("This is for services, on their own behalf.")
        if uses.items:
            await self._legacy_store.note(uses.items)

    async def legacy_report(self, caller: Caller, query: LegacyQuery) -> LegacyReport:
        if not caller.may(Permission.HEALTH_DETAILS):
            raise Forbidden(f"Your role does not grant {Permission.HEALTH_DETAILS.value}.")
        everywhere = caller.may(Permission.MANAGE_TENANTS)
        now_us = self._legacy_clock.now_us()
        refuse_us = now_us if query.refuse_from is None else _time(query.refuse_from)
        counted = await self._legacy_store.count(
            "" if everywhere else caller.tenant_id, now_s=now_us // US_PER_S, refuse_from_s=refuse_us // US_PER_S
        )
        found = {count.tenant_id: count for count in counted}
        named = {issuer.tenant for issuer in self._legacy_issuers if everywhere or issuer.tenant == caller.tenant_id}
        return LegacyReport(
            as_of=rfc3339(now_us),
            refuse_from=rfc3339(refuse_us),
            kept_days=KEPT_S // _DAY_S,
            items=[
                self._legacy_tenant(tenant_id, found.get(tenant_id), now_us)
                for tenant_id in sorted(found.keys() | named)
            ],
        )

    def _legacy_tenant(self, tenant_id: str, seen: LegacyCount | None, now_us: int) -> LegacyTenant:
        issuers = [issuer for issuer in self._legacy_issuers if issuer.tenant == tenant_id]
        sunsets = [issuer.sunset for issuer in issuers]
        over = bool(sunsets) and all(sunset and parse_rfc3339(sunset) <= now_us for sunset in sunsets)
        return LegacyTenant(
            tenant_id=tenant_id,
            issuers=len(issuers),
            sunset_at=max(sunsets) if sunsets and all(sunsets) else None,
            sessions=seen.sessions if seen else 0,
            users=seen.users if seen else 0,
            live_sessions=seen.live if seen and not over else 0,
            first_seen_at=rfc3339(seen.first_s * US_PER_S) if seen else None,
            last_seen_at=rfc3339(seen.last_s * US_PER_S) if seen else None,
            would_refuse_sessions=seen.refused_sessions if seen else 0,
            would_refuse_users=seen.refused_users if seen else 0,
        )


def _time(text: str) -> int:
    try:
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        raise Invalid("Write the time as 2026-01-31T12:00:00Z.", path="$.refuse_from") from None
