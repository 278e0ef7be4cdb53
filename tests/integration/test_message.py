"""docs/life/message.md, step by step, on a running installation."""

from __future__ import annotations

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sealwire.testing.wire import Wire


def test_first_owner_is_the_first_person(owner, person):
    assert owner.user["role"] == "owner"
    assert person("ann").user["role"] == "member"


def test_messages_are_numbered_without_holes_and_paged(person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    for i in range(7):
        assert ann.send(room, f"note {i}")["seq"] == i + 1
    page = ben.http.get(f"/conversations/{room}/messages", params={"after_seq": 2, "limit": 3}).json()
    assert [m["seq"] for m in page["items"]] == [3, 4, 5]
    assert page["items"][0]["body"] == "note 2"
    newest = ben.http.get(f"/conversations/{room}/messages", params={"limit": 2}).json()
    assert [m["seq"] for m in newest["items"]] == [6, 7]
    before = ben.http.get(f"/conversations/{room}/messages", params={"before_seq": 3}).json()
    assert [m["seq"] for m in before["items"]] == [1, 2]


def test_a_cursor_leads_through_all_pages(person):
    ann = person("ann")
    room = ann.converse()
    for i in range(7):
        ann.send(room, f"{i}")
    for start, expected in (({"after_seq": 0}, [1, 2, 3, 4, 5, 6, 7]), ({}, [6, 7, 4, 5, 2, 3, 1])):
        seen, query = [], dict(start)
        while True:
            page = ann.http.get(f"/conversations/{room}/messages", params={"limit": 2, **query}).json()
            seen += [m["seq"] for m in page["items"]]
            if page["next_cursor"] is None:
                break
            query = {"cursor": page["next_cursor"]}
        assert seen == expected
    for cursor in ("5", "after.x", "after.-1", "sideways.1", "after." + "9" * 30):
        refused = ann.http.get(f"/conversations/{room}/messages", params={"cursor": cursor})
        assert (refused.status_code, refused.json()["path"]) == (422, "$.cursor")


def test_racing_senders_share_one_gapless_order(person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda i: (ann if i % 2 else ben).send(room, f"race {i}"), range(64)))
    assert sorted(m["seq"] for m in sent) == list(range(1, 65))
    stored = ann.http.get(f"/conversations/{room}/messages", params={"after_seq": 0, "limit": 200}).json()["items"]
    assert {(m["seq"], m["body"]) for m in stored} == {(m["seq"], m["body"]) for m in sent}


