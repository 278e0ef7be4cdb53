"""The retention engine (R4.6): a run lists what is past its time, commits to the list by its hash, and disposes of it.

Every step is stored before the next begins, with the same batch after a crash: a run that was killed goes on exactly
where it was. Between two steps the others have the disk for longer than the step had it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from sealwire.contracts.compliance_terms import SERVICE
from sealwire.contracts.custody import Disposal, DueQuery, RetentionCustody
from sealwire.contracts.retention import (
    ListedItem,
    ListedItems,
    ListNotWhole,
    ListQuery,
    ListUnusable,
    NewRetentionRun,
    RetentionRun,
    RetentionRuns,
    RunActive,
    RunPart,
)
from sealwire.contracts.retention_policies import RetentionPolicy
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import US_PER_S, Clock, parse_rfc3339, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Invalid, NotFound
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.events import NewEvent
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.events import change_event
from sealwire.services.compliance.retention_ports import PolicyStore, RunStore, StoredPart, StoredRun, counted

OWNERS: Final = {"messages": "messaging", "media": "media", "sessions": "auth", "audit": SERVICE, "exports": SERVICE}
"""Which service holds the resources of a type."""
LISTED_AT_ONCE: Final = 1_000
POLICIES: Final = 100
PRUNED_AT_ONCE: Final = 1000
CHUNK: Final = 200
DAY_US: Final = 86_400 * US_PER_S
EVENTS_KEPT_US: Final = 7 * DAY_US
LIST_KEPT_US: Final = 7 * DAY_US
RUN_KEPT_US: Final = 365 * DAY_US
LONGEST_LOOK_S: Final = 60.0
LONGEST_PAUSE_S: Final = 10.0
LIST_PATIENCE_S: Final = 2.0
"""How long who starts a run waits for its list; a longer one is told by the run when it is asked for."""
LONGEST_REST_S: Final = 1.0
RESTS: Final = 1
"""How many times as long as a step of the run itself the others have the disk after it; owners pace themselves."""
_log = logging.getLogger("sealwire.compliance")
RetentionCustodians = Callable[[], Mapping[str, RetentionCustody]]


class RetentionEngine:
    """Runs of all tenants: one at a time of a tenant, each a task."""

    def __init__(
        self,
        *,
        runs: RunStore,
        policies: PolicyStore,
        custodians: RetentionCustodians,
        clock: Clock,
        config: ComplianceConfig,
        thin: Callable[[], Awaitable[int]],
    ) -> None:
        """`custodians` gives the services there are now, compliance among them; `thin`: see `Thinning.thin`."""
        self._runs = runs
        self._policies = policies
        self._custodians = custodians
        self._clock = clock
        self._config = config
        self._thin = thin
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listed: dict[str, asyncio.Event] = {}
        self._schedule: asyncio.Task[None] | None = None

    # ---- life

    async def start(self) -> None:
        """Take up the runs that were under way, and begin to look at the schedule."""
        if self._schedule is None:
            for run in await self._runs.active():
                self._go_on(run)
            self._schedule = asyncio.get_running_loop().create_task(self._by_schedule(), name="retention-schedule")

    async def stop(self) -> None:
        """End; runs under way are taken up at the next start."""
        schedule, self._schedule = self._schedule, None
        tasks = [*self._tasks.values(), *([] if schedule is None else [schedule])]
        self._tasks = {}
        await cancel_and_wait(*tasks)

    async def settled(self, run_id: str) -> None:
        """Wait until this process does nothing more about a run."""
        if (task := self._tasks.get(run_id)) is not None:
            await asyncio.wait({task})

    # ---- use cases

    async def start_run(self, caller: Caller, new: NewRetentionRun) -> RetentionRun:
        """See `RetentionRunning.start_run`."""
        if new.dry_run_id is not None:
            if new.dry_run or new.resource_type is not None:
                raise Invalid("A run that names a dry run does what the dry run found, no more.", path="$.dry_run_id")
            return _shown(await self._execute(caller, new.dry_run_id))
        policies = [
            p for p in await self._policies_of(caller.tenant_id) if new.resource_type in (None, p.resource_type)
        ]
        run = await self._begin(caller, caller.user_id, policies, dry_run=new.dry_run)
        # Who has things deleted is told by what list, unless the list is long.
        await asyncio.wait({asyncio.ensure_future(self._listed[run.run_id].wait())}, timeout=LIST_PATIENCE_S)
        return await self.run(caller, run.run_id)

    async def runs(self, caller: Caller, page: Page) -> RetentionRuns:
        """Return the tenant's runs, the newest first."""
        found = await self._runs.runs(caller.tenant_id, before=read_cursor(page.cursor), limit=page.limit + 1)
        items = [_shown(run) for run in found[: page.limit]]
        more = len(found) > page.limit
        return RetentionRuns(items=items, next_cursor=write_cursor(items[-1].run_id) if more else None)

    async def run(self, caller: Caller, run_id: str) -> RetentionRun:
        """Return a run. Raises: NotFound."""
        return _shown(await self._find(caller.tenant_id, run_id))

    async def items(self, caller: Caller, run_id: str, page: ListQuery) -> ListedItems:
        """See `RetentionRunning.run_items`."""
        kind, _, id_ = read_cursor(page.cursor).partition("/")
        list_id = (await self._find(caller.tenant_id, run_id)).list_id
        found = await self._runs.page(list_id, (kind, id_), page.limit + 1)
        # Looked at behind the reading: while it is `listed` nothing has been taken off its list.
        if (run := await self._find(caller.tenant_id, run_id)).status != "listed":
            raise ListNotWhole(f"The run is {run.status}; the list of a dry run can be read while it is `listed`.")
        last = found[page.limit - 1] if len(found) > page.limit else None
        return ListedItems(
            items=[ListedItem(resource_type=kind, id=id_) for kind, id_ in found[: page.limit]],
            next_cursor=None if last is None else write_cursor("/".join(last)),
        )

    async def _find(self, tenant_id: str, run_id: str) -> StoredRun:
        run = await self._runs.run(tenant_id, run_id)
        if run is None:
            raise NotFound("There is no such run.")
        return run

    async def _policies_of(self, tenant_id: str) -> list[RetentionPolicy]:
        """Return the tenant's policies by which something goes."""
        return [p for p in await self._policies.policies(tenant_id, after="", limit=POLICIES) if p.keep_days]

    async def _begin(
        self, caller: Caller, asked_by: str, policies: Sequence[RetentionPolicy], *, dry_run: bool = False
    ) -> StoredRun:
        now_us, run_id = self._clock.now_us(), new_id()
        parts = tuple(
            StoredPart(
                resource_type=policy.resource_type,
                keep_days=policy.keep_days,
                action=policy.action,
                before_us=now_us - policy.keep_days * DAY_US,
            )
            for policy in policies
        )
        run = StoredRun(
            run_id=run_id,
            tenant_id=caller.tenant_id,
            status="listing",
            dry_run=dry_run,
            asked_by=asked_by,
            started_us=now_us,
            batch=self._config.retention_batch,
            list_id=run_id,
            parts=parts,
        )
        event = self._event(caller, "retention.run_started", run, dry_run=dry_run)
        await self._runs.begin(run, event)
        self._go_on(run)
        return run

    async def _execute(self, caller: Caller, dry_run_id: str) -> StoredRun:
        """Begin a run that takes over the list of a dry run."""
        dry = await self._find(caller.tenant_id, dry_run_id)
        if dry.status != "listed":
            raise ListUnusable(f"The run is {dry.status}; only a finished dry run can be executed, once.")
        found = await self._policies.policies(caller.tenant_id, after="", limit=POLICIES)
        now = {(p.resource_type, p.keep_days, p.action) for p in found}
        if changed := [p.resource_type for p in dry.parts if (p.resource_type, p.keep_days, p.action) not in now]:
            raise ListUnusable(f"The policy for {', '.join(changed)} is another now; make a new dry run.")
        run = replace(
            dry,
            run_id=new_id(),
            status="disposing",
            dry_run=False,
            asked_by=caller.user_id,
            started_us=self._clock.now_us(),
            batch=self._config.retention_batch,
            finished_us=0,
        )
        event = self._event(caller, "retention.run_started", run, dry_run=False, list_hash=run.list_hash)
        await self._runs.begin(run, event, spends=dry_run_id)
        self._go_on(run)
        return run

    # ---- a run

    def _go_on(self, run: StoredRun) -> None:
        task = asyncio.get_running_loop().create_task(self._until_done(run), name="retention-run")
        self._tasks[run.run_id] = task
        self._listed[run.run_id] = asyncio.Event()
        task.add_done_callback(lambda _: self._ended(run.run_id))

    def _ended(self, run_id: str) -> None:
        self._tasks.pop(run_id, None)
        self._listed.pop(run_id).set()

    async def _until_done(self, run: StoredRun) -> None:
        """Do what is left of a run; what fails is tried again from what is stored."""
        pause_s = 0.1
        while run.active:
            try:
                run = await self._step(run)
                if run.list_hash:
                    self._listed[run.run_id].set()
                pause_s = 0.1
            except Exception as error:
                _log.warning("the retention run %s waits: %r", run.run_id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
                with suppress(Exception):
                    run = await self._runs.run(run.tenant_id, run.run_id) or run

    async def _step(self, run: StoredRun) -> StoredRun:
        if run.status == "listing":
            return await self._list(run)
        if run.status == "disposing":
            return await self._dispose(run)
        return await self._reclaim(run)

    async def _list(self, run: StoredRun) -> StoredRun:
        """List the next page; with the last one, commit to the list."""
        caller = service_caller(SERVICE, run.tenant_id)
        for place, part in enumerate(run.parts):
            if part.cursor is None:
                continue
            query = DueQuery(
                before=rfc3339(part.before_us),
                action=part.action,  # type: ignore[arg-type]  # a policy has one of the two
                limit=LISTED_AT_ONCE,
                cursor=part.cursor or None,
            )
            began = self._clock.monotonic()
            due = await self._owner(part).due(caller, part.resource_type, query)
            ids = [item.id for item in due.items if not item.held]
            part = replace(
                part,
                cursor=due.next_cursor,
                due=part.due + len(due.items),
                kept=part.kept + len(due.items) - len(ids),
                listed=part.listed + len(ids),
            )
            run = _with(run, place, part)
            await self._runs.add(run, part.resource_type, ids)
            await self._yield(began)
            return run
        list_hash = await self._runs.list_hash(run.list_id)
        listed = replace(
            run,
            status="listed" if run.dry_run else "disposing",
            list_hash=list_hash,
            finished_us=self._clock.now_us() if run.dry_run else 0,
        )
        counts = {p.resource_type: p.listed for p in run.parts}
        await self._runs.save(listed, self._event(caller, "retention.listed", listed, list_hash=list_hash, **counts))
        return listed

    async def _dispose(self, run: StoredRun) -> StoredRun:
        """Dispose of the next batch; after the last one go on with the disk."""
        begun = any(p.disposed or p.held or p.missing for p in run.parts)
        if not begun and await self._runs.list_hash(run.list_id) != run.list_hash:
            return await self._fail(run, "the stored list is not the one that was committed to")
        caller = service_caller(SERVICE, run.tenant_id)
        for place, part in enumerate(run.parts):
            # Every pruning of records is a record itself: fewer and larger ones.
            batch = PRUNED_AT_ONCE if part.resource_type == "audit" else run.batch
            ids = await self._runs.next(run.list_id, part.resource_type, batch)
            if not ids:
                continue
            disposal = Disposal(run_id=run.run_id, ids=list(ids), action=part.action)  # type: ignore[arg-type]  # as above
            done = await self._owner(part).dispose(caller, part.resource_type, disposal)  # which paces itself
            began = self._clock.monotonic()
            run = _with(run, place, counted(part, done))
            await self._runs.take(run, part.resource_type, ids[-1])
            await self._yield(began)
            return run
        run = replace(run, status="reclaiming")
        await self._runs.save(run)
        return run

    async def _reclaim(self, run: StoredRun) -> StoredRun:
        """Give disk space back, step by step, and end the run."""
        caller = service_caller(SERVICE, run.tenant_id)
        given = 0
        owners = {OWNERS[part.resource_type] for part in run.parts if part.disposed}
        for name in (*sorted(owners - {SERVICE}), SERVICE):  # the list was compliance's own
            owner = self._custodians()[name]
            while step := (await owner.reclaim(caller)).reclaimed_bytes:
                given += step
        done = replace(run, status="done", reclaimed_bytes=given, finished_us=self._clock.now_us())
        counts: dict[str, str | int] = {}
        for part in run.parts:
            for name in ("listed", "disposed", "held", "missing"):
                counts[f"{part.resource_type}_{name}"] = getattr(part, name)
        event = self._event(
            caller, "retention.run_finished", done, list_hash=run.list_hash, reclaimed_bytes=given, **counts
        )
        await self._runs.save(done, event)
        return done

    async def _fail(self, run: StoredRun, problem: str) -> StoredRun:
        failed = replace(run, status="failed", problem=problem, finished_us=self._clock.now_us())
        caller = service_caller(SERVICE, run.tenant_id)
        await self._runs.save(failed, self._event(caller, "retention.run_failed", failed, problem=problem))
        return failed

    async def _yield(self, began_s: float) -> None:
        """Leave the disk to others for some times as long as it was ours."""
        rest_s = RESTS * (self._clock.monotonic() - began_s)
        await asyncio.sleep(max(self._config.retention_pause_ms / 1000, min(rest_s, LONGEST_REST_S)))

    def _owner(self, part: StoredPart) -> RetentionCustody:
        return self._custodians()[OWNERS[part.resource_type]]

    def _event(self, caller: Caller, kind: str, run: StoredRun, **metadata: str | int) -> NewEvent:
        return change_event(
            caller,
            kind,
            resource_type="retention_run",
            resource_id=run.run_id,
            at_us=self._clock.now_us(),
            **metadata,
        )

    # ---- the schedule

    async def _by_schedule(self) -> None:
        every_s = self._config.retention_every_s
        while True:
            try:
                if every_s:
                    await self.look()
                await self.tidy()
            except Exception as error:
                _log.warning("the schedule of retention is looked at later: %r", error)
            await asyncio.sleep(min(every_s or LONGEST_LOOK_S, LONGEST_LOOK_S))

    async def look(self) -> Sequence[str]:
        """Begin a run for every tenant whose last one by schedule is long enough ago. Return the tenants.

        A policy counts once it has stood for an interval: so there is time to try it, and to take it back.
        """
        before_us = self._clock.now_us() - int(self._config.retention_every_s * US_PER_S)
        begun: list[str] = []
        for tenant_id in await self._runs.due_tenants(before_us):
            settled = [p for p in await self._policies_of(tenant_id) if parse_rfc3339(p.updated_at) <= before_us]
            if settled:
                with suppress(RunActive):
                    await self._begin(service_caller(SERVICE, tenant_id), "", settled)
                begun.append(tenant_id)
        return begun

    async def tidy(self) -> None:
        """Delete old lists that nobody executed, old runs, events that are recorded, checkpoints by the dozen."""
        await self._thin()
        now_us = self._clock.now_us()
        await self._runs.trim(now_us - EVENTS_KEPT_US)
        more = 1
        while more:
            more = await self._runs.forget(
                runs_before_us=now_us - RUN_KEPT_US, lists_before_us=now_us - LIST_KEPT_US, limit=CHUNK
            )
            await asyncio.sleep(self._config.retention_pause_ms / 1000)


def _with(run: StoredRun, place: int, part: StoredPart) -> StoredRun:
    return replace(run, parts=(*run.parts[:place], part, *run.parts[place + 1 :]))


def _shown(run: StoredRun) -> RetentionRun:
    return RetentionRun(
        run_id=run.run_id,
        status=run.status,
        dry_run=run.dry_run,
        progress=_progress(run),
        parts=[
            RunPart(
                resource_type=p.resource_type,
                keep_days=p.keep_days,
                action=p.action,
                before=rfc3339(p.before_us),
                due=p.due,
                kept=p.kept,
                listed=p.listed,
                disposed=p.disposed,
                held=p.held,
                missing=p.missing,
            )
            for p in run.parts
        ],
        asked_by=run.asked_by,
        started_at=rfc3339(run.started_us),
        finished_at=rfc3339(run.finished_us) if run.finished_us else None,
        list_hash=run.list_hash or None,
        dry_run_id=run.list_id if run.list_id != run.run_id else None,
        reclaimed_bytes=run.reclaimed_bytes,
        problem=run.problem or None,
    )


def _progress(run: StoredRun) -> float:
    """Return how far a run is: of disposing exactly; of listing by types; the disk is the last hundredth."""
    if not run.active:
        return 1.0
    if run.status == "listing":
        return 0.0 if not run.parts else 0.1 * sum(p.cursor is None for p in run.parts) / len(run.parts)
    listed = sum(p.listed for p in run.parts)
    gone = sum(p.disposed + p.held + p.missing for p in run.parts)
    return 0.1 + 0.89 * (gone / listed if listed else 1.0)
