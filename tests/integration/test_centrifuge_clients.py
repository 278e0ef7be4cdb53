"""The unmodified `centrifuge` clients, npm's and Python's: send, receive, be cut, recover, be refused, thrown out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import centrifuge
import pytest

from sealwire.kit.problem import SessionUnconfirmed
from sealwire.services.socket.config import SocketConfig
from sealwire.testing.node import NodeMissing, NodeScript
from sealwire.testing.patience import until
from sealwire.testing.socket_room import SocketRoom, socket_room

SCRIPT = Path(__file__).resolve().parents[1] / "node" / "centrifuge_client.js"


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[SocketRoom]:
    async with socket_room(tmp_path, config=SocketConfig(drain_s=0.1, ping_s=1, pong_s=4)) as room:
        yield room


def address(room: SocketRoom, path: str = "/connection/websocket", instance: int = 0) -> str:
    return room.urls[instance].replace("http", "ws") + path


def npm_client(*arguments: str) -> NodeScript:
    try:
        return NodeScript(SCRIPT, *arguments)
    except NodeMissing as reason:
        pytest.skip(f"the npm client is not tested here: {reason}")


async def test_npm_client_sends_receives_is_cut_and_recovers_exactly(room: SocketRoom) -> None:
    (ann, ann_token), (ben, _) = await room.enter("ann"), await room.enter("ben")
    group = await room.people.group(ann, ben)
    channel = f"conversation:{group.conversation_id}"
    async with npm_client(address(room), ann_token) as js:
        js.do("subscribe", channel=channel)
        js.do("connect")
        await js.until(lambda: js.seen("subscribed"))
        assert js.seen("server_subscribed")[0]["channel"] == f"user:{ann.user_id}"
        start = js.seen("subscribed")[0]["position"]["offset"]

        hello = {"conversation_id": group.conversation_id, "body": "hello 💥", "client_message_id": "1"}
        js.do("rpc", tag="send", method="message.send", data=hello)
        sent = (await js.answer("send"))["data"]
        await js.until(lambda: js.seen("publication"))
        assert js.seen("publication")[0]["data"]["message"] == sent
        await room.people.say(ben, group, "from ben")
        await js.until(lambda: len(js.seen("publication")) == 2)

        js.do("cut")
        for number in range(5):
            await room.people.say(ben, group, f"missed {number}")
        await js.until(lambda: len(js.seen("subscribed")) == 2)
        again = js.seen("subscribed")[1]
        assert (again["was_recovering"], again["recovered"]) == (True, True)
        await room.people.say(ben, group, "live again")
        await js.until(lambda: len(js.seen("publication")) == 8)
        assert [p["offset"] - start for p in js.seen("publication")] == list(range(1, 9))

        js.do("history", tag="page", channel=channel, options={"limit": 3, "since": {"offset": start, "epoch": ""}})
        page = (await js.answer("page"))["data"]
        assert [p["offset"] - start for p in page["publications"]] == [1, 2, 3]
        js.do("presence", tag="who", channel=channel)
        assert [c["user"] for c in (await js.answer("who"))["data"]["clients"].values()] == [ann.user_id]

        js.do("rpc", tag="wrong", method="history", data={"conversation_id": "nowhere"})
        assert (await js.answer("wrong"))["error"] == {
            "code": 404, "message": "conversation_not_found", "temporary": False,
        }  # fmt: skip
        await asyncio.sleep(5.5)  # who did not answer the ping is gone by now
        assert len(js.seen("connected")) == 2


async def test_npm_client_s_batch_is_answered_whole(room: SocketRoom) -> None:
    ann, token = await room.enter("ann")
    group = await room.people.group(ann)
    async with npm_client(address(room, "/ws"), token) as js:
        js.do("connect")
        await js.until(lambda: js.seen("connected"))
        calls = [
            {"tag": str(n), "method": "message.send",
             "data": {"conversation_id": group.conversation_id, "body": f"{n}", "client_message_id": f"{n}"}}
            for n in range(150)
        ]  # fmt: skip
        js.do("batch", calls=calls)
        seqs = [(await js.answer(str(n)))["data"]["seq"] for n in range(150)]
        assert seqs == list(range(1, 151))


async def test_npm_client_is_thrown_out_of_a_conversation_and_of_the_server(room: SocketRoom) -> None:
    (ann, _), (ben, ben_token) = await room.enter("ann"), await room.enter("ben")
    group = await room.people.group(ann, ben)
    channel = f"conversation:{group.conversation_id}"
    async with npm_client(address(room), ben_token) as js:
        js.do("subscribe", channel=channel)
        js.do("subscribe", channel="conversation:nowhere")
        js.do("connect")
        await js.until(lambda: js.seen("subscribed", channel=channel))
        await js.until(lambda: js.seen("unsubscribed", channel="conversation:nowhere"))
        assert js.seen("unsubscribed")[0]["code"] == 103
        await room.messaging.remove_member(ann, group.conversation_id, ben.user_id)
        await js.until(lambda: js.seen("unsubscribed", channel=channel))
        room.door.end(ben)
        await js.until(lambda: js.seen("disconnected"))
        assert js.seen("disconnected")[0]["code"] == 4502
        assert len(js.seen("connected")) == 1, "it does not come back by itself"


async def test_npm_client_comes_back_when_it_should_and_not_when_not(room: SocketRoom) -> None:
    ann, token = await room.enter("ann")
    expired = room.door.token(ann, expires_in_s=-1)
    async with npm_client(address(room), expired, token) as js:
        js.do("connect")
        await js.until(lambda: js.seen("connected"))
        assert js.seen("error")[0]["error"]["code"] == 109, "expired: it asked for a fresh token"
        room.door.end(ann, SessionUnconfirmed())
        await js.until(lambda: js.seen("connecting", code=4001))
        await js.until(lambda: len(js.seen("connected")) == 2)
        await room.services[0].drain()
        await js.until(lambda: js.seen("connecting", code=3001))
    async with npm_client(address(room, instance=1), "nonsense") as js:
        js.do("connect")
        await js.until(lambda: js.seen("disconnected"))
        assert js.seen("disconnected")[0]["code"] == 4501


async def test_npm_client_refreshes_in_band_before_its_token_ends(room: SocketRoom) -> None:
    ann, _ = await room.enter("ann")
    tokens = [room.door.token(ann, expires_in_s=seconds) for seconds in (4, 60)]
    async with npm_client(address(room), *tokens) as js:
        js.do("connect")
        await js.until(lambda: js.seen("connected"))
        await until(lambda: room.door.inside and room.door.inside[0].expires_at_s - room.clock.now_us() / 1e6 > 30)
        await asyncio.sleep(4)  # past the end of the first token
        assert len(js.seen("connected")) == 1
        assert not js.seen("disconnected")


class Heard(centrifuge.SubscriptionEventHandler):
    """Keeps what a subscription of the Python client was told."""

    def __init__(self) -> None:
        self.publications: list[Any] = []
        self.subscribed: list[Any] = []
        self.unsubscribed: list[Any] = []

    async def on_publication(self, ctx: centrifuge.PublicationContext) -> None:
        self.publications.append(ctx.pub)

    async def on_subscribed(self, ctx: centrifuge.SubscribedContext) -> None:
        self.subscribed.append(ctx)

    async def on_unsubscribed(self, ctx: centrifuge.UnsubscribedContext) -> None:
        self.unsubscribed.append(ctx)


class Ended(centrifuge.ClientEventHandler):
    """Keeps how connections of the Python client ended."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.connected = 0

    async def on_connected(self, ctx: centrifuge.ConnectedContext) -> None:
        self.connected += 1

    async def on_disconnected(self, ctx: centrifuge.DisconnectedContext) -> None:
        self.codes.append(ctx.code)


