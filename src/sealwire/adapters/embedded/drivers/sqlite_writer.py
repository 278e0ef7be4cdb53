"""Group commit: the writes that wait at the same time share one transaction and one fsync."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw

from sealwire.adapters.embedded.drivers.sqlite_jobs import Job, Write
from sealwire.adapters.embedded.drivers.worker import Worker
from sealwire.kit.problem import Unavailable

T = TypeVar("T")

CHECKPOINT_PAGES = 4000
GROUP_BUDGET_S = 0.004
SLOW_COMMIT_S = 0.002
FAST_COMMIT_S = 0.001
PROBE_EVERY_GROUPS = 64
ASIDE_PATIENCE_S = 0.005
"""How long work that gives way to writers does so; after that it joins a group of theirs, so that it ends one day."""
COMMIT_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
STORAGE_FAULTS = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.NotADBError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
)
_log = logging.getLogger("sealwire.sqlite")


class WriterStats:
    """What a writer did so far, for `/metrics`: `commit_buckets[i]` counts commits up to `COMMIT_BUCKETS_S[i]`."""

    __slots__ = (
        "aside_s", "checkpoints", "commit_buckets", "commit_s_sum", "failed_groups", "group_s", "groups",
        "groups_in_worker", "rows", "writer_groups",
    )  # fmt: skip

    def __init__(self) -> None:
        self.aside_s = 0.0
        """How long the statements of the last work that gave way took."""
        self.group_s = 0.0
        """How long a group of writers takes, from its first statement to the end of its commit (smoothed)."""
        self.writer_groups = 0
        """Groups that were more than work that gives way."""
        self.groups = 0
        self.groups_in_worker = 0
        self.rows = 0
        self.failed_groups = 0
        self.checkpoints = 0
        self.commit_s_sum = 0.0
        self.commit_buckets = [0] * (len(COMMIT_BUCKETS_S) + 1)


class _Group:
    """One transaction: who waits for it, with what outcomes, and what is to happen once it is durable."""

    __slots__ = ("after", "aside", "began_s", "futures", "outcomes")

    def __init__(self, *, aside: bool) -> None:
        self.aside = aside
        self.began_s = time.monotonic()
        self.futures: list[asyncio.Future[Any]] = []
        self.outcomes: list[Any] = []
        self.after: list[Callable[[], None]] = []


class GroupWriter:
    """The one writer of a file. Everything here runs on the loop's thread, unless it says otherwise.

    COMMIT runs on the loop too while the disk is quick (an fsync of a quarter millisecond costs less than two thread
    hops and a fight for the GIL). When commits take longer than 2 ms on average they move to the worker thread, so that
    a slow disk never blocks the loop, and come back when the disk does. Checkpoints run in the worker: first beside the
    writer, then, for the few pages added meanwhile, while the writer waits.
    """

    def __init__(self, connect: Callable[[], apsw.Connection], *, name: str, max_waiting: int) -> None:
        self._connect = connect
        self._name = name
        self._max_waiting = max_waiting
        self._wal_pages = 0
        self._conn = self._open()
        self._checkpointer: apsw.Connection | None = None
        self._checkpoint_due = CHECKPOINT_PAGES
        self._checkpointing = False
        self._worker = Worker(f"sqlite-{name}")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: deque[Job] = deque()
        self._aside: deque[tuple[Job, float]] = deque()
        self._exclusive: deque[tuple[Callable[[apsw.Connection], Any], asyncio.Future[Any]]] = deque()
        self._waiting = 0
        self._busy = False
        self._closed = False
        self._idle: asyncio.Future[None] | None = None
        self._group: _Group | None = None
        self._hooks: list[Callable[[], None]] = []
        self._commit_s = 0.0
        self._slow = False
        self.stats = WriterStats()

    # ---- what callers use

    @property
    def waiting(self) -> int:
        """How many writes wait for their commit."""
        return self._waiting

    def write(self, fn: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """See `Database.write`."""
        future: asyncio.Future[T] = self.waiter()
        self.enqueue(Write(fn, future))
        return future

    def waiter(self) -> asyncio.Future[Any]:
        """Return a future for one more write. Raises: Unavailable when too many wait or the writer is closed."""
        if self._waiting >= self._max_waiting:
            raise Unavailable("Too many writes wait for the disk.")
        future: asyncio.Future[Any] = self._running_loop().create_future()
        self._waiting += 1
        return future

    def enqueue(self, job: Job) -> None:
        """Put `job` behind those that wait, and see to it that a group is made."""
        self._pending.append(job)
        if not self._busy:
            self._busy = True
            self._running_loop().call_soon(self._next)

    def aside(self, fn: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """See `Database.write_aside`."""
        future: asyncio.Future[T] = self.waiter()

        def timed(conn: apsw.Connection) -> T:
            began = time.monotonic()
            try:
                return fn(conn)
            finally:
                self.stats.aside_s = time.monotonic() - began

        self._aside.append((Write(timed, future), time.monotonic()))
        if not self._busy:
            self._busy = True
            self._running_loop().call_soon(self._next)
        return future

    def exclusively(self, call: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """Run `call` with the write connection, outside a transaction, in the worker thread, between two groups."""
        loop = self._running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._exclusive.append((call, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._next)
        return future

    def on_commit(self, hook: Callable[[], None]) -> None:
        """Call `hook` after every commit, before the writes' awaiters go on."""
        self._hooks.append(hook)

    def after_commit(self, call: Callable[[], None]) -> None:
        """From inside a write: call `call` once if and when that write is durable, before its awaiter goes on."""
        if self._group is None:
            raise RuntimeError("after_commit is for use inside a write")
        self._group.after.append(call)

    async def close(self) -> None:
        """Let what waits become durable, then end the worker and close the connections."""
        self._closed = True
        while self._busy or self._checkpointing:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        self._worker.stop()
        if self._checkpointer is not None:
            self._checkpointer.close()
        self._conn.close()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise Unavailable(f"The database {self._name} is closed.")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    # ---- one group after another

    def _next(self) -> None:
        """Start what waits: an exclusive call first, else a group, else what gives way to both."""
        if self._exclusive:
            call, future = self._exclusive.popleft()
            conn = self._conn
            self._in_worker(lambda: call(conn), lambda result, error: self._exclusive_done(future, result, error))
        elif self._pending:
            if self._aside and time.monotonic() - self._aside[0][1] > ASIDE_PATIENCE_S:
                self._pending.append(self._aside.popleft()[0])
            self._run_group()
        elif self._aside:
            self._pending.append(self._aside.popleft()[0])
            self._run_group(aside=True)
        else:
            self._busy = False
            self._tell_idle()

    def _in_worker(self, call: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        assert self._loop is not None  # something was enqueued on it
        self._worker.run(self._loop, call, done)

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not self._busy and not self._checkpointing:
            self._idle.set_result(None)

    def _exclusive_done(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(told(error))
        self._next()

    def _run_group(self, *, aside: bool = False) -> None:
        group = self._group = _Group(aside=aside)
        pending = self._pending
        jobs = len(pending)  # a batcher that may not hand over all its items queues itself again: for the next group
        until = group.began_s + GROUP_BUDGET_S
        try:
            self._conn.execute("BEGIN IMMEDIATE")
            alone = jobs == 1
            while jobs:
                jobs -= 1
                self._run_job(group, pending.popleft(), alone=alone)
                if time.monotonic() > until:
                    break
        except Exception as e:
            if not group.futures and pending:  # BEGIN itself failed: those who wait must hear of it
                group.futures.extend(pending.popleft().take())
            self._group = None
            self._failed(group, e)
            return
        self._group = None
        if self._slow and self.stats.groups % PROBE_EVERY_GROUPS:
            self.stats.groups_in_worker += 1
            self._in_worker(self._commit, lambda took_s, error: self._committed(group, took_s, error))
            return
        try:
            took_s = self._commit()
        except Exception as e:
            self._failed(group, e)
            return
        self._commit_s += (took_s - self._commit_s) / 8
        self._slow = self._commit_s > (FAST_COMMIT_S if self._slow else SLOW_COMMIT_S)
        self._committed(group, took_s, None)

    def _run_job(self, group: _Group, job: Job, *, alone: bool) -> None:
        """Run one job so that its failure takes back only what it did itself. Raises what ended the transaction."""
        conn, after, futures = self._conn, len(group.after), job.take()
        group.futures.extend(futures)
        outcomes: Sequence[Any]
        try:
            if alone:
                outcomes = job.run(conn)
            else:
                conn.execute("SAVEPOINT job")
                outcomes = job.run(conn)
                conn.execute("RELEASE job")
        except Exception as e:
            if not conn.in_transaction:  # SQLite gave up the whole transaction: disk full, I/O error, out of memory
                raise
            conn.execute("ROLLBACK" if alone else "ROLLBACK TO job")
            conn.execute("BEGIN IMMEDIATE" if alone else "RELEASE job")
            del group.after[after:]
            outcomes = [e] * len(futures)
        group.outcomes.extend(outcomes)

    def _commit(self) -> float:
        """Make the group durable; return how long that took, in seconds. On the loop or in the worker."""
        began = time.monotonic()
        self._conn.execute("COMMIT")
        return time.monotonic() - began

    def _committed(self, group: _Group, took_s: float, error: BaseException | None) -> None:
        if error is not None:
            self._failed(group, error)
            return
        stats = self.stats
        stats.groups += 1
        stats.rows += len(group.futures)
        stats.commit_s_sum += took_s
        stats.commit_buckets[bisect_left(COMMIT_BUCKETS_S, took_s)] += 1
        if not group.aside:
            stats.writer_groups += 1
            stats.group_s += (time.monotonic() - group.began_s - stats.group_s) / 16
        self._waiting -= len(group.futures)
        # Awaiters go on in the loop's next turn, before those whom the hooks wake: who waits for an answer is first.
        for future, outcome in zip(group.futures, group.outcomes, strict=True):
            if not future.done():
                if isinstance(outcome, Exception):
                    future.set_exception(told(outcome))
                else:
                    future.set_result(outcome)
        for call in group.after:
            call()
        for call in self._hooks:
            call()
        if self._wal_pages >= self._checkpoint_due and not self._checkpointing:
            self._checkpoint()
        if self._slow:  # the worker has the disk busy while the loop answers
            self._next()
        else:  # the commit to come holds up the loop: answer first
            assert self._loop is not None  # something was committed on it
            self._loop.call_soon(self._next)

    def _failed(self, group: _Group, error: BaseException) -> None:
        """Tell the whole group that nothing was confirmed, and make the connection fit for the next one."""
        self.stats.failed_groups += 1
        _log.error("group commit failed in %s: %r", self._name, error)
        self._waiting -= len(group.futures)
        for future in group.futures:
            if not future.done():
                future.set_exception(unconfirmed(error))
        try:
            if self._conn.in_transaction:
                self._conn.execute("ROLLBACK")
        except apsw.Error:
            self._conn.close(True)
            self._conn = self._open()
        self._next()

    # ---- the write-ahead log

    def _open(self) -> apsw.Connection:
        conn = self._connect()
        conn.set_wal_hook(self._grown)
        return conn

    def _grown(self, _conn: apsw.Connection, _schema: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        """Bring the log into the database beside the writer, then what came meanwhile while the writer waits."""
        self._checkpointing = True

        def beside(_result: Any, error: BaseException | None) -> None:
            if error is not None or self._closed:  # closing checkpoints too
                self._checkpointed(error)
            else:
                self.exclusively(self._checkpoint_now).add_done_callback(lambda f: self._checkpointed(f.exception()))

        self._in_worker(self._checkpoint_beside, beside)

    def _checkpoint_beside(self) -> None:
        """In the worker."""
        if self._checkpointer is None:
            self._checkpointer = self._connect()
        self._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _checkpoint_now(self, conn: apsw.Connection) -> None:
        """In the worker. The next group starts the log from its beginning, unless a long read still needs it."""
        conn.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _checkpointed(self, error: BaseException | None) -> None:
        self._checkpointing = False
        self.stats.checkpoints += 1
        self._checkpoint_due = CHECKPOINT_PAGES
        if error is not None:
            self._checkpoint_due = self._wal_pages + CHECKPOINT_PAGES
            _log.warning("checkpoint failed in %s: %r", self._name, error)
        self._tell_idle()


def unconfirmed(error: BaseException) -> Unavailable:
    """Return what the awaiter of a write is told when storage failed: it may or may not be stored."""
    problem = Unavailable("Storage did not confirm the write. Ask again with the same key.")
    problem.__cause__ = error
    return problem


def told(error: BaseException) -> BaseException:
    """Return `error`, or `Unavailable` when it is a fault of the storage and not the write's own."""
    return unconfirmed(error) if isinstance(error, STORAGE_FAULTS) else error
