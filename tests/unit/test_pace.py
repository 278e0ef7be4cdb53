"""Sweeps beside writers: they give way, are never starved, keep their steps short, and lose nothing when broken off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import apsw
import pytest

from sealwire.adapters.embedded.disposals import DISPOSALS_LEFT, DISPOSALS_SCHEMA, Disposals
from sealwire.adapters.embedded.drivers import pace as pacing
from sealwire.adapters.embedded.drivers import sqlite_writer
from sealwire.adapters.embedded.drivers.pace import Pace
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.custody import Disposed

SCHEMA = ["CREATE TABLE n (k INTEGER PRIMARY KEY, v BLOB);" + DISPOSALS_SCHEMA, DISPOSALS_LEFT]
IDS = [str(k) for k in range(1, 101)]


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    db = Database.open(tmp_path / "t.db", SCHEMA)
    yield db
    await db.close()


async def test_a_sweep_gives_way_to_those_who_wait(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "ASIDE_PATIENCE_S", 60.0)
    order: list[str] = []
    sweep = db.write_aside(lambda _: order.append("sweep"))
    await asyncio.gather(sweep, db.write(lambda _: order.append("one")), db.write(lambda _: order.append("two")))
    assert order == ["one", "two", "sweep"]


async def test_a_sweep_is_not_starved(db: Database) -> None:
    stop = False

    async def write() -> None:
        while not stop:
            await db.write(lambda conn: conn.execute("INSERT INTO n (v) VALUES (x'00')").fetchall())

    writers = [asyncio.create_task(write()) for _ in range(4)]
    async with asyncio.timeout(20):
        for _ in range(5):
            await db.write_aside(lambda conn: conn.execute("DELETE FROM n").fetchall())
    stop = True
    await asyncio.gather(*writers)


async def test_a_sweep_that_fails_fails_alone(db: Database) -> None:
    def fail(conn: apsw.Connection) -> None:
        conn.execute("INSERT INTO n (k) VALUES (1)")
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        await db.write_aside(fail)
    await db.write(lambda conn: conn.execute("INSERT INTO n (k) VALUES (2)").fetchall())
    assert db.read("SELECT k FROM n") == [(2,)]


async def test_steps_that_take_long_get_smaller_and_quick_ones_larger(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "MOST_REST_S", 0.0)
    pace = Pace(db, start=64, most=100)
    for _ in range(3):
        await pace.write(lambda _: time.sleep(0.01))
    assert pace.size == 8, "halved at most: once may be chance"
    monkeypatch.setattr(pacing, "LEAST_STEP_S", 10.0)
    monkeypatch.setattr(pacing, "MOST_STEP_S", 10.0)
    for _ in range(30):
        await pace.write(lambda _: None)
    assert pace.size == 100


async def test_a_disposal_that_is_broken_off_goes_on_where_it_was(db: Database) -> None:
    taken: list[str] = []

    def some(_: apsw.Connection, ids: Sequence[str]) -> Disposed:
        if len(taken) in range(30, 95) and "broken" not in taken:
            taken.append("broken")
            raise OSError("pulled out")
        taken.extend(ids)
        held = sum(int(id_) % 10 == 0 for id_ in ids)
        return Disposed(disposed=len(ids) - held, held=held)

    disposals = Disposals(db)
    with pytest.raises(OSError, match="pulled out"):
        await disposals.dispose("run", IDS, 1, some)
    done = await Disposals(db).dispose("run", IDS, 1, some)
    assert (done.disposed, done.held, done.missing) == (90, 10, 0)
    taken.remove("broken")
    assert taken == IDS, "each once"
    assert await disposals.dispose("run", IDS, 2, some) == done
    assert len(taken) == 100, "asked for again it does nothing"
    assert (await disposals.dispose("run", ["7"], 3, some)).disposed == 1, "the next batch of the run"


async def test_two_who_ask_for_the_same_disposal_share_it(db: Database) -> None:
    taken: list[str] = []

    def some(_: apsw.Connection, ids: Sequence[str]) -> Disposed:
        taken.extend(ids)
        return Disposed(disposed=len(ids))

    first, second = await asyncio.gather(*(Disposals(db).dispose("run", IDS, 1, some) for _ in range(2)))
    assert first == second == Disposed(disposed=100)
    assert taken == IDS


async def test_giving_back_ends_though_others_free_and_write_without_end(db: Database) -> None:
    stop = False

    async def churn() -> None:
        while not stop:
            await db.write(lambda conn: conn.execute("REPLACE INTO n VALUES (1, zeroblob(2000000))").fetchall())
            await db.write(lambda conn: conn.execute("DELETE FROM n").fetchall())

    churning = asyncio.create_task(churn())
    try:
        async with asyncio.timeout(20):
            for _ in range(3):
                while await db.reclaim():
                    pass
    finally:
        stop = True
        await churning


async def test_space_is_given_back_in_steps_while_others_write(db: Database) -> None:
    def fill(conn: apsw.Connection) -> None:
        conn.executemany("INSERT INTO n VALUES (?, zeroblob(4000))", ((k,) for k in range(1500)))

    await db.write(fill)
    await db.write(lambda conn: conn.execute("DELETE FROM n").fetchall())
    await db.compact()
    await db.write(fill)
    await db.write(lambda conn: conn.execute("DELETE FROM n").fetchall())
    before = db.read("PRAGMA page_count")[0][0]
    steps = given = 0
    async with asyncio.timeout(30):
        while step := await db.reclaim():
            steps, given = steps + 1, given + step
            await db.write(lambda conn: conn.execute("REPLACE INTO n VALUES (1, x'00')").fetchall())
    assert steps > 10
    assert db.read("PRAGMA page_count")[0][0] < before / 10
    assert db.path.stat().st_size < 400_000
