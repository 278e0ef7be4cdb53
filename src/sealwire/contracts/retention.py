"""What compliance promises of retention: runs that list what is past its time, commit to that, and dispose of it."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from sealwire.contracts.compliance_terms import LOOK, RETAIN
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page
from sealwire.kit.operation import Operation, Repeat, table
from sealwire.kit.problem import Conflict

ResourceType = Literal["messages", "media", "audit", "sessions", "exports"]
RunStatus = Literal["listing", "listed", "disposing", "reclaiming", "done", "spent", "failed"]
"""A dry run ends `listed`, and `spent` once another run took its list. Every other run ends `done` or `failed`."""


class RunActive(Conflict):
    """The tenant has a run under way; `run_id` names it."""

    code, title = "retention_run_active", "A retention run is under way"


class ListUnusable(Conflict):
    """The dry run named can't be executed: it isn't finished, was executed before, or the policy is another now."""

    code, title = "retention_list_unusable", "This dry run can't be executed"


class ListNotWhole(Conflict):
    """The list is still made, is disposed of, or was: only that of a dry run that is `listed` can be read."""

    code, title = "retention_list_not_whole", "The list of this run is not there as a whole"


class NewRetentionRun(Input):
    """What to do. A run that names a dry run disposes of exactly its list, minus what is held by now.

    Without `resource_type` all that have a policy.
    """

    dry_run: bool = False
    dry_run_id: Id | None = None
    resource_type: ResourceType | None = None


class RunPart(Output):
    """One resource type of a run. What is `before` (RFC 3339) is past its time.

    `due` was found past its time; `kept` of it was held already and isn't on the list, `listed` is. Of the list,
    `disposed` went, `held` was held by then, `missing` was gone before: these three differ from what the list said.
    """

    resource_type: str
    keep_days: int
    action: str
    before: str
    due: int = 0
    kept: int = 0
    listed: int = 0
    disposed: int = 0
    held: int = 0
    missing: int = 0


class RetentionRun(Output):
    """A run. `list_hash` is the SHA-256 (lowercase hex) over the lines `<resource_type>/<id>` of its list.

    The lines are sorted by their bytes, and each ends with a line feed. `asked_by` is empty for a run by schedule.
    """

    run_id: str
    status: RunStatus
    dry_run: bool
    progress: float
    parts: list[RunPart]
    asked_by: str
    started_at: str
    finished_at: str | None = None
    list_hash: str | None = None
    dry_run_id: str | None = None
    reclaimed_bytes: int = 0
    problem: str | None = None


class ListQuery(Input):
    """The paging members of a list of things."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    cursor: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class ListedItem(Output):
    """A thing on the list of a run, by the id it has with its service; of `audit` its `seq`, as 12 digits."""

    resource_type: str
    id: str


class ListedItems(Output):
    """What a dry run found, in the order `list_hash` covers: `<resource_type>/<id>` and a line feed for each."""

    items: list[ListedItem]
    next_cursor: str | None = None


class RetentionRuns(Output):
    """The tenant's runs, the newest first."""

    items: list[RetentionRun]
    next_cursor: str | None = None


START_RUN = Operation(
    name="start_run",
    verb="POST",
    path="/compliance/retention/runs",
    takes=NewRetentionRun,
    gives=RetentionRun,
    step_up=True,
    summary="List what is past its time, or dispose of it",
    **RETAIN,
)
RUNS = Operation(
    name="runs",
    verb="GET",
    path="/compliance/retention/runs",
    takes=Page,
    gives=RetentionRuns,
    repeat=Repeat.SAFE,
    summary="Retention runs",
    **LOOK,
)
RUN = Operation(
    name="run",
    verb="GET",
    path="/compliance/retention/runs/{run_id}",
    gives=RetentionRun,
    repeat=Repeat.SAFE,
    summary="One retention run and its progress",
    **LOOK,
)
RUN_ITEMS = Operation(
    name="run_items",
    verb="GET",
    path="/compliance/retention/runs/{run_id}/items",
    takes=ListQuery,
    gives=ListedItems,
    repeat=Repeat.SAFE,
    summary="What a dry run found, in the order its hash covers",
    **LOOK,
)

OPERATIONS = table(START_RUN, RUNS, RUN, RUN_ITEMS)


class RetentionRunning(Protocol):
    """The engine, in this process or another."""

    async def start_run(self, caller: Caller, new: NewRetentionRun) -> RetentionRun:
        """Begin a run; durable on return, and with `list_hash` unless listing takes more than two seconds.

        Raises: RunActive, ListUnusable; NotFound for an unknown dry run.
        """

    async def runs(self, caller: Caller, page: Page) -> RetentionRuns: ...
    async def run(self, caller: Caller, run_id: str) -> RetentionRun:
        """Raises: NotFound."""

    async def run_items(self, caller: Caller, run_id: str, page: ListQuery) -> ListedItems:
        """Return a page of the list of a dry run that waits to be executed. Raises: NotFound, ListNotWhole, Invalid."""
