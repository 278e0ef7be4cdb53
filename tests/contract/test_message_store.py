"""The promises of messaging's stores, on every family."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

from sealwire.adapters.embedded.messaging import SqliteMessaging
from sealwire.contracts.members import OwnerNeeded
from sealwire.contracts.messages import MessageNotFound, TooManyReactions
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Conflict, Invalid
from sealwire.services.messaging.events import Announcement, audit_entry
from sealwire.services.messaging.model import (
    Actor,
    Appended,
    ConversationRecord,
    MessageMoved,
    SealedDraft,
    SeatStale,
    StoredMessage,
)
from sealwire.testing.backends import FAMILIES
from sealwire.testing.messaging_room import open_messaging_stores

ANNA, BEN, CARL = "anna", "ben", "carl"
BY_ANNA = Actor("user", ANNA)
_numbers = count(1)


@pytest.fixture(params=FAMILIES)
def open_stores(request, tmp_path):
    """Open the family's stores in the same place; again after they were closed."""
    return lambda: open_messaging_stores(request.param, tmp_path)


@pytest.fixture
async def stores(open_stores):
    async with open_stores() as stores:
        yield stores


async def room(stores: SqliteMessaging, *others: str, tenant: str = "t", pair: str = "") -> str:
    record = ConversationRecord(
        conversation_id=new_id(),
        tenant_id=tenant,
        kind="direct" if pair else "group",
        title=b"sealed",
        created_by=ANNA,
        created_at_us=next(_numbers),
    )
    members: Any = [(ANNA, "owner"), *((o, "member") for o in others)]
    return (await stores.conversations.create(record, members, pair, BY_ANNA))[0]


def draft(conversation_id: str, key: str = "", **changes: Any) -> SealedDraft:
    n = next(_numbers)
    fields: dict[str, Any] = {
        "tenant_id": "t",
        "conversation_id": conversation_id,
        "seat_version": 0,
        "message_id": new_id(),
        "actor_kind": "user",
        "sender_id": ANNA,
        "client_message_id": key or f"c{n}",
        "request_key": (key or f"n{n}").encode().ljust(16, b"."),
        "request_hash": b"h" * 16,
        "sealed": b"sealed %d" % n,
        "created_at_us": n,
        "expires_at_us": None,
        "reply_to": None,
        "meta": None,
    }
    return SealedDraft(**{**fields, **changes})


async def offsets(stores: SqliteMessaging, conversation_id: str) -> list[int]:
    pairs, top = await stores.events.stream(conversation_id, 0, 1000)
    assert top == len(pairs)
    return [e.offset for e, _ in pairs]


async def test_numbers_have_no_holes_however_many_write_at_once(stores):
    one, two = await room(stores), await room(stores)
    results = await asyncio.gather(*[stores.messages.append(draft(one if n % 3 else two)) for n in range(90)])
    assert all(isinstance(r, Appended) for r in results)
    for id_, expected in ((one, 60), (two, 30)):
        history = await stores.messages.history(id_, after=0, before=None, limit=200)
        assert [m.seq for m in history] == list(range(1, expected + 1))
        assert await offsets(stores, id_) == list(range(1, expected + 3))
    assert [e.position for e in await stores.events.read(0, 1000)] == list(range(1, 95))


async def test_one_key_is_stored_once_one_after_another_and_at_once(stores):
    id_ = await room(stores)
    first = await stores.messages.append(draft(id_, "k"))
    again = await stores.messages.append(draft(id_, "k"))
    assert isinstance(again, StoredMessage)
    assert (again.seq, again.client_message_id) == (first.seq, "k")
    results = await asyncio.gather(
        *[stores.messages.append(draft(id_, f"race{n % 3}")) for n in range(30)], stores.messages.append(draft(id_))
    )
    assert sum(isinstance(r, Appended) for r in results) == 4
    assert {r.seq for r in results} == {2, 3, 4, 5}
    history = await stores.messages.history(id_, after=0, before=None, limit=200)
    assert [m.seq for m in history] == [1, 2, 3, 4, 5]
    assert await offsets(stores, id_) == list(range(1, 8))


