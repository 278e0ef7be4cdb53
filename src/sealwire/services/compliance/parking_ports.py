"""What compliance asks of storage for records that wait beside a damaged log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol


class ParkedRecord(NamedTuple):
    """A record that has no place in its log yet: its canonical bytes with `seq` 0 and no `prev_hash`, sealed.

    `created_us` is the time it states, `parked_us` when it began to wait, both in microseconds.
    """

    audit_id: str
    created_us: int
    parked_us: int
    body: bytes


class ParkingStore(Protocol):
    """Records of logs that can't be continued, by tenant, in the order in which they came. In the same place as the
    logs, so that what is lost with it is lost with them. Each method is atomic; those that write, durable on return.

    One process writes a tenant's log at a time, and this with it. Embedded: a table. MongoDB: documents with a number
    from a counter in the same transaction and a unique index on (tenant, audit id).
    """

    async def park(self, tenant_id: str, records: Sequence[ParkedRecord]) -> None:
        """Keep records behind those that wait already. An id of theirs may not be among those."""

    async def find(self, tenant_id: str, audit_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of those that wait, by audit id."""

    async def first(self, tenant_id: str, limit: int, *, after: int = 0) -> tuple[int, Sequence[ParkedRecord]]:
        """Return those that wait longest, in order, and what `remove` wants to be told; 0 and none when none waits.

        `after` is what it said before: then those behind are returned.
        """

    async def remove(self, tenant_id: str, up_to: int) -> None:
        """Forget what `first` returned, which is in the log by now. Idempotent."""

    async def counts(self) -> Mapping[str, int]:
        """Return how many wait, by tenant."""
