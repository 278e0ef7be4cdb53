"""Events: what a change announces, the feed that carries it, and the consumer that follows a feed for good."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Protocol

import msgspec

_log = logging.getLogger("sealwire.events")


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that has no place in a feed yet. `data` holds ids and sealed bytes only, never personal data."""

    event_id: str
    tenant_id: str
    kind: str
    at_us: int
    data: bytes = b""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a feed. `position` orders the feed; `event_id` is what a consumer recognises a repetition by."""

    position: int
    event_id: str
    tenant_id: str
    kind: str
    at_us: int
    data: bytes = b""


class EventFeed(Protocol):
    """The events of one service, in the order of their commits.

    Atomic: an event is in the feed exactly when the change it announces is stored. Ordered: positions start at 1, rise
    by 1 in commit order, and no event ever appears below a position that was already readable. Durable before readable.
    Events that every registered consumer has passed may be trimmed away from the front.

    Embedded: a table beside the data, written in the same SQLite transaction (`adapters/embedded/outbox.py`).
    MongoDB: a collection written in the same multi-document transaction, its position taken from a counter document in
    that transaction, so that transactions which would overtake each other conflict and one is tried again; `wait` is a
    change stream on the collection (resume token kept), whose majority read concern gives "durable before readable".
    Kafka: a relay of the service copies its outbox, in order and idempotently (enable.idempotence, one partition per
    feed, or per tenant where a feed's consumers need order per tenant only), with the position as a header; consumers
    read what is committed.
    """

    async def read(self, after: int, limit: int) -> Sequence[Event]:
        """Return at most `limit` events with a position above `after`, in order; empty when there is none."""

    async def wait(self, after: int, timeout_s: float) -> bool:
        """Return True as soon as there is an event above `after`, False when `timeout_s` passed without one."""

    async def newest(self) -> int:
        """Return the position of the newest event ever written, 0 before the first."""


class Positions(Protocol):
    """How far each consumer came. Kept with the consumer's own data where it has some.

    Embedded: a table. MongoDB: a document per consumer (majority write concern). Kafka: the group's committed offset.
    """

    async def load(self, consumer: str) -> int:
        """Return the position saved last for `consumer`, 0 for a new one, and register it: nothing above is trimmed."""

    async def save(self, consumer: str, position: int) -> None:
        """Store durably that `consumer` is done with all up to `position`. One lower than stored is ignored."""


class ConsumerState(msgspec.Struct, kw_only=True):
    """How a consumer fares, for readiness and metrics. `failures` counts failures in a row."""

    name: str
    running: bool = False
    position: int = 0
    handled: int = 0
    failures: int = 0
    last_error: str = ""


Handle = Callable[[Sequence[Event]], Awaitable[None]]


class Consumer:
    """A background task that follows a feed: every event at least once, in order, across restarts.

    The position is saved after `handle` returned, so a crash in between repeats a batch: `handle` must be idempotent
    by `event_id` (or position). When `handle`, the feed or the positions fail, the same batch is tried again after a
    pause with full jitter, for good: an event is never skipped. The failure shows in `state`.
    """

    def __init__(
        self,
        *,
        name: str,
        feed: EventFeed,
        positions: Positions,
        handle: Handle,
        batch: int = 100,
        linger_s: float = 0.0,
        idle_s: float = 5.0,
        backoff_s: float = 0.1,
        backoff_cap_s: float = 10.0,
        rng: Random | None = None,
    ) -> None:
        """`batch` is the most events per call.

        `linger_s` is waited before each call unless the one before it was full, so that more can join: without it a
        steady trickle, each event with a commit here and one where it goes, costs as much as a flood.
        """
        self._feed = feed
        self._positions = positions
        self._handle = handle
        self._batch = batch
        self._linger_s = linger_s
        self._idle_s = idle_s
        self._backoff_s = backoff_s
        self._backoff_cap_s = backoff_cap_s
        self._rng = rng or Random()  # noqa: S311 - jitter, not a secret
        self._task: asyncio.Task[None] | None = None
        self._position: int | None = None
        self._resting = False
        self._stopping = False
        self.state = ConsumerState(name=name)

    def start(self) -> None:
        """Begin in the background, from the position saved last."""
        if self._task is None:
            self._stopping = False
            self.state.running = True
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"consumer-{self.state.name}")

    async def stop(self, *, grace_s: float = 5.0, drain: bool = False) -> None:
        """End. A batch under way may finish within `grace_s`; with `drain`, so may all that is in the feed by then."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping = True
        if self._resting:
            task.cancel()
        deadline = asyncio.get_running_loop().time() + grace_s
        await asyncio.wait({task}, timeout=grace_s)
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if drain:
            try:
                async with asyncio.timeout_at(deadline):
                    while await self._step():
                        pass
            except Exception as e:  # it stays in the feed, and is handled after the next start
                _log.warning("%s stopped before the end of its feed: %r", self.state.name, e)
        self.state.running = False

    async def lag(self) -> int:
        """Return how many events wait for this consumer."""
        return max(0, await self._feed.newest() - self.state.position)

    async def _run(self) -> None:
        while not self._stopping:
            try:
                if await self._step() < self._batch:
                    await self._rest()
            except Exception as e:
                self.state.failures += 1
                self.state.last_error = type(e).__name__
                _log.warning("%s failed %d times in a row: %r", self.state.name, self.state.failures, e)
                await self._back_off()

    async def _step(self) -> int:
        """Handle one batch. Return how many events it had."""
        if self._position is None:
            self._position = self.state.position = await self._positions.load(self.state.name)
        events = await self._feed.read(self._position, self._batch)
        if not events:
            return 0
        await self._handle(events)
        await self._positions.save(self.state.name, events[-1].position)
        self._position = self.state.position = events[-1].position
        self.state.handled += len(events)
        self.state.failures = 0
        self.state.last_error = ""
        return len(events)

    async def _rest(self) -> None:
        if self._stopping:  # told while the last step was under way
            return
        self._resting = True
        try:
            if await self._feed.wait(self.state.position, self._idle_s) and self._linger_s:
                await asyncio.sleep(self._linger_s)
        finally:
            self._resting = False

    async def _back_off(self) -> None:
        if self._stopping:
            return
        most = min(self._backoff_cap_s, self._backoff_s * 2.0 ** min(self.state.failures, 30))
        self._resting = True
        try:
            await asyncio.sleep(self._rng.uniform(0, most))
        finally:
            self._resting = False
