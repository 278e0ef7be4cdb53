"""Custody: what compliance asks of every service that holds data of people, the same everywhere.

For compliance alone, with its service identity; the gateway routes none of it. Every call is about the caller's tenant.
A service takes a group of operations into its table when it has all of that group's methods:

    OPERATIONS = table(*_OWN, *custody.operations(SERVICE, custody.SUBJECT, custody.HOLDS, custody.RETENTION))
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Protocol

import msgspec

from sealwire.contracts.compliance_terms import SERVICE as COMPLIANCE
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, parse_rfc3339
from sealwire.kit.codec import Id, Input, Output, RuleBroken
from sealwire.kit.operation import Operation, Policy, RateClass, Repeat
from sealwire.kit.problem import Forbidden
from sealwire.ports.holds import HoldBook

MessagePolicy = Literal["tombstone", "anonymise"]
"""What becomes of an erased person's messages: bodiless tombstones; or kept for the others, their author unknown."""
_Cursor = Annotated[str, msgspec.Meta(max_length=512)] | None
_Chunk = Annotated[int, msgspec.Meta(ge=1, le=1000)]
_Word = Annotated[str, msgspec.Meta(min_length=4, max_length=320)]


class ProcessingRestricted(Forbidden):
    """The person's data is kept without being processed (GDPR Art. 18), or about to be erased."""

    code, title = "processing_restricted", "Processing of this person's data is restricted"


class OwnersOnly(Forbidden):
    """The person is an owner, and who asked for the change is none."""

    code, title = "owners_only", "Only an owner can change an owner"


class SubjectQuery(Input):
    """The next part of a person's data."""

    limit: _Chunk = 200
    cursor: _Cursor = None


class SubjectItem(Output):
    """Something that is about the person, as the person may read it.

    `kind` names the file of an export it goes to (`profile`, `message`, `media`); `at` is RFC 3339 or empty. Bytes are
    fetched by `media_id`. What is only stored still, replaced or deleted since, has `former` in its data. `telling` are
    texts that nobody else's data has: for the probe of an erasure, and in no export.
    """

    kind: str
    resource_id: str
    at: str
    data: dict[str, Any]
    media_id: str | None = None
    telling: list[str] = []


class SubjectItems(Output):
    """In an order that stays while nothing is added; the same item may come again after a restart."""

    items: list[SubjectItem]
    next_cursor: str | None = None


class ContentQuery(Input):
    """Which bytes of a file of the person: up to `limit_bytes` from `offset` on."""

    offset: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit_bytes: Annotated[int, msgspec.Meta(ge=1, le=4 * 1024 * 1024)] = 1024 * 1024


class ContentPart(Output):
    """Bytes in base64. `last` when the file ends with them."""

    data: str
    last: bool


class SubjectErasure(Input):
    """Erase up to about `limit` things. `pseudonym` stands for the author of what is kept: new for every job.

    `check_only` changes nothing: it is refused where the erasure would be, and answers `done` false. `spares_owners`:
    who asked is no owner, so auth refuses one, in the transaction that would take their access.
    """

    job_id: Id
    pseudonym: Id
    messages: MessagePolicy = "tombstone"
    limit: _Chunk = 500
    check_only: bool = False
    spares_owners: bool = False


class SubjectErased(Output):
    """What this call erased, by kind. `kept` counts what holds keep: in the conversations `kept_in`, which holds name,
    or by the holds `kept_by`: those that keep any of it, and no others.

    Ask again until `done`; from then on nothing of the person is taken in any more.
    """

    done: bool
    erased: dict[str, int] = {}
    kept: dict[str, int] = {}
    kept_in: list[str] = []
    kept_by: list[str] = []


class SubjectChanges(Input):
    """What is put right; what is left out stays. `spares_owners` as in `SubjectErasure`."""

    job_id: Id
    email: Annotated[str, msgspec.Meta(min_length=3, max_length=254)] | None = None
    display_name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    spares_owners: bool = False


class SubjectRectified(Output):
    """How many things were changed, by kind; empty when nothing here held the old."""

    changed: dict[str, int] = {}


class SubjectRestriction(Input):
    """Whether the person's data is kept without being processed (GDPR Art. 18).

    `spares_owners` as in `SubjectErasure`.
    """

    restricted: bool
    spares_owners: bool = False


class SubjectProbe(Input):
    """Texts to look for in every file and index, held in memory only: e-mail, name, words of messages."""

    words: Annotated[list[_Word], msgspec.Meta(max_length=64)] = []


class SubjectFindings(Output):
    """How often something of the person was found, by place; a place where nothing was found is named with 0."""

    places: dict[str, int]


