"""Joining a stream while it moves: whatever is stored, handed on and joined in whatever order, no gap, no duplicate."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sealwire.contracts.messaging_stream import Publication, StreamPage
from sealwire.services.socket import streams
from sealwire.services.socket.hub import Hub, RoomKey
from sealwire.services.socket.protocol import Position, Subscribed
from sealwire.services.socket.streams import Gap, Joiner, Streams

KEY: RoomKey = ("t", "conversation:c")


def event(offset: int) -> Publication:
    return Publication(
        position=offset, tenant_id="t", conversation_id="c", offset=offset, kind="message.created",
        data=msgspec.Raw(b'{"n":%d}' % offset),
    )  # fmt: skip


class Reader:
    """A member that keeps the offsets it was given, live and recovered."""

    def __init__(self) -> None:
        self.live, self.missed = True, False
        self.rooms: set[RoomKey] = set()
        self.offsets: list[int] = []
        self.joiner: Joiner | None = None
        self.read: Callable[[], Subscribed] | None = None

    def write(self, frames: bytes) -> None:
        while frames:
            size = frames[1]
            assert size < 126
            self.offsets.append(json.loads(frames[2 : 2 + size])["push"]["pub"]["offset"])
            frames = frames[2 + size :]


class Joining(RuleBasedStateMachine):
    """`stored` events exist, `handed` of them came through the feed; readers join by what is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Callable[[], None]] = []
        self.hub = Hub(soon=self.jobs.append)
        self.streams = Streams(self.hub)
        self.stored = self.handed = 0
        self.readers = [Reader() for _ in range(3)]

    who = st.integers(0, 2)

    @rule(count=st.integers(1, 3))
    def store(self, count: int) -> None:
        self.stored += count

    @rule(count=st.integers(1, 3))
    def hand_on(self, count: int) -> None:
        for _ in range(min(count, self.stored - self.handed)):
            self.handed += 1
            self.streams.publish(event(self.handed))

    @rule()
    def turn(self) -> None:
        jobs, self.jobs[:] = list(self.jobs), []
        for job in jobs:
            job()

    @rule(i=who)
    def advance(self, i: int) -> None:
        """Take the next step of joining, with anything in between."""
        reader = self.readers[i]
        if reader.joiner is None:
            self.begin(i)
        elif reader.read is None:
            self.read(i)
        else:
            self.enter(i)

    @rule(i=who, stored=st.integers(0, 2), handed=st.integers(0, 2))
    def join(self, i: int, stored: int, handed: int) -> None:
        """Join while events are stored and handed on between the steps."""
        if self.readers[i].joiner is None:
            for step in (self.begin, self.read, self.enter):
                step(i)
                self.store(stored)
                self.hand_on(handed)

    def begin(self, i: int) -> None:
        reader = self.readers[i]
        if reader.joiner is None and KEY not in reader.rooms:
            reader.joiner, reader.read = self.streams.begin(KEY), None

    def read(self, i: int) -> None:
        reader = self.readers[i]
        joiner, stored = reader.joiner, self.stored
        if joiner is None or reader.read is not None:
            return
        if not reader.offsets:
            reader.read = lambda: streams.from_now(joiner, top=stored, epoch="e")
        else:
            asked = Position(reader.offsets[-1], "e")
            page = StreamPage(
                items=[event(o) for o in range(asked.offset + 1, stored + 1)], top_offset=stored, epoch="e"
            )
            reader.read = lambda: streams.from_position(joiner, page, asked, most=10_000, most_bytes=10**6)

    def enter(self, i: int) -> None:
        reader = self.readers[i]
        if reader.joiner is None or reader.read is None:
            return
        result = reader.read()
        assert result.positioned
        if result.was_recovering:
            assert result.recovered, (result, reader.offsets)
            reader.offsets += [json.loads(p)["offset"] for p in result.publications]
        else:
            reader.offsets.append(result.offset)
        self.streams.enter(KEY, reader.joiner, reader, result.offset + len(result.publications))
        self.streams.end(KEY, reader.joiner)
        reader.joiner = reader.read = None

    @rule(i=who)
    def give_up(self, i: int) -> None:
        reader = self.readers[i]
        if reader.joiner is not None:
            self.streams.end(KEY, reader.joiner)
            reader.joiner = reader.read = None

    @rule(i=who)
    @precondition(lambda self: not self.jobs)
    def leave(self, i: int) -> None:
        self.streams.leave(KEY, self.readers[i])

    @invariant()
    def every_offset_once_and_in_order(self) -> None:
        for reader in self.readers:
            seen = reader.offsets
            assert seen == list(range(seen[0], seen[0] + len(seen))) if seen else True

    def teardown(self) -> None:
        self.hand_on(10**6)
        while self.jobs:
            self.turn()
        for reader in self.readers:
            if KEY in reader.rooms:
                assert reader.offsets[-1] == self.stored, "who is in the room has everything"
            self.give_up(self.readers.index(reader))
            self.streams.leave(KEY, reader)
        assert len(self.streams) == 0


TestJoining = Joining.TestCase
TestJoining.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_a_hole_in_the_stream_is_noticed() -> None:
    table = Streams(Hub(soon=lambda job: None))
    table.begin(KEY)
    assert table.publish(event(5)), "the first one may be any"
    assert table.publish(event(6))
    assert table.publish(event(6)), "a repetition is passed over"
    assert not table.publish(event(8))


def test_a_joiner_that_waits_too_long_is_told_to_try_again() -> None:
    joiner = Joiner()
    for offset in range(streams.MOST_WAITING + 1):
        joiner.take(offset, b"{}")
    with pytest.raises(Gap):
        streams.from_now(joiner, top=0, epoch="e")


@pytest.mark.parametrize(
    ("asked", "most", "most_bytes", "recovered"),
    [
        (Position(2, "e"), 9, 10**6, True),
        (Position(2, ""), 9, 10**6, True),
        (Position(5, "e"), 9, 10**6, True),
        (Position(2, "other"), 9, 10**6, False),
        (Position(6, "e"), 9, 10**6, False),
        (Position(2, "e"), 2, 10**6, False),
        (Position(2, "e"), 9, 10, False),
        (Position(0, "e"), 9, 10**6, False),
    ],
)
def test_only_what_is_whole_and_within_bounds_is_recovered(
    asked: Position, most: int, most_bytes: int, recovered: bool
) -> None:
    page: Any = StreamPage(items=[event(o) for o in range(max(2, asked.offset + 1), 6)], top_offset=5, epoch="e")
    result = streams.from_position(Joiner(), page, asked, most=most, most_bytes=most_bytes)
    assert (result.recovered, result.was_recovering) == (recovered, True)
    assert result.offset == (asked.offset if recovered else 5)
