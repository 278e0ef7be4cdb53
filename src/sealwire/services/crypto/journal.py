"""The journal of key uses: each is recorded, many at a time, durable within a stated window."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.kit.problem import Unavailable
from sealwire.kit.tasks import cancel_and_wait
from sealwire.services.crypto.events import KeyEvent, Outcome
from sealwire.services.crypto.ports import KeyStore

_log = logging.getLogger("sealwire.crypto")
_MOST_AT_ONCE: Final = 500
_RETRY_S: Final = 0.25


_Kind = tuple[str, str, str, int, str]


class _Sum:
    """Uses of one kind that share an event."""

    __slots__ = ("_count", "_first")

    def __init__(self, first: KeyEvent) -> None:
        self._first = first
        self._count = first.count

    def add(self, event: KeyEvent) -> None:
        self._count += event.count

    def event(self) -> KeyEvent:
        """Return the event for all of them; it speaks of no single request any more."""
        return msgspec.structs.replace(self._first, count=self._count, trace_id="")


class UseJournal:
    """Collects events of uses (encrypt, decrypt, sign …), which have no transaction of their own to ride in.

    An event is durable at most `window_s` after its use, plus one commit. Within a window the first `individually` uses
    of a kind (what, by whom, of which key and version, with what outcome) have an event each, all further ones share
    one that counts them: each use is accounted for, and a busy key doesn't flood the log. When the disk doesn't take
    them, uses are refused once `limit` events wait: an operation that can't be recorded isn't done.
    """

    def __init__(self, *, store: KeyStore, window_s: float, individually: int, limit: int) -> None:
        self._store = store
        self._window_s = window_s
        self._individually = individually
        self._limit = limit
        self._waiting: list[KeyEvent] = []
        self._seen: dict[_Kind, int] = {}
        self._summed: dict[_Kind, _Sum] = {}
        self._tallies: dict[tuple[str, str, str, int], KeyEvent] = {}
        self._flushing: asyncio.Task[None] | None = None
        self._flush_lock = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """How many events aren't durable yet."""
        return len(self._waiting) + len(self._summed)

    def note(self, event: KeyEvent) -> None:
        """Record a use. Raises: Unavailable when too many wait."""
        if len(self._waiting) >= self._limit:
            raise Unavailable("Uses of keys can't be recorded for the moment.")
        kind = (event.action, event.actor_id, event.key_id, event.version, event.outcome)
        seen = self._seen[kind] = self._seen.get(kind, 0) + 1
        if seen <= self._individually:
            self._waiting.append(event)
        elif (total := self._summed.get(kind)) is None:
            self._summed[kind] = _Sum(event)
        else:
            total.add(event)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush_soon(), name="crypto-journal")

    @contextmanager
    def refusals(self, event: Callable[[Outcome], KeyEvent]) -> Iterator[None]:
        """Record what is refused in here: by a key's state, or because something doesn't open."""
        try:
            yield
        except KeyUnusable:
            self.note(event("denied"))
            raise
        except DecryptionFailed:
            self.note(event("failure"))
            raise

    def tally(self, event: KeyEvent) -> None:
        """Count a use, to be recorded together with others of the same key, actor and kind by `sum_up`.

        For what the audit log itself causes (signing its checkpoints): a record each would cause the next one.
        """
        name = (event.action, event.actor_id, event.key_id, event.version)
        there = self._tallies.get(name)
        if there is not None:
            event = msgspec.structs.replace(event, count=there.count + event.count)
        self._tallies[name] = event

    def sum_up(self) -> None:
        """Record what was counted since the last time."""
        tallies, self._tallies = self._tallies, {}
        for event in tallies.values():
            self.note(event)

    async def flush(self) -> None:
        """Make everything durable now. Raises: what the store raises; nothing is lost then."""
        self._waiting += [total.event() for total in self._summed.values()]
        self._summed.clear()
        self._seen.clear()
        async with self._flush_lock:  # two at once would store the same events twice
            while self._waiting:
                some = self._waiting[:_MOST_AT_ONCE]
                await self._store.record(some)
                del self._waiting[: len(some)]

    async def stop(self) -> None:
        """Flush and end."""
        self.sum_up()
        task, self._flushing = self._flushing, None
        await cancel_and_wait(task)
        await self.flush()

    async def _flush_soon(self) -> None:
        pause_s = self._window_s
        while self._waiting or self._summed:
            await asyncio.sleep(pause_s)
            try:
                await asyncio.shield(self.flush())
                pause_s = self._window_s
            except Exception as error:
                _log.warning("records of %d key uses wait for the disk: %r", len(self._waiting), error)
                pause_s = _RETRY_S
        self._flushing = None