class HoldPlacement(Input):
    """What a legal hold covers: exactly one of the two."""

    subject_id: Id | None = None
    conversation_id: Id | None = None

    def __post_init__(self) -> None:
        if (self.subject_id is None) == (self.conversation_id is None):
            member = "subject_id" if self.subject_id is None else "conversation_id"
            raise RuleBroken("Give exactly one of subject_id and conversation_id.", member)


class Known(Output):
    """Whether there is such a thing, hidden or not."""

    known: bool


class DueQuery(Input):
    """What is older than `before` (RFC 3339), as `action` finds something to do. A cursor goes on from the last answer.

    `delete` leaves nothing; `tombstone` leaves a record without content where the type knows one.
    """

    before: Annotated[str, msgspec.Meta(min_length=20, max_length=40)]
    action: Literal["delete", "tombstone"] = "delete"
    limit: _Chunk = 1000
    cursor: _Cursor = None

    def __post_init__(self) -> None:
        try:
            parse_rfc3339(self.before)
        except ValueError as error:
            raise RuleBroken(str(error), "before") from None


class DueItem(Output):
    """Something whose time is over; `held` when a legal hold keeps it."""

    id: str
    held: bool = False


class Due(Output):
    """In an order that stays."""

    items: list[DueItem]
    next_cursor: str | None = None


class Disposal(Input):
    """Dispose of exactly these. `run_id` names the retention run in the records of it."""

    run_id: Id
    ids: Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=128)]], msgspec.Meta(max_length=1000)]
    action: Literal["delete", "tombstone"] = "delete"


class Disposed(Output):
    """Every id asked for is counted once: disposed of now, held, or missing (gone before)."""

    disposed: int
    held: int = 0
    missing: int = 0


class Reclaimed(Output):
    """Bytes given back to the file system by this call; 0 when there is nothing left to give."""

    reclaimed_bytes: int


def _operation(name: str, verb: str, path: str, summary: str, **more: Any) -> Operation:
    return Operation(
        name=name, verb=verb, path=f"/custody/{path}", summary=summary, service="", policy=Policy.SERVICE,
        callers=frozenset({COMPLIANCE}), rate=RateClass.NONE, **more,
    )  # fmt: skip


EXPORT_SUBJECT: Final = _operation(
    "export_subject", "GET", "subjects/{subject_id}/items", "Read a person's data, part by part",
    takes=SubjectQuery, gives=SubjectItems, repeat=Repeat.SAFE,
)  # fmt: skip
SUBJECT_CONTENT: Final = _operation(
    "subject_content", "GET", "subjects/{subject_id}/media/{media_id}", "Read a file of a person, part by part",
    takes=ContentQuery, gives=ContentPart, repeat=Repeat.SAFE,
)  # fmt: skip
ERASE_SUBJECT: Final = _operation(
    "erase_subject", "POST", "subjects/{subject_id}/erasure", "Erase a person's data, part by part",
    takes=SubjectErasure, gives=SubjectErased, repeat=Repeat.IDEMPOTENT,
)  # fmt: skip
RECTIFY_SUBJECT: Final = _operation(
    "rectify_subject", "POST", "subjects/{subject_id}/rectification", "Put a person's data right",
    takes=SubjectChanges, gives=SubjectRectified, repeat=Repeat.IDEMPOTENT,
)  # fmt: skip
RESTRICT_SUBJECT: Final = _operation(
    "restrict_subject", "PUT", "subjects/{subject_id}/restriction", "Stop or resume processing a person's data",
    takes=SubjectRestriction, status=204, repeat=Repeat.IDEMPOTENT,
)  # fmt: skip
PROBE_SUBJECT: Final = _operation(
    "probe_subject", "POST", "subjects/{subject_id}/probe", "Look for what is left of a person",
    takes=SubjectProbe, gives=SubjectFindings, repeat=Repeat.SAFE,
)  # fmt: skip
PUT_HOLD: Final = _operation(
    "put_hold", "PUT", "holds/{hold_id}", "Keep what a legal hold covers",
    takes=HoldPlacement, status=204, repeat=Repeat.IDEMPOTENT,
)  # fmt: skip
RELEASE_HOLD: Final = _operation(
    "release_hold", "DELETE", "holds/{hold_id}", "Release a legal hold", status=204, repeat=Repeat.IDEMPOTENT
)
KNOWS_CONVERSATION: Final = _operation(
    "knows_conversation", "GET", "conversations/{conversation_id}", "Whether there is such a conversation",
    gives=Known, repeat=Repeat.SAFE,
)  # fmt: skip
DUE: Final = _operation(
    "due", "GET", "retention/{resource_type}/due", "What is past its time",
    takes=DueQuery, gives=Due, repeat=Repeat.SAFE,
)  # fmt: skip
DISPOSE: Final = _operation(
    "dispose", "POST", "retention/{resource_type}/disposals", "Dispose of what is past its time",
    takes=Disposal, gives=Disposed, repeat=Repeat.IDEMPOTENT,
)  # fmt: skip
RECLAIM: Final = _operation(
    "reclaim", "POST", "reclaims", "Give disk space back", gives=Reclaimed, repeat=Repeat.IDEMPOTENT
)

