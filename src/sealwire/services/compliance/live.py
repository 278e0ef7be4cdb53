"""The live log: readers that follow a tenant's log as it grows, each at its own pace.

A reader holds nothing but its place: what it has not taken yet lies in the store, so a slow reader costs no memory and
loses nothing, and one that comes back goes on behind the last `seq` it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from sealwire.contracts.audit import StreamsTaken
from sealwire.contracts.audit_log import AuditRangeEmpty
from sealwire.services.compliance.ports import AuditStore, RecordFilter, StoredRecord

PAGE_RECORDS = 64


class Tail:
    """Wakes who waits for a log to grow."""

    def __init__(self) -> None:
        self._followers: dict[str, set[Follower]] = {}

    def grew(self, tenant_id: str) -> None:
        """Say that records of this log have become durable."""
        for follower in self._followers.get(tenant_id, ()):
            follower.wake()

    def count(self, tenant_id: str) -> int:
        """Return how many follow this log."""
        return len(self._followers.get(tenant_id, ()))

    def join(self, tenant_id: str, follower: Follower) -> None:
        """Have a follower woken from now on."""
        self._followers.setdefault(tenant_id, set()).add(follower)

    def leave(self, tenant_id: str, follower: Follower) -> None:
        """Have it woken no more. Safe to call twice."""
        followers = self._followers.get(tenant_id, set())
        followers.discard(follower)
        if not followers:
            self._followers.pop(tenant_id, None)

    def end(self) -> None:
        """End all followers, as the service stops."""
        for followers in list(self._followers.values()):
            for follower in list(followers):
                follower.close()


class Seen(msgspec.Struct, frozen=True):
    """What a follower saw next: records that match, how far it looked, how many records lie behind that."""

    records: Sequence[StoredRecord]
    up_to_seq: int
    behind: int


class Follower:
    """One reader of one log. For one task."""

    def __init__(self, *, store: AuditStore, tail: Tail, tenant_id: str, wanted: RecordFilter, after_seq: int) -> None:
        self._store = store
        self._tail = tail
        self._tenant_id = tenant_id
        self._wanted = None if wanted == RecordFilter() else wanted
        self._at = after_seq
        self._grew = asyncio.Event()
        self._closed = False
        tail.join(tenant_id, self)

    @property
    def at_seq(self) -> int:
        """The `seq` up to which it has looked."""
        return self._at

    def wake(self) -> None:
        """Have it look again."""
        self._grew.set()

    def close(self) -> None:
        """End it: whoever waits in `next` gets None. Safe to call twice."""
        self._closed = True
        self._tail.leave(self._tenant_id, self)
        self._grew.set()

    async def next(self, wait_s: float) -> Seen | None:
        """Return what comes next, without records when nothing came in `wait_s`; None once it is closed."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        while not self._closed:
            self._grew.clear()  # before looking: what comes while we look wakes us again
            seen = await self._look()
            left_s = until_s - loop.time()
            if seen.records or left_s <= 0:
                return seen
            try:
                async with asyncio.timeout(left_s):
                    await self._grew.wait()
            except TimeoutError:
                continue
        return None

    async def _look(self) -> Seen:
        size = (await self._store.head(self._tenant_id)).size
        while self._at < size:
            records = await (self._all(size) if self._wanted is None else self._matching(self._wanted, size))
            if records:
                return Seen(records, self._at, max(0, size - self._at))
            await asyncio.sleep(0)
        return Seen((), self._at, 0)

    async def _all(self, size: int) -> Sequence[StoredRecord]:
        """Return the next page's records, those pruned left out; what has no bytes and was not pruned is damaged."""
        records = await self._store.records(self._tenant_id, self._at + 1, PAGE_RECORDS)
        reached = min(size, self._at + PAGE_RECORDS)
        self._at = max(reached, records[-1].seq if records else 0)
        return [r for r in records if r.body or not r.leaf]

    async def _matching(self, wanted: RecordFilter, size: int) -> Sequence[StoredRecord]:
        found = await self._store.search(self._tenant_id, wanted, after_seq=self._at, limit=PAGE_RECORDS)
        last = found.records[-1].seq if found.records else 0
        self._at = found.looked_up_to if found.looked_up_to is not None else max(size, last)
        return found.records


class LiveLog:
    """Opens followers, as many for a tenant as it may have."""

    def __init__(self, *, store: AuditStore, tail: Tail, per_tenant: int) -> None:
        self._store = store
        self._tail = tail
        self._per_tenant = per_tenant

    async def follow(self, tenant_id: str, wanted: RecordFilter, after_seq: int | None) -> Follower:
        """Return a follower behind `after_seq`, without it behind the last record. Close it when done.

        Raises: StreamsTaken; AuditRangeEmpty when the log is not that long: it is another one, or was cut.
        """
        size = (await self._store.head(tenant_id)).size
        if after_seq is not None and after_seq > size:
            raise AuditRangeEmpty(f"The log ends at {size}: it is not the one you followed, or it was cut.")
        if self._tail.count(tenant_id) >= self._per_tenant:
            raise StreamsTaken(f"{self._per_tenant} live streams are open.", retry_after_s=5)
        at = size if after_seq is None else after_seq
        return Follower(store=self._store, tail=self._tail, tenant_id=tenant_id, wanted=wanted, after_seq=at)

    def end(self) -> None:
        """End all followers."""
        self._tail.end()
