"""What compliance promises of legal holds."""

from __future__ import annotations

from typing import Literal, Protocol

from sealwire.contracts.compliance_terms import LOOK, RETAIN
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page, ShortText
from sealwire.kit.operation import Operation, Repeat, table
from sealwire.kit.problem import Conflict, Unavailable


class LegalHold(Conflict):
    """A legal hold forbids it."""

    code, title = "legal_hold", "A legal hold is in force"


class HoldPending(Unavailable):
    """Not every service has the hold yet; `hold_id` names it, and it is placed by itself."""

    code, title = "hold_pending", "The legal hold is being placed"


class NewHold(Input):
    """Exactly one of `subject_id` and `conversation_id`."""

    reason: ShortText
    subject_id: Id | None = None
    conversation_id: Id | None = None


class HoldGap(Output):
    """What an erasure had taken before a hold was in force: how many things, by service and kind.

    Of somebody else than a hold names: an erasure that was under way. Which of its messages and files were of this
    conversation, or mentioned this person, nobody can say any more.
    """

    job_id: str
    subject_id: str
    erased: dict[str, dict[str, int]]


class Hold(Output):
    """A legal hold: `placing` until every service has it, then `in_force`; `releasing` until all have let it go.

    What was deleted before `in_force_at` may be gone; nothing it covers is gone later. `gaps` says what an erasure took
    of it until then: it is empty when the hold came first. `found` says whether there was such a person, erased or not,
    or such a conversation when it came in force. While it is false the hold covers nothing but audit records that name
    the id: look whether that is the one that was meant.
    """

    hold_id: str
    reason: str
    created_at: str
    created_by: str
    subject_id: str | None = None
    conversation_id: str | None = None
    state: Literal["placing", "in_force", "releasing"] = "in_force"
    in_force_at: str | None = None
    gaps: list[HoldGap] = []
    found: bool | None = None


class Holds(Output):
    """The tenant's holds."""

    items: list[Hold]
    next_cursor: str | None = None


HOLDS = Operation(
    name="holds",
    verb="GET",
    path="/compliance/holds",
    takes=Page,
    gives=Holds,
    repeat=Repeat.SAFE,
    summary="Legal holds",
    **LOOK,
)
HOLD = Operation(
    name="hold",
    verb="POST",
    path="/compliance/holds",
    takes=NewHold,
    gives=Hold,
    step_up=True,
    summary="Put a legal hold",
    **RETAIN,
)
RELEASE = Operation(
    name="release",
    verb="DELETE",
    path="/compliance/holds/{hold_id}",
    repeat=Repeat.IDEMPOTENT,
    step_up=True,
    summary="Release a legal hold",
    **RETAIN,
)

OPERATIONS = table(
    HOLDS,
    HOLD,
    RELEASE,
)


class HoldRegistry(Protocol):
    """Legal holds of the tenant."""

    async def holds(self, caller: Caller, page: Page) -> Holds: ...
    async def hold(self, caller: Caller, hold: NewHold) -> Hold:
        """Return once it is in force everywhere. Raises: Invalid; HoldPending when that takes too long."""

    async def release(self, caller: Caller, hold_id: str) -> None: ...
