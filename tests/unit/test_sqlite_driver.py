"""The SQLite driver: group commit, isolation of failures, ownership, faults of the disk, kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.adapters.embedded.drivers.sqlite import Database, DatabaseInUse, DatabaseTooNew
from sealwire.kit.problem import Unavailable

SCHEMA = ["CREATE TABLE n (k INTEGER PRIMARY KEY, v BLOB)"]


def put(k: int, v: Any = b"v"):
    return lambda conn: conn.execute("INSERT INTO n (k, v) VALUES (?, ?)", (k, v)).fetchall()


def keys(db: Database) -> list[int]:
    return [k for (k,) in db.read("SELECT k FROM n ORDER BY k")]


@pytest.fixture
async def db(tmp_path):
    db = Database.open(tmp_path / "t.db", SCHEMA)
    yield db
    await db.close()


async def test_the_file_is_made_as_the_rules_ask(db, tmp_path):
    await db.write(put(1))
    found = {
        name: db.read(f"PRAGMA {name}")[0][0]
        for name in ("page_size", "auto_vacuum", "secure_delete", "journal_mode", "synchronous", "foreign_keys")
    }
    assert found == {
        "page_size": 4096,
        "auto_vacuum": 2,
        "secure_delete": 1,
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
    }
    assert (tmp_path / "t.db").stat().st_mode & 0o077 == 0


async def test_writes_that_wait_together_share_one_commit(db, monkeypatch):
    monkeypatch.setattr("sealwire.adapters.embedded.drivers.sqlite_writer.GROUP_BUDGET_S", 60.0)
    results = await asyncio.gather(*[db.write(lambda conn, i=i: (put(i)(conn), i)[1]) for i in range(50)])
    assert results == list(range(50))
    assert keys(db) == list(range(50))
    assert db.stats.groups == 1
    assert db.stats.rows == 50
    assert sum(db.stats.commit_buckets) == 1


async def test_a_write_that_raises_loses_only_itself(db):
    def half(conn):
        put(100)(conn)
        raise ValueError("no")

    results = await asyncio.gather(
        db.write(put(1)), db.write(half), db.write(put(1)), db.write(put(2)), return_exceptions=True
    )
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], apsw.ConstraintError)
    assert keys(db) == [1, 2]
    with pytest.raises(ValueError):
        await db.write(half)
    assert keys(db) == [1, 2]


async def test_what_a_write_asked_for_after_commit_happens_once_and_only_if_it_is_stored(db):
    calls: list[str] = []

    def good(conn):
        put(1)(conn)
        db.after_commit(lambda: calls.append(f"good {keys(db)}"))

    def bad(conn):
        db.after_commit(lambda: calls.append("bad"))
        raise ValueError

    db.on_commit(lambda: calls.append("hook"))
    await asyncio.gather(db.write(bad), db.write(good), return_exceptions=True)
    assert calls == ["good [1]", "hook"]
    with pytest.raises(RuntimeError):
        db.after_commit(lambda: None)


async def test_a_group_ends_when_its_time_is_up_and_the_next_one_takes_the_rest(db, monkeypatch):
    monkeypatch.setattr("sealwire.adapters.embedded.drivers.sqlite_writer.GROUP_BUDGET_S", 0.0)
    await asyncio.gather(*[db.write(put(i)) for i in range(5)])
    assert db.stats.groups == 5
    assert keys(db) == list(range(5))


async def test_a_batcher_hands_over_what_waits_and_keeps_the_order(db):
    seen: list[int] = []

    def many(conn, items):
        seen.append(len(items))
        conn.executemany("INSERT INTO n (k) VALUES (?)", [(i,) for i in items if i != 13])
        return [ValueError("13") if i == 13 else i * 2 for i in items]

    batcher = db.batcher(many, max_items=20)
    results = await asyncio.gather(*[batcher.submit(i) for i in range(50)], return_exceptions=True)
    assert seen == [20, 20, 10]
    assert isinstance(results[13], ValueError)
    assert [r for i, r in enumerate(results) if i != 13] == [i * 2 for i in range(50) if i != 13]
    assert keys(db) == [i for i in range(50) if i != 13]


async def test_a_batch_that_raises_fails_as_a_whole_and_alone(db):
    def many(conn, items):
        conn.executemany("INSERT INTO n (k) VALUES (?)", [(i,) for i in items])
        if 3 in items:
            raise KeyError("three")
        return items

    def short(conn, items):
        return items[1:]

    batcher, wrong = db.batcher(many), db.batcher(short)
    results = await asyncio.gather(
        batcher.submit(1), db.write(put(9)), batcher.submit(3), wrong.submit(5), return_exceptions=True
    )
    assert [type(r) for r in results] == [KeyError, list, KeyError, RuntimeError]
    assert keys(db) == [9]
    assert await batcher.submit(4) == 4


async def test_a_cancelled_awaiter_breaks_nobody(db):
    late = db.write(put(1))
    late.cancel()
    batcher = db.batcher(lambda conn, items: [put(i)(conn) for i in items])
    task = asyncio.ensure_future(asyncio.wait_for(batcher.submit(2), 10))
    others = [db.write(put(k)) for k in (3, 4)]
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, *others, return_exceptions=True)
    assert 1 not in keys(db)
    assert {3, 4} <= set(keys(db))
    await db.write(put(5))
    assert db.waiting == 0


async def test_close_makes_what_waits_durable_and_then_refuses(tmp_path):
    db = Database.open(tmp_path / "t.db", SCHEMA)
    waiting = [db.write(put(i)) for i in range(10)]
    await db.close()
    assert all(w.done() for w in waiting)
    with pytest.raises(Unavailable):
        db.write(put(99))
    again = Database.open(tmp_path / "t.db", SCHEMA)
    assert keys(again) == list(range(10))
    await again.close()


async def test_too_many_waiting_writes_are_refused(tmp_path):
    db = Database.open(tmp_path / "t.db", SCHEMA, max_waiting=3)
    waiting = [db.write(put(i)) for i in range(3)]
    with pytest.raises(Unavailable):
        db.write(put(4))
    await asyncio.gather(*waiting)
    await db.write(put(4))
    await db.close()


async def test_a_second_owner_is_told_which_file_and_who(db, tmp_path):
    code = f"""
        from sealwire.adapters.embedded.drivers.sqlite import Database
        try: Database.open({str(tmp_path / "t.db")!r}, [])
        except Exception as e: print(type(e).__name__, e)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    out = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert out.stdout.startswith("DatabaseInUse")
    assert "t.db" in out.stdout
    assert str(os.getpid()) in out.stdout
    with pytest.raises(DatabaseInUse):
        Database.open(tmp_path / "t.db", SCHEMA)


