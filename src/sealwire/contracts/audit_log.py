"""What compliance promises of the audit log: records, their verification, checkpoints and proofs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import msgspec

from sealwire.contracts.compliance_terms import SERVICE
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output
from sealwire.kit.operation import Operation, Policy, Repeat, table
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, NotFound, PartOut

MAX_RECORD_BYTES = 65_535
FIRST_PREV_HASH = "0" * 64
Action = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Outcome = Literal["success", "failure", "denied"]


class AuditConflict(Conflict):
    """An `audit_id` came again with other content."""

    code, title = "audit_conflict", "This audit_id is taken by another record"


class LogBroken(PartOut):
    """What is stored of the log can't be continued, or not be read: it is not as it was written.

    It says nothing against compliance, nor against any other tenant's log.
    """

    code, title = "audit_log_broken", "The audit log is damaged and takes no records"


class AuditRangeEmpty(NotFound):
    """The log has no such record."""

    code, title = "audit_record_not_found", "No such record"


class Actor(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who did it: an opaque id, never a name or an address."""

    type: Literal["user", "api_key", "service", "anonymous"]
    id: str


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What a service sends. An `Input` by hand: made for every request, and through the metaclass at thrice the cost.

    `personal` holds the personal data (ip_address, user_agent, email …): compliance seals each value under the key of
    `subject_id`, or of the tenant and day when it is empty, and stores it in `metadata` under the same name.
    """

    audit_id: Id
    tenant_id: Id
    actor: Actor
    action: Action
    resource_type: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    resource_id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    outcome: Outcome = "success"
    metadata: dict[str, str | int | float | bool | None] = {}
    personal: dict[str, str] = {}
    subject_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    created_at_us: int = 0


class AuditBatch(Input):
    """At most 1,000 entries, of any tenants."""

    records: Annotated[list[AuditEntry], msgspec.Meta(max_length=1000)]


class Accepted(Output):
    """Stored durably now, or before.

    `parked` of those accepted are of logs that are damaged: as durable, and in their log when it is mended.
    """

    accepted: int
    duplicates: int
    parked: int = 0


class AuditRecord(Output):
    """A record as a reader sees it: sealed fields opened, `erased`, or `key_damaged` (until it is
    put back). `hash` covers the sealed form."""

    audit_id: str
    tenant_id: str
    seq: int
    actor: Actor
    action: str
    resource_type: str
    resource_id: str
    outcome: str
    metadata: dict[str, Any]
    created_at: str
    prev_hash: str
    hash: str


class AuditQuery(Input):
    """Filters; all of them must hold. Times are RFC 3339."""

    actor: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    action: Action | None = None
    resource_type: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    resource_id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    outcome: Outcome | None = None
    from_: Annotated[str, msgspec.Meta(max_length=40)] | None = msgspec.field(default=None, name="from")
    to: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    tenant_id: Id | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    cursor: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class AuditRecords(Output):
    """In `seq` order."""

    items: list[AuditRecord]
    next_cursor: str | None = None


class VerifyQuery(Input):
    """A range of records, inclusive; without it all.

    `canonical` also asks of every record whether its bytes are the RFC 8785 form of what they hold: half as much work
    again for plain records, three times as much where texts are not ASCII. `index` also asks whether queries find each
    record by what it says, once all else fits.
    """

    from_seq: Annotated[int, msgspec.Meta(ge=1)] | None = None
    to_seq: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tenant_id: Id | None = None
    canonical: bool = False
    index: bool = False


class LogQuery(Input):
    """Whose log: the own tenant's without it; an operator reads that of `anonymous` too."""

    tenant_id: Id | None = None


class Verification(Output):
    """Whether the chain and the tree hold. `job_id` and `progress` for a range over 100,000 records (202).

    `pruned` are the records retention took out, as pairs of `seq`, both included.
    """

    ok: bool
    records: int
    first_bad_seq: int | None
    root: str
    checkpoint: str
    fault: str | None = None
    job_id: str | None = None
    progress: float = 1.0
    pruned: list[list[int]] = []


