"""What compliance promises a person about their data: export, erasure, rectification, restriction, each in due time."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Protocol

import msgspec

from sealwire.contracts.auth_terms import Email
from sealwire.contracts.compliance_terms import SERVICE
from sealwire.contracts.custody import MessagePolicy
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page, ShortText
from sealwire.kit.operation import Operation, RateClass, Repeat, table
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, NotFound, Problem

JobKind = Literal["export", "erasure", "rectification"]
JobStatus = Literal["pending", "running", "blocked", "done", "failed"]
"""`blocked`: a legal hold stands against it; it goes on by itself once that is released."""


class PersonNotFound(NotFound):
    """The tenant has no such person."""

    code, title = "person_not_found", "There is no such person"


class JobNotFound(NotFound):
    """No such job, or none that the caller may see."""

    code, title = "job_not_found", "There is no such job"


class ExportNotReady(Conflict):
    """The archive is still being made."""

    code, title = "export_not_ready", "The export is not ready"


class ExportGone(Problem):
    """The archive was fetched already, or its time is over. A new export can be asked for."""

    code, title, status = "export_gone", "The export is gone", 410


class NewExport(Input):
    """Whose data; without it the caller's own."""

    subject_id: Id | None = None


class NewErasure(Input):
    """Whose data and why. `messages`: what becomes of what the person wrote; without it as the settings say.

    `again`: also when it was done before, or auth knows nobody of that id: after older data was put back.
    """

    subject_id: Id | None = None
    reason: ShortText = "asked for by the person"
    messages: MessagePolicy | None = None
    again: bool = False


class PersonChanges(Input):
    """What is wrong today, as it should be. At least one."""

    email: Email | None = None
    display_name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None

    def __post_init__(self) -> None:
        if self.email is None and self.display_name is None:
            raise ValueError("give email or display_name")


class NewRectification(Input):
    """Whose data is to be put right; without `subject_id` the caller's own."""

    changes: PersonChanges
    subject_id: Id | None = None


class NewRestriction(Input):
    """Whose data is to be kept without being processed (GDPR Art. 18), and why."""

    subject_id: Id
    reason: ShortText


class Restriction(Output):
    """A restriction in force."""

    subject_id: str
    restricted_at: str
    restricted_by: str
    reason: str | None = None


class Restrictions(Output):
    """Restrictions in force."""

    items: list[Restriction]
    next_cursor: str | None = None


class Receipt(Output):
    """What one service did for a job, by kind. `kept` is what holds keep: in the conversations `kept_in`, which holds
    name, or by the holds `kept_by`, on other people."""

    service: str
    done: bool = False
    finished_at: str | None = None
    counts: dict[str, int] = {}
    kept: dict[str, int] = {}
    kept_in: list[str] = []
    kept_by: list[str] = []


class GdprJob(Output):
    """A job and how far it is (`progress` from 0 to 1). It is due within a month (GDPR Art. 12(3)).

    Of a finished erasure `certificate` is a signed note (C2SP) and `public_key` the line that verifies it; of a
    finished export `download` is the path to fetch the archive from, once, until `expires_at`.
    """

    job_id: str
    kind: JobKind
    subject_id: str
    status: JobStatus
    progress: float
    requested_at: str
    requested_by: str
    due_at: str
    overdue: bool = False
    finished_at: str | None = None
    receipts: list[Receipt] = []
    problem: str | None = None
    certificate: str | None = None
    certificate_sha256: str | None = None
    public_key: str | None = None
    download: str | None = None
    expires_at: str | None = None
    size_bytes: int | None = None


class JobQuery(Page):
    """Filters; all of them must hold. `overdue` shows only those whose time is over and that aren't finished."""

    kind: JobKind | None = None
    subject_id: Id | None = None
    status: JobStatus | None = None
    overdue: bool = False


class GdprJobs(Output):
    """The newest first."""

    items: list[GdprJob]
    next_cursor: str | None = None


_OWN: dict[str, Any] = {"service": SERVICE, "needs": Permission.OWN_DATA}
_ASK: dict[str, Any] = {
    **_OWN, "verb": "POST", "gives": GdprJob, "status": 202, "step_up": True, "rate": RateClass.WRITE,
}  # fmt: skip
_LOOK: dict[str, Any] = {**_OWN, "verb": "GET", "gives": GdprJob, "repeat": Repeat.SAFE}
_MANAGE: dict[str, Any] = {"service": SERVICE, "needs": Permission.MANAGE_GDPR}