async def test_migrations_run_once_and_a_newer_file_is_refused(tmp_path):
    path = tmp_path / "t.db"
    one, two = SCHEMA[0], "ALTER TABLE n ADD COLUMN w TEXT; CREATE INDEX nw ON n (w)"
    await Database.open(path, [one]).close()
    db = Database.open(path, [one, two])
    assert db.read("SELECT w FROM n") == []
    await db.close()
    with pytest.raises(DatabaseTooNew, match=r"t\.db"):
        Database.open(path, [one])
    with pytest.raises(apsw.SQLError):
        Database.open(path, [one, two, "CREATE TABLE half (x); CREATE TABLE n (x)"])
    db = Database.open(path, [one, two])
    assert db.read("SELECT name FROM sqlite_schema WHERE name = 'half'") == []
    await db.close()


async def test_a_new_file_gets_its_whole_schema_or_none_of_it(tmp_path):
    with pytest.raises(apsw.SQLError):
        Database.open(tmp_path / "t.db", [SCHEMA[0], "CREATE TABLE n (x)"])
    db = Database.open(tmp_path / "t.db", [])
    assert db.read("SELECT name FROM sqlite_schema") == []
    await db.close()


async def test_scans_run_in_threads_and_see_one_snapshot_and_nobody_reads_and_writes_at_once(db):
    await db.write(put(1))
    began, go_on = threading.Event(), threading.Event()

    def slow(conn):
        before = conn.execute("SELECT count(*) FROM n").get
        began.set()
        assert go_on.wait(10)
        return before, conn.execute("SELECT count(*) FROM n").get

    scan = asyncio.ensure_future(db.scan(slow))
    await asyncio.to_thread(began.wait, 10)
    await db.write(put(2))
    go_on.set()
    assert await scan == (1, 1)
    assert await db.scan(lambda conn: conn.execute("SELECT count(*) FROM n").get) == 2
    with pytest.raises(apsw.ReadOnlyError):
        db.read("INSERT INTO n (k) VALUES (7)")


