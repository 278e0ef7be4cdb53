"""What jobs for people's rights are made of, and what they ask of storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from sealwire.contracts.custody import Disposed, MessagePolicy
from sealwire.contracts.gdpr import JobKind, JobStatus, Receipt
from sealwire.ports.events import NewEvent


class Written(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an export is: `parts` of its archive are durable, `size_bytes` long, with `members` whole files.

    `service` is being asked, `cursor` names its next page; `listed_to` is the part its last item stands in, once all
    are listed. Then come the files that its parts name: next the one at `file` of part `file_part`. `counts` and
    `listings` (how many files so far) are by kind, of this service. `damaged`: path and reason of files that can't be
    read and that no part tells of yet.
    """

    parts: int = 0
    size_bytes: int = 0
    members: int = 0
    service: str = ""
    cursor: str | None = None
    listed_to: int | None = None
    file_part: int = 0
    file: int = 0
    counts: dict[str, int] = {}
    listings: dict[str, int] = {}
    damaged: tuple[tuple[str, str], ...] = ()


class Box(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job knows of the person: sealed while the job lasts, its key destroyed at the end.

    `words` are what the probe looks for afterwards; `collected` says that they were gathered; `written` is how far an
    export is. `spares_owners`: who asked is no owner, and changes none, whatever the person is by then.
    """

    reason: str = ""
    pseudonym: str = ""
    messages: MessagePolicy = "tombstone"
    email: str | None = None
    display_name: str | None = None
    words: tuple[str, ...] = ()
    collected: bool = False
    written: Written | None = None
    spares_owners: bool = False


class Archive(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished export: its plain size, until when it may be fetched.

    `blob_key` and `header` name the one sealed blob of an archive written before there were parts; else they are empty.
    """

    size_bytes: int
    expires_us: int
    blob_key: str = ""
    header: bytes = b""


class StoredPart(msgspec.Struct, frozen=True, kw_only=True):
    """A durable part of an export's archive; `contents` is a sealed list of what is in it."""

    job_id: str
    number: int
    blob_key: str
    header: bytes
    size_bytes: int
    contents: bytes


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as stored. `box` is a sealed `Box`, None at the end; times in microseconds."""

    job_id: str
    tenant_id: str
    kind: JobKind
    subject_id: str
    status: JobStatus
    requested_by: str
    requested_us: int
    due_us: int
    finished_us: int | None = None
    progress: float = 0.0
    receipts: tuple[Receipt, ...] = ()
    problem: str | None = None
    box: bytes | None = None
    certificate: str | None = None
    public_key: str | None = None
    archive: Archive | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("done", "failed")


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs; all that is given has to hold. `due_before_us`: those unfinished whose time was over by then."""

    kind: JobKind | None = None
    subject_id: str | None = None
    requested_by: str | None = None
    status: JobStatus | None = None
    due_before_us: int | None = None


class StoredRestriction(msgspec.Struct, frozen=True, kw_only=True):
    """A restriction in force; `reason` is sealed. `spares_owners`: who asked for it is no owner."""

    subject_id: str
    at_us: int
    by: str
    reason: bytes
    spares_owners: bool = False


class RightsStore(Protocol):
    """Jobs, restrictions, and who is erased. Every change is atomic and durable on return, with its events.

    MongoDB: documents `gdpr_job` (a partial unique index on tenant, subject where kind is erasure and unfinished),
    `restriction`, `erased`; the event in the same multi-document transaction.
    """

    async def add(self, job: StoredJob, event: NewEvent, *, waits: bool = False) -> StoredJob:
        """Store a job; while an erasure of the same person is unfinished, return that one and store nothing.

        Raises: LegalHold, unless it `waits`, for an erasure of a person whom a hold covers that is in the book already,
        placed or not yet: which of the two came first is decided here.
        """

    async def save(self, job: StoredJob, events: Sequence[NewEvent] = ()) -> None:
        """Replace a job, unless it is finished already."""

    async def job(self, tenant_id: str, job_id: str) -> StoredJob | None:
        """Return one."""

    async def jobs(self, tenant_id: str, wanted: JobFilter, *, before: str, limit: int) -> Sequence[StoredJob]:
        """Return jobs with an id below `before` (empty: all), the newest first."""

    async def unfinished(self) -> Sequence[StoredJob]:
        """Return what is to go on after a start, oldest first."""

    async def expired(self, now_us: int, limit: int) -> Sequence[StoredJob]:
        """Return jobs with an archive whose time is over."""

    async def clear_archive(self, job_id: str, events: Sequence[NewEvent] = ()) -> bool:
        """Take the archive off a job; True for the one call that did."""

    async def clear_archives(
        self, tenant_id: str, run_id: str, job_ids: Sequence[str], at_us: int, event_of: Callable[[StoredJob], NewEvent]
    ) -> Disposed:
        """Take the archives off these jobs, each few in a transaction with their events that looks at the holds.

        The last call of a run, made again, goes on where it was and counts each job once.
        """

    async def due_exports(
        self, tenant_id: str, finished_before_us: int, *, before: str, limit: int
    ) -> Sequence[tuple[str, bool]]:
        """Return (job, whether a hold covers its person) of exports with an archive, finished before a time.

        Ids below `before` (empty: all), the newest first; read beside the loop.
        """

    async def archive_keys(self) -> frozenset[str]:
        """Return the blobs that archives without parts name."""

    async def save_part(self, job: StoredJob, part: StoredPart, events: Sequence[NewEvent] = ()) -> bool:
        """Replace a job and store a part of its archive, both or neither; False when the job is finished already."""

    async def parts(self, job_id: str, *, after: int, limit: int) -> Sequence[StoredPart]:
        """Return parts with a number above `after`, in order."""

    async def count_parts(self, job_id: str) -> int:
        """Return how many parts there are."""

    async def drop_part(self, job_id: str, number: int) -> None:
        """Forget a part: its bytes are gone."""

    async def names_blob(self, blob_key: str) -> bool:
        """Return whether a part names this blob."""

    async def abandoned(self, limit: int) -> Sequence[StoredJob]:
        """Return finished jobs with parts and without an archive: a crash left what nobody can ask for."""

    async def of_subject(self, tenant_id: str, subject_id: str) -> Sequence[StoredJob]:
        """Return every job about a person."""

    async def empty_boxes(self, tenant_id: str, subject_id: str, *, but: str) -> int:
        """Drop what finished jobs about a person still hold, but of one; end those unfinished. Return how many."""

    async def erased(self, tenant_id: str) -> Sequence[tuple[str, str]]:
        """Return (tenant, person) of all who are erased; of every tenant when `tenant_id` is empty."""

    async def mark_erased(self, tenant_id: str, subject_id: str) -> None:
        """Remember, by the opaque id alone, that this person is erased."""

    async def restrict(self, tenant_id: str, restriction: StoredRestriction, event: NewEvent) -> StoredRestriction:
        """Store a restriction; of one in force that one is returned."""

    async def restricted(self) -> Mapping[tuple[str, str], bool]:
        """Return (tenant, person) of every restriction in force, and of each whether it spares owners."""

    async def lift(self, tenant_id: str, subject_id: str, event: NewEvent) -> bool:
        """End a restriction; False when there is none."""

    async def restrictions(self, tenant_id: str, *, after: str, limit: int) -> Sequence[StoredRestriction]:
        """Return restrictions of people with ids above `after`."""

    async def forget_subject(self, tenant_id: str, subject_id: str, limit: int) -> int:
        """Delete consents and the restriction of a person, up to about `limit`. Return how many."""

    async def count_subject(self, tenant_id: str, subject_id: str) -> int:
        """Return how many consents, restrictions and boxes of the person there are."""

    async def count_in_files(self, texts: Sequence[bytes]) -> int:
        """Return how often these texts stand in the raw bytes of compliance's files."""