REQUEST_EXPORT: Final = Operation(
    name="request_export", path="/compliance/gdpr/exports", takes=NewExport, summary="Ask for a person's data", **_ASK
)
EXPORT_JOB: Final = Operation(
    name="export_job", path="/compliance/gdpr/exports/{job_id}", summary="Progress of an export", **_LOOK
)
REQUEST_ERASURE: Final = Operation(
    name="request_erasure", path="/compliance/gdpr/erasures", takes=NewErasure, summary="Have a person erased", **_ASK
)
ERASURE_JOB: Final = Operation(
    name="erasure_job", path="/compliance/gdpr/erasures/{job_id}", summary="Progress, then certificate", **_LOOK
)
REQUEST_RECTIFICATION: Final = Operation(
    name="request_rectification", path="/compliance/gdpr/rectifications", takes=NewRectification,
    summary="Have a person's data put right", **_ASK,
)  # fmt: skip
RECTIFICATION_JOB: Final = Operation(
    name="rectification_job", path="/compliance/gdpr/rectifications/{job_id}",
    summary="Progress of a rectification", **_LOOK,
)  # fmt: skip
JOBS: Final = Operation(
    name="gdpr_jobs", verb="GET", path="/compliance/gdpr/jobs", takes=JobQuery, gives=GdprJobs, repeat=Repeat.SAFE,
    summary="Jobs: the own ones; for owners, admins and auditors all of the tenant", **_OWN,
)  # fmt: skip
RESTRICT: Final = Operation(
    name="restrict", verb="POST", path="/compliance/gdpr/restrictions", takes=NewRestriction, gives=Restriction,
    step_up=True, repeat=Repeat.IDEMPOTENT, rate=RateClass.WRITE,
    summary="Keep a person's data without processing it", **_MANAGE,
)  # fmt: skip
RESTRICTIONS: Final = Operation(
    name="restrictions", verb="GET", path="/compliance/gdpr/restrictions", takes=Page, gives=Restrictions,
    repeat=Repeat.SAFE, summary="Restrictions in force", **_MANAGE,
)  # fmt: skip
LIFT: Final = Operation(
    name="lift_restriction", verb="DELETE", path="/compliance/gdpr/restrictions/{subject_id}",
    step_up=True, repeat=Repeat.IDEMPOTENT, rate=RateClass.WRITE, summary="Process a person's data again", **_MANAGE,
)  # fmt: skip
DOWNLOAD_PATH: Final = "/compliance/gdpr/exports/{job_id}/download"

OPERATIONS: Final = table(
    REQUEST_EXPORT, EXPORT_JOB, REQUEST_ERASURE, ERASURE_JOB, REQUEST_RECTIFICATION, RECTIFICATION_JOB, JOBS, RESTRICT,
    RESTRICTIONS, LIFT,
)  # fmt: skip


class Rights(Protocol):
    """The rights of a person (GDPR Art. 15 to 20). Everybody asks for themselves; owners and admins for others too.

    Beside these a raw route: `GET /compliance/gdpr/exports/{job_id}/download`, the ZIP, for who asked for it, in a
    session that holds, once.
    """

    async def request_export(self, caller: Caller, export: NewExport) -> GdprJob:
        """Raises: Forbidden, PersonNotFound."""

    async def export_job(self, caller: Caller, job_id: str) -> GdprJob:
        """Raises: JobNotFound."""

    async def request_erasure(self, caller: Caller, erasure: NewErasure) -> GdprJob:
        """Begin to erase; of a person being erased, or erased, the job that is there.

        Raises: Forbidden, PersonNotFound, LegalHold, LastOwner.
        """

    async def erasure_job(self, caller: Caller, job_id: str) -> GdprJob: ...
    async def request_rectification(self, caller: Caller, rectification: NewRectification) -> GdprJob:
        """Raises: Forbidden, PersonNotFound."""

    async def rectification_job(self, caller: Caller, job_id: str) -> GdprJob: ...
    async def gdpr_jobs(self, caller: Caller, query: JobQuery) -> GdprJobs: ...
    async def restrict(self, caller: Caller, restriction: NewRestriction) -> Restriction:
        """In force everywhere before the answer. Raises: PersonNotFound."""

    async def restrictions(self, caller: Caller, page: Page) -> Restrictions: ...
    async def lift_restriction(self, caller: Caller, subject_id: str) -> None: ...