async def test_compact_leaves_nothing_of_what_was_deleted(db, tmp_path):
    secret = b"a body that must be gone " * 400
    await db.write(put(1, secret))
    await db.write(lambda conn: conn.execute("DELETE FROM n").fetchall())
    await db.compact()
    assert b"must be gone" not in (tmp_path / "t.db").read_bytes()
    assert (tmp_path / "t.db-wal").stat().st_size == 0
    await db.write(put(2))


async def test_the_log_is_checkpointed_and_used_again(db, tmp_path):
    big = os.urandom(100_000)
    n = 0
    deadline = time.monotonic() + 30
    while db.stats.checkpoints < 2 and time.monotonic() < deadline:
        await asyncio.gather(*[db.write(lambda conn, k=n + i: put(k, big)(conn)) for i in range(20)])
        n += 20
    assert db.stats.checkpoints >= 2
    assert (tmp_path / "t.db-wal").stat().st_size < 3 * 4000 * 4096
    assert keys(db) == list(range(n))


async def test_slow_commits_move_to_the_worker_and_still_keep_order(db, monkeypatch):
    monkeypatch.setattr("sealwire.adapters.embedded.drivers.sqlite_writer.SLOW_COMMIT_S", 0.0)
    monkeypatch.setattr("sealwire.adapters.embedded.drivers.sqlite_writer.FAST_COMMIT_S", 0.0)
    for k in range(20):
        await asyncio.gather(db.write(put(2 * k)), db.write(put(2 * k + 1)))
    assert db.stats.groups_in_worker > 10
    assert keys(db) == list(range(40))
    db.write(put(99))


async def test_a_worker_is_not_starved_by_a_busy_loop(db, monkeypatch):
    monkeypatch.setattr("sealwire.adapters.embedded.drivers.sqlite_writer.SLOW_COMMIT_S", 0.0)
    monkeypatch.setattr("sealwire.adapters.embedded.drivers.sqlite_writer.FAST_COMMIT_S", 0.0)
    stop = False

    async def busy():
        while not stop:
            until = time.perf_counter() + 0.00003
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(busy()) for _ in range(3)]
    async with asyncio.timeout(10):
        for k in range(30):
            await db.write(put(k))
    stop = True
    await asyncio.gather(*tasks)
    assert db.stats.groups_in_worker > 15


# ---- faults of the disk


class Disk(apsw.VFS):
    """SQLite's own file system with faults on demand."""

    def __init__(self, name: str) -> None:
        super().__init__(name, base="")
        self.name = name
        self.broken: set[str] = set()

    def xOpen(self, name, flags):  # noqa: N802 - apsw's name
        return DiskFile(self, name, flags)


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name, flags) -> None:
        super().__init__("", name, flags)
        self.disk = disk

    def xWrite(self, data, offset):  # noqa: N802 - apsw's name
        if "write" in self.disk.broken:
            raise apsw.FullError("no space left")
        return super().xWrite(data, offset)

    def xSync(self, flags):  # noqa: N802 - apsw's name
        if "sync" in self.disk.broken:
            raise apsw.IOError("fsync failed")
        return super().xSync(flags)


@pytest.fixture
async def faulty(tmp_path):
    disk = Disk("faulty-disk")
    db = Database.open(tmp_path / "f.db", SCHEMA, vfs="faulty-disk")
    yield db, disk
    disk.broken.clear()
    await db.close()


@pytest.mark.parametrize("fault", ["write", "sync"])
async def test_a_fault_of_the_disk_fails_the_group_and_the_next_one_succeeds(faulty, fault):
    db, disk = faulty
    batcher = db.batcher(lambda conn, items: [put(i)(conn) for i in items])
    await db.write(put(0))
    disk.broken.add(fault)
    called: list[int] = []

    def noted(conn):
        put(1)(conn)
        db.after_commit(lambda: called.append(1))

    results = await asyncio.gather(
        db.write(noted), batcher.submit(2), batcher.submit(3), db.write(put(4)), return_exceptions=True
    )
    assert [type(r) for r in results] == [Unavailable] * 4
    assert called == []
    assert db.waiting == 0
    disk.broken.clear()
    await asyncio.gather(db.write(put(5)), batcher.submit(6))
    assert keys(db) == [0, 5, 6]
    assert db.stats.failed_groups == 1


