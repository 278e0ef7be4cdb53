"""Erasing and restricting a person in messaging: what the others see of it, and what stays where a hold says so."""

from __future__ import annotations

import asyncio

import apsw
import pytest

from sealwire.adapters.embedded.holds import SqliteHoldBook
from sealwire.contracts.custody import (
    HoldPlacement,
    ProcessingRestricted,
    SubjectErasure,
    SubjectProbe,
    SubjectRestriction,
)
from sealwire.contracts.messages import Draft, Edit, History
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.files import count_in_files
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Invalid
from sealwire.services.messaging.model import Actor, ConversationRecord, direct_pair
from sealwire.testing.messaging_room import MessagingRoom


@pytest.fixture
async def room(tmp_path):
    opened = MessagingRoom(tmp_path)
    await opened.open()
    yield opened
    await opened.close()


async def erase(room: MessagingRoom, who: Caller, *, job_id: str = "job-1", messages: str = "tombstone"):
    compliance = service_caller("compliance", who.tenant_id)
    erasure = SubjectErasure(job_id=job_id, pseudonym="somebody-1", messages=messages)  # type: ignore[arg-type]  # named by the test
    erased: dict[str, int] = {}
    while True:
        answer = await room.messaging.erase_subject(compliance, who.user_id, erasure)
        for kind, count in answer.erased.items():
            erased[kind] = erased.get(kind, 0) + count
        if answer.done:
            return erased, answer.kept


async def test_kept_messages_are_readable_and_of_somebody(room):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group = await room.group(agnes, bertil)
    said = await room.say(agnes, group, "the meeting is at noon")
    await room.messaging.edit(agnes, group.conversation_id, said.seq, Edit(body="the meeting is at one"))
    await room.messaging.react(bertil, group.conversation_id, said.seq, "+1")
    erased, kept = await erase(room, agnes, messages="anonymise")
    assert erased["message"] == 1
    assert kept == {}
    await room.again()
    (message,) = (await room.messaging.history(bertil, group.conversation_id, History())).items
    assert message.body == "the meeting is at one"
    assert message.sender_id == "somebody-1"
    assert message.client_message_id == ""
    assert not message.deleted
    assert [r.user_ids for r in message.reactions] == [[bertil.user_id]]


