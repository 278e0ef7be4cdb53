"""Gaps: records that could not be kept, counted per tenant, so that the log itself says how many and why."""

from __future__ import annotations

from collections.abc import Sequence

from sealwire.contracts.compliance import Actor, AuditEntry
from sealwire.kit.caller import ANONYMOUS_TENANT, SYSTEM_TENANT
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.ids import new_id

ACTION = "audit.gap"
_MAX_TENANTS = 1_000


class _Gap:
    """What one tenant lost for one reason."""

    __slots__ = ("count", "first_us", "last_us")

    def __init__(self, first_us: int) -> None:
        self.count = 0
        self.first_us = self.last_us = first_us


class Gaps:
    """What was lost and is not recorded yet."""

    def __init__(self, *, clock: Clock, service: str, every_s: float) -> None:
        """Records are made every `every_s` seconds at most."""
        self._clock = clock
        self._service = service
        self._every_s = every_s
        self._due_s = 0.0
        self._gaps: dict[tuple[str, str], _Gap] = {}

    def __bool__(self) -> bool:
        return bool(self._gaps)

    def count(self, entries: Sequence[AuditEntry], reason: str) -> None:
        """Count entries as lost; past many tenants, those of all others together under `system`."""
        for entry in entries:
            tenant_id = entry.tenant_id or ANONYMOUS_TENANT
            if (tenant_id, reason) not in self._gaps and len(self._gaps) >= _MAX_TENANTS:
                tenant_id = SYSTEM_TENANT
            self.add(tenant_id, reason, 1, entry.created_at_us)

    def add(self, tenant_id: str, reason: str, count: int, at_us: int) -> None:
        """Count `count` records of a tenant as lost."""
        gap = self._gaps.get((tenant_id, reason))
        if gap is None:
            gap = self._gaps[tenant_id, reason] = _Gap(at_us)
        gap.count += count
        gap.first_us, gap.last_us = min(gap.first_us, at_us), max(gap.last_us, at_us)

    def due(self, *, now: bool = False) -> list[AuditEntry]:
        """Return the records of what was lost since the last time, when it is time for them."""
        if not self._gaps or (not now and self._clock.monotonic() < self._due_s):
            return []
        self._due_s = self._clock.monotonic() + self._every_s
        gaps, self._gaps = self._gaps, {}
        return [self._record(tenant_id, reason, gap) for (tenant_id, reason), gap in gaps.items()]

    def _record(self, tenant_id: str, reason: str, gap: _Gap) -> AuditEntry:
        return AuditEntry(
            audit_id=new_id(),
            tenant_id=tenant_id,
            actor=Actor(type="service", id=self._service),
            action=ACTION,
            resource_type="api_request",
            outcome="failure",
            metadata={
                "dropped": gap.count,
                "reason": reason,
                "from": rfc3339(gap.first_us),
                "to": rfc3339(gap.last_us),
            },
            created_at_us=self._clock.now_us(),
        )
