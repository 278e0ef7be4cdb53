"""One suite for event feeds, positions and consumers, run on every family."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.outbox import OUTBOX_SCHEMA, POSITIONS_SCHEMA, SqliteOutbox, SqlitePositions
from sealwire.ports.events import Consumer, Event, Handle, NewEvent
from sealwire.testing.patience import until


class Backend:
    """What the suite needs of a family: a feed to append to (`fail` appends and rolls back), positions, trimming."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.feed = SqliteOutbox(db)
        self.positions = SqlitePositions(db)

    async def append(self, *events: NewEvent) -> None:
        await self.db.write(lambda conn: self.feed.append(conn, events))

    async def fail(self, *events: NewEvent) -> None:
        def append(conn: Any) -> None:
            self.feed.append(conn, events)
            raise ValueError("rolled back")

        with pytest.raises(ValueError):
            await self.db.write(append)

    async def trim(self, before_us: int) -> int:
        return await self.feed.trim(before_us=before_us)


@asynccontextmanager
async def embedded(path: Path) -> AsyncIterator[Backend]:
    db = Database.open(path / "events.db", [OUTBOX_SCHEMA + POSITIONS_SCHEMA])
    try:
        yield Backend(db)
    finally:
        await db.close()


FAMILIES: dict[str, Callable[[Path], Any]] = {"embedded": embedded}


@pytest.fixture(params=FAMILIES)
async def open_backend(request, tmp_path):
    """Open the family's backend in the same place; again after it was closed."""
    return lambda: FAMILIES[request.param](tmp_path)


@pytest.fixture
async def backend(open_backend):
    async with open_backend() as backend:
        yield backend


def event(n: int, at_us: int = 0) -> NewEvent:
    return NewEvent(event_id=f"e{n}", tenant_id="t", kind="thing.happened", at_us=at_us or n, data=b"%d" % n)


async def test_events_come_back_in_order_without_holes(backend):
    assert await backend.feed.newest() == 0
    assert list(await backend.feed.read(0, 10)) == []
    await asyncio.gather(*[backend.append(event(n)) for n in range(1, 21)])
    await backend.append(event(21), event(22))
    events = await backend.feed.read(0, 100)
    assert [e.position for e in events] == list(range(1, 23))
    assert [e.event_id for e in events][-2:] == ["e21", "e22"]
    assert events[4] == Event(position=5, event_id="e5", tenant_id="t", kind="thing.happened", at_us=5, data=b"5")
    assert [e.position for e in await backend.feed.read(20, 1)] == [21]
    assert await backend.feed.newest() == 22


async def test_what_is_rolled_back_announces_nothing_and_leaves_no_hole(backend):
    await asyncio.gather(backend.append(event(1)), backend.fail(event(2)), backend.append(event(3)))
    await backend.fail(event(4))
    await backend.append(event(5))
    events = await backend.feed.read(0, 100)
    assert [(e.position, e.event_id) for e in events] == [(1, "e1"), (2, "e3"), (3, "e5")]


async def test_wait_returns_at_once_when_there_is_something_and_wakes_when_something_comes(backend):
    assert not await backend.feed.wait(0, 0.01)
    waiting = [asyncio.ensure_future(backend.feed.wait(0, 10)) for _ in range(3)]
    beyond = asyncio.ensure_future(backend.feed.wait(1, 10))
    await asyncio.sleep(0)
    await backend.append(event(1))
    async with asyncio.timeout(30):
        assert await asyncio.gather(*waiting) == [True] * 3
    assert await backend.feed.wait(0, 10)
    assert not beyond.done()
    await backend.append(event(2))
    assert await beyond


async def test_positions_start_at_zero_never_go_back_and_survive(open_backend):
    async with open_backend() as backend:
        assert await backend.positions.load("c") == 0
        await backend.positions.save("c", 7)
        await backend.positions.save("c", 5)
        await backend.positions.save("new", 3)
    async with open_backend() as backend:
        assert await backend.positions.load("c") == 7
        assert await backend.positions.load("new") == 3
        assert await backend.positions.load("other") == 0


async def test_trimming_stops_at_the_slowest_consumer_and_at_the_age_and_positions_go_on(backend):
    await backend.append(*[event(n) for n in range(1, 1301)])
    assert await backend.trim(10_000) == 0
    await backend.positions.save("fast", 1300)
    await backend.positions.save("slow", 1200)
    assert await backend.trim(1101) == 1100
    assert await backend.trim(10_000) == 100
    assert [e.position for e in await backend.feed.read(0, 2)] == [1201, 1202]
    await backend.positions.save("slow", 1300)
    assert await backend.trim(10_000) == 100
    assert list(await backend.feed.read(0, 10)) == []
    assert await backend.feed.newest() == 1300
    await backend.append(event(1301))
    assert [e.position for e in await backend.feed.read(0, 10)] == [1301]


# ---- consumers