@pytest.mark.parametrize("messages", ["tombstone", "anonymise"])
async def test_no_mark_stays_that_would_confirm_a_guess_of_what_was_said(room, messages):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group = await room.group(agnes, bertil)
    await room.say(agnes, group, "yes")
    await room.say(bertil, group, "no")

    def marks() -> list[bytes]:
        conn = apsw.Connection(str(room.folder / "messaging.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return [bytes(mark) for (mark,) in conn.execute("SELECT request_hash FROM message ORDER BY key")]
        finally:
            conn.close()

    hers, his = marks()
    await erase(room, agnes, messages=messages)
    assert marks() == [b"", his], "the tenant's key of marks is still there: it would tell what hashes to this"
    assert count_in_files([room.folder], [hers]) == 0


async def test_tombstones_are_what_followers_get_too(room):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group = await room.group(agnes, bertil)
    await room.say(agnes, group, "gone soon")
    await erase(room, agnes)
    (message,) = (await room.messaging.history(bertil, group.conversation_id, History())).items
    assert (message.body, message.deleted, message.sender_id) == (None, True, "somebody-1")
    events = [event.kind for event, _ in await room.stores.events.after(0, 100)]
    assert events[-3:] == ["member.left", "member.changed", "message.deleted"]
    me = await room.messaging.get(bertil, group.conversation_id)
    assert me.role == "owner"


async def test_a_record_of_the_log_keeps_its_actor(room):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group = await room.group(agnes, bertil)
    await room.say(agnes, group, "on the record")
    before = [e for e in await room.stores.events.read(0, 100) if e.kind == "message.created"]
    await erase(room, agnes)
    assert [e for e in await room.stores.events.read(0, 100) if e.kind == "message.created"] == before


async def test_while_the_person_is_sending(room):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group = await room.group(agnes, bertil)
    enough = asyncio.Event()

    async def send() -> None:
        for number in range(1_000_000):
            await room.say(agnes, group, f"still here {number}")
            if number == 20:
                enough.set()

    sending = asyncio.create_task(send())
    await enough.wait()
    await erase(room, agnes)
    with pytest.raises((ProcessingRestricted, ConversationNotFound)):
        await sending
    compliance = service_caller("compliance", agnes.tenant_id)
    found = await room.messaging.probe_subject(compliance, agnes.user_id, SubjectProbe(words=["still here"]))
    assert set(found.places.values()) == {0}
    history = (await room.messaging.history(bertil, group.conversation_id, History(limit=200))).items
    assert all(message.deleted for message in history)


async def test_while_others_mention_and_seat_the_person(room):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group, id_ = await room.group(bertil, agnes), new_id()
    enough = asyncio.Event()

    async def mention() -> None:
        for number in range(1_000_000):
            draft = Draft(body="look", client_message_id=str(number), mentions=[agnes.user_id])
            await room.messaging.send(bertil, group.conversation_id, draft)
            if number == 20:
                enough.set()

    mentioning = asyncio.create_task(mention())
    await enough.wait()
    async with asyncio.timeout(60):
        await erase(room, agnes)
    with pytest.raises(Invalid, match="no user any more"):
        await mentioning
    # Auth said that she is there, and then she was not: what comes late is refused in the write.
    actor, conversations = Actor("user", bertil.user_id), room.stores.conversations
    with pytest.raises(Invalid, match="no user"):
        await conversations.add_member(group.conversation_id, agnes.user_id, "member", actor, 1, most=9)
    record = ConversationRecord(
        conversation_id=id_, tenant_id=agnes.tenant_id, kind="direct", title=None, created_by=bertil.user_id,
        created_at_us=1,
    )  # fmt: skip
    pair = direct_pair(agnes.tenant_id, agnes.user_id, bertil.user_id)
    with pytest.raises(Invalid, match="no user"):
        await conversations.create(record, [(bertil.user_id, "member"), (agnes.user_id, "member")], pair, actor)
    compliance = service_caller("compliance", agnes.tenant_id)
    found = await room.messaging.probe_subject(compliance, agnes.user_id, SubjectProbe())
    assert set(found.places.values()) == {0}
    await room.say(bertil, group, "and so on")


async def test_messages_of_a_held_conversation_stay_and_are_told(room):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    held, free = await room.group(agnes, bertil), await room.group(agnes, bertil)
    await room.say(agnes, held, "evidence")
    await room.say(agnes, free, "chatter")
    await room.people.crypto.put_hold(
        service_caller("compliance", agnes.tenant_id), "hold-1", HoldPlacement(conversation_id=held.conversation_id)
    )
    book = SqliteHoldBook(room.stores.db)
    await book.put(agnes.tenant_id, "hold-1", subject_id="", conversation_id=held.conversation_id, at_us=1)
    erased, kept = await erase(room, agnes)
    assert (erased["message"], kept) == (1, {"message": 1, "data_key": 1, "membership": 1, "conversation": 1})
    (message,) = (await room.messaging.history(bertil, held.conversation_id, History())).items
    assert message.body == "evidence"
    await room.people.crypto.release_hold(service_caller("compliance", agnes.tenant_id), "hold-1")
    await book.release(agnes.tenant_id, "hold-1", at_us=2)
    erased, kept = await erase(room, agnes, job_id="job-2")
    assert (erased["message"], kept) == (1, {})
    assert erased["data_key"] >= 1


async def test_restriction_stops_the_person_and_keeps_what_was_said(room):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group = await room.group(agnes, bertil)
    await room.say(agnes, group, "before")
    compliance = service_caller("compliance", agnes.tenant_id)
    await room.messaging.restrict_subject(compliance, agnes.user_id, SubjectRestriction(restricted=True))
    for _ in range(2):
        with pytest.raises(ProcessingRestricted):
            await room.say(agnes, group, "during")
        await room.again()  # a mark outlives a restart
        (message,) = (await room.messaging.history(bertil, group.conversation_id, History())).items
        assert message.body == "before"
    await room.messaging.restrict_subject(compliance, agnes.user_id, SubjectRestriction(restricted=False))
    await room.say(agnes, group, "after")


async def test_an_erased_mark_is_for_good(room):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group = await room.group(agnes, bertil)
    await erase(room, agnes)
    compliance = service_caller("compliance", agnes.tenant_id)
    await room.messaging.restrict_subject(compliance, agnes.user_id, SubjectRestriction(restricted=False))
    draft = Draft(body="back", client_message_id="k1")
    with pytest.raises((ProcessingRestricted, ConversationNotFound)):
        await room.messaging.send(agnes, group.conversation_id, draft)
