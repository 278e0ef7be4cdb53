"""What the retention engine and the keeper of legal holds ask of storage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from sealwire.contracts.custody import Disposed
from sealwire.contracts.holds import Hold, HoldGap
from sealwire.contracts.retention import RunStatus
from sealwire.contracts.retention_policies import RetentionPolicy
from sealwire.ports.events import NewEvent


class StoredPart(msgspec.Struct, frozen=True, kw_only=True):
    """A resource type of a run. `cursor` is where listing goes on, None once all is listed."""

    resource_type: str
    keep_days: int
    action: str
    before_us: int
    cursor: str | None = ""
    due: int = 0
    kept: int = 0
    listed: int = 0
    disposed: int = 0
    held: int = 0
    missing: int = 0


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as stored. Its list is kept under `list_id`: its own id, or that of the dry run it executes.

    `batch` is how many an owner is asked to dispose of at once: the same after a crash, so that the batch is the same.
    """

    run_id: str
    tenant_id: str
    status: RunStatus
    dry_run: bool
    asked_by: str
    started_us: int
    batch: int
    list_id: str
    parts: tuple[StoredPart, ...]
    list_hash: str = ""
    finished_us: int = 0
    reclaimed_bytes: int = 0
    problem: str = ""

    @property
    def active(self) -> bool:
        """Whether there is still something to do."""
        return self.status in ("listing", "disposing", "reclaiming")


class RunStore(Protocol):
    """Runs and their lists. Every method is atomic, durable on return, with its event in the same transaction.

    Lists are long, and nobody waits for them: their changes give way to other writers of the same file.

    MongoDB: a document per run, with a partial unique index on the tenant of those active; a list is a collection with
    the index (list id, type, id), which is its order.
    """

    async def begin(self, run: StoredRun, event: NewEvent, *, spends: str = "") -> None:
        """Store a new run; `spends` is a listed dry run that is `spent` by it.

        Raises: RunActive; ListUnusable when the dry run is not `listed` any more.
        """

    async def save(self, run: StoredRun, event: NewEvent | None = None) -> None:
        """Replace a run."""

    async def add(self, run: StoredRun, resource_type: str, ids: Sequence[str]) -> None:
        """Put these on the run's list and replace the run."""

    async def next(self, list_id: str, resource_type: str, limit: int) -> Sequence[str]:
        """Return the first of a list, in the order of their ids' bytes."""

    async def page(self, list_id: str, after: tuple[str, str], limit: int) -> Sequence[tuple[str, str]]:
        """Return (resource type, id) of a list above a place, in the order its hash covers."""

    async def take(self, run: StoredRun, resource_type: str, upto: str) -> None:
        """Take what `next` gave, up to this one, off the run's list, and replace the run."""

    async def list_hash(self, list_id: str) -> str:
        """Return the hash of a whole list (`contracts.retention.RetentionRun`), without blocking others for long."""

    async def run(self, tenant_id: str, run_id: str) -> StoredRun | None:
        """Return a run."""

    async def runs(self, tenant_id: str, *, before: str, limit: int) -> Sequence[StoredRun]:
        """Return runs with ids below `before` (empty: all), the newest first."""

    async def active(self) -> Sequence[StoredRun]:
        """Return the runs of all tenants that aren't finished."""

    async def due_tenants(self, before_us: int) -> Sequence[str]:
        """Return tenants that have a policy with a time and began no run by schedule since `before_us`."""

    async def forget(self, *, runs_before_us: int, lists_before_us: int, limit: int) -> int:
        """Delete a chunk of old lists nobody executed, and of old finished runs; return how many rows.

        A run is `spent` before the first of its list goes: what is `listed` is there as a whole.
        """

    async def trim(self, before_us: int) -> None:
        """Drop compliance's own events older than this that every consumer has passed."""

    async def reclaim(self) -> int:
        """Give the next part of the free space back; return how many bytes."""


class HoldStore(Protocol):
    """Holds with their states. As `RunStore`. A hold in any state covers what it names, in the same transaction."""

    async def place(self, tenant_id: str, hold: Hold, event: NewEvent) -> None:
        """Store a hold that is being placed."""

    async def confirm(
        self, tenant_id: str, hold_id: str, at: str, gaps: Sequence[HoldGap], found: bool | None, event: NewEvent
    ) -> bool:
        """Let a hold that is being placed be in force, with what was gone by then, and whether there was what it names.

        False when it isn't being placed any more.
        """

    async def begin_release(self, tenant_id: str, hold_id: str, event: NewEvent) -> bool:
        """Begin to release a hold; False when there is none, or it began before."""

    async def drop(self, tenant_id: str, hold_id: str, event: NewEvent) -> bool:
        """Forget a hold that is being released; False when there is none."""

    async def get(self, tenant_id: str, hold_id: str) -> Hold | None:
        """Return a hold."""

    async def page(self, tenant_id: str, *, after: str, limit: int) -> Sequence[Hold]:
        """Return holds in the order of their ids, above `after`."""

    async def covers(self, tenant_id: str, *, subject_id: str = "", conversation_id: str = "") -> bool:
        """Whether a hold in any state covers this person or conversation. To decide a deletion it is too early."""

    async def on(
        self, tenant_id: str, conversation_ids: Collection[str], hold_ids: Collection[str] = ()
    ) -> Sequence[Hold]:
        """Return the holds, in whatever state, on these conversations or with these ids, in the order of their ids."""

    async def unsettled(self) -> Sequence[tuple[str, Hold]]:
        """Return (tenant, hold) of all that are being placed or released."""

    async def in_force(self) -> Sequence[tuple[str, Hold]]:
        """Return (tenant, hold) of all that are in force."""


class PolicyStore(Protocol):
    """Policies, for the engine."""

    async def policies(self, tenant_id: str, *, after: str, limit: int) -> Sequence[RetentionPolicy]:
        """Return policies in the order of their resource types, above `after`."""


def counted(part: StoredPart, done: Disposed) -> StoredPart:
    """Return the part with what became of a batch."""
    return msgspec.structs.replace(
        part,
        disposed=part.disposed + done.disposed,
        held=part.held + done.held,
        missing=part.missing + done.missing,
    )