def test_the_same_key_is_one_message_however_often_and_however_parallel(person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda _: ann.send(room, "once", key="k-1"), range(16)))
    assert {m["seq"] for m in sent} == {1}
    assert sum(not m.get("duplicate") for m in sent) == 1
    other = ann.http.post(f"/conversations/{room}/messages", json={"body": "twice", "client_message_id": "k-1"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert ben.send(room, "mine", key="k-1")["seq"] == 2


def test_a_direct_conversation_exists_once_per_pair(person):
    ann, ben = person("ann"), person("ben")
    assert ann.converse(ben, kind="direct") == ben.converse(ann, kind="direct")
    again = ann.http.post("/conversations", json={"kind": "direct", "member_ids": [ben.user_id]})
    assert again.status_code == 200


def test_existence_is_not_told_to_others(person, stranger):
    ann, ben, eve, alien = person("ann"), person("ben"), person("eve"), stranger("alien")
    room = ann.converse(ben)
    ann.send(room, "secret")
    for outsider in (eve, alien):
        for answer in (
            outsider.http.get(f"/conversations/{room}"),
            outsider.http.get(f"/conversations/{room}/messages"),
            outsider.http.post(f"/conversations/{room}/messages", json={"body": "x", "client_message_id": "1"}),
            outsider.http.patch(f"/conversations/{room}/messages/1", json={"body": "x"}),
            outsider.http.delete(f"/conversations/{room}/messages/1"),
            outsider.http.put(f"/conversations/{room}/messages/1/reactions/x"),
            outsider.http.post(f"/conversations/{room}/read", json={"seq": 1}),
            outsider.http.post(f"/conversations/{room}/members", json={"user_id": eve.user_id}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "conversation_not_found"), answer.text
    foreign = ann.http.post("/conversations", json={"kind": "group", "member_ids": [alien.user_id]})
    assert foreign.status_code == 422


def test_unread_counts_follow_reading(person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    for i in range(5):
        ann.send(room, f"{i}")
    assert ben.http.get(f"/conversations/{room}").json()["unread"] == 5
    state = ben.http.post(f"/conversations/{room}/read", json={"seq": 3}).json()
    assert state == {"read_seq": 3, "unread": 2}
    assert ben.http.post(f"/conversations/{room}/read", json={"seq": 1}).json()["read_seq"] == 3
    listed = ben.http.get("/conversations").json()["items"]
    assert next(c for c in listed if c["conversation_id"] == room)["unread"] == 2
    assert ann.http.get(f"/conversations/{room}").json()["unread"] == 0


def test_edit_delete_and_reactions(person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    ann.send(room, "first version")
    path = f"/conversations/{room}/messages/1"
    edited = ann.http.patch(path, json={"body": "second version"})
    assert edited.status_code == 200
    assert edited.json()["edited_at"]
    assert ben.http.patch(path, json={"body": "mine"}).status_code == 403
    assert ben.http.put(f"{path}/reactions/👍").status_code == 204
    shown = ann.http.get(f"/conversations/{room}/messages").json()["items"][0]
    assert shown["body"] == "second version"
    assert shown["reactions"] == [{"emoji": "👍", "user_ids": [ben.user_id]}]
    assert ann.http.delete(path).status_code == 200
    gone = ben.http.get(f"/conversations/{room}/messages").json()["items"][0]
    assert (gone["seq"], gone["deleted"], gone["body"]) == (1, True, None)


async def test_live_delivery_and_recovery_of_exactly_what_was_missed(installation, person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    async with Wire(installation.url) as wire:
        await wire.connect(ben.token)
        place = await wire.subscribe(room)
        await asyncio.to_thread(ann.send, room, "live 1")
        await wire.until(lambda: len(wire.publications(room)) == 1)
        seen = wire.publications(room)[-1]
        assert seen["data"]["type"] == "message.created"
        assert seen["data"]["message"]["body"] == "live 1"
    for i in range(5):
        await asyncio.to_thread(ann.send, room, f"missed {i}")
    async with Wire(installation.url) as wire:
        await wire.connect(ben.token)
        back = await wire.subscribe(room, recover=True, offset=seen["offset"], epoch=place["epoch"])
        assert back["recovered"] is True
        missed = back["publications"]
        assert [p["data"]["message"]["body"] for p in missed] == [f"missed {i}" for i in range(5)]
        assert [p["offset"] for p in missed] == list(range(seen["offset"] + 1, seen["offset"] + 6))


async def test_nothing_is_lost_or_doubled_between_recovery_and_live(installation, person):
    """Subscribe again and again while others write: every reader sees each offset once, in order."""
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    stop = asyncio.Event()

    async def write() -> int:
        count = 0
        while not stop.is_set():
            await asyncio.to_thread(ann.send, room, f"n {count}")
            count += 1
        return count

    writer = asyncio.create_task(write())
    got: list[int] = []
    epoch, last = "", 0
    for _ in range(6):
        async with Wire(installation.url) as wire:
            await wire.connect(ben.token)
            reply = await wire.subscribe(room, **({"recover": True, "offset": last, "epoch": epoch} if epoch else {}))
            epoch = reply["epoch"]
            before = len(wire.publications(room))
            await wire.until(lambda w=wire, n=before: len(w.publications(room)) >= n + 3)
            offsets = [p["offset"] for p in reply.get("publications", [])]
            offsets += [p["offset"] for p in wire.publications(room)]
            if not got:
                last = offsets[0] - 1
            assert offsets == list(range(last + 1, last + 1 + len(offsets)))
            got += offsets
            last = offsets[-1]
    stop.set()
    assert await writer >= len(got) - 2


async def test_sending_by_rpc_is_the_same_as_by_rest(installation, person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    async with Wire(installation.url) as wire:
        await wire.connect(ann.token)
        sent = await wire.rpc("message.send", conversation_id=room, body="by socket", client_message_id="r-1")
        assert sent["seq"] == 1
        again = await asyncio.to_thread(ann.send, room, "by socket", "r-1")
        assert again["duplicate"] is True
        assert again["message_id"] == sent["message_id"]
        many = [
            wire.post(rpc={"method": "message.send", "data": {
                "conversation_id": room, "body": f"{i}", "client_message_id": f"p-{i}"}})
            for i in range(50)
        ]  # fmt: skip
        replies = await asyncio.gather(*many)
        assert sorted(r["rpc"]["data"]["seq"] for r in replies) == list(range(2, 52))
        refused = await wire.rpc("message.send", conversation_id=room, body="", client_message_id="x")
        assert refused["error"]["code"] == 422
        hidden = await wire.rpc("history", conversation_id="nowhere")
        assert hidden["error"] == {"code": 404, "message": "conversation_not_found"} | {
            k: v for k, v in hidden["error"].items() if k == "temporary"
        }


async def test_every_instance_delivers(installation, person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    wires = []
    for offset in (0, 2, 3):
        wire = await Wire(f"http://127.0.0.1:{installation.base + offset}").__aenter__()
        await wire.connect(ben.token)
        await wire.subscribe(room)
        wires.append(wire)
    await asyncio.to_thread(ann.send, room, "everywhere")
    for wire in wires:
        await wire.until(lambda w=wire: len(w.publications(room)) == 1)
        await wire.__aexit__(None, None, None)


async def test_nothing_is_answered_before_the_first_frame(installation, person):
    ann = person("ann")
    room = ann.converse()
    for command in (
        {"subscribe": {"channel": f"conversation:{room}"}},
        {"rpc": {"method": "history", "data": {"conversation_id": room}}},
        {"connect": {"token": "nonsense"}},
        {"connect": {}},
    ):
        async with Wire(installation.url) as wire:
            reply = wire.post(**command)
            code = await wire.closed()
            assert code in (3501, 4501, 3500)
            assert reply.exception() is not None or "error" in reply.result()


async def test_a_member_who_is_removed_hears_no_more(installation, person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    async with Wire(installation.url) as wire:
        await wire.connect(ben.token)
        await wire.subscribe(room)
        gone = await asyncio.to_thread(ann.http.delete, f"/conversations/{room}/members/{ben.user_id}")
        assert gone.status_code == 200
        await asyncio.to_thread(ann.send, room, "among us")
        await wire.until(lambda: any("unsubscribe" in p for p in wire.pushes))
        assert all("among us" not in str(p["data"]) for p in wire.publications(room))
        refused = await wire.subscribe(room)
        assert refused["error"]["code"] in (103, 404)


def test_a_message_expires_into_a_tombstone(person):
    ann = person("ann")
    room = ann.converse()
    ann.send(room, "soon gone", expires_in_s=1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        shown = ann.http.get(f"/conversations/{room}/messages").json()["items"][0]
        if shown["body"] is None:
            break
        time.sleep(0.1)
    assert shown["deleted"] is True


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_bodies_end_at_64_kib(person, size):
    ann = person("ann")
    room = ann.converse()
    answer = ann.http.post(
        f"/conversations/{room}/messages", json={"body": "x" * size, "client_message_id": secrets.token_hex(4)}
    )
    assert answer.status_code == (201 if size == 65_536 else 413 if answer.status_code == 413 else 422)
