"""What crypto asks of storage. Nothing here is key material in the clear: only wrapped bytes go in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from sealwire.contracts.crypto_terms import KeyType
from sealwire.ports.holds import HoldBook
from sealwire.services.crypto.events import KeyEvent
from sealwire.services.crypto.model import Life

MASTER = "master"
"""The purpose of a tenant's master key."""


class StoredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a key. `wrapped` is None once destroyed.

    A master key's versions are wrapped by the provider under `kek_id`; all others under the tenant's master key of
    version `master_version`. `reserved_uses` is the durable upper bound of its uses.
    """

    version: int
    created_at_us: int
    reserved_uses: int
    wrapped: bytes | None
    kek_id: str = ""
    master_version: int = 0
    public_key: bytes | None = None


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with all its versions, oldest first. `purpose`: `tenant`, `master`, or `system:<service>`.

    `last_version` is the highest number added since it was made: one that was lost is missing in `versions`.
    """

    key_id: str
    tenant_id: str
    key_type: KeyType
    purpose: str
    name: str | None
    life: Life
    created_at_us: int
    versions: tuple[StoredVersion, ...]
    last_version: int = 0

    @property
    def newest(self) -> StoredVersion:
        """The version that protects."""
        return self.versions[-1]

    @property
    def next_number(self) -> int:
        """The number of the version to come: none has had it."""
        return max(self.last_version, self.newest.version) + 1


class StoredDataKey(msgspec.Struct, frozen=True, kw_only=True):
    """A service's data key, wrapped under version `version` of key `key_id`; `wrapped` is None once destroyed."""

    data_key_id: str
    tenant_id: str
    service: str
    scope: str
    subject_id: str
    context_digest: bytes
    key_id: str
    version: int
    wrapped: bytes | None
    reserved_uses: int
    created_at_us: int


