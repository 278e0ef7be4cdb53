"""What compliance asks of storage for witnesses' cosignatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class StoredCosignature(msgspec.Struct, frozen=True, kw_only=True):
    """What a witness signed: under which checkpoint, when (Unix seconds); `signature` as it stands in the note,
    behind the key's id."""

    size: int
    name: str
    key_id: bytes
    at_s: int
    signature: bytes


class CosignatureStore(Protocol):
    """Cosignatures by log. Every method is atomic and durable on return.

    Embedded: a table, keyed by log, size and key. MongoDB: documents with that unique key, replaced with majority
    write concern where `at_s` is smaller.
    """

    async def add(self, tenant_id: str, found: Sequence[StoredCosignature]) -> None:
        """Keep cosignatures; of one key under one checkpoint the latest. Idempotent."""

    async def under(self, tenant_id: str, size: int) -> Sequence[StoredCosignature]:
        """Return those under the checkpoint of a size, by name."""

    async def last_size(self, tenant_id: str) -> int | None:
        """Return the largest size that somebody cosigned."""
