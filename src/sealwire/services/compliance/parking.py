"""Parking: records of a log that is damaged wait beside it, durably and sealed, until it can be continued.

So the records of other tenants, which come in the same batches, wait for nobody. Before the first that waited, the log
itself says how many did and since when: `audit.resumed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.contracts.compliance_terms import SERVICE
from sealwire.kit.clock import Clock, parse_rfc3339, rfc3339
from sealwire.kit.envelopes import EnvelopeRefused
from sealwire.services.compliance.parking_ports import ParkedRecord, ParkingStore
from sealwire.services.compliance.ports import AuditStore, LogUnreadable
from sealwire.services.compliance.pruning import PRUNED_ACTION
from sealwire.services.compliance.sealing import Intake, Sealer

CONFLICT_ACTION = "audit.conflict"
RESUMED_ACTION = "audit.resumed"
RECORDS_A_STEP = 256


class Alarms:
    """Makes the records of compliance's own about intake: that an audit id came with other content."""

    def __init__(self, *, store: AuditStore, sealer: Sealer, clock: Clock) -> None:
        self._store = store
        self._sealer = sealer
        self._clock = clock

    async def of(self, conflicts: Sequence[Intake], sender: str) -> dict[str, list[Intake]]:
        """Return by tenant what to record of entries in conflict: once per audit id, however often it comes."""
        alarms: dict[str, dict[str, AuditEntry]] = {}
        for conflict in conflicts:
            tenant_id, audit_id = conflict.entry.tenant_id, conflict.entry.audit_id
            alarm_id = derived_id(CONFLICT_ACTION, tenant_id, audit_id)
            known = alarms.setdefault(tenant_id, {})
            if alarm_id not in known and not await self._is_told(tenant_id, alarm_id):
                known[alarm_id] = AuditEntry(
                    audit_id=alarm_id,
                    tenant_id=tenant_id,
                    actor=Actor(type="service", id=sender),
                    action=CONFLICT_ACTION,
                    resource_type="audit_record",
                    resource_id=audit_id,
                    outcome="denied",
                    metadata={"claimed_action": conflict.entry.action, "claimed_actor": conflict.entry.actor.id},
                    created_at_us=self._clock.now_us(),
                )
        return {
            tenant_id: await self._sealer.take_in(list(entries.values()))
            for tenant_id, entries in alarms.items()
            if entries
        }

    async def _is_told(self, tenant_id: str, alarm_id: str) -> bool:
        try:
            return bool(await self._store.find(tenant_id, [alarm_id]))
        except (LogUnreadable, ValueError):  # a damaged log holds up nobody; its writer will know the id
            return False


class Parking:
    """Where records wait whose log can't be continued."""

    def __init__(self, *, store: ParkingStore, logs: AuditStore, sealer: Sealer, alarms: Alarms, clock: Clock) -> None:
        self._store = store
        self._logs = logs
        self._sealer = sealer
        self._alarms = alarms
        self._clock = clock
        self.waiting: dict[str, int] = {}
        """How many records wait, by tenant."""

    async def load(self) -> Mapping[str, int]:
        """Find what a former life left waiting. Return `waiting`."""
        self.waiting.update(await self._store.counts())
        return self.waiting

    async def park(self, tenant_id: str, items: Sequence[Intake]) -> None:
        """Have entries wait behind those that wait already; durable on return."""
        now_us = self._clock.now_us()
        records = [ParkedRecord(i.entry.audit_id, i.created_us, now_us, i.form.bytes_at(0, b"")) for i in items]
        await self._store.park(tenant_id, records)
        self.waiting[tenant_id] = self.waiting.get(tenant_id, 0) + len(records)

    async def find(self, tenant_id: str, audit_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of those that wait, by audit id."""
        return await self._store.find(tenant_id, audit_ids)

    async def first(self, tenant_id: str) -> tuple[int, list[Intake]]:
        """Return what waits longest, in order, and what to tell `remove`.

        Raises: ValueError for what was changed so that it would damage the log for good: another tenant's record, one
        that queries would know by another time, or one that says what is pruned, which is never parked. And as
        `Sealer.reseal`.
        """
        up_to, records = await self._store.first(tenant_id, RECORDS_A_STEP)
        items = []
        for record in records:
            try:
                item = self._sealer.reopen(record.body, record.created_us)
                as_parked = (tenant_id, record.audit_id, parse_rfc3339(item.created_at))
            except (ValueError, TypeError) as error:
                raise _changed(record) from error
            entry = item.entry
            if (entry.tenant_id, entry.audit_id, record.created_us) != as_parked or entry.action == PRUNED_ACTION:
                raise _changed(record)
            try:
                items.append(await self._sealer.reseal(item))
            except (ValueError, EnvelopeRefused) as error:
                raise _changed(record) from error
        return up_to, items

    async def remove(self, tenant_id: str, up_to: int, count: int) -> None:
        """Forget so many records, which are in the log by now."""
        await self._store.remove(tenant_id, up_to)
        left = self.waiting.get(tenant_id, 0) - count
        if left > 0:
            self.waiting[tenant_id] = left
        else:
            self.waiting.pop(tenant_id, None)

    async def announcement(self, tenant_id: str) -> list[Intake]:
        """Return the record that goes in front of those that waited; none when the log has it, or none waits."""
        _, records = await self._store.first(tenant_id, 1)
        if not records:
            return []
        first = records[0]
        audit_id = derived_id(RESUMED_ACTION, tenant_id, first.audit_id)
        if await self._logs.find(tenant_id, [audit_id]):
            return []
        entry = AuditEntry(
            audit_id=audit_id,
            tenant_id=tenant_id,
            actor=Actor(type="service", id=SERVICE),
            action=RESUMED_ACTION,
            resource_type="audit_record",
            resource_id=first.audit_id,
            metadata={"waited": self.waiting.get(tenant_id, 0), "since": rfc3339(first.parked_us)},
            created_at_us=self._clock.now_us(),
        )
        return await self._sealer.take_in([entry])

    async def alarms(self, tenant_id: str, conflicts: Sequence[Intake]) -> list[Intake]:
        """Return what to record of parked entries whose ids other records of the log have."""
        foreign = [conflict for conflict in conflicts if conflict.entry.action != CONFLICT_ACTION]
        return (await self._alarms.of(foreign, SERVICE)).get(tenant_id, [])


def _changed(record: ParkedRecord) -> ValueError:
    return ValueError(f"the parked record {record.audit_id} is not as it was parked")


def derived_id(action: str, tenant_id: str, audit_id: str) -> str:
    """Return the id of the one record that says this of another: a UUIDv8 (RFC 9562 section 5.8) over all three."""
    h = sha256(f"{action}\0{tenant_id}\0{audit_id}".encode()).hexdigest()
    return f"{h[:8]}-{h[8:12]}-8{h[13:16]}-8{h[17:20]}-{h[20:32]}"
