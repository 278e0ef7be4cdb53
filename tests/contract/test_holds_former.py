"""What is replaced while a legal hold covers it keeps its former version until the last hold is released."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.contracts.conversations import Conversation, ConversationChange
from sealwire.contracts.custody import HoldPlacement, SubjectErasure, SubjectItem, SubjectQuery
from sealwire.contracts.messages import Edit
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.ids import new_id
from sealwire.services.messaging.config import MessagingConfig
from sealwire.testing.messaging_room import MessagingRoom
from sealwire.testing.wirings import WIRINGS

COMPLIANCE = service_caller("compliance", "default")
DAY_S = 86_400


@pytest.fixture(params=WIRINGS)
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MessagingRoom]:
    # Its jobs run when a test says so.
    room = MessagingRoom(
        tmp_path, wiring=request.param, config=MessagingConfig(purge_every_s=3600, trim_every_s=86_400)
    )
    await room.open()
    yield room
    await room.close()


@pytest.fixture
async def anna(room: MessagingRoom) -> Caller:
    return await room.enter("anna")


@pytest.fixture
async def ben(room: MessagingRoom, anna: Caller) -> Caller:
    return await room.enter("ben")


async def former(room: MessagingRoom, who: Caller) -> list[SubjectItem]:
    """Return what is exported of a person and marked as former, one by one."""
    found: list[SubjectItem] = []
    cursor = None
    while True:
        page = await room.messaging.export_subject(COMPLIANCE, who.user_id, SubjectQuery(limit=1, cursor=cursor))
        found += [item for item in page.items if item.data.get("former")]
        cursor = page.next_cursor
        if cursor is None:
            return found


async def retitle(room: MessagingRoom, by: Caller, where: Conversation, *titles: str) -> None:
    for title in titles:
        await room.messaging.change(by, where.conversation_id, ConversationChange(title=title))


async def titles(room: MessagingRoom, who: Caller) -> list[str]:
    return [i.data["title"] for i in await former(room, who) if i.kind == "title"]


async def reactions(room: MessagingRoom, who: Caller) -> list[tuple[int, str]]:
    items = await former(room, who)
    return [(i.data["seq"], i.data["emoji"]) for i in items if i.kind == "reaction"]


def rows(room: MessagingRoom) -> tuple[int, int]:
    """Return how many former titles and former reactions there are."""
    (found,) = room.stores.db.read("SELECT (SELECT count(*) FROM former_title), (SELECT count(*) FROM former_reaction)")
    return found  # type: ignore[return-value]  # two counts


async def erase(room: MessagingRoom, who: Caller) -> tuple[dict[str, int], list[str]]:
    """Erase a person; return what was kept of them, and where."""
    job = SubjectErasure(job_id=new_id(), pseudonym=new_id())
    while True:
        answer = await room.messaging.erase_subject(COMPLIANCE, who.user_id, job)
        if answer.done:
            return answer.kept, answer.kept_in


# ---- messages


async def test_what_a_message_was_before_it_was_edited_is_exported(
    room: MessagingRoom, anna: Caller, ben: Caller
) -> None:
    group = await room.group(anna, ben)
    said = await room.say(anna, group, "the first")
    for body in ("the second", "the third"):
        await room.messaging.edit(anna, group.conversation_id, said.seq, Edit(body=body))
    await room.messaging.edit(ben, group.conversation_id, (await room.say(ben, group, "his")).seq, Edit(body="hers"))
    items = await former(room, anna)
    assert [(i.kind, i.resource_id, i.data["version"], i.data["body"]) for i in items] == [
        ("message", said.message_id, 0, "the first"),
        ("message", said.message_id, 1, "the second"),
    ]
    assert all(item.data["replaced_at"] and "deleted_at" not in item.data for item in items)
    await room.messaging.delete(anna, group.conversation_id, said.seq)
    assert await former(room, anna) == [], "what is not stored any more is told by nobody"


@pytest.mark.parametrize("by", ["subject", "conversation"])
async def test_what_a_hold_keeps_of_a_deleted_message_is_exported_until_the_release(
    room: MessagingRoom, anna: Caller, ben: Caller, by: str
) -> None:
    group = await room.group(anna, ben)
    said = await room.say(anna, group, "the first")
    covered = {"subject_id": anna.user_id} if by == "subject" else {"conversation_id": group.conversation_id}
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(**covered))
    await room.messaging.edit(anna, group.conversation_id, said.seq, Edit(body="the second"))
    await room.messaging.delete(anna, group.conversation_id, said.seq)
    items = await former(room, anna)
    assert [(i.data["version"], i.data["body"]) for i in items] == [(0, "the first"), (1, "the second")]
    assert ["deleted_at" in item.data for item in items] == [False, True]
    assert await former(room, ben) == []
    await room.messaging.release_hold(COMPLIANCE, "h1")
    await room.service._jobs.purge()
    assert await former(room, anna) == []


# ---- titles


@pytest.mark.parametrize("by", ["subject", "conversation"])
async def test_a_title_replaced_under_a_hold_is_kept_until_the_release(
    room: MessagingRoom, anna: Caller, ben: Caller, by: str
) -> None:
    group = await room.group(anna, ben, title="before the hold")
    await retitle(room, anna, group, "the first")
    assert rows(room) == (0, 0), "nothing is kept without a hold"
    covered = {"subject_id": ben.user_id} if by == "subject" else {"conversation_id": group.conversation_id}
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(**covered))
    await retitle(room, anna, group, "the second", "the third")
    await room.again()
    assert await titles(room, ben) == ["the first", "the second"]
    assert (await room.messaging.get(ben, group.conversation_id)).title == "the third"
    await room.service._jobs.purge()
    assert rows(room) == (2, 0)
    await room.messaging.release_hold(COMPLIANCE, "h1")
    await room.service._jobs.purge()
    assert rows(room) == (0, 0)
    assert await titles(room, ben) == []


async def test_a_former_title_is_not_readable_in_the_file(room: MessagingRoom, anna: Caller) -> None:
    group = await room.group(anna, title="a title that nobody may read")
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(conversation_id=group.conversation_id))
    await retitle(room, anna, group, "another")
    assert rows(room) == (1, 0)
    assert await room.stores.subjects.count_in_files([b"a title that nobody may read"]) == 0


async def test_a_former_title_waits_for_every_hold_and_outlives_a_seat(
    room: MessagingRoom, anna: Caller, ben: Caller
) -> None:
    group = await room.group(anna, ben, title="what it was")
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=ben.user_id))
    await room.messaging.put_hold(COMPLIANCE, "h2", HoldPlacement(conversation_id=group.conversation_id))
    await retitle(room, anna, group, "what it is")
    await room.messaging.remove_member(ben, group.conversation_id, ben.user_id)
    await room.messaging.release_hold(COMPLIANCE, "h2")
    await room.service._jobs.purge()
    assert await titles(room, ben) == ["what it was"]
    assert await titles(room, anna) == [], "nobody is told of a hold on somebody else"
    await room.messaging.release_hold(COMPLIANCE, "h1")
    await room.service._jobs.purge()
    assert rows(room) == (0, 0)


async def test_a_forgotten_conversation_takes_its_former_versions_along(room: MessagingRoom, anna: Caller) -> None:
    group = await room.group(anna, title="what it was")
    await room.say(anna, group, "hello")
    await room.messaging.react(anna, group.conversation_id, 1, "👍")
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(conversation_id=group.conversation_id))
    await retitle(room, anna, group, "what it is")
    await room.messaging.unreact(anna, group.conversation_id, 1, "👍")
    await room.messaging.remove(anna, group.conversation_id)
    room.clock.advance(40 * DAY_S)  # type: ignore[attr-defined]  # a clock that is moved by hand
    await room.stores.positions.save("audit", await room.stores.events.newest())
    await room.service._jobs.tidy()
    assert rows(room) == (1, 1)
    await room.messaging.release_hold(COMPLIANCE, "h1")
    await room.service._jobs.tidy()
    assert rows(room) == (0, 0)


# ---- reactions


@pytest.mark.parametrize("by", ["reactor", "author", "conversation"])
async def test_a_reaction_taken_back_under_a_hold_is_kept_until_the_release(
    room: MessagingRoom, anna: Caller, ben: Caller, by: str
) -> None:
    group = await room.group(anna, ben)
    await room.say(anna, group, "hello")
    for emoji in ("👍", "👎"):
        await room.messaging.react(ben, group.conversation_id, 1, emoji)
    await room.messaging.unreact(ben, group.conversation_id, 1, "👎")
    assert rows(room) == (0, 0), "nothing is kept without a hold"
    covered = {
        "reactor": {"subject_id": ben.user_id},
        "author": {"subject_id": anna.user_id},
        "conversation": {"conversation_id": group.conversation_id},
    }[by]
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(**covered))
    await room.messaging.unreact(ben, group.conversation_id, 1, "👍")
    await room.messaging.react(ben, group.conversation_id, 1, "👍")
    await room.messaging.unreact(ben, group.conversation_id, 1, "👍")
    await room.again()
    assert await reactions(room, ben) == [(1, "👍"), (1, "👍")]
    await room.service._jobs.purge()
    assert rows(room) == (0, 2)
    await room.messaging.release_hold(COMPLIANCE, "h1")
    await room.service._jobs.purge()
    assert rows(room) == (0, 0)


async def test_a_held_persons_reaction_outlives_the_message(room: MessagingRoom, anna: Caller, ben: Caller) -> None:
    group = await room.group(anna, ben)
    await room.say(anna, group, "hello")
    await room.messaging.react(ben, group.conversation_id, 1, "👍")
    await room.messaging.react(anna, group.conversation_id, 1, "👍")
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=ben.user_id))
    await room.messaging.delete(anna, group.conversation_id, 1)
    assert await reactions(room, ben) == [(1, "👍")]
    assert await reactions(room, anna) == []


async def test_an_erasure_leaves_what_a_hold_on_the_conversation_keeps_and_takes_it_later(
    room: MessagingRoom, anna: Caller, ben: Caller
) -> None:
    held, free = [await room.group(anna, ben) for _ in range(2)]
    for group in (held, free):
        await room.say(anna, group, "hello")
        await room.messaging.react(ben, group.conversation_id, 1, "👍")
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(conversation_id=held.conversation_id))
    kept, where = await erase(room, ben)
    assert (kept, where) == ({"reaction": 1, "membership": 1}, [held.conversation_id])
    assert await reactions(room, ben) == [(1, "👍")]
    probe = await room.stores.subjects.counts("default", ben.user_id)
    assert probe["former_reactions"] == 0, "what a hold keeps is left out"
    await room.messaging.release_hold(COMPLIANCE, "h1")
    probe = await room.stores.subjects.counts("default", ben.user_id)
    assert probe["former_reactions"] == 1
    assert await erase(room, ben) == ({}, [])  # before the purge comes
    assert rows(room) == (0, 0)
