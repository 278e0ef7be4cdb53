"""What a hold covers can be told as it was: who was in the conversation, who wrote, and who was mentioned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sealwire.contracts.conversations import Conversation, NewConversation
from sealwire.contracts.custody import Disposal, HoldPlacement, SubjectErased, SubjectErasure, SubjectQuery
from sealwire.contracts.data_keys import DataKeyDestruction
from sealwire.contracts.gdpr import GdprJob, JobQuery, NewErasure
from sealwire.contracts.members import MemberChange, NewMember
from sealwire.contracts.messages import Draft, History, Message
from sealwire.kit.caller import Caller, service_caller
from sealwire.services.compliance.certificates import read_certificate
from sealwire.services.compliance.notes import parse_key
from sealwire.services.messaging.config import MessagingConfig
from sealwire.testing.keeping_room import KeepingRoom
from sealwire.testing.messaging_room import MessagingRoom

COMPLIANCE = service_caller("compliance", "default")
JOB = SubjectErasure(job_id="job-1", pseudonym="somebody-1")


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[MessagingRoom]:
    # Its jobs run when a test says so.
    room = MessagingRoom(tmp_path, config=MessagingConfig(purge_every_s=3600, trim_every_s=86_400))
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
async def cleo(room: MessagingRoom, anna: Caller) -> Caller:
    return await room.enter("cleo")


async def tell(room: MessagingRoom, who: Caller, where: Conversation, body: str, *mentioned: Caller) -> Message:
    draft = Draft(body=body, client_message_id=body, mentions=[m.user_id for m in mentioned])
    return await room.messaging.send(who, where.conversation_id, draft)


async def hold(room: MessagingRoom, hold_id: str = "h1", **covered: str) -> None:
    for custodian in (room.people.crypto, room.messaging):
        await custodian.put_hold(COMPLIANCE, hold_id, HoldPlacement(**covered))


async def release(room: MessagingRoom, hold_id: str = "h1") -> None:
    for custodian in (room.messaging, room.people.crypto):
        await custodian.release_hold(COMPLIANCE, hold_id)


async def erase(room: MessagingRoom, who: Caller, job: SubjectErasure = JOB) -> SubjectErased:
    while True:
        answer = await room.messaging.erase_subject(COMPLIANCE, who.user_id, job)
        if answer.done:
            # What crypto's own step of an erasure asks, with nobody's knowledge of what was said.
            which = DataKeyDestruction(subject_id=who.user_id, spare_held=True)
            await room.people.crypto.destroy_data_keys(service_caller("messaging", "default"), which)
            return answer


async def said(room: MessagingRoom, reader: Caller, where: Conversation) -> list[tuple[str | None, str, list[str]]]:
    items = (await room.messaging.history(reader, where.conversation_id, History())).items
    return [(m.body, m.sender_id, m.mentions) for m in items]


def bodies(room: MessagingRoom) -> int:
    """Return how many messages have a body still, to be read or not."""
    return int(room.stores.db.read("SELECT count(*) FROM message WHERE sealed IS NOT NULL")[0][0])


def seats(room: MessagingRoom) -> list[tuple[str, str]]:
    return [(u, r) for u, r in room.stores.db.read("SELECT user_id, role FROM former_seat ORDER BY num")]


@pytest.mark.parametrize("by", ["author", "retention"])
async def test_what_names_a_held_person_is_kept(room: MessagingRoom, anna: Caller, ben: Caller, by: str) -> None:
    group = await room.group(anna, ben)
    told, other = await tell(room, anna, group, "to you", ben), await tell(room, anna, group, "to nobody")
    await hold(room, subject_id=ben.user_id)
    if by == "author":
        for message in (told, other):
            await room.messaging.delete(anna, group.conversation_id, message.seq)
    else:
        disposal = Disposal(run_id="run-1", ids=[told.message_id, other.message_id])
        assert (await room.messaging.dispose(COMPLIANCE, "messages", disposal)).held == 1
    assert room.stores.db.read("SELECT key & 255 FROM message WHERE sealed IS NOT NULL") == [(told.seq,)]
    await release(room)
    await room.service._jobs.purge()
    assert bodies(room) == (0 if by == "author" else 1)


@pytest.mark.parametrize("policy", ["tombstone", "anonymise"])
async def test_who_wrote_to_a_held_person_is_erased_but_for_that(
    room: MessagingRoom, anna: Caller, ben: Caller, policy: str
) -> None:
    told_in, other = [await room.group(anna, ben) for _ in range(2)]
    await tell(room, anna, told_in, "to you", ben)
    await tell(room, anna, told_in, "to nobody")
    await tell(room, anna, other, "elsewhere")
    await hold(room, subject_id=ben.user_id)
    job = SubjectErasure(job_id="job-1", pseudonym="somebody-1", messages=policy)  # type: ignore[arg-type]  # named by the test
    answer = await erase(room, anna, job)
    assert answer.kept == {"message": 1, "membership": 2, "conversation": 2, "data_key": 1}
    assert (answer.kept_in, answer.kept_by) == ([], ["h1"])
    room.ring.clear_cache()
    now = await said(room, ben, told_in)
    assert now[0] == ("to you", anna.user_id, [ben.user_id]), "as it was: what, who, to whom"
    assert now[1][1] == "somebody-1"
    assert await room.people.crypto._data_keys._store.live_subject_keys("default", anna.user_id) == 0, "but the spared"
    assert set((await room.stores.subjects.counts("default", anna.user_id)).values()) == {0}
    await release(room)
    assert (await room.stores.subjects.counts("default", anna.user_id))["messages"] == 1
    last = await erase(room, anna, SubjectErasure(job_id="job-2", pseudonym="somebody-2"))
    assert last.kept == {}
    assert last.erased == {"data_key": 1, "conversation": 2}
    assert (await said(room, ben, told_in))[0] == (None, "somebody-2", [])
    assert {who for who, _ in seats(room)} == {ben.user_id}, "the sweep takes it: he is not erased"


async def test_whom_a_held_person_mentioned_is_told_as_it_was(room: MessagingRoom, anna: Caller, ben: Caller) -> None:
    group = await room.group(ben, anna)
    await tell(room, ben, group, "ask her", anna)
    await hold(room, subject_id=ben.user_id)
    answer = await erase(room, anna)
    assert answer.kept == {"mention": 1, "membership": 1}
    assert await said(room, ben, group) == [("ask her", ben.user_id, [anna.user_id])]
    await release(room)
    assert (await erase(room, anna)).kept == {}
    assert await said(room, ben, group) == [("ask her", ben.user_id, [])]


@pytest.mark.parametrize("covered", ["conversation", "person"])
async def test_who_sat_in_a_held_conversation_is_kept_until_the_release(
    room: MessagingRoom, anna: Caller, ben: Caller, cleo: Caller, covered: str
) -> None:
    group, other = await room.group(anna, ben, cleo), await room.group(anna, cleo)
    id_ = group.conversation_id
    await hold(room, **({"conversation_id": id_} if covered == "conversation" else {"subject_id": ben.user_id}))
    await room.messaging.change_member(anna, id_, cleo.user_id, MemberChange(role="moderator"))
    await room.messaging.remove_member(anna, id_, cleo.user_id)
    await room.messaging.remove_member(anna, other.conversation_id, cleo.user_id)
    assert seats(room) == [(cleo.user_id, "member"), (cleo.user_id, "moderator")]
    answer = await erase(room, anna)
    assert answer.kept == {"membership": 1, "conversation": 1}
    assert (answer.kept_in, answer.kept_by) == (([id_], []) if covered == "conversation" else ([], ["h1"]))
    # Ben became the owner as the only one left: what he was before is told too.
    assert seats(room)[2:] == [(anna.user_id, "owner"), (ben.user_id, "member")]
    page = await room.messaging.export_subject(COMPLIANCE, cleo.user_id, SubjectQuery(limit=200))
    while page.next_cursor is not None:
        page = await room.messaging.export_subject(
            COMPLIANCE, cleo.user_id, SubjectQuery(limit=200, cursor=page.next_cursor)
        )
    assert [(i.kind, i.data["role"], i.data["former"]) for i in page.items] == [
        ("membership", "member", True), ("membership", "moderator", True),
    ]  # fmt: skip
    made = "SELECT created_by FROM conversation ORDER BY num"
    assert room.stores.db.read(made) == [(anna.user_id,), ("somebody-1",)]
    await release(room)
    await room.service._jobs.purge()
    assert seats(room) == []
    assert (await erase(room, anna)).erased == {"conversation": 1}
    assert room.stores.db.read(made) == [("somebody-1",), ("somebody-1",)]


async def test_whose_pair_a_held_conversation_is_stays(room: MessagingRoom, anna: Caller, ben: Caller) -> None:
    new = NewConversation(kind="direct", member_ids=[ben.user_id])
    direct = await room.messaging.create(anna, new)
    pair = room.stores.db.read("SELECT pair FROM conversation")
    await hold(room, conversation_id=direct.conversation_id)
    assert (await erase(room, anna)).kept == {"membership": 1, "conversation": 1}
    assert room.stores.db.read("SELECT pair FROM conversation") == pair
    await release(room)
    await erase(room, anna)
    assert room.stores.db.read("SELECT pair FROM conversation") == [(None,)]


async def test_a_conversation_that_mentioned_a_held_person_is_not_forgotten(
    room: MessagingRoom, anna: Caller, ben: Caller
) -> None:
    group = await room.group(anna)
    await tell(room, anna, group, "about him", ben)
    await hold(room, subject_id=ben.user_id)
    await room.messaging.remove(anna, group.conversation_id)
    await room.stores.positions.save("audit", await room.stores.events.newest())
    room.clock.advance(8 * 86_400)  # type: ignore[attr-defined]  # a room's clock is a manual one
    await room.service._jobs.tidy()
    assert bodies(room) == 1
    await release(room)
    await room.service._jobs.tidy()
    assert bodies(room) == 0


async def test_a_hold_that_comes_before_a_removed_conversation_is_forgotten_finds_it_readable(
    room: MessagingRoom, anna: Caller, ben: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, other = [await room.group(anna) for _ in range(2)]
    await tell(room, anna, group, "about him", ben)
    await tell(room, anna, other, "about nobody")
    for gone in (group, other):
        await room.messaging.remove(anna, gone.conversation_id)
    await room.stores.positions.save("audit", await room.stores.events.newest())
    room.clock.advance(8 * 86_400)  # type: ignore[attr-defined]  # a room's clock is a manual one
    conversations = room.stores.conversations
    forgettable = conversations.forgettable

    async def and_then_the_hold(*args: Any) -> Any:
        found = await forgettable(*args)
        monkeypatch.undo()
        await hold(room, subject_id=ben.user_id)
        return found

    monkeypatch.setattr(conversations, "forgettable", and_then_the_hold)
    await room.service._jobs.tidy()
    assert bodies(room) == 1
    store = room.people.crypto._data_keys._store
    keys = [key.scope for key in await store.subject_keys("default", anna.user_id, after="", limit=9)]
    assert keys == [group.conversation_id], "crypto knows nobody but authors"
    await release(room)
    await room.service._jobs.tidy()
    assert (bodies(room), await store.live_subject_keys("default", anna.user_id)) == (0, 0)


@pytest.mark.parametrize("cut", ["before the keys", "before the mark"])
async def test_what_was_being_forgotten_at_a_crash_is_forgotten_the_next_time(
    room: MessagingRoom, anna: Caller, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    group = await room.group(anna)
    await tell(room, anna, group, "about nobody")
    await room.messaging.remove(anna, group.conversation_id)
    await room.stores.positions.save("audit", await room.stores.events.newest())
    room.clock.advance(8 * 86_400)  # type: ignore[attr-defined]  # a room's clock is a manual one

    async def die(*_: Any, **__: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        if cut == "before the keys":
            patch.setattr(room.ring, "destroy", die)
        else:
            patch.setattr(room.stores.conversations, "mark_forgotten", die)
        with pytest.raises(ConnectionError):
            await room.service._jobs.tidy()
    assert await room.stores.keeping.forgotten(0, 9) == []
    await room.again()
    await room.service._jobs.tidy()
    told = [conversation_id for _, _, conversation_id in await room.stores.keeping.forgotten(0, 9)]
    live = await room.people.crypto._data_keys._store.live_subject_keys("default", anna.user_id)
    assert (told, bodies(room), live) == ([group.conversation_id], 0, 0)


async def test_whenever_a_hold_is_released_what_it_kept_is_found_again(
    room: MessagingRoom, anna: Caller, ben: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, scan, moment, looks = await room.group(anna), room.stores.db.scan, 0, 0

    async def look(fn: Any) -> Any:
        nonlocal looks
        found, looks = await scan(fn), looks + 1
        if looks == moment:
            await release(room, f"h{moment}")
        return found

    while looks >= moment:
        who, moment, looks = await room.enter(f"agnes{moment}"), moment + 1, 0
        await room.messaging.add_member(anna, group.conversation_id, NewMember(user_id=who.user_id))
        await tell(room, who, group, "to you", ben)
        await hold(room, f"h{moment}", subject_id=ben.user_id)
        with monkeypatch.context() as patch:
            patch.setattr(room.stores.db, "scan", look)
            await erase(room, who)
        await release(room, f"h{moment}")
        await erase(room, who, SubjectErasure(job_id="job-2", pseudonym="somebody-2"))
        left = await room.stores.subjects.counts("default", who.user_id)
        assert set(left.values()) == {0}, (moment, left)
    assert moment > 5


async def test_what_is_kept_of_nobody_is_held_like_what_is_of_somebody(
    room: MessagingRoom, anna: Caller, ben: Caller
) -> None:
    group = await room.group(ben, anna)
    await tell(room, anna, group, "to you", ben)
    await tell(room, anna, group, "to nobody")
    await erase(room, anna, SubjectErasure(job_id="job-1", pseudonym="somebody-1", messages="anonymise"))
    await hold(room, subject_id=ben.user_id)
    nobody = replace(anna, principal=replace(anna.principal, subject="somebody-1"))
    answer = await erase(room, nobody, SubjectErasure(job_id="job-2", pseudonym="somebody-2"))
    assert (answer.kept, answer.kept_by) == ({"message": 1, "data_key": 1}, ["h1"])
    room.ring.clear_cache()
    assert await said(room, ben, group) == [("to you", "somebody-1", [ben.user_id]), (None, "somebody-2", [])]


async def erased(room: KeepingRoom, by: Caller, jobs: int) -> GdprJob:
    """Return the newest erasure once there are that many, all done."""
    async with asyncio.timeout(60):
        while True:
            items = (await room.compliance.service.gdpr_jobs(by, JobQuery(kind="erasure"))).items
            if len(items) == jobs and all(job.status == "done" for job in items):
                return items[0]
            await asyncio.sleep(0.02)


async def test_the_certificate_names_a_hold_on_somebody_else_and_not_whom(tmp_path: Path) -> None:
    room = KeepingRoom(tmp_path)
    await room.open()
    try:
        anna, ben, agnes = [await room.files.enter(name) for name in ("anna", "ben", "agnes")]
        group = await room.messages.group(anna, ben, agnes)
        await tell(room.messages, agnes, group, "a word to you", ben)
        await room.messages.messaging.react(agnes, group.conversation_id, 1, "👍")
        service = room.compliance.service
        held = await room.hold(anna, subject_id=ben.user_id)
        await service.request_erasure(anna, NewErasure(subject_id=agnes.user_id))
        job = await erased(room, anna, 1)
        assert [r for r in job.receipts if r.service == "probe"] == [], "one round is enough"
        statement = read_certificate(job.certificate or "", [parse_key(job.public_key or "")])
        parts = {part["where"]: part for part in statement["erased"]}
        assert parts["messaging"]["kept_under_legal_hold"] == {
            "message": 1, "reaction": 1, "membership": 1, "data_key": 1,
        }  # fmt: skip
        assert [sorted(why) for why in statement["legal_holds"]] == [["hold_id", "placed_at"]]
        assert statement["legal_holds"][0]["hold_id"] == held
        assert ben.user_id not in str(statement)
        room.messages.ring.clear_cache()
        assert await said(room.messages, anna, group) == [("a word to you", agnes.user_id, [ben.user_id])]
        other = await room.hold(anna, subject_id=anna.user_id)
        await service.release(anna, await room.hold(anna, conversation_id=group.conversation_id))
        assert (await erased(room, anna, 1)).job_id == job.job_id, "what is released kept nothing of hers alone"
        await service.release(anna, other)
        await service.release(anna, held)
        last = await erased(room, anna, 2)
        assert not any(receipt.kept for receipt in last.receipts)
        assert (await said(room.messages, anna, group))[0][0] is None
        assert await room.messages.people.crypto._data_keys._store.live_subject_keys("default", agnes.user_id) == 0
    finally:
        await room.close()