async def test_a_full_file_fails_only_while_it_is_full(db):
    await db.write(put(0))
    pages = await db.write(lambda conn: conn.execute("PRAGMA page_count").get)
    await db.write(lambda conn: conn.execute(f"PRAGMA max_page_count={pages + 2}").fetchall())
    results = await asyncio.gather(db.write(put(1, bytes(100_000))), db.write(put(2)), return_exceptions=True)
    assert isinstance(results[0], Unavailable)
    await db.write(lambda conn: conn.execute("PRAGMA max_page_count=1000000").fetchall())
    await db.write(put(3, bytes(100_000)))
    stored = set(keys(db))
    assert {0, 3} <= stored
    assert 1 not in stored
    assert (2 in stored) == (not isinstance(results[1], Exception))


# ---- many at once, any mix


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["ok", "raise", "cancel", "batch", "batch-refuse", "pause"]), max_size=40))
def test_any_mix_of_writes_stores_exactly_what_was_acknowledged(tmp_path_factory, steps):
    asyncio.run(_mix(tmp_path_factory.mktemp("mix") / "t.db", steps))


async def _mix(path: Path, steps: list[str]) -> None:
    db = Database.open(path, SCHEMA)

    def many(conn, items):
        return [ValueError("refused") if refuse else (put(k)(conn), k)[1] for k, refuse in items]

    def bad(conn, k):
        put(k)(conn)
        raise ValueError(k)

    batcher = db.batcher(many, max_items=3)
    futures: dict[int, asyncio.Future[Any]] = {}
    for k, step in enumerate(steps):
        if step == "ok":
            futures[k] = db.write(put(k))
        elif step == "raise":
            futures[k] = db.write(lambda conn, k=k: bad(conn, k))
        elif step == "cancel":
            futures[k] = db.write(put(k))
            futures[k].cancel()
        elif step == "pause":
            await asyncio.sleep(0.001)
        else:
            futures[k] = batcher.submit((k, step == "batch-refuse"))
    await asyncio.gather(*futures.values(), return_exceptions=True)
    acknowledged = [k for k, f in futures.items() if not f.cancelled() and f.exception() is None]
    assert keys(db) == acknowledged
    assert db.waiting == 0
    await db.close()


# ---- kill -9

CHILD = """
import asyncio, sys
from sealwire.adapters.embedded.drivers.sqlite import Database

async def main(path):
    db = Database.open(path, ["CREATE TABLE n (k INTEGER PRIMARY KEY, v BLOB)"])
    batcher = db.batcher(
        lambda conn, items: [conn.execute("INSERT INTO n VALUES (?, ?)", (k, bytes(500))).fetchall() for k in items]
    )
    async def writer(w):
        k = w
        while True:
            if k % 2:
                await db.write(lambda conn: conn.execute("INSERT INTO n VALUES (?, ?)", (k, bytes(500))).fetchall())
            else:
                await batcher.submit(k)
            sys.stdout.write(f"{k}\\n"); sys.stdout.flush()
            k += 8
    await asyncio.gather(*[writer(w) for w in range(8)])

asyncio.run(main(sys.argv[1]))
"""


async def test_kill_9_loses_nothing_acknowledged(tmp_path):
    path = tmp_path / "k.db"
    child = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs on this loop
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    acknowledged = []
    for line in child.stdout:
        acknowledged.append(int(line))
        if len(acknowledged) == 600:
            child.send_signal(signal.SIGKILL)
        elif len(acknowledged) > 600 and not line.endswith("\n"):
            acknowledged.pop()
    child.wait()
    db = Database.open(path, SCHEMA)
    stored = set(keys(db))
    assert set(acknowledged) <= stored
    assert len(stored) - len(acknowledged) <= 64
    assert db.read("PRAGMA integrity_check") == [("ok",)]
    await db.close()