async def test_python_client_sends_receives_is_cut_and_recovers_exactly(room: SocketRoom) -> None:
    (ann, ann_token), (ben, _) = await room.enter("ann"), await room.enter("ben")
    group = await room.people.group(ann, ben)
    channel = f"conversation:{group.conversation_id}"
    heard, ended = Heard(), Ended()

    async def fresh() -> str:
        return ann_token

    client = centrifuge.Client(address(room), token=ann_token, get_token=fresh, events=ended, proxy=None)
    subscription = client.new_subscription(channel, heard, recoverable=True, positioned=True)
    await client.connect()
    await subscription.subscribe()
    await until(lambda: heard.subscribed)
    start = heard.subscribed[0].stream_position.offset
    data = {"conversation_id": group.conversation_id, "body": "hello", "client_message_id": "1"}
    sent = (await client.rpc("message.send", data)).data
    await until(lambda: heard.publications)
    assert heard.publications[0].data["message"] == sent
    client._conn.transport.abort()  # type: ignore[union-attr]  # the only way to cut it off
    for number in range(3):
        await room.people.say(ben, group, f"missed {number}")
    await until(lambda: len(heard.subscribed) == 2)
    assert (heard.subscribed[1].was_recovering, heard.subscribed[1].recovered) == (True, True)
    await room.people.say(ben, group, "live again")
    await until(lambda: len(heard.publications) == 5)
    assert [p.offset - start for p in heard.publications] == [1, 2, 3, 4, 5]
    with pytest.raises(centrifuge.ReplyError) as caught:
        await client.rpc("history", {"conversation_id": "nowhere"})
    assert (caught.value.code, caught.value.message) == (404, "conversation_not_found")
    page = await subscription.history(limit=2, since=centrifuge.StreamPosition(start, ""))
    assert [p.offset - start for p in page.publications] == [1, 2]
    assert (await subscription.presence_stats()).num_clients == 1
    await subscription.unsubscribe()
    room.door.end(ann)
    await until(lambda: ended.codes)
    assert ended.codes == [4502]


async def test_python_client_with_a_wrong_token_ends(room: SocketRoom) -> None:
    ended = Ended()
    client = centrifuge.Client(address(room, "/ws"), token="nonsense", events=ended, proxy=None)
    await client.connect()
    await until(lambda: ended.codes)
    assert ended.codes == [4501]
    assert ended.connected == 0
