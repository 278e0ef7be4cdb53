"""Thinning (R4.6): of days long past one checkpoint of a log is kept; proofs are made of tiles and need none."""

from __future__ import annotations

from functools import partial
from typing import Final

from sealwire.contracts.compliance_terms import SERVICE
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.ports.events import NewEvent
from sealwire.services.compliance.events import change_event
from sealwire.services.compliance.ports import AuditStore, CheckpointThinning

DAY_US: Final = 86_400 * US_PER_S
THINNED_ACTION: Final = "audit.checkpoints_thinned"


class Thinning:
    """Thins the checkpoints of all logs, once a day."""

    def __init__(self, *, logs: AuditStore, store: CheckpointThinning, clock: Clock, keep_days: int) -> None:
        """With `keep_days` 0 all checkpoints stay."""
        self._logs = logs
        self._store = store
        self._clock = clock
        self._keep_days = keep_days
        self._again_us = 0

    async def thin(self) -> int:
        """Thin what is too old to be kept whole, unless it was done today; logs say how many went. Return how many.

        What goes and the event that says so are one transaction: killed at any step, the rest goes at the next round,
        and a log's records of it count each checkpoint once.
        """
        now_us = self._clock.now_us()
        if not self._keep_days or now_us < self._again_us:
            return 0
        before_us = now_us - self._keep_days * DAY_US
        gone = 0
        for tenant_id in await self._logs.tenants():
            said = partial(self._event, tenant_id, before_us)
            gone += await self._store.thin(tenant_id, before_us=before_us, said=said)
        self._again_us = now_us + DAY_US
        return gone

    def _event(self, tenant_id: str, before_us: int, count: int) -> NewEvent:
        return change_event(
            service_caller(SERVICE, tenant_id),
            THINNED_ACTION,
            resource_type="audit_checkpoint",
            resource_id="",
            at_us=self._clock.now_us(),
            count=count,
            before=rfc3339(before_us),
        )
