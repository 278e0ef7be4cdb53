"""The audit log's daily business: taking records in, and reading them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sealwire.contracts.audit import EvidenceQuery
from sealwire.contracts.audit_log import (
    Accepted,
    AuditBatch,
    AuditConflict,
    AuditQuery,
    AuditRecords,
)
from sealwire.contracts.compliance_terms import SERVICE
from sealwire.kit.caller import ANONYMOUS_TENANT, Caller
from sealwire.kit.clock import parse_rfc3339
from sealwire.kit.cursors import number_of, write_cursor
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Invalid
from sealwire.services.compliance.parking import Alarms
from sealwire.services.compliance.ports import AuditStore, RecordFilter
from sealwire.services.compliance.pruning import PRUNED_ACTION
from sealwire.services.compliance.sealing import Intake, Sealer
from sealwire.services.compliance.sequencer import Logs
from sealwire.services.compliance.tenant_log import Verdict

_MAX_NAMED = 20


class AuditLog:
    """Intake and query over the logs of all tenants."""

    def __init__(
        self,
        *,
        store: AuditStore,
        logs: Logs,
        sealer: Sealer,
        alarms: Alarms,
        grown: Callable[[Iterable[str]], None],
    ) -> None:
        """`grown` is told the tenants whose logs are growing."""
        self._store = store
        self._logs = logs
        self._sealer = sealer
        self._alarms = alarms
        self._grown = grown

    async def append(self, caller: Caller, batch: AuditBatch) -> Accepted:
        """Store the entries durably, once per `audit_id`; those of different tenants share a commit.

        Those of a log that is damaged wait beside it, as durable, and go into it when it is whole again.
        Raises: AuditConflict naming the ids that came with other content (all others are stored, and an alarm record
        per id); Invalid for an entry that can't be stored (nothing is stored then); Unavailable.
        """
        entries = batch.records
        if not entries:
            return Accepted(accepted=0, duplicates=0)
        if caller.service != SERVICE and PRUNED_ACTION in {entry.action for entry in entries}:
            raise Invalid("What is pruned is compliance's own to say.", path="$.records")
        intakes = await self._sealer.take_in(entries)
        by_tenant: dict[str, list[Intake]] = {}
        if len({entry.tenant_id for entry in entries}) == 1:
            by_tenant[entries[0].tenant_id] = intakes
        else:
            for intake in intakes:
                by_tenant.setdefault(intake.entry.tenant_id, []).append(intake)
        done = self._logs.submit(by_tenant)
        self._grown(by_tenant)
        outcomes = await done
        stored = duplicates = parked = 0
        conflicts: list[Intake] = []
        for verdicts, items in zip(outcomes, by_tenant.values(), strict=True):
            if isinstance(verdicts, Exception):
                raise verdicts
            stored += (all_stored := verdicts.count(Verdict.STORED))
            if all_stored == len(verdicts):
                continue
            duplicates += verdicts.count(Verdict.DUPLICATE)
            parked += verdicts.count(Verdict.PARKED)
            if Verdict.CONFLICT in verdicts:
                conflicts += [i for i, v in zip(items, verdicts, strict=True) if v is Verdict.CONFLICT]
        if conflicts:
            for tenant_id, alarms in (await self._alarms.of(conflicts, caller.service or caller.user_id)).items():
                (outcome,) = await self._logs.submit({tenant_id: alarms})
                if isinstance(outcome, Exception):
                    raise outcome
            raise AuditConflict(
                f"{len(conflicts)} audit ids are taken by other records; all other records are stored.",
                conflicts=[i.entry.audit_id for i in conflicts[:_MAX_NAMED]],
                accepted=stored + parked,
                duplicates=duplicates,
            )
        return Accepted(accepted=stored + parked, duplicates=duplicates, parked=parked)

    async def query(self, caller: Caller, query: AuditQuery) -> AuditRecords:
        """Return records that match all filters, in `seq` order, personal data opened or shown as erased."""
        tenant_id = log_of(caller, query.tenant_id)
        wanted = filter_of(query)
        after = number_of(query.cursor)
        found = await self._store.search(tenant_id, wanted, after_seq=after, limit=query.limit)
        items = [await self._sealer.show(record) for record in found.records]
        return AuditRecords(
            items=items, next_cursor=None if found.looked_up_to is None else write_cursor(str(found.looked_up_to))
        )


def log_of(caller: Caller, tenant_id: str | None = None) -> str:
    """Return whose log the caller may read: the own tenant's; an operator's is that of anonymous requests (R3.1).

    A service on its own behalf may name any tenant. Raises: Forbidden.
    """
    if tenant_id is None or tenant_id == caller.tenant_id or caller.is_service:
        return tenant_id or caller.tenant_id
    if caller.principal.role is Role.OPERATOR and tenant_id == ANONYMOUS_TENANT:
        return tenant_id
    raise Forbidden("You may read your own tenant's log only.")


def may_read(caller: Caller, tenant_id: str) -> bool:
    """Whether the caller may read this log."""
    try:
        return log_of(caller, tenant_id) == tenant_id
    except Forbidden:
        return False


def filter_of(query: AuditQuery | EvidenceQuery) -> RecordFilter:
    """Return what a query looks for. Raises: Invalid, naming the time that can't be read."""
    return RecordFilter(
        actor=query.actor,
        action=query.action,
        resource_type=query.resource_type,
        resource_id=query.resource_id,
        outcome=query.outcome,
        from_us=_read_time(query.from_, "from"),
        to_us=_read_time(query.to, "to"),
    )


def _read_time(text: str | None, name: str) -> int | None:
    """Return a time of a query in µs. Raises: Invalid, naming the parameter."""
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        raise Invalid("Write the time as 2026-01-31T12:00:00Z.", path=f"$.{name}") from None