async def test_what_is_refused_takes_no_number(stores):
    id_ = await room(stores)
    results = await asyncio.gather(
        stores.messages.append(draft(id_)),
        stores.messages.append(draft(id_, seat_version=7)),
        stores.messages.append(draft(id_, reply_to=9)),
        stores.messages.append(draft("nowhere")),
        stores.messages.append(draft(id_, reply_to=1)),
        return_exceptions=True,
    )
    assert [type(r) for r in results] == [Appended, SeatStale, Invalid, ConversationNotFound, Appended]
    assert results[4].seq == 2


async def test_events_are_announced_in_order_before_the_writer_goes_on_and_carry_what_was_given(stores):
    heard: list[Announcement] = []
    stores.events.listen(heard.extend)
    id_ = await room(stores, BEN)
    thing = object()
    appended = await stores.messages.append(draft(id_, carried=thing))
    assert heard[-1].carried is thing
    assert (heard[-1].event.position, heard[-1].event.offset) == (appended.position, appended.offset)
    await stores.messages.react(id_, 1, "👍", BEN, Actor("user", BEN), 5, most=5)
    await stores.messages.delete(id_, 1, BY_ANNA, 6)
    assert [a.event.kind for a in heard] == [
        "conversation.created",
        "member.joined",
        "member.joined",
        "message.created",
        "reaction.added",
        "message.deleted",
    ]
    assert [a.event.position for a in heard] == list(range(1, 7))
    read = [event for event, _ in await stores.events.after(0, 100)]
    assert read == [a.event for a in heard]


async def test_everything_survives_a_restart_and_numbers_go_on(open_stores):
    async with open_stores() as stores:
        id_ = await room(stores, BEN)
        await stores.messages.append(draft(id_, "k"))
        epoch = stores.events.epoch
        await stores.messages.mark_read(id_, BEN, 1)
    async with open_stores() as stores:
        assert stores.events.epoch == epoch
        assert isinstance(await stores.messages.append(draft(id_, "k")), StoredMessage)
        assert await stores.messages.append(draft(id_)) == Appended(seq=2, offset=5, position=5)
        assert (await stores.conversations.view(id_, BEN)).read_seq == 1
        assert await stores.events.newest() == 5


async def test_a_pair_has_one_conversation_however_many_start_it(stores):
    ids = await asyncio.gather(*[room(stores, BEN, pair="t a b") for _ in range(5)], room(stores, BEN, pair="u a b"))
    assert len(set(ids)) == 2
    assert await stores.events.newest() == 6


async def test_history_pages_in_both_directions(stores):
    id_ = await room(stores)
    for _ in range(7):
        await stores.messages.append(draft(id_))

    async def seqs(**query: Any) -> list[int]:
        return [m.seq for m in await stores.messages.history(id_, **{"after": None, "before": None, **query})]

    assert await seqs(limit=3) == [5, 6, 7]
    assert await seqs(before=5, limit=3) == [2, 3, 4]
    assert await seqs(before=2, limit=3) == [1]
    assert await seqs(after=0, limit=3) == [1, 2, 3]
    assert await seqs(after=6, limit=3) == [7]
    assert await seqs(after=7, limit=3) == []
    assert await seqs(after=2, before=6, limit=10) == [3, 4, 5]
    assert await seqs(after=2**70, limit=3) == []
    assert await seqs(before=2**70, limit=2) == [6, 7]
    assert await stores.messages.message(id_, 8) is None
    assert await stores.messages.message(id_, 2**70) is None
    assert (await stores.messages.message(id_, 7)).seq == 7


async def test_an_edit_keeps_what_was_and_is_refused_when_the_message_moved(stores):
    id_ = await room(stores)
    await stores.messages.append(draft(id_, sealed=b"one"))
    read = await stores.messages.message(id_, 1)
    edited = await stores.messages.edit(read, b"two", BY_ANNA, 50)
    assert (edited.sealed, edited.version, edited.edited_at_us, edited.seq) == (b"two", 1, 50, 1)
    with pytest.raises(MessageMoved):
        await stores.messages.edit(read, b"three", BY_ANNA, 51)
    assert stores.db.read("SELECT version, sealed FROM message_version") == [(0, b"one")]
    await stores.messages.delete(id_, 1, BY_ANNA, 60)
    with pytest.raises(MessageMoved):
        await stores.messages.edit(edited, b"three", BY_ANNA, 61)


