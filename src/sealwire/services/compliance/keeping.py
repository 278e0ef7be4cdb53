"""Keeping and letting go: the holds, the engine, and compliance's own part of retention: records and exports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from sealwire.contracts.compliance_terms import SERVICE
from sealwire.contracts.custody import Disposal, Disposed, Due, DueItem, DueQuery, Reclaimed, SubjectQuery
from sealwire.contracts.holds import Hold, HoldGap
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import Clock, parse_rfc3339
from sealwire.kit.cursors import read_number
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.holds import HoldKeeper
from sealwire.services.compliance.job_ports import RightsStore
from sealwire.services.compliance.ports import ComplianceStores
from sealwire.services.compliance.pruning import Pruning
from sealwire.services.compliance.retention import Retention
from sealwire.services.compliance.retention_ports import RunStore
from sealwire.services.compliance.retention_runs import RetentionEngine

SEQ_DIGITS: Final = 12
"""Records are listed by `seq` with leading zeros: so the order of a list is the order of the log."""
DisposeExports = Callable[[str, str, Sequence[str]], Awaitable[Disposed]]
"""Of tenant, run and ids of jobs."""


class OwnShelf:
    """`RetentionCustody` of compliance itself."""

    def __init__(
        self,
        *,
        pruning: Pruning,
        rights: RightsStore,
        runs: RunStore,
        dispose_exports: DisposeExports,
    ) -> None:
        """`dispose_exports` drops archives as `Exports.dispose` says."""
        self._pruning = pruning
        self._rights = rights
        self._runs = runs
        self._dispose_exports = dispose_exports

    async def due(self, caller: Caller, resource_type: str, query: DueQuery) -> Due:
        """See `RetentionCustody`. Of exports the archive is meant; the record of the job stays."""
        before_us = parse_rfc3339(query.before)
        if resource_type == "exports":
            return await self._due_exports(caller.tenant_id, before_us, query)
        after_seq = read_number(query.cursor)
        found = await self._pruning.due(caller.tenant_id, before_us=before_us, after_seq=after_seq, limit=query.limit)
        items = [DueItem(id=f"{record.seq:0{SEQ_DIGITS}d}", held=record.held) for record in found]
        return Due(items=items, next_cursor=items[-1].id if len(items) == query.limit else None)

    async def _due_exports(self, tenant_id: str, before_us: int, query: DueQuery) -> Due:
        cursor = query.cursor or ""
        found = await self._rights.due_exports(tenant_id, before_us, before=cursor, limit=query.limit)
        items = [DueItem(id=job_id, held=held) for job_id, held in found]
        return Due(items=items, next_cursor=items[-1].id if len(items) == query.limit else None)

    async def dispose(self, caller: Caller, resource_type: str, disposal: Disposal) -> Disposed:
        """See `RetentionCustody`. Of records the hashes stay."""
        if resource_type == "exports":
            return await self._dispose_exports(caller.tenant_id, disposal.run_id, disposal.ids)
        seqs = [int(id_) for id_ in disposal.ids if id_.isascii() and id_.isdigit() and len(id_) <= SEQ_DIGITS]
        count = await self._pruning.prune(caller.tenant_id, seqs, run_id=disposal.run_id)
        return Disposed(disposed=count.pruned, held=count.held, missing=len(disposal.ids) - count.pruned - count.held)

    async def reclaim(self, caller: Caller) -> Reclaimed:
        """See `RetentionCustody`."""
        return Reclaimed(reclaimed_bytes=await self._runs.reclaim())


class Keeping:
    """`holds` and `engine`, with one life."""

    def __init__(
        self,
        *,
        stores: ComplianceStores,
        pruning: Pruning,
        dispose_exports: DisposeExports,
        custodians: Callable[[], Mapping[str, Any]],
        released: Callable[[str], Awaitable[None]],
        gaps: Callable[[str, Hold], Awaitable[list[HoldGap]]],
        thin: Callable[[], Awaitable[int]],
        clock: Clock,
        config: ComplianceConfig,
    ) -> None:
        """`custodians` gives the services that hold data, asked anew for every step; the rest: see `HoldKeeper`."""
        self._custodians = custodians
        self.holds = HoldKeeper(
            store=stores.holds, custodians=custodians, released=released, gaps=gaps, knows=self._knows, clock=clock,
            patience_s=config.hold_patience_s,
        )  # fmt: skip
        self._policies = Retention(store=stores.retention, clock=clock)
        self._anonymous_keep_days = config.anonymous_keep_days
        shelf = OwnShelf(pruning=pruning, rights=stores.rights, runs=stores.runs, dispose_exports=dispose_exports)
        self.engine = RetentionEngine(
            runs=stores.runs,
            policies=stores.retention,
            custodians=lambda: {**self.custodians(), SERVICE: shelf},
            clock=clock,
            config=config,
            thin=thin,
        )

    def custodians(self) -> Mapping[str, Any]:
        """Return the services that hold data, for what deletes or replaces.

        Raises: Unavailable until they have every hold.
        """
        self.holds.require_told()
        return self._custodians()

    async def _knows(self, tenant_id: str, hold: Hold) -> bool | None:
        """Ask who has people, or conversations, whether there is the one that a hold names; None without an answer.

        Nothing that fails here keeps a hold from being in force.
        """
        caller = service_caller(SERVICE, tenant_id)
        with suppress(Exception):
            there = self._custodians()
            auth, messaging = there["auth"], there["messaging"]
            if hold.subject_id is None:
                return bool((await messaging.knows_conversation(caller, hold.conversation_id)).known)
            return bool((await auth.export_subject(caller, hold.subject_id, SubjectQuery(limit=1))).items)
        return None

    async def start(self) -> None:
        """Take up what was under way."""
        await self.holds.start()
        await self._policies.keep_anonymous(self._anonymous_keep_days)
        await self.engine.start()

    async def stop(self) -> None:
        """End; what is under way is taken up at the next start."""
        await self.engine.stop()
        await self.holds.stop()