class Checkpoint(Output):
    """A signed note (C2SP) over the tree head, and the public key line that verifies it.

    `first_key` is the first key this log ever had, `rotations` the signed notes by which each key vouches for the next,
    `cosigned` the newest checkpoint that a witness cosigned, with its lines.
    """

    checkpoint: str
    tree_size: int
    root: str
    public_key: str
    first_key: str = ""
    rotations: list[str] = []
    cosigned: str = ""


class InclusionQuery(Input):
    """Which record; in a tree of which size (the newest checkpoint's without it)."""

    seq: Annotated[int, msgspec.Meta(ge=1)]
    tree_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tenant_id: Id | None = None


class ConsistencyQuery(Input):
    """Two tree sizes."""

    from_: Annotated[int, msgspec.Meta(ge=1)] = msgspec.field(name="from")
    to: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tenant_id: Id | None = None


class Proof(Output):
    """RFC 9162 proof; hashes in lowercase hex."""

    leaf_index: int
    tree_size: int
    hashes: list[str]


_AUDIT: dict[str, Any] = {"service": SERVICE, "needs": Permission.READ_AUDIT, "repeat": Repeat.SAFE}
APPEND = Operation(
    name="append",
    verb="POST",
    path="/compliance/audit",
    takes=AuditBatch,
    gives=Accepted,
    status=202,
    service=SERVICE,
    policy=Policy.SERVICE,
    repeat=Repeat.BY_KEY,
    body_limit_bytes=16 * 1024 * 1024,
    callers=frozenset({"gateway", "auth", "crypto", "messaging", "media"}),
    summary="Take in audit records (services)",
)
QUERY = Operation(
    name="query",
    verb="GET",
    path="/compliance/audit",
    takes=AuditQuery,
    gives=AuditRecords,
    summary="Read the audit log",
    **_AUDIT,
)
VERIFY = Operation(
    name="verify",
    verb="GET",
    path="/compliance/audit/verify",
    takes=VerifyQuery,
    gives=Verification,
    status=lambda v: 202 if v.job_id and v.progress < 1 else 200,
    summary="Verify chain and tree",
    **_AUDIT,
)
VERIFY_JOB = Operation(
    name="verify_job",
    verb="GET",
    path="/compliance/audit/verify/{job_id}",
    gives=Verification,
    summary="Progress of a long verification",
    **_AUDIT,
)
CHECKPOINT = Operation(
    name="checkpoint",
    verb="GET",
    path="/compliance/audit/checkpoint",
    takes=LogQuery,
    gives=Checkpoint,
    summary="The newest signed checkpoint",
    **_AUDIT,
)
INCLUSION = Operation(
    name="inclusion",
    verb="GET",
    path="/compliance/audit/proof/inclusion",
    takes=InclusionQuery,
    gives=Proof,
    summary="Prove that a record is in the log",
    **_AUDIT,
)
CONSISTENCY = Operation(
    name="consistency",
    verb="GET",
    path="/compliance/audit/proof/consistency",
    takes=ConsistencyQuery,
    gives=Proof,
    summary="Prove that the log only grew",
    **_AUDIT,
)

OPERATIONS = table(
    APPEND,
    QUERY,
    VERIFY,
    VERIFY_JOB,
    CHECKPOINT,
    INCLUSION,
    CONSISTENCY,
)


class AuditLog(Protocol):
    """The audit log.

    Besides these, raw routes: `GET /compliance/audit/export` (NDJSON), `/compliance/audit/stream` (SSE),
    `/compliance/audit/tile/…` (C2SP tlog-tiles).
    """

    async def append(self, caller: Caller, batch: AuditBatch) -> Accepted:
        """Store the entries durably, once per `audit_id`. Raises: AuditConflict (and an alarm record is written)."""

    async def query(self, caller: Caller, query: AuditQuery) -> AuditRecords: ...
    async def verify(self, caller: Caller, query: VerifyQuery) -> Verification: ...
    async def verify_job(self, caller: Caller, job_id: str) -> Verification: ...
    async def checkpoint(self, caller: Caller, query: LogQuery = ...) -> Checkpoint: ...
    async def inclusion(self, caller: Caller, query: InclusionQuery) -> Proof:
        """Raises: AuditRangeEmpty."""

    async def consistency(self, caller: Caller, query: ConsistencyQuery) -> Proof: ...