class Sink:
    """An idempotent handler that can fail on demand."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.calls = 0
        self.fail = 0
        self.sizes: list[int] = []

    async def handle(self, events: Sequence[Event]) -> None:
        self.calls += 1
        if self.fail:
            self.fail -= 1
            raise OSError("out of order")
        self.sizes.append(len(events))
        self.seen.extend(e.event_id for e in events)


def consumer(backend: Backend, handle: Handle, **options: Any) -> Consumer:
    options = {"backoff_s": 0.001, "backoff_cap_s": 0.002, "rng": Random(1), "name": "c", **options}
    return Consumer(feed=backend.feed, positions=backend.positions, handle=handle, **options)


async def test_a_consumer_gets_what_is_there_and_what_comes(backend):
    sink = Sink()
    await backend.append(*[event(n) for n in range(1, 251)])
    c = consumer(backend, sink.handle, idle_s=60.0)
    c.start()
    await until(lambda: len(sink.seen) == 250)
    assert sink.sizes == [100, 100, 50]
    await backend.append(event(251))
    await until(lambda: len(sink.seen) == 251)  # woken, long before it would have looked by itself
    await until(lambda: c.state.position == 251)
    assert await c.lag() == 0
    await c.stop()
    assert sink.seen == [f"e{n}" for n in range(1, 252)]
    assert not c.state.running


async def test_a_consumer_goes_on_where_it_stopped(open_backend):
    sink = Sink()
    async with open_backend() as backend:
        await backend.append(event(1), event(2))
        c = consumer(backend, sink.handle)
        c.start()
        await until(lambda: c.state.position == 2)
        await c.stop()
        await backend.append(event(3))
    async with open_backend() as backend:
        c = consumer(backend, sink.handle)
        c.start()
        await until(lambda: c.state.position == 3)
        await c.stop()
    assert sink.seen == ["e1", "e2", "e3"]


async def test_a_failing_handler_is_tried_again_and_nothing_is_skipped(backend):
    sink = Sink()
    sink.fail = 5
    await backend.append(event(1), event(2))
    c = consumer(backend, sink.handle)
    c.start()
    await until(lambda: c.state.failures > 0)
    assert c.state.last_error == "OSError"
    await until(lambda: c.state.position == 2)
    assert (sink.seen, sink.calls, c.state.failures, c.state.last_error) == (["e1", "e2"], 6, 0, "")
    await c.stop()


async def test_stopping_lets_a_batch_finish_and_draining_takes_all(backend):
    sink, go_on = Sink(), asyncio.Event()

    async def slow(events: Sequence[Event]) -> None:
        await go_on.wait()
        await sink.handle(events)

    await backend.append(*[event(n) for n in range(1, 8)])
    c = consumer(backend, slow, batch=2)
    c.start()
    await asyncio.sleep(0.01)
    stopping = asyncio.ensure_future(c.stop(drain=True))
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    assert sink.seen == [f"e{n}" for n in range(1, 8)]
    assert await backend.positions.load("c") == 7
    await c.stop()


async def test_stopping_does_not_wait_for_a_handler_for_ever(backend):
    async def stuck(_events: Sequence[Event]) -> None:
        await asyncio.Event().wait()

    await backend.append(event(1))
    c = consumer(backend, stuck)
    c.start()
    await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        await c.stop(grace_s=0.02)
    assert await backend.positions.load("c") == 0


async def test_lingering_gathers_what_comes_in_small_pieces(backend):
    sink = Sink()
    c = consumer(backend, sink.handle, linger_s=0.4)
    c.start()
    await asyncio.sleep(0.01)
    for n in range(1, 6):
        await backend.append(event(n))
    await until(lambda: c.state.position == 5)
    assert sink.sizes == [5]
    await c.stop()


class FeedMachine(RuleBasedStateMachine):
    """Appends, rollbacks, crashes between handling and saving, restarts and trims against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.path = self.make_path()
        self.model: list[str] = []
        self.seen: dict[str, None] = {}
        self.handled: list[int] = []
        self.n = 0
        self.open()

    def open(self) -> None:
        self.manager = self.family(self.path)
        self.backend = self.run(self.manager.__aenter__())

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        events = [event(self.n + i) for i in range(count)]
        self.n += count
        self.run(self.backend.append(*events))
        self.model.extend(e.event_id for e in events)

    @rule()
    def roll_back(self) -> None:
        self.run(self.backend.fail(event(self.n)))
        self.n += 1

    @rule()
    def restart(self) -> None:
        self.run(self.manager.__aexit__(None, None, None))
        self.open()

    @rule(crash=st.booleans(), batch=st.integers(1, 4))
    def consume(self, crash: bool, batch: int) -> None:
        async def go() -> None:
            position = await self.backend.positions.load("c")
            events = await self.backend.feed.read(position, batch)
            for e in events:
                self.seen[e.event_id] = None
                self.handled.append(e.position)
            if events and not crash:
                await self.backend.positions.save("c", events[-1].position)

        self.run(go())

    @rule()
    def trim(self) -> None:
        self.run(self.backend.trim(10**9))

    @invariant()
    def a_consumer_saw_a_prefix_in_order(self) -> None:
        assert list(self.seen) == self.model[: len(self.seen)]

    @invariant()
    def positions_are_those_of_the_model(self) -> None:
        assert self.run(self.backend.feed.newest()) == len(self.model)
        for e in self.run(self.backend.feed.read(0, 1000)):
            assert self.model[e.position - 1] == e.event_id

    def teardown(self) -> None:
        while self.run(self.backend.positions.load("c")) < len(self.model):
            self.consume(False, 4)
        assert list(self.seen) == self.model
        self.run(self.manager.__aexit__(None, None, None))
        self.loop.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_any_history_of_a_feed(family, tmp_path_factory):
    machine = type(
        "Machine",
        (FeedMachine,),
        {"family": staticmethod(FAMILIES[family]), "make_path": staticmethod(lambda: tmp_path_factory.mktemp("feed"))},
    )
    case = machine.TestCase
    case.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
    case("runTest").runTest()
