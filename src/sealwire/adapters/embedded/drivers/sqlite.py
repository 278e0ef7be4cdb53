"""A service's own SQLite file: opened by one process, written in groups, read beside the writer."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import apsw

from sealwire.adapters.embedded.drivers.pace import Pace
from sealwire.adapters.embedded.drivers.sqlite_jobs import Batcher
from sealwire.adapters.embedded.drivers.sqlite_writer import GroupWriter, WriterStats

T = TypeVar("T")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Row = tuple[Any, ...]

BUSY_TIMEOUT_MS = 5000
COMPACT_WAIT_MS = 500
# auto_vacuum and page_size only take effect before the first table; secure_delete must hold before the first delete.
FILE_PRAGMAS = ("page_size=4096", "auto_vacuum=INCREMENTAL", "secure_delete=ON", "journal_mode=WAL")
CONNECTION_PRAGMAS = (
    "secure_delete=ON",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={BUSY_TIMEOUT_MS}",
    "cache_size=-16384",
    "temp_store=MEMORY",
    "wal_autocheckpoint=0",  # the writer sees to it, off the loop, past CHECKPOINT_PAGES
)
PAGE_BYTES = 4096
MOST_RECLAIM_PAGES = 64
"""A page given back is two written: what a step adds to the commit it shares."""
LOG_KEPT_BYTES = 1 << 20
"""A log this small is not worth a checkpoint of its own to be emptied."""
_LOG_EMPTIED = -1
SCAN_THREADS = 2
MAX_WAITING = 20_000


class DatabaseInUse(Exception):
    """Another process, or another `Database` of this one, has the file open."""

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__(
            f"{path} is in use by process {owner or '(unknown)'}; only one may own it. Stop that one first."
        )
        self.path = path


class DatabaseTooNew(Exception):
    """The file was written by a later version of the program."""

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(f"{path} has schema version {found}, this program knows up to {known}. Run the newer program.")
        self.path = path


class Database:
    """One file, one owner, one writer, any number of reads.

    What is read outside a write is committed and durable (WAL, synchronous=FULL). All methods belong to one event
    loop's thread; which one is settled by the first write.
    """

    def __init__(self, path: Path, lock_fd: int, vfs: str, max_waiting: int) -> None:
        """Use `open`."""
        self._path = path
        self._lock_fd = lock_fd
        self._vfs = vfs
        self._writer = GroupWriter(lambda: _connect(path, vfs), name=path.name, max_waiting=max_waiting)
        self._reader = _connect(path, vfs, read_only=True)
        self._scanners: list[apsw.Connection] = []
        self._reclaim_pace = Pace(self, start=MOST_RECLAIM_PAGES // 4, most=MOST_RECLAIM_PAGES)
        self._to_free: int | None = None  # pages that a round of `reclaim` still gives back; None between two
        self._scan_threads: ThreadPoolExecutor | None = None

    @classmethod
    def open(
        cls, path: Path | str, migrations: Sequence[str], *, vfs: str = "", max_waiting: int = MAX_WAITING
    ) -> Database:
        """Open or make the file at `path` and bring its schema up to date.

        `migrations[i]` is the SQL that leads from schema version i to i + 1; each runs once, in its own transaction
        (`PRAGMA user_version`), those of a new file in one. `vfs` names an apsw VFS (fault tests); past `max_waiting`
        waiting writes are refused.
        Raises: DatabaseInUse, DatabaseTooNew, apsw.Error when the file can't be opened or a migration fails.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_fd = _lock(path)
        try:
            _migrate(path, vfs, migrations)
            return cls(path, lock_fd, vfs, max_waiting)
        except BaseException:
            os.close(lock_fd)
            raise

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def stats(self) -> WriterStats:
        """What the writer did so far."""
        return self._writer.stats

    @property
    def waiting(self) -> int:
        """How many writes wait for their commit."""
        return self._writer.waiting

    def write(self, fn: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """Run `fn(conn)` inside the next group's transaction; await the future for its result, durable by then.

        If `fn` raises, what it did is rolled back, the others of the group are untouched, and the awaiter gets the
        exception. `fn` runs on the loop's thread: keep it under 2 ms, never await or commit in it. Cancelling the
        awaiter before the group begins drops the write; later it is stored all the same.
        Raises: Unavailable when storage did not confirm the write (it may or may not be stored), when too many writes
        wait, or after `close`.
        """
        return self._writer.write(fn)

    def write_aside(self, fn: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """As `write`, for sweeps: as soon as no writer waits, or after some milliseconds together with those that do.

        A writer waits for what is under way and no more: let `Pace` say how much that may be.
        """
        return self._writer.aside(fn)

    def batcher(
        self,
        fn_many: Callable[[apsw.Connection, list[ItemT]], Sequence[ResultT | Exception]],
        *,
        max_items: int = 256,
    ) -> Batcher[ItemT, ResultT]:
        """Return a batcher: `await batcher.submit(item)`; all that wait go to `fn_many(conn, items)` at once.

        It returns one result or exception per item, in order. An exception it raises is for all of the batch, and rolls
        back all of it: to refuse one item, return the exception instead of writing that item.
        """
        return Batcher(self._writer, fn_many, max_items=max_items)

    def after_commit(self, call: Callable[[], None]) -> None:
        """From inside a write: call `call` once, if and when that write is durable, before its awaiter goes on."""
        self._writer.after_commit(call)

    def on_commit(self, hook: Callable[[], None]) -> None:
        """Call `hook` on the loop after every commit, before the writes' awaiters go on. It must not raise."""
        self._writer.on_commit(hook)

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a short query, run at once on the loop's thread on a connection that can't write."""
        return self._reader.execute(sql, tuple(params)).fetchall()

    async def scan(self, fn: Callable[[apsw.Connection], T]) -> T:
        """Run `fn(conn)` in a thread on a connection that can't write, inside one snapshot; for long reads.

        The log can't shrink below the oldest snapshot: end within seconds.
        """
        if self._scan_threads is None:
            self._scan_threads = ThreadPoolExecutor(SCAN_THREADS, f"scan-{self._path.name}")
        return await asyncio.get_running_loop().run_in_executor(self._scan_threads, self._scan, fn)

    def _scan(self, fn: Callable[[apsw.Connection], T]) -> T:
        try:
            conn = self._scanners.pop()
        except IndexError:
            conn = _connect(self._path, self._vfs, read_only=True)
        try:
            conn.execute("BEGIN")
            try:
                return fn(conn)
            finally:
                conn.execute("ROLLBACK")
        finally:
            self._scanners.append(conn)

    async def compact(self) -> None:
        """Give free pages back to the file system and empty the log, so that nothing deleted is left in the files.

        Writes wait meanwhile. Raises: Unavailable when a long read holds the log for more than half a second.
        """

        def compact(conn: apsw.Connection) -> None:
            conn.execute("PRAGMA incremental_vacuum").fetchall()
            conn.set_busy_timeout(COMPACT_WAIT_MS)
            try:
                conn.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                conn.set_busy_timeout(BUSY_TIMEOUT_MS)

        await self._writer.exclusively(compact)

    async def reclaim(self) -> int:
        """Give some free pages back to the file system; return how many bytes, 0 at the end of a round.

        A step that gives way to writers, and rests (see `Pace`). A round gives back what was free when it began, then
        empties the log, unless a long read holds it. What others free and write meanwhile is for the next round: they
        may do so without end.
        """
        if self._to_free != _LOG_EMPTIED:
            if freed := await self._reclaim_pace.write(self._vacuum):
                return freed
            if emptied := await self._writer.exclusively(self._empty_log):
                self._to_free = _LOG_EMPTIED
                return emptied
        self._to_free = None
        return 0

    def _vacuum(self, conn: apsw.Connection) -> int:
        free = int(conn.execute("PRAGMA freelist_count").get)
        left = free if self._to_free is None else min(self._to_free, free)
        if left <= 0:
            return 0
        conn.execute(f"PRAGMA incremental_vacuum({min(self._reclaim_pace.size, left):d})").fetchall()
        freed = free - int(conn.execute("PRAGMA freelist_count").get)
        self._to_free = max(0, left - freed)
        return freed * PAGE_BYTES

    def _empty_log(self, conn: apsw.Connection) -> int:
        """In the worker. Return how many bytes the log had, 0 when it is small or can't be emptied now."""
        log = self._path.with_name(self._path.name + "-wal")
        size = log.stat().st_size if log.exists() else 0
        if size <= LOG_KEPT_BYTES:
            return 0
        conn.set_busy_timeout(0)
        try:
            conn.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            return 0
        finally:
            conn.set_busy_timeout(BUSY_TIMEOUT_MS)
        return size

    async def close(self) -> None:
        """Let the waiting writes become durable, close the file and give up its ownership."""
        await self._writer.close()
        if self._scan_threads is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._scan_threads.shutdown)
        for conn in (*self._scanners, self._reader):
            conn.close()
        os.close(self._lock_fd)


def fetch(conn: apsw.Connection, sql: str, params: Sequence[Any] = ()) -> list[Row]:
    """Return all rows of a query made inside a write or a scan."""
    return conn.execute(sql, tuple(params)).fetchall()


def fetch_value(conn: apsw.Connection, sql: str, params: Sequence[Any] = ()) -> Any:
    """Return the one value of a query's first row, None when it has no row."""
    return conn.execute(sql, tuple(params)).get


def _connect(path: Path, vfs: str, *, read_only: bool = False) -> apsw.Connection:
    conn = apsw.Connection(str(path), vfs=vfs or None)
    for pragma in CONNECTION_PRAGMAS:
        conn.execute(f"PRAGMA {pragma}").fetchall()
    if read_only:
        conn.execute("PRAGMA query_only=ON").fetchall()
    return conn


def _lock(path: Path) -> int:
    """Take the file's ownership, held until the returned descriptor is closed or the process ends.

    A file of its own: closing any descriptor of the database file would drop SQLite's own locks (POSIX advisory locks).
    """
    fd = os.open(f"{path}.owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise DatabaseInUse(path, owner) from None
    os.ftruncate(fd, 0)
    os.write(fd, b"%d\n" % os.getpid())
    return fd


def _migrate(path: Path, vfs: str, migrations: Sequence[str]) -> None:
    conn = apsw.Connection(str(path), vfs=vfs or None)
    try:
        path.chmod(0o600)
        for pragma in FILE_PRAGMAS:
            conn.execute(f"PRAGMA {pragma}").fetchall()
        conn.execute("PRAGMA synchronous=FULL").fetchall()
        version = conn.execute("PRAGMA user_version").get
        if version > len(migrations):
            raise DatabaseTooNew(path, version, len(migrations))
        steps: list[Sequence[str]] = [[sql] for sql in migrations[version:]]
        if version == 0 and steps:
            steps = [migrations]
        for step in steps:
            version += len(step)
            with conn:
                for sql in step:
                    conn.execute(sql)
                conn.execute(f"PRAGMA user_version={version}")
    finally:
        conn.close()
