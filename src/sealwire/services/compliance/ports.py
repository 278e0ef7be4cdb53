"""What compliance asks of storage: the log, and the people's and the lawyers' books beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from sealwire.contracts.audit_log import FIRST_PREV_HASH, AuditEntry, LogBroken
from sealwire.contracts.consents import Consent
from sealwire.contracts.retention_policies import RetentionPolicy
from sealwire.ports.events import EventFeed, NewEvent, Positions
from sealwire.services.compliance.job_ports import RightsStore
from sealwire.services.compliance.parking_ports import ParkingStore
from sealwire.services.compliance.retention_ports import HoldStore, RunStore
from sealwire.services.compliance.tiles import Tile
from sealwire.services.compliance.witness_ports import CosignatureStore


class HeadMoved(Exception):
    """The log is not as long as the writer thought: somebody else wrote, or an unconfirmed write was stored."""


class AuditIdsTaken(Exception):
    """At least one `audit_id` of the append is in the log already; nothing of the append was stored."""


class LogUnreadable(LogBroken):
    """What is stored can't be read: its file is damaged, or holds what was never written there."""


class LogHead(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a log: how many records, and the hash of the last (lowercase hex)."""

    size: int = 0
    last_hash: str = FIRST_PREV_HASH


class LogEdge(msgspec.Struct, frozen=True, kw_only=True):
    """What a writer needs to go on: the head, the records of the unfinished tile of level 0, and the unfinished tiles
    above it by level (number, hashes)."""

    head: LogHead
    records: Sequence[StoredRecord] = ()
    tiles: Mapping[int, tuple[int, bytes]] = {}


class LogAppend(msgspec.Struct, frozen=True, kw_only=True):
    """Records to add to one tenant's log, side by side: entry, canonical bytes, hash, time.

    Of an entry only what isn't personal may be stored or indexed: `personal` is sealed within the bytes already.
    """

    tenant_id: str
    before: LogHead
    after: LogHead
    entries: Sequence[AuditEntry]
    bodies: Sequence[bytes]
    hashes: Sequence[str]
    created_us: Sequence[int]
    tiles: Sequence[Tile]


class StoredRecord(NamedTuple):
    """A record as stored: its number, the hash stored for it, its canonical bytes.

    Of a pruned record the bytes are empty and `leaf` is its leaf hash.
    """

    seq: int
    hash: str
    body: bytes
    leaf: bytes = b""


class Span(NamedTuple):
    """Records as stored that follow one another without a gap, side by side: hashes and canonical bytes."""

    hashes: Sequence[str]
    bodies: Sequence[bytes]


class PruneCount(msgspec.Struct, frozen=True, kw_only=True):
    """What became of records that were to be pruned; `missing` were gone before, or never there."""

    pruned: int
    held: int
    missing: int


class RecordFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for; all that is given has to hold. Times in microseconds, `from_us` inclusive, `to_us` not."""

    actor: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    outcome: str | None = None
    from_us: int | None = None
    to_us: int | None = None


class Found(NamedTuple):
    """What a search found, in `seq` order, and the `seq` up to which it looked; None when it saw the end."""

    records: Sequence[StoredRecord]
    looked_up_to: int | None


class StoredCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A signed checkpoint, and the public key (as notes name it) that it was signed by."""

    size: int
    root: bytes
    note: str
    public_key: str
    at_us: int


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that signs, or signed, a log's checkpoints, by its version in the crypto service.

    `rotation` is the note by which the key before vouches for it from `size` records on; empty for the first.
    """

    version: int
    public_key: str
    size: int
    rotation: str
    at_us: int


class AuditStore(Protocol):
    """The logs of all tenants, each append-only. Every method that reads may raise LogUnreadable.

    One process writes a tenant's log at a time (the sequencer); `append` proves it by `before`, inside the transaction,
    so a second writer can neither fork a log nor leave a gap, whatever it believes. Appends of several tenants that
    arrive together may share one commit and never fail each other.

    Embedded: a SQLite file; a tenant's head is a row whose update is conditional on the size; records lie in pieces of
    up to 256 that never cross a tile's border; a unique table holds the audit ids.
    MongoDB: one multi-document transaction (majority write concern) per append: `updateOne({_id: tenant, size: before},
    …)` matching nothing is HeadMoved; `insertMany` of pieces, of audit ids under a unique index (duplicate key is
    AuditIdsTaken), `replaceOne` of tiles with upsert. The sequencer of a tenant is chosen by a lease with a fencing
    number (ports/leases), which the conditional update checks too. Kafka is no place for this: it has no condition.
    S3: full tiles and bundles may be copied to a bucket, immutable, under their C2SP paths; the head stays in MongoDB.
    Elasticsearch may index `search`, fed by the log itself in `seq` order.

    Pruning takes a record's bytes and its audit id; its hash and its leaf hash stay where they are, so that the chain,
    the tree and every proof still verify. MongoDB: the piece is replaced in a transaction that reads the holds.
    """

    async def edge(self, tenant_id: str, size: int | None = None) -> LogEdge:
        """Return where the tenant's log ends, or ended when it was of `size` (whatever its head says by now); an empty
        edge for a tenant without records."""

    async def append(self, append: LogAppend) -> None:
        """Add the records, their tiles and the new head. Atomic per call, durable on return.

        Raises: HeadMoved, AuditIdsTaken, LogUnreadable (nothing stored); Unavailable when it may or may not be stored.
        """

    async def append_all(self, appends: Sequence[LogAppend]) -> Sequence[Exception | None]:
        """Do the same for logs of several tenants, each at most once among them, with as few commits as can be.

        Returns what `append` would have raised for each, None for what is stored: each is whole or not at all, and none
        fails another.
        """

    async def head(self, tenant_id: str) -> LogHead:
        """Return the stored head."""

    async def find(self, tenant_id: str, audit_ids: Iterable[str]) -> dict[str, int]:
        """Return the `seq` of each audit id that is in the log."""

    async def records(self, tenant_id: str, first_seq: int, limit: int) -> Sequence[StoredRecord]:
        """Return the stored records with `seq` from `first_seq` to `first_seq + limit - 1`, in order; `limit` <= 256.

        Returns what is there: a record somebody took out of the store is just not among them.
        """

    async def span(self, tenant_id: str, first_seq: int, limit: int) -> Span | None:
        """Return the same records as `records` side by side, if all of them are there and none is pruned, else None."""

    async def search(self, tenant_id: str, wanted: RecordFilter, *, after_seq: int, limit: int) -> Found:
        """Return up to `limit` records above `after_seq` that match, without blocking others for long."""

    async def misfiled(self, tenant_id: str, first_seq: int, limit: int) -> int | None:
        """Return the first record, of those from `first_seq` to `first_seq + limit - 1`, that `search` knows by another
        time, actor, action, resource or outcome than it states itself; `limit` <= 256. What is pruned states none."""

    async def tiles(self, tenant_id: str, addresses: Iterable[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return the stored tiles among these (level, number): full ones of level 0, the newest form of those above."""

    async def due(
        self, tenant_id: str, *, before_us: int, after_seq: int, limit: int
    ) -> Sequence[tuple[int, int, bool]]:
        """Return up to `limit` records above `after_seq` older than a time, in `seq` order, pruned ones left out:
        number, time in µs, whether a legal hold covers somebody it is about."""

    async def prunable(self, tenant_id: str, seqs: Collection[int]) -> list[int]:
        """Return those of these records that `prune` would take: there, as chained, and covered by no legal hold."""

    async def days(self, tenant_id: str, seqs: Collection[int]) -> Sequence[int]:
        """Return the days (since 1970, UTC) on which these records were made, also of those that are pruned."""

    async def kept_between(self, tenant_id: str, from_us: int, to_us: int, *, after_seq: int) -> bool:
        """Whether any record above `after_seq` of this time (from it, before it) was not pruned, damaged ones too."""

    async def prune(self, tenant_id: str, seqs: Sequence[int], *, run_id: str, at_us: int) -> PruneCount:
        """Take the bytes of these records out, a few at a time; what a hold covers stays. Durable on return.

        Each few in a transaction that looks at the holds and keeps what came of it: the last call of a run, made again,
        goes on where it was and counts each record once.
        """

    async def add_checkpoint(self, tenant_id: str, checkpoint: StoredCheckpoint) -> None:
        """Keep a checkpoint; one of the same size is kept as it was."""

    async def add_checkpoint_key(self, tenant_id: str, key: StoredKey) -> None:
        """Keep a key; one of the same version is kept as it was."""

    async def checkpoint_keys(self, tenant_id: str) -> Sequence[StoredKey]:
        """Return the keys of a log's checkpoints, oldest first."""

    async def last_checkpoint(self, tenant_id: str, at_most: int | None = None) -> StoredCheckpoint | None:
        """Return the newest checkpoint, or the newest of at most so many records."""

    async def checkpoints(self, tenant_id: str, *, above: int, limit: int) -> Sequence[StoredCheckpoint]:
        """Return checkpoints of sizes above `above` (-1: all), smallest first."""

    async def tenants(self) -> Sequence[str]:
        """Return the tenants that have a log."""

    async def check(self) -> None:
        """Prove that the store answers. Raises: Unavailable."""


class CheckpointThinning(Protocol):
    """What makes checkpoints fewer, in the same place as the logs."""

    async def thin(self, tenant_id: str, *, before_us: int, said: Callable[[int], NewEvent]) -> int:
        """Delete older checkpoints but the last of each day and key, a few at a time; durable on return.

        Each few go in one transaction with the event that `said` makes of how many they are. The newest stays, and what
        others name: one that a witness signed, and one that a key began with. Returns how many went.
        """


class ConsentStore(Protocol):
    """Consents with their history: a row is added at each consent and closed at withdrawal, never changed otherwise.

    Every method is atomic, durable on return, and stores its event in the same transaction.
    MongoDB: documents with a partial unique index on (tenant, subject, purpose) where not withdrawn, event in the same
    multi-document transaction.
    """

    async def give(self, tenant_id: str, consent: Consent, event: NewEvent) -> Consent:
        """Store a consent in force. Of the same purpose and version: the one in force is returned, nothing is stored;
        of another version: the one in force is withdrawn in the same step."""

    async def withdraw(self, tenant_id: str, subject_id: str, purpose: str, at: str, event: NewEvent) -> bool:
        """Close the consent in force; False when there is none (nothing is stored then)."""

    async def history(
        self, tenant_id: str, subject_id: str, *, after: int, limit: int
    ) -> Sequence[tuple[int, Consent]]:
        """Return consents with their numbers above `after`, oldest first."""


class RetentionStore(Protocol):
    """Retention policies. Atomic, durable, with the event in the same transaction, as ConsentStore."""

    async def policies(self, tenant_id: str, *, after: str, limit: int) -> Sequence[RetentionPolicy]:
        """Return policies in the order of their resource types, above `after`."""

    async def set_policy(self, tenant_id: str, policy: RetentionPolicy, event: NewEvent) -> None:
        """Store or replace the policy of a resource type."""

    async def remove_policy(self, tenant_id: str, resource_type: str, event: NewEvent) -> bool:
        """Remove it; False when there is none."""


class ComplianceStores(msgspec.Struct, frozen=True, kw_only=True):
    """All of the service's storage, of one family. `events` is the outbox, `positions` those of its own consumers."""

    audit: AuditStore
    parking: ParkingStore
    thinning: CheckpointThinning
    cosignatures: CosignatureStore
    consents: ConsentStore
    retention: RetentionStore
    holds: HoldStore
    runs: RunStore
    rights: RightsStore
    events: EventFeed
    positions: Positions
