"""Rooms: everybody who is a member gets every frame once and in order, nobody else gets any."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sealwire.services.socket.hub import Hub, RoomKey

KEYS: list[RoomKey] = [("t1", "a"), ("t1", "b"), ("t2", "a")]


class Listener:
    def __init__(self) -> None:
        self.live, self.missed = True, False
        self.rooms: set[RoomKey] = set()
        self.got: list[bytes] = []
        self.due: list[tuple[RoomKey, bytes]] = []

    def write(self, frame: bytes) -> None:
        self.got.append(frame)


class HubMachine(RuleBasedStateMachine):
    """A model: each listener's due frames, in order; a slice of three so that large rooms are swept in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Callable[[], None]] = []
        self.hub = Hub(soon=self.jobs.append, slice_size=3)
        self.listeners = [Listener() for _ in range(5)]
        self.number = 0
        for i, listener in enumerate(self.listeners):
            self.hub.register(listener, tenant_id="t1", user_id=f"u{i % 2}", session_id=f"s{i}")

    who = st.integers(0, 4)
    where = st.sampled_from(KEYS)

    @rule(i=who, key=where)
    def join(self, i: int, key: RoomKey) -> None:
        self.hub.join(key, self.listeners[i])

    @rule(i=who, key=where)
    def leave(self, i: int, key: RoomKey) -> None:
        listener = self.listeners[i]
        was = key in listener.rooms
        assert self.hub.leave(key, listener) is was

    @rule(i=who)
    def drop(self, i: int) -> None:
        self.hub.unregister(self.listeners[i])
        assert not self.listeners[i].rooms
        self.hub.register(self.listeners[i], tenant_id="t1", user_id=f"u{i % 2}", session_id=f"s{i}")

    @rule(key=where)
    def publish(self, key: RoomKey) -> None:
        self.number += 1
        frame = b"%d;" % self.number
        members = [m for m in self.listeners if key in m.rooms]
        assert self.hub.publish(key, frame) is bool(members)
        for member in members:
            member.due.append((key, frame))

    @rule()
    def turn(self) -> None:
        jobs, self.jobs[:] = list(self.jobs), []
        assert len(jobs) <= 1
        for job in jobs:
            job()

    @invariant()
    def nobody_is_ahead_or_out_of_order(self) -> None:
        for listener in self.listeners:
            for key in KEYS:
                due = b"".join(f for k, f in listener.due if k == key)
                frames = {f for k, f in listener.due if k == key}
                split = [f + b";" for chunk in listener.got for f in chunk.split(b";") if f]
                got = b"".join(f for f in split if f in frames)
                assert due.startswith(got)

    def teardown(self) -> None:
        while self.jobs:
            self.turn()
        for listener in self.listeners:
            got = sorted(f for chunk in listener.got for f in chunk.split(b";") if f)
            assert got == sorted(f.rstrip(b";") for _, f in listener.due)
        for listener in self.listeners:
            self.hub.unregister(listener)
        stats = self.hub.stats()
        assert (stats.connections, stats.users, stats.rooms, stats.subscriptions) == (0, 0, 0, 0)


TestHub = HubMachine.TestCase
TestHub.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def test_a_parked_member_gets_nothing_and_knows_that_it_missed_something() -> None:
    jobs: list[Callable[[], None]] = []
    hub = Hub(soon=jobs.append)
    slow, quick = Listener(), Listener()
    for listener in (slow, quick):
        hub.join(KEYS[0], listener)
    slow.live = False
    hub.publish(KEYS[0], b"1")
    hub.publish(KEYS[0], b"2")
    jobs.pop()()
    assert (slow.got, slow.missed, quick.got, quick.missed) == ([], True, [b"12"], False)


def test_users_and_sessions_are_found_and_follow_a_new_session() -> None:
    hub = Hub(soon=lambda job: None)
    a, b = Listener(), Listener()
    hub.register(a, tenant_id="t", user_id="u", session_id="s1")
    hub.register(b, tenant_id="t", user_id="u", session_id="s2")
    assert set(hub.of_user("t", "u")) == {a, b}
    assert hub.of_user("other", "u") == ()
    hub.register(a, tenant_id="t", user_id="u", session_id="s2")
    assert (hub.stats().connections, hub.stats().sessions) == (2, 1)
    hub.unregister(a)
    assert hub.of_user("t", "u") == (b,)
    hub.unregister(b)
    assert (hub.stats().connections, hub.stats().sessions) == (0, 0)


def test_a_large_room_lets_small_ones_pass() -> None:
    jobs: list[Callable[[], None]] = []
    hub = Hub(soon=jobs.append, slice_size=10)
    crowd = [Listener() for _ in range(95)]
    one = Listener()
    for listener in crowd:
        hub.join(("t", "large"), listener)
    hub.join(("t", "small"), one)
    hub.publish(("t", "large"), b"l")
    hub.publish(("t", "small"), b"s")
    turns = 0
    while jobs:
        jobs.pop()()
        turns += 1
        if turns == 2:
            assert one.got == [b"s"]
    assert turns == 10
    assert all(listener.got == [b"l"] for listener in crowd)
