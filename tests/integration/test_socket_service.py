"""Two socket instances over a real messaging service: what people on them see."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sealwire.contracts.conversations import Conversation
from sealwire.contracts.members import MemberChange, NewMember
from sealwire.contracts.messages import Draft, Read
from sealwire.kit.caller import Caller
from sealwire.kit.problem import SessionUnconfirmed, Unavailable
from sealwire.services.gateway.limiter import CallMeter
from sealwire.services.gateway.minute_counts import MinuteCounts
from sealwire.services.socket import calls, protocol
from sealwire.services.socket.config import SocketConfig
from sealwire.testing.clock import ManualClock
from sealwire.testing.patience import until
from sealwire.testing.socket_room import SocketRoom, socket_room
from sealwire.testing.wire import Wire


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[SocketRoom]:
    async with socket_room(tmp_path) as room:
        yield room


class Pair:
    """Ann and Ben in one group, Ann on the first instance and Ben on the second."""

    def __init__(self, room: SocketRoom) -> None:
        self.room = room

    async def open(self) -> Pair:
        self.ann, self.ann_token = await self.room.enter("ann")
        self.ben, self.ben_token = await self.room.enter("ben")
        self.group: Conversation = await self.room.people.group(self.ann, self.ben)
        self.id = self.group.conversation_id
        return self

    async def say(self, who: Caller, body: str) -> int:
        return (await self.room.people.say(who, self.group, body)).seq


@pytest.fixture
async def pair(room: SocketRoom) -> Pair:
    return await Pair(room).open()


async def on(room: SocketRoom, token: str, *, instance: int = 0, **options: Any) -> Wire:
    wire = await Wire(room.urls[instance], **options).__aenter__()
    reply = await wire.connect(token)
    assert "client" in reply, reply
    return wire


def bodies(wire: Wire, conversation_id: str) -> list[str]:
    return [
        pub["data"]["message"]["body"]
        for pub in wire.publications(conversation_id)
        if pub["data"]["type"] == "message.created"
    ]


async def test_a_message_reaches_members_on_every_instance(pair: Pair) -> None:
    ann, ben = await on(pair.room, pair.ann_token), await on(pair.room, pair.ben_token, instance=1)
    before = [await wire.subscribe(pair.id) for wire in (ann, ben)]
    assert before[0] == before[1]
    assert before[0]["positioned"]
    assert before[0]["recoverable"]
    sent = await ann.rpc("message.send", conversation_id=pair.id, body="hello", client_message_id="1")
    by_rest = await pair.room.people.say(pair.ben, pair.group, "and back")
    for wire in (ann, ben):
        await wire.until(lambda wire=wire: len(wire.publications(pair.id)) == 2)
        first, second = wire.publications(pair.id)
        assert first["offset"] == before[0]["offset"] + 1
        assert first["data"]["message"] == sent
        assert (second["data"]["message"]["seq"], second["data"]["message"]["body"]) == (by_rest.seq, "and back")
        await wire.__aexit__(None, None, None)


async def test_every_method_answers_as_rest_does(pair: Pair) -> None:
    wire = await on(pair.room, pair.ann_token)
    sent = await wire.rpc("message.send", conversation_id=pair.id, body="one", client_message_id="k")
    again = await wire.rpc("message.send", conversation_id=pair.id, body="one", client_message_id="k")
    assert (again["message_id"], again["duplicate"]) == (sent["message_id"], True)
    rest = Draft(body="one", client_message_id="k")
    assert (await pair.room.messaging.send(pair.ann, pair.id, rest)).duplicate, "one key for both ways in"
    edited = await wire.rpc("message.edit", conversation_id=pair.id, seq=1, body="two")
    assert (edited["body"], edited["seq"]) == ("two", 1)
    page = await wire.rpc("history", conversation_id=pair.id, limit=10)
    assert [m["body"] for m in page["items"]] == ["two"]
    assert await wire.rpc("read", conversation_id=pair.id, seq=1) == {"read_seq": 1, "unread": 0}
    assert await wire.rpc("message.delete", conversation_id=pair.id, seq=1) == {}
    assert await wire.rpc("typing", conversation_id=pair.id) == {}
    await wire.__aexit__(None, None, None)


FAILING: list[tuple[str, Any, int, str]] = [
        ("message.send", {"conversation_id": "nowhere", "body": "x", "client_message_id": "1"}, 404,
         "conversation_not_found"),
        ("message.send", {"conversation_id": "nowhere", "body": "x"}, 422, "invalid"),
        ("message.send", {"conversation_id": "nowhere", "body": "x", "client_message_id": "1", "extra": 1}, 422,
         "invalid"),
        ("message.send", {"conversation_id": 7, "body": "x", "client_message_id": "1"}, 422, "invalid"),
        ("message.send", None, 422, "invalid"),
        ("message.send", {"conversation_id": "a", "body": "nul \0", "client_message_id": "1"}, 422, "invalid"),
        ("message.send", {"conversation_id": "a", "body": "x" * 65_537, "client_message_id": "1"}, 422, "invalid"),
        ("message.edit", {"conversation_id": "nowhere", "seq": 0, "body": "x"}, 422, "invalid"),
        ("message.edit", {"conversation_id": "nowhere", "seq": 1, "body": "x"}, 404, "conversation_not_found"),
        ("history", {"conversation_id": "nowhere"}, 404, "conversation_not_found"),
        ("history", {"conversation_id": "nowhere", "limit": 201}, 422, "invalid"),
        ("read", {"conversation_id": "nowhere", "seq": 1}, 404, "conversation_not_found"),
        ("typing", {"conversation_id": "nowhere"}, 404, "conversation_not_found"),
        ("presence", {"conversation_id": "nowhere"}, 404, "conversation_not_found"),
        ("no.such", {}, 404, "method_not_found"),
        ("", {}, 404, "method_not_found"),
    ]  # fmt: skip


async def test_a_failed_call_tells_the_status_and_our_code(pair: Pair) -> None:
    wire = await on(pair.room, pair.ann_token)
    for method, data, code, message in FAILING:
        reply = await wire.ask(rpc={"method": method, "data": data})
        assert (reply["error"]["code"], reply["error"]["message"]) == (code, message), (method, data)
        assert not reply["error"].get("temporary")
    await wire.__aexit__(None, None, None)


async def test_the_same_key_with_another_body_is_a_conflict(pair: Pair) -> None:
    wire = await on(pair.room, pair.ann_token)
    await wire.rpc("message.send", conversation_id=pair.id, body="one", client_message_id="k")
    reply = await wire.rpc("message.send", conversation_id=pair.id, body="two", client_message_id="k")
    assert (reply["error"]["code"], reply["error"]["message"]) == (409, "idempotency_conflict")
    await wire.__aexit__(None, None, None)


async def test_who_is_not_a_member_may_not_listen(pair: Pair) -> None:
    _, eve_token = await pair.room.enter("eve")
    wire = await on(pair.room, eve_token)
    for channel, code in (
        (f"conversation:{pair.id}", 103),
        ("conversation:nowhere", 103),
        (f"user:{pair.ann.user_id}", 103),
        ("news", 102),
        ("", 102),
        ("conversation:" + "x" * 200, 102),
    ):
        reply = await wire.ask(subscribe={"channel": channel})
        assert reply["error"]["code"] == code, channel
    for looking in ("history", "presence", "presence_stats"):
        reply = await wire.ask(**{looking: {"channel": f"conversation:{pair.id}"}})
        assert reply["error"]["code"] == 103
    await pair.say(pair.ann, "secret")
    assert wire.pushes == []
    await wire.__aexit__(None, None, None)


async def test_who_comes_back_gets_exactly_what_was_missed(pair: Pair) -> None:
    wire = await on(pair.room, pair.ben_token)
    at = await wire.subscribe(pair.id)
    await pair.say(pair.ann, "seen")
    await wire.until(lambda: len(wire.publications(pair.id)) == 1)
    await wire.__aexit__(None, None, None)
    for body in ("missed 1", "missed 2", "edited away"):
        seq = await pair.say(pair.ann, body)
    await pair.room.messaging.delete(pair.ann, pair.id, seq)
    again = await on(pair.room, pair.ben_token, instance=1)
    back = await again.subscribe(pair.id, recover=True, offset=at["offset"] + 1, epoch=at["epoch"])
    assert (back["was_recovering"], back["recovered"], back["offset"]) == (True, True, at["offset"] + 1)
    kinds = [(p["offset"] - at["offset"], p["data"]["type"]) for p in back["publications"]]
    assert kinds == [(2, "message.created"), (3, "message.created"), (4, "message.created"), (5, "message.deleted")]
    shown = [p["data"]["message"]["body"] for p in back["publications"][:3]]
    assert shown == ["missed 1", "missed 2", None], "a deleted body is never replayed"
    await pair.say(pair.ann, "live again")
    await again.until(lambda: bodies(again, pair.id) == ["live again"])
    assert again.publications(pair.id)[0]["offset"] == at["offset"] + 6
    await again.__aexit__(None, None, None)


async def test_a_position_that_is_not_of_this_stream_is_not_recovered(pair: Pair) -> None:
    wire = await on(pair.room, pair.ann_token)
    await pair.say(pair.ann, "there")
    top = (await pair.room.messaging.membership(pair.ann, pair.id)).top_offset
    for position in ({"offset": 1, "epoch": "another"}, {"offset": 10**6}):
        reply = await wire.subscribe(pair.id, recover=True, **position)
        assert reply["was_recovering"]
        assert not reply.get("recovered")
        assert not reply.get("publications")
        assert reply["offset"] == top
        await wire.ask(unsubscribe={"channel": f"conversation:{pair.id}"})
    reply = await wire.subscribe(pair.id, recover=True, offset=1, epoch="another", flag=2)
    assert reply["error"]["code"] == 112
    await wire.__aexit__(None, None, None)


async def test_more_missed_than_allowed_is_said_and_not_sent(tmp_path: Path) -> None:
    async with socket_room(tmp_path, config=SocketConfig(recover_events=5, drain_s=0.1), instances=1) as room:
        pair = await Pair(room).open()
        for number in range(10):
            await pair.say(pair.ann, str(number))
        wire = await on(room, pair.ann_token)
        top = (await room.messaging.membership(pair.ann, pair.id)).top_offset
        for offset, recovered in ((top - 5, True), (top - 6, None)):
            reply = await wire.subscribe(pair.id, recover=True, offset=offset)
            assert reply.get("recovered") is recovered
            assert len(reply.get("publications", ())) == (5 if recovered else 0)
            await wire.ask(unsubscribe={"channel": f"conversation:{pair.id}"})
        await wire.__aexit__(None, None, None)


@pytest.mark.parametrize("wiring", ["direct", "loopback"])
async def test_coming_and_going_while_others_write_leaves_no_gap_and_no_duplicate(tmp_path: Path, wiring: str) -> None:
    """Writers never stop; readers leave and recover all the time; each sees every offset once and in order."""
    async with socket_room(tmp_path, wiring=wiring) as room:
        pair = await Pair(room).open()
        writing = True

        async def write(name: str) -> None:
            number = 0
            while writing:
                number += 1
                draft = Draft(body=f"{name} {number}", client_message_id=f"{name}{number}")
                await room.messaging.send(pair.ann, pair.id, draft)
                await asyncio.sleep(0.001)

        async def read(instance: int) -> list[int]:
            seen: list[int] = []
            wire = await on(room, pair.ben_token, instance=instance)
            start = position = await wire.subscribe(pair.id)
            for turn in range(12):
                await wire.until(lambda wire=wire: len(wire.publications(pair.id)) > 2)
                if turn % 3 == 2:
                    await wire.ask(unsubscribe={"channel": f"conversation:{pair.id}"})
                    gone = wire
                else:
                    await wire.__aexit__(None, None, None)
                    gone, wire = wire, await on(room, pair.ben_token, instance=(instance + turn) % 2)
                seen += [p["offset"] for p in gone.publications(pair.id)]
                gone.pushes.clear()
                position = await wire.subscribe(pair.id, recover=True, offset=seen[-1], epoch=start["epoch"])
                assert position["recovered"], position
                seen += [p["offset"] for p in position.get("publications", ())]
            await wire.__aexit__(None, None, None)
            seen += [p["offset"] for p in wire.publications(pair.id)]
            return [start["offset"], *seen]

        writers = [asyncio.create_task(write(name)) for name in "xy"]
        found = await asyncio.gather(*[read(i % 2) for i in range(4)])
        writing = False
        await asyncio.gather(*writers)
        for offsets in found:
            assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
            assert len(offsets) > 24


async def test_a_removed_member_is_unsubscribed_at_once_and_told(pair: Pair) -> None:
    ben = await on(pair.room, pair.ben_token, instance=1)
    await ben.subscribe(pair.id)
    await pair.room.messaging.remove_member(pair.ann, pair.id, pair.ben.user_id)
    await ben.until(lambda: any("unsubscribe" in push for push in ben.pushes))
    (push,) = [push for push in ben.pushes if "unsubscribe" in push]
    assert (push["channel"], push["unsubscribe"]["code"]) == (f"conversation:{pair.id}", 2000)
    await ben.until(lambda: any(p["channel"] == f"user:{pair.ben.user_id}" for p in ben.pushes))
    await pair.say(pair.ann, "without ben")
    reply = await ben.subscribe(pair.id)
    assert reply["error"]["code"] == 103
    assert bodies(ben, pair.id) == []
    await pair.room.messaging.add_member(pair.ann, pair.id, NewMember(user_id=pair.ben.user_id))
    assert "epoch" in await ben.subscribe(pair.id)
    await ben.__aexit__(None, None, None)


async def test_a_removed_conversation_ends_its_subscriptions(pair: Pair) -> None:
    ann, ben = await on(pair.room, pair.ann_token), await on(pair.room, pair.ben_token, instance=1)
    for wire in (ann, ben):
        await wire.subscribe(pair.id)
    await pair.room.messaging.remove(pair.ann, pair.id)
    for wire in (ann, ben):
        await wire.until(lambda wire=wire: any("unsubscribe" in push for push in wire.pushes))
        kinds = [push["pub"]["data"]["type"] for push in wire.pushes if "pub" in push]
        assert kinds == ["conversation.removed"]
        await wire.__aexit__(None, None, None)


async def test_the_channel_of_one_s_own_tells_of_memberships_unread_messages_and_mentions(pair: Pair) -> None:
    ben = await on(pair.room, pair.ben_token)
    mine = f"user:{pair.ben.user_id}"

    def heard(kind: str) -> list[dict[str, Any]]:
        data = [push["pub"]["data"] for push in ben.pushes if push["channel"] == mine]
        return [d for d in data if d["type"] == kind]

    other = await pair.room.people.group(pair.ann, pair.ben, title="another")
    await ben.until(lambda: bool(heard("member.joined")))
    assert heard("member.joined")[0]["conversation_id"] == other.conversation_id
    await pair.room.messaging.change_member(
        pair.ann, other.conversation_id, pair.ben.user_id, MemberChange(role="moderator")
    )
    await ben.until(lambda: bool(heard("member.changed")))
    for body in ("1", "2", "3"):
        await pair.room.people.say(pair.ann, other, body)
    await ben.until(lambda: any(told["last_seq"] == 3 for told in heard("unread")))  # gathered, or one by one
    assert {told["conversation_id"] for told in heard("unread")} == {other.conversation_id}
    await pair.room.people.say(pair.ben, pair.group, "my own")
    draft = Draft(body='see "mentions":["nobody"]', client_message_id="m", mentions=[pair.ben.user_id])
    sent = await pair.room.messaging.send(pair.ann, pair.id, draft)
    await ben.until(lambda: bool(heard("mention")))
    assert heard("mention")[0] == {
        "type": "mention",
        "conversation_id": pair.id,
        "message_id": sent.message_id,
        "seq": sent.seq,
        "by": pair.ann.user_id,
    }
    await ben.subscribe(pair.id)
    before = len(heard("unread"))
    await pair.say(pair.ann, "read as it comes")
    await ben.until(lambda: "read as it comes" in bodies(ben, pair.id))
    await asyncio.sleep(0.3)  # longer than unread messages are gathered: nothing must come
    assert [u["conversation_id"] for u in heard("unread")[before:]] in ([], [pair.id]), "from before the subscription"
    await ben.__aexit__(None, None, None)


async def test_receipts_and_typing_pass_by_without_an_offset(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "TYPING_EVERY_S", 600.0)  # one is told, however long the three take
    ann, ben = await on(pair.room, pair.ann_token), await on(pair.room, pair.ben_token, instance=1)
    for wire in (ann, ben):
        await wire.subscribe(pair.id)
    await pair.say(pair.ann, "read me")
    await pair.room.messaging.read(pair.ben, pair.id, Read(seq=1))
    for _ in range(3):
        await ben.rpc("typing", conversation_id=pair.id)
    await ben.rpc("typing", conversation_id=pair.id, active=False)

    def passing() -> list[dict[str, Any]]:
        return [p["data"] for p in ann.publications(pair.id) if not p.get("offset")]

    await ann.until(lambda: len(passing()) == 3)
    assert [p["type"] for p in sorted(passing(), key=lambda p: p["type"])] == ["receipt.read", "typing", "typing"]
    assert [p["active"] for p in passing() if p["type"] == "typing"] == [True, False]
    assert all(p["user_id"] == pair.ben.user_id for p in passing())
    for wire in (ann, ben):
        await wire.__aexit__(None, None, None)


async def test_presence_counts_listeners_of_every_instance(pair: Pair) -> None:
    wires = [await on(pair.room, pair.ann_token), await on(pair.room, pair.ben_token, instance=1)]
    wires.append(await on(pair.room, pair.ben_token))
    for wire in wires:
        await wire.subscribe(pair.id)
    found = await wires[0].rpc("presence", conversation_id=pair.id)
    assert {i["user_id"]: i["connections"] for i in found["items"]} == {pair.ann.user_id: 1, pair.ben.user_id: 2}
    channel = f"conversation:{pair.id}"
    reply = await wires[0].ask(presence={"channel": channel})
    assert sorted(c["user"] for c in reply["presence"]["presence"].values()) == sorted(
        [pair.ann.user_id, pair.ben.user_id, pair.ben.user_id]
    )
    stats = (await wires[0].ask(presence_stats={"channel": channel}))["presence_stats"]
    assert stats == {"num_clients": 3, "num_users": 2}
    await wires[1].ask(unsubscribe={"channel": channel})
    await wires[2].__aexit__(None, None, None)
    await until(lambda: not pair.room.services[0].stats.connections - 1)
    found = await wires[0].rpc("presence", conversation_id=pair.id)
    assert [i["user_id"] for i in found["items"]] == [pair.ann.user_id]
    for wire in wires[:2]:
        await wire.__aexit__(None, None, None)


async def test_history_of_a_channel_is_its_stream(pair: Pair) -> None:
    wire = await on(pair.room, pair.ann_token)
    at = await wire.subscribe(pair.id)
    for body in "abc":
        await pair.say(pair.ann, body)
    channel = f"conversation:{pair.id}"
    end = (await wire.ask(history={"channel": channel}))["history"]
    assert end == {"publications": [], "offset": at["offset"] + 3, "epoch": at["epoch"]}
    since = {"offset": at["offset"], "epoch": at["epoch"]}
    page = (await wire.ask(history={"channel": channel, "limit": 2, "since": since}))["history"]
    assert [p["data"]["message"]["body"] for p in page["publications"]] == ["a", "b"]
    everything = (await wire.ask(history={"channel": channel, "limit": -1, "since": since}))["history"]
    assert len(everything["publications"]) == 3
    await wire.__aexit__(None, None, None)


async def test_many_calls_in_one_frame_share_commits(pair: Pair) -> None:
    wire = await on(pair.room, pair.ann_token)
    frame = "\n".join(
        json.dumps(
            {"id": 1_000 + n, "rpc": {"method": "message.send", "data": {
                "conversation_id": pair.id, "body": f"{n}", "client_message_id": f"{n}"}}}
        )
        for n in range(300)
    )  # fmt: skip
    replies = [asyncio.get_running_loop().create_future() for _ in range(300)]
    wire._replies.update({1_000 + n: future for n, future in enumerate(replies)})
    commits = 0

    def count() -> None:
        nonlocal commits
        commits += 1

    pair.room.people.stores.events._db.on_commit(count)  # type: ignore[attr-defined]  # of the embedded family
    await wire._socket.send(frame)
    answers = await asyncio.wait_for(asyncio.gather(*replies), 60)
    assert sorted(a["rpc"]["data"]["seq"] for a in answers) == list(range(1, 301))
    assert [a["rpc"]["data"]["seq"] for a in answers] == list(range(1, 301)), "in the order they were sent"
    assert commits < 150, "many of them in one"
    await wire.__aexit__(None, None, None)


async def test_a_revoked_session_closes_its_sockets_and_no_others(pair: Pair) -> None:
    mine = [await on(pair.room, pair.ann_token, instance=i) for i in (0, 1)]
    ben = await on(pair.room, pair.ben_token)
    pair.room.door.end(pair.ann)
    assert [await wire.closed() for wire in mine] == [4502, 4502]
    await ben.rpc("typing", conversation_id=pair.id)
    assert ben.close_code is None
    assert [e.action for e in pair.room.records.entries].count("socket.close") == 2
    await ben.__aexit__(None, None, None)


async def test_a_revocation_that_is_only_noticed_at_the_next_command_closes_too(pair: Pair) -> None:
    wire = await on(pair.room, pair.ann_token)
    for admission in pair.room.door.inside:
        admission.expires_at_s = 1
    with pytest.raises(ConnectionError):
        await wire.rpc("typing", conversation_id=pair.id)
    assert await wire.closed() == 3005


async def test_refusals_have_codes_and_no_detail(pair: Pair) -> None:
    room = pair.room
    expired = room.door.token(pair.ann, expires_in_s=-5)
    async with Wire(room.urls[0]) as wire:
        reply = await wire.ask(connect={"token": expired})
        assert reply["error"] == {"code": 109, "message": "token expired"}
        assert "client" in await wire.connect(pair.ann_token), "another try on the same connection"
    for token in ("", "nonsense"):
        wire = await Wire(room.urls[0]).__aenter__()
        waiting = wire.post(connect={"token": token})
        assert await wire.closed() == 4501
        assert isinstance(waiting.exception(), ConnectionError)
    for outage in (Unavailable(), SessionUnconfirmed()):
        room.door.outage = outage
        wire = await Wire(room.urls[0]).__aenter__()
        waiting = wire.post(connect={"token": pair.ann_token})
        assert await wire.closed() == 4001
        assert waiting.exception()
    room.door.outage = None
    denied = [e for e in room.records.entries if e.action == "socket.refuse"]
    assert len(denied) == 5
    assert all(e.outcome == "denied" and e.tenant_id == "anonymous" for e in denied)
    assert all(set(e.personal) == {"ip_address", "user_agent"} for e in denied)


async def test_credentials_of_the_handshake(pair: Pair) -> None:
    for options in (
        {"additional_headers": {"Authorization": f"Bearer {pair.ann_token}"}},
        {"subprotocols": ["sealwire.v1", f"bearer.{pair.ann_token}"]},
    ):
        async with Wire(pair.room.urls[0], **options) as wire:
            assert "client" in dict((await wire.ask(connect={}))["connect"])
            assert wire._socket.subprotocol == ("sealwire.v1" if "subprotocols" in options else None)
    two = {"Authorization": "Bearer a"}
    wire = await Wire(pair.room.urls[0], additional_headers=two, subprotocols=["sealwire.v1", "bearer.b"]).__aenter__()
    assert await wire.closed() == 4501


async def test_a_connection_ends_with_its_token_unless_it_is_refreshed(pair: Pair) -> None:
    door = pair.room.door
    wires = [await on(pair.room, door.token(pair.ann, expires_in_s=5)) for _ in range(2)]
    kept = wires[1]
    reply = await kept.ask(refresh={"token": door.token(pair.ann, expires_in_s=60)})
    assert reply["refresh"]["expires"]
    assert 30 <= reply["refresh"]["ttl"] <= 60
    assert await wires[0].closed() == 3005
    assert (await kept.ask(ping={}))["ping"] == {}
    expired = await kept.ask(refresh={"token": door.token(pair.ann, expires_in_s=-1)})
    assert expired["error"] == {"code": 109, "message": "token expired", "temporary": True}
    kept.post(refresh={"token": pair.ben_token}).add_done_callback(lambda f: f.exception())
    assert await kept.closed() == 4501


async def test_a_refresh_that_comes_just_after_the_end_of_the_token_is_answered(pair: Pair) -> None:
    """A token is good a little longer than it says, for clocks that differ, and so is the socket it opened."""
    door = pair.room.door
    door.leeway_s = 60.0
    wire = await on(pair.room, door.token(pair.ann, expires_in_s=1.5))
    (admission,) = door.inside
    await until(lambda: time.time() > admission.expires_at_s + 0.5)  # twice the wheel's step: it was looked at since
    assert (await wire.ask(ping={}))["ping"] == {}
    reply = await wire.ask(refresh={"token": door.token(pair.ann, expires_in_s=60)})
    assert reply["refresh"]["expires"]
    await wire.__aexit__(None, None, None)


async def test_pings_go_out_and_silence_is_closed(tmp_path: Path) -> None:
    config = SocketConfig(ping_s=1, pong_s=3, authenticate_s=3, drain_s=0.1)
    async with socket_room(tmp_path, config=config, instances=1) as room:
        _, token = await room.enter("ann")
        async with Wire(room.urls[0]) as wire, connect(room.urls[0].replace("http", "ws") + "/ws") as mute:
            assert (await wire.connect(token))["ping"] == 1
            await mute.send(json.dumps({"id": 1, "connect": {"token": token}}))
            silent = await Wire(room.urls[0]).__aenter__()
            assert await silent.closed() == 4501
            await asyncio.wait_for(mute.wait_closed(), 40)
            assert mute.close_code == 3012
            assert wire.close_code is None


async def test_a_client_that_stops_reading_holds_up_nobody_and_recovers_later(tmp_path: Path) -> None:
    config = SocketConfig(backlog_bytes=65_536, slow_grace_s=0.3, close_timeout_s=0.2, drain_s=0.1)
    async with socket_room(tmp_path, config=config, instances=1) as room:
        pair = await Pair(room).open()
        quick = await on(room, pair.ann_token)
        await quick.subscribe(pair.id)
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stuck = await connect(
            room.urls[0].replace("http", "ws") + "/ws", sock=connected(slow, room.urls[0]), max_queue=1
        )
        await stuck.send(json.dumps({"id": 1, "connect": {"token": pair.ben_token}}))
        await stuck.recv()
        await stuck.send(json.dumps({"id": 2, "subscribe": {"channel": f"conversation:{pair.id}"}}))
        at = json.loads(await stuck.recv())["subscribe"]
        sent = 0
        while not room.services[0].closed_by_code.get(protocol.SLOW.code):
            sent += 1
            assert sent < 1_000
            await pair.say(pair.ann, "x" * 60_000)
        assert room.services[0].stats.connections == 1
        await quick.until(lambda: len(quick.publications(pair.id)) == sent)
        again = await on(room, pair.ben_token)
        back = await again.subscribe(pair.id, recover=True, offset=at["offset"] + sent - 3, epoch=at["epoch"])
        assert [p["offset"] - at["offset"] for p in back["publications"]] == [sent - 2, sent - 1, sent]
        for wire in (quick, again):
            await wire.__aexit__(None, None, None)
        stuck.transport.abort()


def connected(sock: socket.socket, url: str) -> socket.socket:
    sock.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    sock.setblocking(False)
    return sock


async def test_an_instance_that_is_full_or_stopping_says_so(tmp_path: Path) -> None:
    config = SocketConfig(max_connections=3, max_unauthenticated=2, drain_s=0.1)
    async with socket_room(tmp_path, config=config, instances=1) as room:
        _, token = await room.enter("ann")
        first = [await Wire(room.urls[0]).__aenter__() for _ in range(2)]
        with pytest.raises(InvalidStatus, match="503"):
            await Wire(room.urls[0]).__aenter__()
        await first[0].connect(token)
        third = await Wire(room.urls[0]).__aenter__()
        with pytest.raises(InvalidStatus, match="503"):
            await Wire(room.urls[0]).__aenter__()
        await room.services[0].drain()
        assert [await wire.closed() for wire in (*first, third)] == [3001] * 3
        with pytest.raises(InvalidStatus, match="503"):
            await Wire(room.urls[0]).__aenter__()


async def test_calls_are_counted(tmp_path: Path) -> None:
    counts = MinuteCounts(clock=ManualClock())
    meter = CallMeter(counts=counts, writes_per_minute=3, others_per_minute=2)
    async with socket_room(tmp_path, meter=meter, instances=1) as room:
        pair = await Pair(room).open()
        wire = await on(room, pair.ann_token)
        replies = [
            await wire.rpc("message.send", conversation_id=pair.id, body="x", client_message_id=str(n))
            for n in range(4)
        ]
        assert [r.get("seq") for r in replies] == [1, 2, 3, None]
        assert replies[3]["error"] == {"code": 429, "message": "rate_limited", "temporary": True}
        old = room.door.token(pair.ann, expires_in_s=-1)
        errors = [(await wire.ask(refresh={"token": old}))["error"]["code"] for _ in range(3)]
        assert errors == [109, 109, 429], "each has a signature verified"
        await wire.__aexit__(None, None, None)


MALFORMED = [
    "",
    "x",
    "{",
    "[]",
    "null",
    '{"id":1}{',
    '{"id":"a","rpc":{}}',
    '{"id":1,"rpc":[]}',
    '{"id":1,"rpc":{"method":7}}',
    '{"id":1,"subscribe":{"channel":{}}}',
    '{"id":1,"subscribe":{"channel":"c","recover":"yes"}}',
    '{"id":0,"rpc":{}}',
    '{"id":1,"connect":{"token":"again"}}',
    '{"a":' + "[" * 50_000 + "]" * 50_000 + "}",
    '{"id":1,"rpc":{"method":"x","data":' + "[" * 20_000 + "]" * 20_000 + "}}",
    "\x00",
    '{"id":1e999}',
]


async def test_malformed_frames_end_the_connection_and_nothing_else(pair: Pair) -> None:
    witness = await on(pair.room, pair.ben_token)
    for frame in MALFORMED:
        wire = await on(pair.room, pair.ann_token)
        await wire._socket.send(frame)
        assert await wire.closed() == 3501, frame[:40]
    assert await witness.rpc("typing", conversation_id=pair.id) == {}
    await witness.__aexit__(None, None, None)


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_commands_never_hang_or_break_the_instance(pair: Pair, seed: int) -> None:
    """Valid JSON of every shape: each connection is answered or closed with a code, and a witness stays served."""
    witness = await on(pair.room, pair.ben_token)
    scraps = [0, -1, 1, "x", "", None, [], {}, True, 1.5, "conversation:x", {"a": [1]}, 2**70, "\0", "💥"]
    kinds = ["rpc", "subscribe", "unsubscribe", "publish", "presence", "history", "refresh", "send", "ping", "nothing"]
    members = ["method", "data", "channel", "offset", "epoch", "recover", "limit", "since", "token"]
    rng = random.Random(seed)
    for _ in range(30):
        wire = await on(pair.room, pair.ann_token, instance=rng.randrange(2))
        for number in range(rng.randrange(1, 6)):
            body = {rng.choice(members): rng.choice(scraps) for _ in range(rng.randrange(4))}
            command = {"id": 100 + number, rng.choice(kinds): rng.choice([body, body, body, rng.choice(scraps)])}
            await wire._socket.send(json.dumps(command))
        try:
            await wire.ask(ping={})
        except ConnectionError:
            assert wire.close_code in (3501, 3508, 4501), (seed, wire.close_code)
        await wire.__aexit__(None, None, None)
    assert await witness.rpc("typing", conversation_id=pair.id) == {}
    await witness.__aexit__(None, None, None)
