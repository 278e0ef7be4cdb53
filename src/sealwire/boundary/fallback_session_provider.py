"""Fallback session provider: sessions and revocations in memory, with a sealed journal on disk (R6.3).

Not an authority: it remembers what auth said, so that an outage neither logs everybody out nor lets anybody in. A
revocation it knows is never taken back: not by a cache that returns with older data, a restart, or a clock that steps.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from sealwire.boundary.model import ComponentHealth, Health
from sealwire.boundary.ports import FeedPosition, JournalEntry, KnownRevocation, KnownSession, Moment, SessionJournal
from sealwire.boundary.revocation_book import NOTHING, RevocationBook
from sealwire.contracts.revocations import Revocation
from sealwire.contracts.sessions import SessionState
from sealwire.kit.caller import STEP_UP_WINDOW_S
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.tasks import cancel_and_wait

_LOG = logging.getLogger("sealwire.boundary")
FLUSH_EVERY_S: Final = 0.5
"""Confirmed sessions reach the disk so late at most. Revocations are durable before their receipt is given."""
CLEAN_EVERY_S: Final = 30.0
MIN_GARBAGE: Final = 1_000
RECONCILE_AT_ONCE: Final = 256
RUNS_KEPT: Final = 32
"""A session known by the number of an older run of auth is asked about again when anything was said of its person."""


class FallbackSessionProvider:
    """What this process knows of sessions. Safe under threads and tasks: every change holds one lock, shortly."""

    def __init__(self, *, journal: SessionJournal, clock: Clock, max_sessions: int = 100_000) -> None:
        self._journal = journal
        self._clock = clock
        self._max_sessions = max_sessions
        self._lock = threading.RLock()
        self._sessions: OrderedDict[str, KnownSession] = OrderedDict()
        self._unwritten: dict[str, KnownSession] = {}
        self._unwritten_revocations: list[KnownRevocation] = []
        self._place_written = FeedPosition(0)
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="session-journal")
        self._tasks: list[asyncio.Task[None]] = []
        self._writing = asyncio.Lock()
        self._incomplete = False
        self._fault = ""
        self.book = RevocationBook(clock=clock)
        self.position = 0
        self.last = ""
        """`change_id` of the entry at `position`."""
        self.runs: tuple[str, ...] = ()
        """Auth's runs in which this feed was read, the present one last. Numbers of any other count nothing here."""
        self.turns = 0
        """How often the feed turned out to be another than the one that was read so far."""
        self.reconciled = 0
        self.newest_us = 0
        """The furthest the wall clock is known to have been, also before the start: since then it can't have gone back
        without being set. Looked at while a proof of identity may still count (`stamp`)."""
        self._confirmed_us = 0

    async def start(self) -> None:
        """Read the journal and keep it from now on."""
        loop = asyncio.get_running_loop()
        entries = await loop.run_in_executor(self._disk, self._journal.load)
        with self._lock:
            for entry in entries:
                self._take(entry)
            if self._journal.damaged:
                self.position, self.last = 0, ""  # what was lost is read from auth again, whatever the rest says
            self._forget_ended()
        if self._garbage() > MIN_GARBAGE:
            await self._compact()
        self._tasks = [
            asyncio.create_task(self._every(FLUSH_EVERY_S, self.flush), name="session-journal-flush"),
            asyncio.create_task(self._every(CLEAN_EVERY_S, self.clean), name="session-journal-clean"),
        ]

    async def stop(self) -> None:
        """Write what is left and let go of the disk. Safe to call twice."""
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)
        if tasks:
            try:
                await self.persist()
                await self.flush()
                await self.stamp()
            except OSError:
                _LOG.exception("the session journal can't be written; what it lacks is read from auth after the start")
            await asyncio.get_running_loop().run_in_executor(self._disk, self._journal.close)
            self._disk.shutdown()

    # -- sessions

    def remember(self, state: SessionState, number: int, run: str | None = None) -> None:
        """Keep what auth said of a session, when the feed of `run` (by default the present one) was at `number`."""
        known = KnownSession(state, number, self._clock.now_us(), self.run if run is None else run)
        with self._lock:
            self._confirmed_us = known.confirmed_at_us
            if self._keep(known):
                self._unwritten[state.session_id] = known

    def lookup(self, session_id: str) -> KnownSession | None:
        """Return what is known of a live session; None when nothing is."""
        with self._lock:
            known = self._sessions.get(session_id)
        if known is None or self._over(known.state):
            return None
        return known

    def __len__(self) -> int:
        return len(self._sessions)

    # -- revocations

    def take(self, revocations: Sequence[Revocation], position: int, last: str = "") -> None:
        """Take entries of the feed, read up to `position`, where the entry is `last`: in force on return, on disk after
        `persist`."""
        with self._lock:
            fresh = [revocation for revocation in revocations if self.book.apply(revocation)]
            for revocation in fresh:
                self._forget_revoked(revocation)
            self._unwritten_revocations += map(KnownRevocation, fresh)
            if position > self.position:
                self.position, self.last = position, last

    @property
    def run(self) -> str:
        """Auth's run whose feed is read now; empty before the first answer."""
        return self.runs[-1] if self.runs else ""

    def follow_run(self, run: str) -> None:
        """Auth was started anew, and its feed is the one that was read so far."""
        with self._lock:
            if run not in self.runs:
                self.runs = (*self.runs, run)[-RUNS_KEPT:]

    def restart_feed(self, run: str) -> None:
        """Read another feed from its start: auth came back from an older copy.

        What is known to have ended stays so. What is known to live was known by numbers that say nothing any more, so
        any entry about the person, of before or new, makes it stale.
        """
        with self._lock:
            self.position, self.last, self.runs = 0, "", (run,)
            self.turns += 1
            if len(self.book):
                self.book.renumber()
                self._unwritten_revocations = []
                self._incomplete = True  # the next one to write writes all of them anew

    def number_of(self, known: KnownSession) -> int:
        """Return up to which entry of the present feed a session is known to live; `NOTHING` by another feed's."""
        return known.number if known.run in self.runs or known.run == self.run else NOTHING

    async def persist(self) -> None:
        """Make durable what was taken. Raises: OSError; then what is missing is written the next time."""
        with self._lock:
            entries: list[JournalEntry] = [*self._unwritten_revocations]
            self._unwritten_revocations = []
            place = self._place()
        if entries or place != self._place_written:
            await self._write([*entries, place])
            self._place_written = place

    # -- upkeep

    async def flush(self) -> None:
        """Write the sessions confirmed since the last time."""
        with self._lock:
            waiting: list[JournalEntry] = list(self._unwritten.values())
            self._unwritten = {}
        if waiting:
            await self._write(waiting)

    async def stamp(self) -> None:
        """Keep where the wall clock is, as long as anybody confirmed lately may have a recent proof of identity."""
        now_us = self._clock.now_us()
        self.newest_us = max(self.newest_us, now_us)
        if now_us - self._confirmed_us <= (STEP_UP_WINDOW_S + CLEAN_EVERY_S) * US_PER_S:
            await self._write([Moment(self.newest_us)])

    async def clean(self) -> None:
        """Forget what is over, on a full disk too; rewrite the journal when most of it is garbage."""
        with self._lock:
            self._forget_ended()
            self.book.prune()
        await self.stamp()
        if self._garbage() > max(MIN_GARBAGE, len(self._sessions) + len(self.book)):
            await self._compact()

    async def reconcile(
        self,
        *,
        since: int,
        put: Callable[[KnownSession], Awaitable[None]],
        delete: Callable[[str], Awaitable[None]],
    ) -> int:
        """Bring a cache up to date that was away since the feed stood at `since`: revocations first, so that they win.

        Returns how many entries were written. Raises: what `put` and `delete` raise; then it has to be done again.
        """
        with self._lock:
            ended = [r.session_id for r in self.book if r.kind == "session" and r.number > since]
            fresh = [known for known in self._sessions.values() if self.number_of(known) >= since]
        for done, session_id in enumerate(ended):
            await delete(session_id)
            if done % RECONCILE_AT_ONCE == 0:
                await asyncio.sleep(0)  # a cache in this process never lets others run
        written = len(ended)
        for done, known in enumerate(fresh):
            if done % RECONCILE_AT_ONCE == 0:
                await asyncio.sleep(0)
            if self.lookup(known.state.session_id) is known and not self._stale(known):
                await put(known)
                written += 1
        self.reconciled += written
        return written

    def health(self) -> ComponentHealth:
        """Degraded when the journal was damaged, unhealthy while it can't be written."""
        status = Health.HEALTHY
        if self._fault:
            status = Health.UNHEALTHY
        elif self._journal.damaged:
            status = Health.DEGRADED
        details: dict[str, Any] = {
            "sessions": len(self._sessions),
            "revocations": len(self.book),
            "feed_position": self.position,
            "journal_entries": len(self._journal),
            "journal_unwritten": len(self._unwritten),
            "journal_damaged": self._journal.damaged,
            "journal_fault": self._fault,
            "reconciled": self.reconciled,
        }
        return ComponentHealth(status=status, details=details)

    # -- inside

    def _take(self, entry: JournalEntry) -> None:
        if isinstance(entry, KnownSession):
            self.newest_us = max(self.newest_us, entry.confirmed_at_us)
            self._keep(entry)
        elif isinstance(entry, Moment):
            self.newest_us = max(self.newest_us, entry.at_us)
        elif isinstance(entry, KnownRevocation):
            if self.book.apply(entry.revocation):
                self._forget_revoked(entry.revocation)
        else:
            # The last one counts: the feed may have gone back (`restart_feed`).
            self.position, self.last, self.runs = entry.number, entry.last, entry.runs

    def _keep(self, known: KnownSession) -> bool:
        session_id = known.state.session_id
        if self.book.ended(session_id):
            return False  # the answer was on its way when the session ended
        before = self._sessions.pop(session_id, None)
        if before is not None and self.number_of(before) > self.number_of(known):
            known = before  # two answers overtook each other: the one that knew more of the feed stays
        if len(self._sessions) >= self._max_sessions:
            self._sessions.popitem(last=False)
        self._sessions[session_id] = known
        return True

    def _forget_revoked(self, revocation: Revocation) -> None:
        if revocation.kind == "session":
            self._sessions.pop(revocation.session_id, None)
            self._unwritten.pop(revocation.session_id, None)

    def _forget_ended(self) -> None:
        for session_id in [sid for sid, known in self._sessions.items() if self._over(known.state)]:
            del self._sessions[session_id]

    def _over(self, state: SessionState) -> bool:
        return not state.active or state.expires_at_s * US_PER_S <= self._clock.now_us()

    def _stale(self, known: KnownSession) -> bool:
        return self.book.latest(known.state.tenant_id, known.state.user_id) > self.number_of(known)

    def _place(self) -> FeedPosition:
        return FeedPosition(self.position, self.last, self.runs)

    def _garbage(self) -> int:
        return len(self._journal) - len(self._sessions) - len(self.book)

    async def _compact(self) -> None:
        async with self._writing:
            await self._replace()

    async def _write(self, entries: list[JournalEntry]) -> None:
        async with self._writing:
            if self._incomplete:
                await self._replace()  # entries are missing on disk: write all anew, not what came after them
            else:
                await self._on_disk(self._journal.append, entries)

    async def _replace(self) -> None:
        with self._lock:
            self._unwritten.clear()
            self._unwritten_revocations.clear()
            # The position after what it speaks of: where the file is damaged, it goes with that.
            entries: list[JournalEntry] = [*map(KnownRevocation, self.book), self._place(), Moment(self.newest_us)]
            entries += self._sessions.values()
        await self._on_disk(self._journal.replace, entries)
        self._incomplete = False

    async def _on_disk(self, do: Callable[[list[JournalEntry]], None], entries: list[JournalEntry]) -> None:
        def run() -> None:
            try:
                do(entries)
                self._fault = ""
            except OSError as error:
                self._incomplete = True
                self._fault = error.strerror or "the journal can't be written"
                raise

        # One thread, so calls stay in order; shielded, so that a cancelled caller does not take its entries along.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._disk, run))

    async def _every(self, seconds: float, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await do()
            except OSError:
                _LOG.exception("the session journal can't be written; sessions would not survive a restart")
