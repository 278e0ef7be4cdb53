"""The compliance service: the list of its use cases."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence

from sealwire.contracts.audit import EvidenceQuery, ExportQuery, StreamQuery
from sealwire.contracts.audit_log import (
    Accepted,
    AuditBatch,
    AuditConflict,
    AuditQuery,
    AuditRecord,
    AuditRecords,
    Checkpoint,
    ConsistencyQuery,
    InclusionQuery,
    LogQuery,
    Proof,
    Verification,
    VerifyQuery,
)
from sealwire.contracts.consents import Consent, ConsentHistory, NewConsent
from sealwire.contracts.crypto import Crypto
from sealwire.contracts.holds import Hold, Holds, NewHold
from sealwire.contracts.retention import ListedItems, ListQuery, NewRetentionRun, RetentionRun, RetentionRuns
from sealwire.contracts.retention_policies import NewRetentionPolicy, RetentionPolicies, RetentionPolicy
from sealwire.contracts.witness import Cosignatures, CosignedCheckpoint
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.codec import Page
from sealwire.kit.lifespan import Probe
from sealwire.kit.pages import DegradedOnly
from sealwire.kit.problem import Forbidden
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.events import Consumer, Event
from sealwire.services.compliance.audit import AuditLog, log_of, may_read
from sealwire.services.compliance.bundles import Bundles
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.events import audit_entry
from sealwire.services.compliance.evidence import Evidence
from sealwire.services.compliance.gdpr import Consents
from sealwire.services.compliance.keeping import Keeping
from sealwire.services.compliance.live import Follower, LiveLog, Tail
from sealwire.services.compliance.manifest import Manifest
from sealwire.services.compliance.own_custody import OwnCustody
from sealwire.services.compliance.parking import Alarms, Parking
from sealwire.services.compliance.ports import ComplianceStores, RecordFilter, StoredRecord
from sealwire.services.compliance.pruning import PRUNED_ACTION, Pruning
from sealwire.services.compliance.retention import Retention
from sealwire.services.compliance.rights import Rights, ServiceKeys, Surroundings
from sealwire.services.compliance.rights_answers import RightsAnswers
from sealwire.services.compliance.sealing import Sealer
from sealwire.services.compliance.sequencer import Logs
from sealwire.services.compliance.signers import SERVICE
from sealwire.services.compliance.thinning import Thinning
from sealwire.services.compliance.turns import Turns
from sealwire.services.compliance.verification import Verifier
from sealwire.services.compliance.witnesses import Witnesses

_log = logging.getLogger("sealwire.compliance")
_OWN_LOG = LogQuery()


class ComplianceService(RightsAnswers):
    """`contracts.compliance.Compliance` in this process."""

    def __init__(
        self,
        *,
        stores: ComplianceStores,
        crypto: Crypto,
        keys: ServiceKeys,
        around: Surroundings,
        clock: Clock,
        config: ComplianceConfig,
    ) -> None:
        """`keys` is this service's key ring (`KeyRing(crypto=crypto, service="compliance", clock=clock)`)."""
        self._stores = stores
        self._config = config
        store = stores.audit
        sealer = Sealer(keys=keys, clock=clock)
        self._sealer = sealer
        self._tail = Tail()
        self._live = LiveLog(store=store, tail=self._tail, per_tenant=config.streams_per_tenant)
        self.evidence_turns = Turns(at_once=config.evidence_at_once, what="bundles of evidence")
        self.heartbeat_s, self.stall_s = config.stream_heartbeat_s, config.stream_stall_s
        self.evidence_s = config.evidence_s
        alarms = Alarms(store=store, sealer=sealer, clock=clock)
        self.parking = Parking(store=stores.parking, logs=store, sealer=sealer, alarms=alarms, clock=clock)
        self._logs = Logs(
            store=store,
            parking=self.parking,
            same=sealer.same,
            group_records=config.group_records,
            waiting_records=config.waiting_records,
            in_memory=config.logs_in_memory,
            grown=self._grew,
        )
        self._witnesses = Witnesses(store=store, cosignatures=stores.cosignatures, clock=clock, keys=config.witnesses)
        self._evidence = Evidence(
            store=store, logs=self._logs, crypto=crypto, clock=clock, origin=config.origin, witnesses=self._witnesses
        )
        self._audit = AuditLog(store=store, logs=self._logs, sealer=sealer, alarms=alarms, grown=self._evidence.grown)
        self._bundles = Bundles(store=store, evidence=self._evidence, clock=clock, most_records=config.evidence_records)
        self.pruning = Pruning(
            store=store,
            append=self._append_now,
            require_whole=self._logs.require_whole,
            destroy_keys=lambda tenant_id, scope: keys.destroy(tenant_id, scope=scope),
            clock=clock,
        )
        thinning = Thinning(logs=store, store=stores.thinning, clock=clock, keep_days=config.checkpoints_keep_days)
        self._verifier = Verifier(store=store, evidence=self._evidence, at_once=config.verify_at_once)
        self._consents = Consents(store=stores.consents, clock=clock)
        self._retention = Retention(store=stores.retention, clock=clock)
        self.rights = Rights(
            store=stores.rights, holds=stores.holds, crypto=crypto, keys=keys,
            around=around, deleting=lambda: self.keeping.custodians(), forget_person=sealer.forget,
            clock=clock, config=config,
        )  # fmt: skip
        self.own = OwnCustody(
            store=stores.rights, consents=stores.consents, audit=store, parking=stores.parking, sealer=sealer,
            end_job=self.rights.end_job,
        )  # fmt: skip
        self.keeping = Keeping(
            stores=stores, pruning=self.pruning, thin=thinning.thin, dispose_exports=self.rights.exports.dispose,
            custodians=around.custodians, released=self.rights.erase_what_was_kept, gaps=self.rights.gaps,
            clock=clock, config=config,
        )  # fmt: skip
        self._relay = Consumer(
            name="compliance-audit",
            feed=stores.events,
            positions=stores.positions,
            handle=self._record_changes,
            linger_s=config.relay_wait_s,
        )
        self._signing: asyncio.Task[None] | None = None
        self._trying: asyncio.Task[None] | None = None

    # ---- life

    async def start(self) -> None:
        """Begin to sign checkpoints and to record own changes."""
        if self._signing is None:
            self._logs.park(await self.parking.load())
            await self.rights.prepare()
            await self._evidence.start()
            self._signing = asyncio.create_task(self._sign_now_and_then(), name="audit-checkpoints")
            self._trying = asyncio.create_task(self._try_parked_now_and_then(), name="audit-parking")
            self._relay.start()
            await self.keeping.start()
            await self.rights.start()

    async def drain(self) -> None:
        """End the live streams: their readers come back with the last `seq` they have."""
        self._live.end()

    async def stop(self) -> None:
        """Record what is left, let the log's writes become durable, sign once more."""
        self._live.end()
        await self.keeping.stop()
        await self.rights.stop()
        signing, self._signing = self._signing, None
        trying, self._trying = self._trying, None
        await self._relay.stop(drain=signing is not None)
        await cancel_and_wait(*[task for task in (signing, trying) if task is not None])
        await self._verifier.stop()
        await self._logs.settle()
        if signing is not None:
            await self._evidence.sign_grown()

    def checks(self) -> Mapping[str, Probe]:
        """Return what the service depends on."""
        return {"store": self._stores.audit.check, "audit_logs": self._check_logs}

    async def _check_logs(self) -> None:
        logs, records = self.damaged()
        if logs:
            raise DegradedOnly(
                f"{logs} audit logs, or the keys they need, are damaged; {records} records wait beside them"
            )

    def damaged(self) -> tuple[int, int]:
        """Return how many logs can't be continued, as far as somebody tried, and how many records wait beside them."""
        return len(self._logs.broken), sum(self.parking.waiting.values())

    async def _sign_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._config.checkpoint_every_s)
            await self._evidence.sign_grown()

    async def _try_parked_now_and_then(self) -> None:
        while True:
            self._logs.try_parked()
            await asyncio.sleep(self._config.parked_retry_s)

    def _grew(self, tenant_id: str) -> None:
        """Hear that records of a log are durable: whoever looked while they were written did not see them."""
        self._tail.grew(tenant_id)
        self._evidence.grown((tenant_id,))

    async def _append_now(self, caller: Caller, batch: AuditBatch) -> Accepted:
        """Append records of one log on which more depends than that they are kept. Raises: LogBroken instead of having
        them wait."""
        await self._logs.require_whole(batch.records[0].tenant_id)
        return await self._audit.append(caller, batch)

    async def _record_changes(self, events: Sequence[Event]) -> None:
        batch = AuditBatch(records=[audit_entry(event) for event in events])
        try:
            await self._audit.append(service_caller(SERVICE, events[0].tenant_id), batch)
        except AuditConflict as conflict:  # sent again, and what is stored of it was damaged: the alarm says so
            _log.error("audit ids taken by other records: %s", conflict.extra.get("conflicts"))

    # ---- the audit log

    async def append(self, caller: Caller, batch: AuditBatch) -> Accepted:
        """See `AuditLog.append`. For services on their own behalf only. Raises: Forbidden."""
        if not caller.is_service:
            raise Forbidden("Audit records come from services.")
        return await self._audit.append(caller, batch)

    async def query(self, caller: Caller, query: AuditQuery) -> AuditRecords:
        """See `AuditLog.query`."""
        return await self._audit.query(caller, query)

    async def verify(self, caller: Caller, query: VerifyQuery) -> Verification:
        """See `Verifier.verify`."""
        return await self._verifier.verify(log_of(caller, query.tenant_id), query)

    async def verify_job(self, caller: Caller, job_id: str) -> Verification:
        """See `Verifier.job`."""
        return await self._verifier.job(job_id, lambda tenant_id: may_read(caller, tenant_id))

    async def checkpoint(self, caller: Caller, query: LogQuery = _OWN_LOG) -> Checkpoint:
        """Return a signed checkpoint over the log as it is now."""
        return await self._evidence.answer(log_of(caller, query.tenant_id))

    async def cosign(self, caller: Caller, cosignatures: Cosignatures) -> CosignedCheckpoint:
        """See `Witnesses.take`."""
        return await self._witnesses.take(log_of(caller, cosignatures.tenant_id), cosignatures.note)

    async def cosigned(self, caller: Caller, query: LogQuery = _OWN_LOG) -> CosignedCheckpoint:
        """See `Witnesses.newest`."""
        return await self._witnesses.newest(log_of(caller, query.tenant_id))

    async def inclusion(self, caller: Caller, query: InclusionQuery) -> Proof:
        """See `Evidence.inclusion`."""
        return await self._evidence.inclusion(log_of(caller, query.tenant_id), query)

    async def consistency(self, caller: Caller, query: ConsistencyQuery) -> Proof:
        """See `Evidence.consistency`."""
        return await self._evidence.consistency(log_of(caller, query.tenant_id), query)

    async def tile(self, caller: Caller, path: str, tenant_id: str | None = None) -> bytes:
        """See `Evidence.tile`."""
        return await self._evidence.tile(log_of(caller, tenant_id), path)

    async def records(
        self, caller: Caller, first_seq: int, limit: int, tenant_id: str | None = None
    ) -> Sequence[StoredRecord]:
        """Return stored records of a log as they are hashed, sealed fields sealed; at most 256."""
        return await self._stores.audit.records(log_of(caller, tenant_id), first_seq, limit)

    async def pruned_since(self, caller: Caller, seq: int, tenant_id: str | None = None) -> bool:
        """Whether the log says behind `seq` that records were pruned."""
        wanted = RecordFilter(action=PRUNED_ACTION)
        log = log_of(caller, tenant_id)
        return bool((await self._stores.audit.search(log, wanted, after_seq=seq, limit=1)).records)

    async def log_size(self, caller: Caller, tenant_id: str | None = None) -> int:
        """Return how many records a log has."""
        return (await self._stores.audit.head(log_of(caller, tenant_id))).size

    async def manifest(self, caller: Caller, query: ExportQuery) -> Manifest:
        """See `Bundles.manifest`."""
        return await self._bundles.manifest(log_of(caller, query.tenant_id), query.from_seq, query.to_seq)

    async def evidence(self, caller: Caller, query: EvidenceQuery) -> AsyncIterator[bytes]:
        """See `Bundles.collect`."""
        return await self._bundles.collect(log_of(caller, query.tenant_id), query)

    async def rotate_checkpoint_keys(self) -> list[str]:
        """Have every log's checkpoints signed by a new key, for which the old one vouches. Return the key lines."""
        keys = [await self._evidence.rotate_key(tenant_id) for tenant_id in await self._stores.audit.tenants()]
        return [key.text for key in keys]

    async def follow(self, caller: Caller, query: StreamQuery, after_seq: int | None) -> Follower:
        """See `LiveLog.follow`."""
        wanted = RecordFilter(
            actor=query.actor,
            action=query.action,
            resource_type=query.resource_type,
            resource_id=query.resource_id,
            outcome=query.outcome,
        )
        return await self._live.follow(log_of(caller, query.tenant_id), wanted, after_seq)

    async def show(self, stored: StoredRecord) -> AuditRecord:
        """See `Sealer.show`."""
        return await self._sealer.show(stored)

    # ---- consents, policies, holds

    async def consents(self, caller: Caller, page: Page) -> ConsentHistory:
        """See `Consents.history`."""
        return await self._consents.history(caller, page)

    async def consent(self, caller: Caller, consent: NewConsent) -> Consent:
        """See `Consents.give`."""
        return await self._consents.give(caller, consent)

    async def withdraw(self, caller: Caller, purpose: str) -> None:
        """See `Consents.withdraw`."""
        await self._consents.withdraw(caller, purpose)

    async def policies(self, caller: Caller, page: Page) -> RetentionPolicies:
        """See `Retention.policies`."""
        return await self._retention.policies(caller, page)

    async def policy(self, caller: Caller, resource_type: str) -> RetentionPolicy:
        """See `Retention.policy`."""
        return await self._retention.policy(caller, resource_type)

    async def set_policy(self, caller: Caller, resource_type: str, policy: NewRetentionPolicy) -> RetentionPolicy:
        """See `Retention.set_policy`."""
        return await self._retention.set_policy(caller, resource_type, policy)

    async def remove_policy(self, caller: Caller, resource_type: str) -> None:
        """See `Retention.remove_policy`."""
        await self._retention.remove_policy(caller, resource_type)

    async def holds(self, caller: Caller, page: Page) -> Holds:
        """See `HoldKeeper.holds`."""
        return await self.keeping.holds.holds(caller, page)

    async def hold(self, caller: Caller, hold: NewHold) -> Hold:
        """See `HoldKeeper.hold`."""
        return await self.keeping.holds.hold(caller, hold)

    async def release(self, caller: Caller, hold_id: str) -> None:
        """See `HoldKeeper.release`."""
        await self.keeping.holds.release(caller, hold_id)

    async def start_run(self, caller: Caller, new: NewRetentionRun) -> RetentionRun:
        """See `RetentionEngine.start_run`."""
        return await self.keeping.engine.start_run(caller, new)

    async def runs(self, caller: Caller, page: Page) -> RetentionRuns:
        """See `RetentionEngine.runs`."""
        return await self.keeping.engine.runs(caller, page)

    async def run(self, caller: Caller, run_id: str) -> RetentionRun:
        """See `RetentionEngine.run`."""
        return await self.keeping.engine.run(caller, run_id)

    async def run_items(self, caller: Caller, run_id: str, page: ListQuery) -> ListedItems:
        """See `RetentionEngine.items`."""
        return await self.keeping.engine.items(caller, run_id, page)