async def test_a_deleted_message_leaves_a_tombstone_and_nothing_else(stores):
    id_ = await room(stores)
    await stores.messages.append(draft(id_, "k", sealed=b"one", meta=b"{}"))
    await stores.messages.edit(await stores.messages.message(id_, 1), b"two", BY_ANNA, 50)
    await stores.messages.react(id_, 1, "👍", BEN, Actor("user", BEN), 51, most=5)
    assert await stores.messages.delete(id_, 1, BY_ANNA, 60)
    assert not await stores.messages.delete(id_, 1, BY_ANNA, 61)
    stone = await stores.messages.message(id_, 1)
    assert (stone.sealed, stone.meta, stone.reactions, stone.deleted_at_us) == (None, None, [], 60)
    assert stores.db.read("SELECT count(*) FROM message_version") == [(0,)]
    assert isinstance(await stores.messages.append(draft(id_, "k")), StoredMessage)
    with pytest.raises(MessageNotFound):
        await stores.messages.react(id_, 1, "👍", BEN, BY_ANNA, 70, most=5)
    with pytest.raises(MessageNotFound):
        await stores.messages.delete(id_, 2, BY_ANNA, 70)
    assert await stores.messages.by_ids("t", [stone.message_id]) == []


async def test_reactions_are_a_set_and_bounded(stores):
    id_ = await room(stores)
    await stores.messages.append(draft(id_))
    by_ben = Actor("user", BEN)
    assert await stores.messages.react(id_, 1, "👍", BEN, by_ben, 1, most=2)
    assert not await stores.messages.react(id_, 1, "👍", BEN, by_ben, 2, most=2)
    assert await stores.messages.react(id_, 1, "🎉", BEN, by_ben, 3, most=2)
    with pytest.raises(TooManyReactions):
        await stores.messages.react(id_, 1, "🔥", BEN, by_ben, 4, most=2)
    assert await stores.messages.react(id_, 1, "👍", ANNA, BY_ANNA, 5, most=2)
    assert (await stores.messages.message(id_, 1)).reactions == [("👍", BEN), ("🎉", BEN), ("👍", ANNA)]
    assert await stores.messages.unreact(id_, 1, "👍", BEN, by_ben, 6)
    assert not await stores.messages.unreact(id_, 1, "👍", BEN, by_ben, 7)
    history = await stores.messages.history(id_, after=0, before=None, limit=1)
    assert history[0].reactions == [("🎉", BEN), ("👍", ANNA)]


async def test_reading_never_goes_back_and_unread_counts_what_others_wrote(stores):
    id_ = await room(stores, BEN)
    for sender in (ANNA, ANNA, BEN, ANNA):
        await stores.messages.append(draft(id_, sender_id=sender))
    await stores.messages.delete(id_, 4, BY_ANNA, 9)
    assert await stores.messages.mark_read(id_, BEN, 1) == (1, 1, True)
    assert await stores.messages.mark_read(id_, BEN, 0) == (1, 1, False)
    assert await stores.messages.mark_read(id_, BEN, 99) == (4, 0, True)
    assert (await stores.conversations.view(id_, ANNA)).unread == 1
    with pytest.raises(ConversationNotFound):
        await stores.messages.mark_read(id_, CARL, 1)


