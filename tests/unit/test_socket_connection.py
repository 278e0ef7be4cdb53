"""The connection as a state machine: whatever a client sends and in whatever order answers come, the rules hold."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sealwire.services.socket import protocol
from sealwire.services.socket.connection import Connection, ConnectionLimits, Phase
from sealwire.services.socket.protocol import Subscribed

LIMITS = ConnectionLimits(in_flight=3, subscriptions=2)


class RecordingWire:
    def __init__(self) -> None:
        self.replies: list[dict[str, Any]] = []
        self.frames: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.held = self.trusted = False

    def reply(self, text: bytes) -> None:
        assert self.closed is None
        self.replies.append(json.loads(text))

    def flush(self) -> None:
        assert self.closed is None

    def write(self, frame: bytes) -> None:
        assert self.closed is None
        self.frames.append(frame)

    def hold(self) -> None:
        assert not self.held
        self.held = True

    def release(self) -> None:
        assert self.held
        self.held = False

    def trust(self) -> None:
        self.trusted = True

    def close(self, code: int, reason: str) -> None:
        assert self.closed is None
        self.closed = (code, reason)


class RecordingDesk:
    def __init__(self) -> None:
        self.connects: list[protocol.Connect] = []
        self.open: list[tuple[str, int, Any]] = []
        self.left: list[str] = []
        self.ended: list[int] = []

    def connect(self, connection: Connection, command: protocol.Connect) -> None:
        self.connects.append(command)

    def refresh(self, connection: Connection, id_: int, command: protocol.Refresh) -> None:
        self.open.append(("refresh", id_, command))

    def subscribe(self, connection: Connection, id_: int, command: protocol.Subscribe) -> None:
        self.open.append(("subscribe", id_, command))

    def unsubscribed(self, connection: Connection, channel: str) -> None:
        self.left.append(channel)

    def call(self, connection: Connection, id_: int, command: protocol.Rpc) -> None:
        if command.method == "now":
            connection.answer(id_, b'"done"')
        else:
            self.open.append(("call", id_, command))

    def look(self, connection: Connection, command: protocol.Command) -> None:
        self.open.append(("look", command.id, command))

    def expiry(self, connection: Connection) -> float:
        return connection.expires_s

    def gone(self, connection: Connection, code: int) -> None:
        self.ended.append(code)


def make(limits: ConnectionLimits = LIMITS) -> tuple[Connection, RecordingWire, RecordingDesk]:
    wire, desk = RecordingWire(), RecordingDesk()
    return Connection(id_="c", wire=wire, desk=desk, limits=limits, now_s=100.0, write=wire.write), wire, desk


def send(connection: Connection, *commands: dict[str, Any]) -> None:
    connection.received("\n".join(json.dumps(c) for c in commands).encode())


def opened(connection: Connection, *, expires_s: float = inf, now_s: float = 100.0) -> bool:
    done = connection.opened(
        now_s=now_s, version="1", node="n", ttl_s=0, expires_s=expires_s, subs={"user:u": Subscribed()}
    )
    connection.proceed()
    return done


def connect() -> tuple[Connection, RecordingWire, RecordingDesk]:
    connection, wire, desk = make()
    send(connection, {"id": 1, "connect": {"token": "t"}})
    assert opened(connection)
    wire.replies.clear()
    return connection, wire, desk


def test_commands_that_came_along_wait_for_the_connect() -> None:
    connection, wire, desk = make()
    send(connection, {"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "c"}}, {"id": 3, "ping": {}})
    assert (desk.open, wire.replies, wire.held) == ([], [], True)
    opened(connection)
    assert [r["id"] for r in wire.replies] == [1, 3]
    assert desk.open[0][:2] == ("subscribe", 2)
    assert (wire.held, wire.trusted) == (False, True)


@pytest.mark.parametrize("command", [{}, {"id": 1, "rpc": {}}, {"id": 1, "subscribe": {"channel": "c"}}, {"id": 9}])
def test_nothing_is_answered_before_a_connect(command: dict[str, Any]) -> None:
    connection, wire, desk = make()
    send(connection, command)
    assert (wire.replies, desk.open, desk.connects) == ([], [], [])
    assert wire.closed == (4501, "unauthenticated")


def test_an_expired_token_is_answered_and_another_connect_may_follow() -> None:
    connection, wire, desk = make()
    send(connection, {"id": 1, "connect": {"token": "old"}}, {"id": 2, "rpc": {"method": "now"}})
    connection.refused(protocol.TOKEN_EXPIRED)
    assert wire.replies == [{"id": 1, "error": {"code": 109, "message": "token expired"}}]
    send(connection, {"id": 3, "connect": {"token": "new"}})
    assert [c.token for c in desk.connects] == ["old", "new"]
    assert opened(connection)


@pytest.mark.parametrize(("sends", "code"), [(False, 4501), (True, 3004)])
def test_authentication_has_five_seconds(sends: bool, code: int) -> None:
    connection, wire, _ = make()
    if sends:
        send(connection, {"id": 1, "connect": {}})
    assert connection.tick(104.9) == 105.0
    assert wire.closed is None
    assert connection.tick(105.0) == inf
    assert wire.closed is not None
    assert wire.closed[0] == code
    assert not opened(connection)


def test_a_client_that_does_not_answer_pings_is_closed() -> None:
    connection, wire, _ = connect()
    assert connection.tick(124.0) == 125.0
    assert connection.tick(125.0) == 133.0
    assert wire.frames == [protocol.PING_FRAME]
    send(connection, {})
    assert connection.tick(133.0) == 150.0
    assert connection.tick(150.5) == 158.5
    assert wire.closed is None
    connection.tick(158.5)
    assert wire.closed == (3012, "no pong")


def test_an_expired_connection_is_closed_unless_it_was_refreshed() -> None:
    connection, wire, desk = connect()
    connection.expires_s = 110.0
    send(connection, {"id": 5, "refresh": {"token": "new"}})
    connection.refreshed(5, version="1", ttl_s=9, expires_s=120.0)
    assert wire.replies == [{"id": 5, "refresh": {"client": "c", "version": "1", "expires": True, "ttl": 9}}]
    assert connection.tick(119.0) == 120.0
    connection.tick(120.0)
    assert wire.closed == (3005, "connection expired")
    assert desk.ended == [3005]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"{", 3501),
        (b'{"id":0,"rpc":{"method":"now"}}', 3501),
        (b'{"id":4,"connect":{}}', 3501),
        (b'{"send":{"data":1}}', 3508),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection_without_detail(frame: bytes, code: int) -> None:
    connection, wire, _ = connect()
    connection.received(frame)
    assert wire.closed is not None
    assert wire.closed[0] == code
    assert wire.replies == []


def test_what_we_do_not_offer_is_an_error_of_that_command_alone() -> None:
    connection, wire, _ = connect()
    send(
        connection,
        {"id": 2, "publish": {"channel": "c", "data": 1}},
        {"id": 3, "sub_refresh": {"channel": "c"}},
        {"id": 4, "novelty": {}},
        {"id": 5, "rpc": {"method": "now"}},
    )
    assert [r.get("error", {}).get("code", 0) for r in wire.replies] == [103, 108, 104, 0]


def test_subscriptions_are_single_and_bounded() -> None:
    connection, wire, desk = connect()
    send(connection, *[{"id": i, "subscribe": {"channel": c}} for i, c in ((2, "a"), (3, "a"), (4, "b"))])
    assert [(r["id"], r["error"]["code"]) for r in wire.replies] == [(3, 105), (4, 106)]
    assert connection.subscribed(2, "a", Subscribed(offset=4, epoch="e", positioned=True))
    assert wire.replies[-1] == {
        "id": 2,
        "subscribe": {"recoverable": True, "positioned": True, "offset": 4, "epoch": "e"},
    }
    connection.revoke("a", 2000, "left")
    assert wire.replies[-1] == {"push": {"channel": "a", "unsubscribe": {"code": 2000, "reason": "left"}}}
    assert desk.left == ["a"]


def test_commands_past_the_bound_wait_for_an_answer_and_hold_the_reading() -> None:
    connection, wire, desk = connect()
    send(connection, *[{"id": i, "rpc": {"method": "later"}} for i in range(2, 8)])
    assert ([id_ for _, id_, _ in desk.open], wire.held) == ([2, 3, 4], True)
    connection.answer(3, b"{}")
    assert ([id_ for _, id_, _ in desk.open], wire.held) == ([2, 3, 4, 5], True)
    for id_ in (2, 4):
        connection.fail(id_, protocol.INTERNAL)
    assert ([id_ for _, id_, _ in desk.open], wire.held) == ([2, 3, 4, 5, 6, 7], False)


def test_an_unsubscribe_waits_for_the_subscribe_it_takes_back() -> None:
    connection, wire, desk = connect()
    send(connection, {"id": 2, "subscribe": {"channel": "a"}}, {"id": 3, "unsubscribe": {"channel": "a"}})
    assert wire.replies == []
    assert connection.subscribed(2, "a", Subscribed()) is False
    assert [next(k for k in r if k != "id") for r in wire.replies] == ["subscribe", "unsubscribe"]
    assert (desk.left, connection.listens("a")) == ([], False)


def test_who_is_removed_while_subscribing_is_not_subscribed() -> None:
    connection, wire, _ = connect()
    send(connection, {"id": 2, "subscribe": {"channel": "a"}})
    connection.revoke("a", 2000, "left")
    assert connection.subscribed(2, "a", Subscribed()) is False
    assert wire.replies == [{"id": 2, "error": {"code": 103, "message": "permission denied"}}]
    assert not connection.listens("a")


def test_a_stalled_client_leaves_the_fan_out_and_may_come_back_if_it_missed_nothing() -> None:
    connection, wire, _ = connect()
    connection.stalled()
    assert not connection.live
    connection.tick(125.0)
    connection.tick(140.0)
    assert wire.closed is None, "a client that is not read can't be heard"
    assert connection.drained()
    assert connection.live
    connection.stalled()
    connection.missed = True
    assert not connection.drained()


class Machine(RuleBasedStateMachine):
    """Random commands, answers in random order, stalls, time and loss."""

    def __init__(self) -> None:
        super().__init__()
        self.connection, self.wire, self.desk = make()
        self.now_s, self.sent, self.number = 100.0, 0, 0
        self.asked: set[int] = set()

    kinds = st.sampled_from(["rpc", "now", "subscribe", "unsubscribe", "presence", "refresh", "publish", "ping", ""])

    @rule(kinds=st.lists(kinds, min_size=1, max_size=6), channel=st.sampled_from("abc"))
    def commands(self, kinds: list[str], channel: str) -> None:
        if self.wire.held or self.wire.closed:
            return  # the transport reads nothing while held
        batch: list[dict[str, Any]] = []
        for kind in kinds:
            self.number += 1
            body = {"rpc": {"method": "later"}, "now": {"method": "now"}}.get(kind, {"channel": channel})
            name = {"now": "rpc"}.get(kind, kind)
            batch.append({"id": self.number, name: body} if kind else {})
            if kind and self.connection.phase is Phase.OPEN:
                self.asked.add(self.number)
        send(self.connection, *batch)

    @rule(ok=st.booleans())
    @precondition(lambda self: self.connection.phase is Phase.NEW and not self.wire.held)
    def connects(self, ok: bool) -> None:
        self.number += 1
        send(self.connection, {"id": self.number, "connect": {}})
        if ok:
            assert opened(self.connection, now_s=self.now_s)
        else:
            self.connection.refused(protocol.TOKEN_EXPIRED)

    @rule(which=st.integers(0, 5), ok=st.booleans())
    @precondition(lambda self: self.desk.open)
    def answers(self, which: int, ok: bool) -> None:
        kind, id_, command = self.desk.open.pop(which % len(self.desk.open))
        if kind == "subscribe":
            if not ok:
                self.connection.not_subscribed(id_, command.channel, protocol.PERMISSION_DENIED)
            else:
                self.connection.subscribed(id_, command.channel, Subscribed())
                self.connection.proceed()
        elif not ok:
            self.connection.fail(id_, protocol.INTERNAL)
        elif kind == "refresh":
            self.connection.refreshed(id_, version="1", ttl_s=1, expires_s=inf)
        else:
            self.connection.answer(id_, b"{}")

    @rule(channel=st.sampled_from("abc"))
    def revokes(self, channel: str) -> None:
        self.connection.revoke(channel, 2000, "x")

    @rule(step_s=st.floats(0.1, 12.0))
    def time_passes(self, step_s: float) -> None:
        self.now_s += step_s
        assert self.connection.tick(self.now_s) > self.now_s

    @rule(missed=st.booleans())
    def stalls(self, missed: bool) -> None:
        self.connection.stalled()
        self.connection.missed = missed
        assert self.connection.drained() is not missed

    @rule()
    @precondition(lambda self: self.number > 30)
    def is_lost(self) -> None:
        self.connection.lost(1006)

    @invariant()
    def one_answer_to_each_question(self) -> None:
        answered = [r["id"] for r in self.wire.replies if "id" in r]
        assert len(answered) == len(set(answered))
        waiting = {id_ for _, id_, _ in self.desk.open}
        assert not waiting & set(answered) or self.connection.phase is Phase.CLOSED
        assert len(self.desk.open) <= LIMITS.in_flight or self.connection.phase is Phase.CLOSED
        if self.connection.phase is Phase.OPEN and not self.desk.open:
            assert self.asked <= set(answered), "everything asked is answered"
            assert not self.wire.held

    @invariant()
    def the_end_is_the_end(self) -> None:
        if self.connection.phase is Phase.CLOSED:
            assert len(self.desk.ended) == 1
            assert not self.connection.live
            assert not any(self.connection.listens(c) for c in "abc")

    @invariant()
    def strangers_get_nothing(self) -> None:
        if not self.wire.trusted:
            assert all(set(r) == {"id", "error"} for r in self.wire.replies)
            assert not self.desk.open


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
