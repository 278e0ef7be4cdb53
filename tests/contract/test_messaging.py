"""The promises of messaging, over every wiring."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from sealwire.contracts.conversations import ConversationChange, NewConversation
from sealwire.contracts.members import MemberChange, NewMember, OwnerNeeded
from sealwire.contracts.messages import (
    BodyTooLong,
    Draft,
    Edit,
    History,
    IdempotencyConflict,
    MessageNotFound,
    NotYours,
    Read,
)
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import CurrentQuery, PublicationQuery, ReadableQuery, StreamQuery
from sealwire.contracts.messaging_terms import ConversationNotFound, DirectIsFixed, MemberRoleNeeded
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.problem import Forbidden, Invalid, NotFound
from sealwire.services.messaging.config import MessagingConfig
from sealwire.testing.messaging_room import MessagingRoom
from sealwire.testing.wirings import WIRINGS

SOCKET = service_caller("socket", "default")
NEWEST = History()


@pytest.fixture(params=WIRINGS)
async def room(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[MessagingRoom]:
    room = MessagingRoom(tmp_path, wiring=request.param, config=MessagingConfig(purge_every_s=0.05))
    await room.open()
    yield room
    await room.close()


@pytest.fixture
async def anna(room: MessagingRoom) -> Caller:
    return await room.enter("anna")


@pytest.fixture
async def ben(room: MessagingRoom, anna: Caller) -> Caller:
    return await room.enter("ben")


@pytest.fixture
async def carl(room: MessagingRoom, ben: Caller) -> Caller:
    return await room.enter("carl")


@pytest.fixture
def messaging(room: MessagingRoom) -> Messaging:
    return room.messaging


async def publications(room: MessagingRoom, after: int = 0) -> list[dict[str, Any]]:
    answer = await room.messaging.publications(SOCKET, PublicationQuery(after=after))
    return [msgspec.json.decode(p.data) for p in answer.items]


async def bodies(room: MessagingRoom, who: Caller, where: Any) -> list[str | None]:
    return [m.body for m in (await room.messaging.history(who, where.conversation_id, NEWEST)).items]


# ---- conversations


async def test_two_people_have_one_direct_conversation(messaging, anna, ben):
    new = NewConversation(kind="direct", member_ids=[ben.user_id])
    first = await messaging.create(anna, new)
    assert (first.existed, first.kind, first.member_count, first.role) == (False, "direct", 2, "member")
    back = NewConversation(kind="direct", member_ids=[anna.user_id])
    again = await asyncio.gather(*[messaging.create(ben, back) for _ in range(3)])
    assert {(c.conversation_id, c.existed) for c in again} == {(first.conversation_id, True)}


@pytest.mark.parametrize("ids", [[], ["me"], ["ben", "carl"], ["nobody"]])
async def test_a_direct_conversation_has_exactly_one_other_known_member(messaging, anna, ben, carl, ids):
    names = {
        "me": anna.user_id,
        "ben": ben.user_id,
        "carl": carl.user_id,
        "nobody": "0198c0de-0000-7000-8000-000000000000",
    }
    with pytest.raises(Invalid) as refused:
        await messaging.create(anna, NewConversation(kind="direct", member_ids=[names[i] for i in ids]))
    assert refused.value.extra["path"] == "$.member_ids"
    assert (await messaging.list(anna, Page())).items == []


async def test_people_of_another_tenant_are_unknown(room, messaging, anna):
    stranger = await room.enter("stranger", tenant="selftest-other")
    with pytest.raises(Invalid):
        await room.group(anna, stranger)
    group = await room.group(anna)
    with pytest.raises(Invalid):
        await messaging.add_member(anna, group.conversation_id, NewMember(user_id=stranger.user_id))
    for call in every_call(messaging, stranger, group.conversation_id):
        with pytest.raises(ConversationNotFound):
            await call


def every_call(m: Messaging, who: Caller, id_: str) -> list[Any]:
    draft = Draft(body="x", client_message_id="k")
    return [
        m.get(who, id_),
        m.change(who, id_, ConversationChange(title="x")),
        m.remove(who, id_),
        m.members(who, id_, Page()),
        m.add_member(who, id_, NewMember(user_id=who.user_id)),
        m.remove_member(who, id_, who.user_id),
        m.change_member(who, id_, who.user_id, MemberChange(role="owner")),
        m.send(who, id_, draft),
        m.history(who, id_, NEWEST),
        m.edit(who, id_, 1, Edit(body="x")),
        m.delete(who, id_, 1),
        m.react(who, id_, 1, "👍"),
        m.unreact(who, id_, 1, "👍"),
        m.read(who, id_, Read(seq=1)),
        m.stream(who, id_, StreamQuery(after_offset=0)) if who.service else m.get(who, id_),
    ]


async def test_who_is_no_member_is_not_told_that_it_exists(room, messaging, anna, ben):
    group = await room.group(anna)
    await room.say(anna, group, "hello")
    for id_ in (group.conversation_id, "0198c0de-0000-7000-8000-000000000000", "no.id"):
        for call in every_call(messaging, ben, id_):
            with pytest.raises(ConversationNotFound):
                await call
    assert await bodies(room, anna, group) == ["hello"]


async def test_the_list_tells_title_unread_and_order_and_pages(room, messaging, anna, ben):
    groups = [await room.group(anna, ben, title=f"room {n} ÄÖ") for n in range(5)]
    await room.say(anna, groups[2], "hello")
    page = await messaging.list(ben, Page(limit=2))
    assert [(c.title, c.unread, c.last_seq) for c in page.items] == [("room 2 ÄÖ", 1, 1), ("room 4 ÄÖ", 0, 0)]
    rest = await messaging.list(ben, Page(limit=50, cursor=page.next_cursor))
    assert [c.title for c in rest.items] == ["room 3 ÄÖ", "room 1 ÄÖ", "room 0 ÄÖ"]
    assert rest.next_cursor is None
    assert (await messaging.list(anna, Page())).items[0].unread == 0
    for cursor in ("x", "1.2", "-1", "", "9" * 40):
        with pytest.raises(Invalid):
            await messaging.list(ben, Page(cursor=cursor))


async def test_only_those_who_may_shape_a_conversation(room, messaging, anna, ben, carl):
    id_ = (await room.group(anna, ben)).conversation_id
    with pytest.raises(MemberRoleNeeded):
        await messaging.change(ben, id_, ConversationChange(title="mine"))
    with pytest.raises(MemberRoleNeeded):
        await messaging.add_member(ben, id_, NewMember(user_id=carl.user_id))
    await messaging.change_member(anna, id_, ben.user_id, MemberChange(role="moderator"))
    assert (await messaging.change(ben, id_, ConversationChange(title="ours"))).title == "ours"
    with pytest.raises(MemberRoleNeeded):
        await messaging.add_member(ben, id_, NewMember(user_id=carl.user_id, role="owner"))
    assert (await messaging.add_member(ben, id_, NewMember(user_id=carl.user_id, role="reader"))).role == "reader"
    with pytest.raises(MemberRoleNeeded):
        await room.say(carl, await messaging.get(carl, id_), "no")
    with pytest.raises(MemberRoleNeeded):
        await messaging.remove_member(ben, id_, anna.user_id)
    with pytest.raises(MemberRoleNeeded):
        await messaging.remove(ben, id_)
    with pytest.raises(OwnerNeeded):
        await messaging.remove_member(anna, id_, anna.user_id)
    with pytest.raises(NotFound):
        await messaging.change_member(anna, id_, "nobody", MemberChange(role="member"))
    await messaging.remove_member(carl, id_, carl.user_id)
    members = await messaging.members(anna, id_, Page(limit=1))
    assert [m.user_id for m in members.items] == [anna.user_id]
    members = await messaging.members(anna, id_, Page(cursor=members.next_cursor))
    assert [(m.user_id, m.role) for m in members.items] == [(ben.user_id, "moderator")]


async def test_a_direct_conversation_stays_as_it_is(messaging, anna, ben, carl):
    id_ = (await messaging.create(anna, NewConversation(kind="direct", member_ids=[ben.user_id]))).conversation_id
    for call in (
        messaging.change(anna, id_, ConversationChange(title="x")),
        messaging.remove(anna, id_),
        messaging.add_member(anna, id_, NewMember(user_id=carl.user_id)),
        messaging.remove_member(anna, id_, anna.user_id),
        messaging.change_member(anna, id_, ben.user_id, MemberChange(role="owner")),
    ):
        with pytest.raises(DirectIsFixed):
            await call


async def test_who_leaves_or_is_removed_is_out_at_once(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    await room.say(ben, group, "I am here")
    await messaging.remove_member(anna, group.conversation_id, ben.user_id)
    with pytest.raises(ConversationNotFound):
        await room.say(ben, group, "still here?")
    assert (await messaging.readable(service_view(ben), ReadableQuery())).conversation_ids == []
    await messaging.add_member(anna, group.conversation_id, NewMember(user_id=ben.user_id))
    assert (await room.say(ben, group, "back")).seq == 2


async def test_members_change_while_others_send(room, messaging, anna, ben, carl):
    group = await room.group(anna, ben)

    async def come_and_go() -> None:
        for _ in range(5):
            await messaging.add_member(anna, group.conversation_id, NewMember(user_id=carl.user_id))
            await messaging.remove_member(anna, group.conversation_id, carl.user_id)

    await asyncio.gather(come_and_go(), *[room.say(ben, group, str(n), f"k{n}") for n in range(30)])
    assert sorted(map(int, await bodies(room, anna, group))) == list(range(30))


async def test_a_removed_conversation_is_gone_and_its_content_destroyed_later(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    await room.say(ben, group, "gone soon")
    await messaging.remove(anna, group.conversation_id)
    for who in (anna, ben):
        with pytest.raises(ConversationNotFound):
            await messaging.get(who, group.conversation_id)
    assert all("gone soon" not in str(p) for p in await publications(room))
    await room.stores.positions.save("audit", await room.stores.events.newest())
    room.clock.advance(8 * 86_400)
    await room.service._jobs.tidy()
    assert room.stores.db.read("SELECT count(*) FROM message") == [(0,)]


def service_view(who: Caller, service: str = "socket") -> Caller:
    return msgspec.structs.replace(who, service=service)


# ---- messages


async def test_a_message_comes_back_as_it_was_sent(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    await room.say(anna, group, "first")
    draft = Draft(
        body="tëxt 🎈",
        client_message_id="k",
        content_type="text/markdown",
        ciphertexts=[{"device_id": "d1", "ciphertext": "AAAA", "n": 1}],
        reply_to=1,
        attachments=["media-1"],
        mentions=[ben.user_id],
    )
    sent = await messaging.send(anna, group.conversation_id, draft)
    assert (sent.seq, sent.sender_id, sent.body, sent.duplicate) == (2, anna.user_id, "tëxt 🎈", False)
    (seen,) = (await messaging.history(ben, group.conversation_id, History(limit=1))).items
    assert seen == sent
    assert (seen.reply_to, seen.attachments, seen.mentions) == (1, ["media-1"], [ben.user_id])
    assert seen.ciphertexts == draft.ciphertexts
    (found,) = (
        await messaging.current(service_view(ben, "search"), CurrentQuery(message_ids=[sent.message_id, "nothing"]))
    ).items
    assert found == sent


async def test_a_key_used_again_gives_the_same_message_or_a_conflict(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    first = await room.say(anna, group, "hello", "k")
    again = await room.say(anna, group, "hello", "k")
    assert again == msgspec.structs.replace(first, duplicate=True)
    with pytest.raises(IdempotencyConflict):
        await room.say(anna, group, "other", "k")
    with pytest.raises(IdempotencyConflict):
        await messaging.send(
            anna, group.conversation_id, Draft(body="hello", client_message_id="k", mentions=[ben.user_id])
        )
    assert (await room.say(ben, group, "other", "k")).seq == 2
    other = await room.group(anna)
    assert not (await room.say(anna, other, "hello", "k")).duplicate
    await messaging.edit(anna, group.conversation_id, 1, Edit(body="edited"))
    assert (await room.say(anna, group, "hello", "k")).body == "edited"
    await messaging.delete(anna, group.conversation_id, 1)
    stone = await room.say(anna, group, "hello", "k")
    assert (stone.body, stone.deleted, stone.duplicate, stone.message_id) == (None, True, True, first.message_id)


async def test_the_same_key_sent_at_once_is_stored_once(room, messaging, anna):
    group = await room.group(anna)
    answers = await asyncio.gather(*[room.say(anna, group, "hello", "k") for _ in range(20)])
    assert {(a.seq, a.message_id) for a in answers} == {(1, answers[0].message_id)}
    assert sum(not a.duplicate for a in answers) == 1
    mixed = await asyncio.gather(*[room.say(anna, group, f"b{n % 2}", "j") for n in range(10)], return_exceptions=True)
    assert sum(isinstance(a, IdempotencyConflict) for a in mixed) == 5
    assert len(await bodies(room, anna, group)) == 2


async def test_racing_writers_leave_no_hole(room, messaging, anna, ben):
    one, two = await room.group(anna, ben), await room.group(anna, ben)

    async def write(who: Caller, name: str) -> None:
        last = {one.conversation_id: 0, two.conversation_id: 0}
        for n in range(20):
            where = one if n % 2 else two
            sent = await room.say(who, where, f"{name}-{n}", f"{name}-{n}")
            assert sent.seq > last[where.conversation_id]
            last[where.conversation_id] = sent.seq

    await asyncio.gather(*[write(who, f"{who.user_id}-{i}") for i in range(4) for who in (anna, ben)])
    for group in (one, two):
        items = (await messaging.history(anna, group.conversation_id, History(after_seq=0, limit=200))).items
        assert [m.seq for m in items] == list(range(1, 81))
        assert (await messaging.get(ben, group.conversation_id)).unread == 40


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**300])
async def test_numbers_that_no_store_holds_are_refused_and_break_nothing(room, messaging, anna, number):
    """A fault of ours counts against messaging for all: a sender must not be able to cause one."""
    group = await room.group(anna)
    for i in range(50):
        draft = Draft(body="x", client_message_id=f"k{i}", ciphertexts=[{"device_id": "d", "n": [number]}])
        with pytest.raises(Invalid) as refused:
            await messaging.send(anna, group.conversation_id, draft)
        assert refused.value.extra["path"] == "$.ciphertexts"
    assert (await room.say(anna, group, "y")).seq == 1


async def test_bodies_are_bounded_in_bytes(room, messaging, anna):
    group = await room.group(anna)
    assert (await room.say(anna, group, "x" * 65_536)).seq == 1
    with pytest.raises(BodyTooLong) as refused:
        await room.say(anna, group, "ä" * 32_769)
    assert refused.value.extra["limit_bytes"] == 65_536
    with pytest.raises(BodyTooLong):
        await messaging.edit(anna, group.conversation_id, 1, Edit(body="ä" * 32_769))
    with pytest.raises(Invalid) as no_such:
        await messaging.send(anna, group.conversation_id, Draft(body="x", client_message_id="z", reply_to=5))
    assert no_such.value.extra["path"] == "$.reply_to"
    assert (await room.say(anna, group, "y")).seq == 2


async def test_history_pages_and_says_where_to_go_on(room, messaging, anna):
    group = await room.group(anna)
    for n in range(1, 8):
        await room.say(anna, group, str(n))

    async def page(**query: int) -> tuple[list[int], str | None]:
        found = await messaging.history(anna, group.conversation_id, History(**query))
        return [m.seq for m in found.items], found.next_cursor

    assert await page(limit=3) == ([5, 6, 7], "before.5")
    assert await page(limit=3, before_seq=5) == ([2, 3, 4], "before.2")
    assert await page(limit=3, before_seq=2) == ([1], None)
    assert await page(limit=3, after_seq=0) == ([1, 2, 3], "after.3")
    assert await page(limit=4, after_seq=3) == ([4, 5, 6, 7], None)
    assert await page(limit=4, after_seq=7) == ([], None)


async def test_only_its_sender_edits_a_message(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    sent = await room.say(ben, group, "one")
    with pytest.raises(NotYours):
        await messaging.edit(anna, group.conversation_id, 1, Edit(body="two"))
    edited = await messaging.edit(ben, group.conversation_id, 1, Edit(body="two"))
    assert (edited.body, edited.seq, edited.message_id) == ("two", 1, sent.message_id)
    assert edited.edited_at is not None
    offset = (await messaging.get(ben, group.conversation_id)).last_offset
    await messaging.edit(ben, group.conversation_id, 1, Edit(body="two"))
    assert (await messaging.get(ben, group.conversation_id)).last_offset == offset
    results = await asyncio.gather(
        *[messaging.edit(ben, group.conversation_id, 1, Edit(body=f"e{n}")) for n in range(5)]
    )
    assert {r.body for r in results} <= {f"e{n}" for n in range(5)}
    with pytest.raises(MessageNotFound):
        await messaging.edit(ben, group.conversation_id, 2, Edit(body="two"))


async def test_its_sender_or_a_moderator_deletes_a_message(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    for who in (anna, ben, ben):
        await room.say(who, group, "x")
    with pytest.raises(NotYours):
        await messaging.delete(ben, group.conversation_id, 1)
    await messaging.delete(ben, group.conversation_id, 2)
    await messaging.delete(anna, group.conversation_id, 3)
    await messaging.delete(anna, group.conversation_id, 3)
    items = (await messaging.history(ben, group.conversation_id, NEWEST)).items
    assert [(m.seq, m.body, m.deleted) for m in items] == [(1, "x", False), (2, None, True), (3, None, True)]
    with pytest.raises(MessageNotFound):
        await messaging.edit(ben, group.conversation_id, 2, Edit(body="y"))
    assert (
        await messaging.current(service_view(ben, "search"), CurrentQuery(message_ids=[i.message_id for i in items]))
    ).items == items[:1]


async def test_reactions(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    await room.say(anna, group, "x")
    id_ = group.conversation_id
    for who in (anna, ben, ben):
        await messaging.react(who, id_, 1, "👩‍🚀")
    (message,) = (await messaging.history(ben, id_, NEWEST)).items
    assert [(r.emoji, r.user_ids) for r in message.reactions] == [("👩‍🚀", [anna.user_id, ben.user_id])]
    await messaging.unreact(anna, id_, 1, "👩‍🚀")
    await messaging.unreact(anna, id_, 1, "👩‍🚀")
    for emoji in ("a b", "x" * 65, "a\nb", "\u202f"):
        with pytest.raises(Invalid):
            await messaging.react(ben, id_, 1, emoji)
    kinds = [p["type"] for p in await publications(room)][-3:]
    assert kinds == ["reaction.added", "reaction.added", "reaction.removed"]


async def test_reading(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    for _ in range(3):
        await room.say(anna, group, "x")
    offset = (await messaging.get(ben, group.conversation_id)).last_offset
    state = await messaging.read(ben, group.conversation_id, Read(seq=2))
    assert (state.read_seq, state.unread) == (2, 1)
    state = await messaging.read(ben, group.conversation_id, Read(seq=1))
    assert (state.read_seq, state.unread) == (2, 1)
    state = await messaging.read(ben, group.conversation_id, Read(seq=2**40))
    assert (state.read_seq, state.unread) == (3, 0)
    seen = await messaging.get(ben, group.conversation_id)
    assert (seen.read_seq, seen.unread, seen.last_offset) == (3, 0, offset)


async def test_a_message_whose_time_is_over_is_a_tombstone_at_once_and_purged_soon(room, messaging, anna):
    group = await room.group(anna)
    draft = Draft(body="soon gone", client_message_id="k", expires_in_s=60)
    assert (await messaging.send(anna, group.conversation_id, draft)).expires_at is not None
    assert await bodies(room, anna, group) == ["soon gone"]
    room.clock.advance(61)
    assert await bodies(room, anna, group) == [None]
    deadline = time.monotonic() + 10
    while room.stores.db.read("SELECT sealed FROM message") != [(None,)]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    last = (await publications(room))[-1]
    assert (last["type"], last["by"]) == ("message.deleted", "messaging")
    assert "soon gone" not in str(await publications(room))


# ---- the stream


async def test_the_stream_tells_everything_in_order_with_gapless_offsets(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    sent = await room.say(anna, group, "hello")
    id_ = group.conversation_id
    await messaging.edit(anna, id_, 1, Edit(body="hello there"))
    await messaging.react(ben, id_, 1, "👍")
    await room.say(ben, group, "bye")
    await messaging.delete(ben, id_, 2)
    answer = await messaging.publications(SOCKET, PublicationQuery(after=0))
    assert [p.position for p in answer.items] == list(range(1, 9)) == [p.offset for p in answer.items]
    assert answer.newest == 8
    data = [msgspec.json.decode(p.data) for p in answer.items]
    assert [d["type"] for d in data] == [p.kind for p in answer.items]
    assert [d["offset"] for d in data] == list(range(1, 9))
    assert data[3]["message"]["body"] == data[4]["message"]["body"] == "hello there"
    assert data[3]["message"]["message_id"] == sent.message_id
    assert (data[5]["emoji"], data[5]["user_id"]) == ("👍", ben.user_id)
    assert (data[6]["message"]["body"], data[6]["message"]["deleted"]) == (None, True)
    assert (data[7]["seq"], data[7]["by"]) == (2, ben.user_id)
    assert [p.subject_id for p in answer.items[1:3]] == [anna.user_id, ben.user_id]
    recovered = await messaging.stream(service_view(ben), id_, StreamQuery(after_offset=2))
    assert recovered.items == answer.items[2:]
    assert (recovered.top_offset, recovered.epoch) == (8, (await messaging.get(ben, id_)).epoch)
    membership = await messaging.membership(service_view(ben), id_)
    assert (membership.role, membership.top_offset, membership.last_seq) == ("member", 8, 2)


async def test_a_new_message_is_published_as_rest_gives_it(room, messaging, anna):
    group = await room.group(anna)
    sent = await room.say(anna, group, 'quotes " and \\ and \u2028 and ümläut')
    last = (await publications(room))[-1]
    assert last["message"] == msgspec.to_builtins(sent)


async def test_the_stream_is_the_same_from_memory_and_from_the_store(room, messaging, anna, ben):
    group = await room.group(anna, ben, title="t")
    for n in range(5):
        await room.say(anna, group, f"m{n}")
    await messaging.edit(anna, group.conversation_id, 2, Edit(body="edited"))
    await messaging.delete(anna, group.conversation_id, 3)
    await messaging.remove_member(anna, group.conversation_id, ben.user_id)
    from_memory = await messaging.publications(SOCKET, PublicationQuery(after=0))
    await room.again()
    from_store = await room.messaging.publications(SOCKET, PublicationQuery(after=0))
    assert (from_memory.items, from_memory.newest) == (from_store.items, from_store.newest)
    assert from_memory.last.split()[1] == from_store.last.split()[1], "one event, read in two runs"
    await room.say(anna, group, "after the restart")
    mixed = await room.messaging.publications(SOCKET, PublicationQuery(after=0))
    assert mixed.items[:-1] == from_store.items
    newest = await room.messaging.publications(SOCKET, PublicationQuery(after=from_store.newest))
    assert newest.items == mixed.items[-1:]


async def test_following_waits_for_what_comes(room, messaging, anna):
    group = await room.group(anna)
    newest = (await messaging.publications(SOCKET, PublicationQuery(after=0))).newest
    assert (await messaging.publications(SOCKET, PublicationQuery(after=newest, wait_ms=10))).items == []
    waiting = [
        asyncio.ensure_future(messaging.publications(SOCKET, PublicationQuery(after=newest, wait_ms=10_000)))
        for _ in range(2)
    ]
    await asyncio.sleep(0.02)
    await room.say(anna, group, "hello")
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*waiting)
    assert [[p.kind for p in a.items] for a in answers] == [["message.created"]] * 2
    with pytest.raises(Forbidden):
        await messaging.publications(anna, PublicationQuery(after=0))


async def test_read_receipts_pass_by_and_are_not_replayed(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    for _ in range(3):
        await room.say(anna, group, "x")
    newest = (await messaging.publications(SOCKET, PublicationQuery(after=0))).newest
    waiting = asyncio.ensure_future(
        messaging.publications(SOCKET, PublicationQuery(after=newest, passing_after=0, wait_ms=10_000))
    )
    await asyncio.sleep(0.02)
    await messaging.read(ben, group.conversation_id, Read(seq=1))
    answer = await waiting
    assert answer.items == []
    (receipt,) = answer.passing
    data = msgspec.json.decode(receipt.data)
    assert (data["type"], data["user_id"], data["read_seq"]) == ("receipt.read", ben.user_id, 1)
    assert "offset" not in data
    for seq in (2, 3, 3):
        await messaging.read(ben, group.conversation_id, Read(seq=seq))
    answer = await messaging.publications(SOCKET, PublicationQuery(after=newest, passing_after=answer.passing_newest))
    assert [msgspec.json.decode(p.data)["read_seq"] for p in answer.passing] == [3]
    assert (await messaging.publications(SOCKET, PublicationQuery(after=newest))).passing == []
    assert answer.newest == newest


async def test_who_may_read_what(room, messaging, anna, ben, carl):
    with_ben, with_carl = await room.group(anna, ben), await room.group(anna, carl)
    ids = [(await room.say(anna, g, "x")).message_id for g in (with_ben, with_carl)]
    readable = await messaging.readable(service_view(ben), ReadableQuery())
    assert readable.conversation_ids == [with_ben.conversation_id]
    seen = await messaging.current(service_view(ben, "search"), CurrentQuery(message_ids=ids))
    assert [m.message_id for m in seen.items] == ids[:1]
    with pytest.raises(ConversationNotFound):
        await messaging.stream(service_view(ben), with_carl.conversation_id, StreamQuery(after_offset=0))
    with pytest.raises(ConversationNotFound):
        await messaging.membership(service_view(ben), with_carl.conversation_id)


# ---- what is on the disk


async def test_the_file_reveals_no_body_and_no_title(room, messaging, anna, ben):
    group = await room.group(anna, ben, title="operation walrus")
    await room.say(anna, group, "the walrus sings at midnight", "key")
    await messaging.edit(anna, group.conversation_id, 1, Edit(body="the walrus sleeps at midnight"))
    await room.close()
    data = b"".join(p.read_bytes() for p in room.folder.glob("messaging.db*"))
    assert b"walrus" not in data
    assert b"midnight" not in data
    await room.open()
    assert (await room.messaging.get(ben, group.conversation_id)).title == "operation walrus"
    assert await bodies(room, ben, group) == ["the walrus sleeps at midnight"]


async def test_a_body_moved_to_another_row_does_not_open(room, messaging, anna):
    group = await room.group(anna)
    for body in ("one", "two", "three"):
        await room.say(anna, group, body)
    await room.stores.db.write(
        lambda conn: conn.execute(
            "UPDATE message SET sealed = (SELECT sealed FROM message m WHERE m.key & 4294967295 = 1)"
            " WHERE key & 4294967295 = 2"
        ).fetchall()
    )
    assert await bodies(room, anna, group) == ["one", None, "three"]


async def test_destroying_an_authors_keys_leaves_tombstones_of_what_they_wrote(room, messaging, anna, ben):
    group = await room.group(anna, ben)
    await room.say(anna, group, "mine")
    await room.say(ben, group, "yours")
    await room.ring.destroy("default" if anna.tenant_id == "default" else anna.tenant_id, subject_id=anna.user_id)
    items = (await messaging.history(ben, group.conversation_id, NEWEST)).items
    assert [(m.body, m.deleted) for m in items] == [(None, True), ("yours", False)]


# ---- kill -9

CHILD = """
import asyncio, sys
from pathlib import Path
from sealwire.kit.clock import SystemClock
from sealwire.testing.messaging_room import MessagingRoom