async def test_members_change_the_seat_version_and_one_owner_stays(stores):
    id_ = await room(stores, BEN)
    await stores.conversations.add_member(id_, CARL, "reader", BY_ANNA, 5, most=3)
    again = await stores.conversations.add_member(id_, CARL, "owner", BY_ANNA, 6, most=3)
    assert (again.role, again.joined_at_us) == ("reader", 5)
    with pytest.raises(Conflict):
        await stores.conversations.add_member(id_, "dora", "member", BY_ANNA, 6, most=3)
    assert (await stores.conversations.seat(id_, CARL)).version == 1
    with pytest.raises(SeatStale):
        await stores.messages.append(draft(id_, seat_version=0))
    with pytest.raises(OwnerNeeded):
        await stores.conversations.remove_member(id_, ANNA, BY_ANNA, 7)
    with pytest.raises(OwnerNeeded):
        await stores.conversations.change_member(id_, ANNA, "member", BY_ANNA, 7)
    assert (await stores.conversations.seat(id_, ANNA)).version == 1
    await stores.conversations.change_member(id_, BEN, "owner", BY_ANNA, 8)
    assert await stores.conversations.remove_member(id_, ANNA, BY_ANNA, 9)
    assert not await stores.conversations.remove_member(id_, ANNA, BY_ANNA, 9)
    assert await stores.conversations.seat(id_, ANNA) is None
    members = await stores.conversations.members(id_, 0, 10)
    assert [(m.user_id, m.role) for m in members] == [(BEN, "owner"), (CARL, "reader")]
    assert [m.user_id for m in await stores.conversations.members(id_, members[0].place, 10)] == [CARL]
    assert (await stores.conversations.view(id_, BEN)).record.member_count == 2
    for user_id in (CARL, BEN):
        assert await stores.conversations.remove_member(id_, user_id, BY_ANNA, 10)


async def test_a_list_has_the_newest_event_first_and_pages(stores):
    ids = [await room(stores, BEN) for _ in range(5)]
    other = await room(stores, BEN, tenant="u")
    await stores.messages.append(draft(ids[1]))
    views = await stores.conversations.views("t", BEN, None, 3)
    assert [v.record.conversation_id for v in views] == [ids[1], ids[4], ids[3]]
    rest = await stores.conversations.views("t", BEN, views[-1].place, 3)
    assert [v.record.conversation_id for v in rest] == [ids[2], ids[0]]
    assert set(await stores.conversations.readable("t", BEN)) == set(ids)
    assert await stores.conversations.readable("u", BEN) == [other]
    assert await stores.conversations.readable("t", CARL) == []


async def test_a_removed_conversation_is_found_no_more_and_forgotten_once_everybody_heard(stores):
    id_ = await room(stores, BEN, pair="t a b")
    for _ in range(3):
        await stores.messages.append(draft(id_))
    await stores.messages.edit(await stores.messages.message(id_, 1), b"x", BY_ANNA, 1)
    await stores.messages.react(id_, 2, "👍", BEN, BY_ANNA, 1, most=5)
    await stores.conversations.remove(id_, BY_ANNA, 100)
    with pytest.raises(ConversationNotFound):
        await stores.messages.append(draft(id_, seat_version=1))
    assert await stores.conversations.seat(id_, ANNA) is None
    assert await stores.conversations.view(id_, ANNA) is None
    assert await stores.conversations.views("t", ANNA, None, 10) == []
    assert await stores.messages.history(id_, after=0, before=None, limit=9) == []
    pairs, top = await stores.events.stream(id_, 0, 100)
    assert top == 9
    assert all(message is None for _, message in pairs)
    assert pairs[-1][0].kind == "conversation.removed"
    new = await room(stores, BEN, pair="t a b")
    assert new != id_

    assert await stores.conversations.forgettable(101, 10) == []
    await stores.positions.save("audit", 8)
    assert await stores.conversations.forgettable(101, 10) == []
    await stores.positions.save("audit", await stores.events.newest())
    assert await stores.conversations.forgettable(100, 10) == []
    assert await stores.conversations.forgettable(101, 10) == [("t", id_)]
    while await stores.conversations.forget(id_, 2):
        pass
    assert await stores.conversations.forgettable(101, 10) == [("t", id_)], "its keys are to go before it is marked"
    await stores.conversations.mark_forgotten(id_)
    assert await stores.conversations.forgettable(101, 10) == []
    for table in ("message", "message_version", "reaction"):
        assert stores.db.read(f"SELECT count(*) FROM {table}") == [(0,)]
    assert len(await stores.conversations.members(new, 0, 10)) == 2