SUBJECT: Final = (EXPORT_SUBJECT, ERASE_SUBJECT, RECTIFY_SUBJECT, RESTRICT_SUBJECT, PROBE_SUBJECT)
CONTENT: Final = (SUBJECT_CONTENT,)
"""For the service whose items have a `media_id`."""
HOLDS: Final = (PUT_HOLD, RELEASE_HOLD)
CONVERSATIONS: Final = (KNOWS_CONVERSATION,)
"""For the service that has them."""
RETENTION: Final = (DUE, DISPOSE, RECLAIM)


def operations(service: str, *groups: tuple[Operation, ...]) -> list[Operation]:
    """Return the operations of these groups as `service` answers them."""
    return [msgspec.structs.replace(operation, service=service) for group in groups for operation in group]


def require_custodian(caller: Caller) -> str:
    """Return the tenant that compliance acts in. Raises: Forbidden for every other caller."""
    if not caller.is_service or caller.principal.subject != COMPLIANCE:
        raise Forbidden("Custody is the compliance service's.")
    return caller.tenant_id


class SubjectCustody(Protocol):
    """What a service does with the data of one person. Of a person nobody knows there is nothing, and that is no error.

    Every method calls `require_custodian` first.
    """

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        """Return the next part of the person's data. Raises: Invalid for a cursor that isn't one."""

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        """Erase the next part; short, so that others go on between two calls.

        The first call makes the service refuse new data of the person, in the transaction that erases. Done twice, or
        again after a crash at any point, it ends in the same state: nothing is left, and `done` says so. The counts of
        a call that crashed may be lost, never doubled.
        Raises: LegalHold while a hold covers the person: nothing is erased. The auth service also LastOwner.
        """

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        """Change what is held here, caches and indexes too. The auth service raises EmailTaken."""

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        """Stop or resume processing: durable, and in force, before the answer."""

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        """Look through all files, tables, caches and indexes of this service; changes nothing."""


class SubjectContent(Protocol):
    """What a service that keeps files does besides."""

    async def subject_content(self, caller: Caller, subject_id: str, media_id: str, query: ContentQuery) -> ContentPart:
        """Return bytes of a file of the person; past its end none, and `last`.

        Raises: NotFound for a file that isn't the person's, or gone; `contracts.media.MediaDamaged` for one that can't
        be read any more.
        """


class HoldCustody(Protocol):
    """A service's own copy of the holds, so that a hold wins in the same transaction as a deletion."""

    async def put_hold(self, caller: Caller, hold_id: str, placement: HoldPlacement) -> None:
        """Keep what the hold covers: durable before the answer; the same again changes nothing."""

    async def release_hold(self, caller: Caller, hold_id: str) -> None:
        """Forget the hold; one that isn't there is no error."""


class ConversationCustody(Protocol):
    """What the service does besides that has conversations."""

    async def knows_conversation(self, caller: Caller, conversation_id: str) -> Known:
        """Say whether there is such a conversation in the tenant, or was one of which something is left."""


class HoldDesk:
    """`HoldCustody` over a service's own book of holds: what every service answers with."""

    def __init__(self, book: HoldBook, clock: Clock) -> None:
        self._book = book
        self._clock = clock

    async def put_hold(self, caller: Caller, hold_id: str, placement: HoldPlacement) -> None:
        """See `HoldCustody`."""
        await self._book.put(
            require_custodian(caller),
            hold_id,
            subject_id=placement.subject_id or "",
            conversation_id=placement.conversation_id or "",
            at_us=self._clock.now_us(),
        )

    async def release_hold(self, caller: Caller, hold_id: str) -> None:
        """See `HoldCustody`. What waited for the release goes on by itself."""
        await self._book.release(require_custodian(caller), hold_id, at_us=self._clock.now_us())


class RetentionCustody(Protocol):
    """What the retention engine asks."""

    async def due(self, caller: Caller, resource_type: str, query: DueQuery) -> Due:
        """Return what is past its time. A type this service doesn't hold has nothing."""

    async def dispose(self, caller: Caller, resource_type: str, disposal: Disposal) -> Disposed:
        """Dispose of these in one transaction that checks the holds; what is held stays and is counted."""

    async def reclaim(self, caller: Caller) -> Reclaimed:
        """Give the next part of the free space back; short, so that writers go on between two calls."""


class Custody(SubjectCustody, HoldCustody, RetentionCustody, Protocol):
    """All of it, in this process or another."""
