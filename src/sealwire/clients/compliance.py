"""The client of compliance: the contract in this process or across HTTP, records in batches, and the audit relay."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from sealwire.clients.guarded import guarded
from sealwire.clients.http import Transport, remote
from sealwire.contracts import accountability
from sealwire.contracts.accountability import Accountability
from sealwire.contracts.audit_log import (
    AuditBatch,
    AuditConflict,
    AuditEntry,
    AuditQuery,
    AuditRecords,
    Checkpoint,
    LogQuery,
    Verification,
    VerifyQuery,
)
from sealwire.contracts.compliance import Compliance
from sealwire.contracts.consents import Consent, ConsentHistory, NewConsent
from sealwire.contracts.gdpr import GdprJob, NewErasure, NewExport, NewRectification
from sealwire.contracts.holds import Hold, Holds, NewHold
from sealwire.contracts.retention import ListedItems, ListQuery, NewRetentionRun, RetentionRun
from sealwire.contracts.retention_policies import NewRetentionPolicy, RetentionPolicies, RetentionPolicy
from sealwire.kit.caller import SYSTEM_TENANT, Caller, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.problem import Invalid, Malformed, Problem, TooLarge, Unavailable
from sealwire.ports.events import Consumer, Event, EventFeed, Positions
from sealwire.resilience.breaker import BreakerSnapshot, State
from sealwire.resilience.guard import Guard

_log = logging.getLogger("sealwire.audit")
REFUSED_ACTION = "audit.refused"
Entries = Callable[[Sequence[Event]], Awaitable[list[AuditEntry]]]


def local_compliance(service: Accountability, guard: Guard) -> Accountability:
    """Return the service in this process behind its guard."""
    return guarded(service, accountability.OPERATIONS, guard)


def remote_compliance(transport: Transport, guard: Guard) -> Accountability:
    """Return the service at the other end of `transport`. `guard` needs a timeout."""
    client: Accountability = remote(accountability.OPERATIONS, transport, guard)
    return client


async def send_records(compliance: Compliance, caller: Caller, entries: Sequence[AuditEntry]) -> None:
    """Have the entries stored, or what stands for them: afterwards each audit id is in the log.

    An id that is taken by another record is compliance's alarm and nothing to repeat. An entry that compliance can't
    store at all is replaced by a record that says so, under the same id. Raises: what else goes wrong; send again.
    """
    try:
        await compliance.append(caller, AuditBatch(records=list(entries)))
    except AuditConflict as conflict:
        _log.error("audit ids taken by other records: %s", conflict.extra.get("conflicts"))
    except (Invalid, Malformed, TooLarge) as problem:
        if len(entries) == 1:
            _log.error("audit record %s refused: %s", entries[0].audit_id, problem.detail)
            await compliance.append(caller, AuditBatch(records=[_refused(entries[0], problem)]))
            return
        half = len(entries) // 2
        await send_records(compliance, caller, entries[:half])
        await send_records(compliance, caller, entries[half:])


def _refused(entry: AuditEntry, problem: Problem) -> AuditEntry:
    return AuditEntry(
        audit_id=entry.audit_id,
        tenant_id=entry.tenant_id,
        actor=entry.actor,
        action=REFUSED_ACTION,
        resource_type="audit_record",
        resource_id=entry.audit_id,
        outcome=entry.outcome,
        metadata={"code": problem.code, "action": entry.action[:200].replace("\0", "")},
        created_at_us=entry.created_at_us,
    )


def audit_relay(
    *,
    service: str,
    feed: EventFeed,
    positions: Positions,
    compliance: Compliance,
    entries: Entries,
    batch: int = 100,
    linger_s: float = 0.2,
) -> Consumer:
    """Return the consumer that turns a service's outbox into audit records, in batches of up to `batch`.

    The position is durable and moves when compliance has the records; what is sent twice after a crash is stored once,
    by its audit id, which is the event's. `entries` maps events to records, in order; it may leave events out. After an
    idle time `linger_s` is waited, so that more can join.
    """
    caller = service_caller(service, SYSTEM_TENANT)

    async def handle(events: Sequence[Event]) -> None:
        if made := await entries(events):
            await send_records(compliance, caller, made)

    return Consumer(
        name=f"{service}-audit", feed=feed, positions=positions, handle=handle, batch=batch, linger_s=linger_s
    )


class ComplianceClient:
    """What programs call every day, wherever the service is; `compliance` is the whole contract.

    `log` gathers records and sends them in batches of 100, or after 5 s. They wait in memory: a program whose records
    must survive it writes them to its outbox and runs an `audit_relay`.
    """

    def __init__(
        self,
        *,
        compliance: Accountability,
        guard: Guard,
        service: str,
        batch: int = 100,
        wait_s: float = 5.0,
        max_waiting: int = 10_000,
    ) -> None:
        """`compliance` is what `local_compliance` or `remote_compliance` gave; `service` is who sends."""
        self.compliance = compliance
        self._guard = guard
        self._caller = service_caller(service, SYSTEM_TENANT)
        self._batch = batch
        self._wait_s = wait_s
        self._max_waiting = max_waiting
        self._waiting: deque[AuditEntry] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many records wait to be sent."""
        return len(self._waiting)

    def log(self, entry: AuditEntry) -> None:
        """Take a record to be sent soon. Raises: Unavailable when `max_waiting` wait already."""
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable("Too many audit records wait to be sent.")
        self._waiting.append(entry)
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send(), name="audit-sender")
        if len(self._waiting) >= self._batch:
            self._due.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._due.set)

    async def flush(self) -> None:
        """Send all that waits now. Raises: what compliance raises; the records wait on."""
        while self._waiting:
            count = min(self._batch, len(self._waiting))
            sent = [self._waiting[i] for i in range(count)]
            await send_records(self.compliance, self._caller, sent)
            for entry in sent:
                if self._waiting and self._waiting[0] is entry:
                    self._waiting.popleft()

    async def stop(self) -> None:
        """Send what waits and end. Raises: what compliance raises."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender
        if self._timer is not None:
            self._timer.cancel()
        await self.flush()

    async def _send(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            try:
                await self.flush()
            except Exception as error:
                _log.warning("audit records wait for compliance: %r", error)
                self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._due.set)

    # ---- the contract, under the names people use

    async def query(self, caller: Caller, query: AuditQuery) -> AuditRecords:
        """Read the audit log."""
        return await self.compliance.query(caller, query)

    async def verify(self, caller: Caller, query: VerifyQuery | None = None) -> Verification:
        """Verify chain and tree."""
        return await self.compliance.verify(caller, query or VerifyQuery())

    async def checkpoint(self, caller: Caller) -> Checkpoint:
        """Return a signed checkpoint."""
        return await self.compliance.checkpoint(caller, LogQuery())

    async def give_consent(self, caller: Caller, consent: NewConsent) -> Consent:
        """Give a consent."""
        return await self.compliance.consent(caller, consent)

    async def withdraw_consent(self, caller: Caller, purpose: str) -> None:
        """Withdraw a consent."""
        await self.compliance.withdraw(caller, purpose)

    async def get_consents(self, caller: Caller, page: Page | None = None) -> ConsentHistory:
        """Return the caller's consents."""
        return await self.compliance.consents(caller, page or Page())

    async def request_export(self, caller: Caller, export: NewExport | None = None) -> GdprJob:
        """Ask for a person's data, without `export` the caller's own; the job's `download` says where it is."""
        return await self.compliance.request_export(caller, export or NewExport())

    async def get_export(self, caller: Caller, job_id: str) -> GdprJob:
        """Return how far an export is. Raises: JobNotFound."""
        return await self.compliance.export_job(caller, job_id)

    async def request_erasure(self, caller: Caller, erasure: NewErasure | None = None) -> GdprJob:
        """Have a person erased, without `erasure` the caller. Raises: PersonNotFound, LegalHold, LastOwner."""
        return await self.compliance.request_erasure(caller, erasure or NewErasure())

    async def get_erasure(self, caller: Caller, job_id: str) -> GdprJob:
        """Return how far an erasure is, at its end with the certificate. Raises: JobNotFound."""
        return await self.compliance.erasure_job(caller, job_id)

    async def request_rectification(self, caller: Caller, rectification: NewRectification) -> GdprJob:
        """Have a person's data put right. Raises: PersonNotFound."""
        return await self.compliance.request_rectification(caller, rectification)

    async def get_rectification(self, caller: Caller, job_id: str) -> GdprJob:
        """Return how far a rectification is. Raises: JobNotFound."""
        return await self.compliance.rectification_job(caller, job_id)

    async def get_retention_policies(self, caller: Caller, page: Page | None = None) -> RetentionPolicies:
        """Return the tenant's retention policies."""
        return await self.compliance.policies(caller, page or Page())

    async def set_retention_policy(
        self, caller: Caller, resource_type: str, policy: NewRetentionPolicy
    ) -> RetentionPolicy:
        """Set a retention policy."""
        return await self.compliance.set_policy(caller, resource_type, policy)

    async def remove_retention_policy(self, caller: Caller, resource_type: str) -> None:
        """Remove a retention policy: what it was about is kept. Raises: NotFound."""
        await self.compliance.remove_policy(caller, resource_type)

    async def run_retention(self, caller: Caller, run: NewRetentionRun) -> RetentionRun:
        """List what is past its time, or dispose of it. Raises: RunActive, ListUnusable, NotFound."""
        return await self.compliance.start_run(caller, run)

    async def get_retention_run(self, caller: Caller, run_id: str) -> RetentionRun:
        """Return how far a run is. Raises: NotFound."""
        return await self.compliance.run(caller, run_id)

    async def get_retention_list(self, caller: Caller, run_id: str, page: ListQuery | None = None) -> ListedItems:
        """Return what a dry run found, in the order its hash covers. Raises: NotFound, ListNotWhole."""
        return await self.compliance.run_items(caller, run_id, page or ListQuery())

    async def put_hold(self, caller: Caller, hold: NewHold) -> Hold:
        """Put a legal hold."""
        return await self.compliance.hold(caller, hold)

    async def release_hold(self, caller: Caller, hold_id: str) -> None:
        """Release a legal hold. Raises: NotFound."""
        await self.compliance.release(caller, hold_id)

    async def get_holds(self, caller: Caller, page: Page | None = None) -> Holds:
        """Return the tenant's legal holds."""
        return await self.compliance.holds(caller, page or Page())

    def is_healthy(self) -> bool:
        """Whether calls go through at the moment."""
        return self._guard.breaker.state is not State.OPEN

    def get_circuit_breaker_state(self) -> BreakerSnapshot:
        """Return the breaker's state, counts and last transitions."""
        return self._guard.breaker.snapshot()

    def clear_cache(self) -> None:
        """Nothing is cached here: records and proofs are read as they are."""