async def main(folder):
    room = MessagingRoom(Path(folder), clock=SystemClock())
    await room.open()
    anna = await room.enter("anna"); ben = await room.enter("ben")
    group = await room.group(anna, ben)
    print(group.conversation_id, flush=True)
    async def write(w):
        n = 0
        while True:
            n += 1
            sent = await room.say(ben if w % 2 else anna, group, f"{w}-{n}", f"{w}-{n}")
            print(sent.seq, sent.body, flush=True)
    await asyncio.gather(*[write(w) for w in range(8)])

asyncio.run(main(sys.argv[1]))
"""


async def test_kill_9_loses_no_acknowledged_message(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - nothing else runs here
    assert child.stdout
    conversation_id = child.stdout.readline().strip()
    acknowledged: dict[int, str] = {}
    for line in child.stdout:
        if not line.endswith("\n"):
            break
        seq, body = line.split()
        acknowledged[int(seq)] = body
        if len(acknowledged) == 400:
            child.kill()
    child.wait()
    room = MessagingRoom(tmp_path)
    messaging = await room.open()
    anna = room.people.caller(await room.people.log_in("anna"))
    items: list[Any] = []
    after = 0
    while page := (await messaging.history(anna, conversation_id, History(after_seq=after, limit=200))).items:
        items += page
        after = page[-1].seq
    assert [m.seq for m in items] == list(range(1, len(items) + 1))
    stored = {m.seq: m.body for m in items}
    assert acknowledged.items() <= stored.items()
    assert len(set(stored.values())) == len(stored)
    stream = await messaging.stream(service_view(anna), conversation_id, StreamQuery(after_offset=0, limit=1000))
    assert [p.offset for p in stream.items][:1000] == list(range(1, min(1000, stream.top_offset) + 1))
    assert stream.top_offset == len(items) + 3
    await room.close()