class WrappedItem(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrapped: a version of a master key, of another key, or a data key.

    `under` is what wraps it: a KEK's id, the number of the master key's version, or the id of the key above a data key
    (whose version is `version` then). `purpose` is a data key's service.
    """

    kind: Literal["master", "key", "data_key"]
    id: str
    version: int
    tenant_id: str
    wrapped: bytes
    under: str
    key_type: KeyType = "aes-256-gcm"
    purpose: str = MASTER
    context_digest: bytes = b""


class Rewrap(msgspec.Struct, frozen=True, kw_only=True):
    """An item's new wrapped form. `under`: the KEK's id, or the number of the version above it."""

    item: WrappedItem
    wrapped: bytes
    under: str


class RewrapStore(Protocol):
    """Finds what is wrapped under something old and replaces it. MongoDB: conditional updates on `wrapped`, in bulk."""

    async def tenants(self, *, after: str, limit: int) -> list[str]:
        """Return tenants that have a master key, in order, above `after`."""

    async def masters(self, *, not_under: str, after: tuple[str, int], limit: int) -> list[WrappedItem]:
        """Return versions of master keys that aren't destroyed nor under the KEK `not_under` (empty: all of them).

        In the order of key id and version, above `after`.
        """

    async def count_masters(self, *, not_under: str) -> int:
        """Return how many there are."""

    async def stale(self, tenant_id: str, *, limit: int) -> list[WrappedItem]:
        """Return what of a tenant is wrapped under another version than the newest of what wraps it."""

    async def count_stale(self, tenant_id: str) -> int:
        """Return how many there are."""

    async def replace(self, rewraps: Sequence[Rewrap], events: Sequence[KeyEvent]) -> int:
        """Replace each wrapped form that is still what it was read as; return how many.

        One transaction with its events. What was destroyed or moved meanwhile stays as it is.
        """


class KeyStore(Protocol):
    """Keys, data keys and the outbox of crypto.

    Every method is atomic, and what it changed is durable on return, together with its event (one transaction).
    Embedded: one SQLite file, group commit. MongoDB: documents `keys` (versions embedded), `data_keys`, `outbox`,
    a multi-document transaction with majority write concern per method; the unique conditions below are partial unique
    indexes there too, and a counter is `$inc` with `findOneAndUpdate`. Nothing is read for a decision outside of the
    transaction that acts on it: conditions (`expected`, `before`) are part of the write. `holds` is the service's copy
    of the legal holds, in the same place.
    """

    @property
    def holds(self) -> HoldBook:
        """Return the copy of the legal holds that destructions look at."""

    @property
    def rewraps(self) -> RewrapStore:
        """Return the part that moves wrapped keys, over the same data."""

    async def create(self, key: StoredKey, event: KeyEvent, *, max_keys: int) -> StoredKey:
        """Store a new key, or for a purpose other than `tenant` return the one that is there.

        Once per (tenant, purpose, name) under any race when the purpose isn't `tenant`. Raises: QuotaExceeded when
        the tenant has `max_keys` keys of purpose `tenant` that aren't destroyed.
        """

    async def key(self, tenant_id: str, key_id: str) -> StoredKey | None:
        """Return a key of the tenant."""

    async def named(self, tenant_id: str, purpose: str, name: str) -> StoredKey | None:
        """Return the key of a purpose other than `tenant`."""

    async def keys(self, tenant_id: str, *, after: str, limit: int) -> list[StoredKey]:
        """Return the tenant's keys with ids above `after`, in the order of their ids (by the millisecond made)."""

    async def add_version(self, key_id: str, version: StoredVersion, event: KeyEvent) -> bool:
        """Add the version after the last there was; False when another one took the number first."""

    async def change_life(self, key_id: str, before: Life, after: Life, event: KeyEvent) -> bool:
        """Replace the life of a key if it is still `before`; False when it isn't.

        Raises: LegalHold, nothing done, towards destruction while any hold of the tenant is in force: what a tenant
        sealed under its key nobody here can tell. When `after` is destroyed: overwrite all wrapped versions and write
        the destruction into the ledger that restores replay.
        """

    async def due(self, now_us: int, limit: int) -> list[StoredKey]:
        """Return keys scheduled for destruction at or before `now_us`, without those of tenants under a hold."""

    async def reserve(self, key_id: str, version: int, count: int, *, limit: int) -> int | None:
        """Add `count` to a version's reserved uses and return the sum; None, and nothing done, if it passed `limit`."""

    async def release(self, unspent: Sequence[tuple[str, int, int]]) -> None:
        """Take reserved uses back that weren't spent (key id, version, how many): at a clean stop only."""

    async def current_data_key(self, tenant_id: str, service: str, context_digest: bytes) -> StoredDataKey | None:
        """Return the data key that is current for a context."""

    async def data_key(self, tenant_id: str, service: str, data_key_id: str) -> StoredDataKey | None:
        """Return a data key of a service. Raises: KeyDamaged for one that is gone though nobody destroyed it."""

    async def put_data_key(self, key: StoredDataKey, *, replaces: str, event: KeyEvent) -> StoredDataKey:
        """Make `key` the current one of its context if `replaces` is (empty: if there is none).

        Otherwise return the one that is current, unchanged.
        """

    async def grant_uses(self, data_key_id: str, count: int, event: KeyEvent) -> bool:
        """Add `count` to a data key's reserved uses; False, and nothing done, when it isn't current any more."""

    async def destroy_data_keys(
        self,
        tenant_id: str,
        service: str,
        *,
        scope: str,
        subject_id: str,
        spare_held: bool,
        spare: Sequence[str] | None,
        event: KeyEvent,
    ) -> tuple[int, Sequence[str], int]:
        """Overwrite the data keys with this scope and subject (empty: any), and write them into the ledger.

        With `spare_held` those stay that a hold covers by its subject or scope, and those of the scopes `spare`, which
        are marked so (None: those that are marked); returns how many went, the scopes of those that a hold covers, and
        how many others stayed. Raises: LegalHold, nothing done, when there are such otherwise; ValueError when both are
        empty.
        """

    async def subject_keys(self, tenant_id: str, subject_id: str, *, after: str, limit: int) -> list[StoredDataKey]:
        """Return data keys of a person that aren't destroyed, of all services, with ids above `after`."""

    async def live_subject_keys(self, tenant_id: str, subject_id: str) -> int:
        """Return how many data keys of a person aren't destroyed, those under a hold or spared left out."""

    async def record(self, events: Sequence[KeyEvent]) -> None:
        """Store events that go with no other change."""

    async def trim(self, before_us: int) -> None:
        """Drop events older than this that every consumer has passed."""

    async def shred(self) -> None:
        """See to it that what was overwritten is gone from the files too (logs, free pages). May be repeated."""

    async def kek_ids(self) -> set[str]:
        """Return which key-encryption keys wrap the master keys that aren't destroyed."""

    async def check(self) -> None:
        """Prove that the store answers. Raises: what makes it fail."""