async def test_expired_messages_are_found_once_their_time_is_over(stores):
    id_ = await room(stores)
    await stores.messages.append(draft(id_, expires_at_us=1000))
    await stores.messages.append(draft(id_, expires_at_us=2000))
    await stores.messages.append(draft(id_))
    assert await stores.messages.expired(999, 10) == []
    assert await stores.messages.expired(1000, 10) == [(id_, 1)]
    await stores.messages.delete(id_, 1, BY_ANNA, 1001, "expired")
    assert await stores.messages.expired(5000, 10) == [(id_, 2)]


async def test_the_feed_tells_the_audit_log_who_did_what_to_what(stores):
    id_ = await room(stores, BEN)
    await stores.messages.append(draft(id_))
    await stores.messages.delete(id_, 1, Actor("service", "messaging"), 9, "expired")
    await stores.conversations.change_member(id_, BEN, "reader", BY_ANNA, 10)
    events = await stores.events.read(0, 100)
    entries = [audit_entry(e) for e in events]
    assert [(e.action, e.resource_type, e.actor.id, e.metadata.get("user_id")) for e in entries] == [
        ("conversation.created", "conversation", ANNA, None),
        ("member.joined", "conversation", ANNA, ANNA),
        ("member.joined", "conversation", ANNA, BEN),
        ("message.created", "message", ANNA, None),
        ("message.deleted", "message", "messaging", None),
        ("member.changed", "conversation", ANNA, BEN),
    ]
    assert entries[3].resource_id == entries[3].audit_id == entries[4].resource_id
    assert (entries[4].metadata["seq"], entries[4].metadata["reason"]) == (1, "expired")
    assert len({e.audit_id for e in entries}) == 6
    assert await stores.events.wait(5, 0.01)
    assert not await stores.events.wait(6, 0.01)
    waiting = asyncio.ensure_future(stores.events.wait(6, 10))
    await stores.messages.append(draft(id_, seat_version=1))
    assert await waiting


async def test_trimming_keeps_what_a_consumer_needs_and_the_newest(stores):
    id_ = await room(stores)
    for _ in range(3):
        await stores.messages.append(draft(id_))
    assert await stores.events.trim(1 << 60, 100) == 0
    await stores.positions.save("audit", 3)
    assert await stores.events.trim(1 << 60, 2) == 2
    assert await stores.events.trim(1 << 60, 2) == 1
    await stores.positions.save("audit", 5)
    assert await stores.events.trim(1 << 60, 9) == 1
    assert [e.position for e in await stores.events.read(0, 10)] == [5]
    assert (await stores.messages.append(draft(id_))).position == 6


async def test_a_request_is_known_for_ever_whether_in_memory_or_in_the_index(open_stores, monkeypatch):
    monkeypatch.setattr("sealwire.adapters.embedded.messaging_requests.CARRY_AT", 20)
    monkeypatch.setattr("sealwire.adapters.embedded.messaging_requests.CHUNK", 7)
    keys = [f"{n:02}" for n in range(70)]
    for restart in range(3):
        async with open_stores() as stores:
            if not restart:
                id_ = await room(stores)
            for start in range(0, 70, 10):
                answers = await asyncio.gather(
                    *[stores.messages.append(draft(id_, key)) for key in keys[start : start + 10]],
                    *[stores.messages.append(draft(id_, key)) for key in keys[start : start + 5]],
                )
                assert sum(isinstance(a, Appended) for a in answers) == (0 if restart else 10)
                assert [a.seq for a in answers[:10]] == list(range(start + 1, start + 11))
                assert [a.seq for a in answers[10:]] == list(range(start + 1, start + 6))
    async with open_stores() as stores:
        history = await stores.messages.history(id_, after=0, before=None, limit=200)
        assert [m.seq for m in history] == list(range(1, 71))


async def test_two_requests_that_share_half_a_key_are_two(stores):
    id_ = await room(stores)
    same = b"12345678"
    for _ in range(2):
        results = [
            await stores.messages.append(draft(id_, request_key=same + tail)) for tail in (b"aaaaaaaa", b"bbbbbbbb")
        ]
        assert [r.seq for r in results] == [1, 2]
        await stores.positions.save("audit", 100)
        await stores.events.trim(0, 1)
    assert all(isinstance(r, StoredMessage) for r in results)
