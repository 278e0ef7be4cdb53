"""Thinning (R4.6): of days long past one checkpoint of a log is kept; proofs are made of tiles and need none."""

from __future__ import annotations

from typing import Final

from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.ids import new_id
from sealwire.services.compliance.ports import AuditStore, CheckpointThinning
from sealwire.services.compliance.pruning import Append

DAY_US: Final = 86_400 * US_PER_S
THINNED_ACTION: Final = "audit.checkpoints_thinned"


class Thinning:
    """Thins the checkpoints of all logs, once a day."""

    def __init__(
        self, *, logs: AuditStore, store: CheckpointThinning, append: Append, clock: Clock, keep_days: int
    ) -> None:
        """`append` stores records of compliance's own; with `keep_days` 0 all checkpoints stay."""
        self._logs = logs
        self._store = store
        self._append = append
        self._clock = clock
        self._keep_days = keep_days
        self._again_us = 0

    async def thin(self) -> int:
        """Thin what is too old to be kept whole, unless it was done today; logs say how many went. Return how many."""
        now_us = self._clock.now_us()
        if not self._keep_days or now_us < self._again_us:
            return 0
        before_us = now_us - self._keep_days * DAY_US
        gone = 0
        for tenant_id in await self._logs.tenants():
            if thinned := await self._store.thin(tenant_id, before_us=before_us):
                await self._say(tenant_id, thinned, before_us)
                gone += thinned
        self._again_us = now_us + DAY_US
        return gone

    async def _say(self, tenant_id: str, count: int, before_us: int) -> None:
        record = AuditEntry(
            audit_id=new_id(),
            tenant_id=tenant_id,
            actor=Actor(type="service", id="compliance"),
            action=THINNED_ACTION,
            resource_type="audit_checkpoint",
            metadata={"count": count, "before": rfc3339(before_us)},
            created_at_us=self._clock.now_us(),
        )
        await self._append(service_caller("compliance", tenant_id), AuditBatch(records=[record]))
