"""What messaging keeps while a legal hold is in force, and what retention takes of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec
import pytest

from sealwire.adapters.embedded.drivers.pace import Pace
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.conversations import Conversation
from sealwire.contracts.custody import Disposal, DueQuery, HoldPlacement
from sealwire.contracts.messages import Draft, Edit, History
from sealwire.contracts.messaging_stream import ForgottenQuery, PublicationQuery
from sealwire.contracts.publications import MessagesPurged
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import rfc3339
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Forbidden
from sealwire.services.messaging.config import MessagingConfig
from sealwire.testing.messaging_room import MessagingRoom
from sealwire.testing.wirings import WIRINGS

COMPLIANCE = service_caller("compliance", "default")
DAY_S = 86_400
T = TypeVar("T")


class Gated(Pace):
    """Waits before its steps until it may."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def write(self, step: Callable[[apsw.Connection], T]) -> T:
        self.asked.set()
        await self.gate.wait()
        return await super().write(step)


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


def stored(room: MessagingRoom) -> list[tuple[int, bool, int]]:
    """Return of each message its `seq`, whether its content is there, and how many former contents are."""
    return room.stores.db.read(
        "SELECT m.key & 4294967295, m.sealed IS NOT NULL,"
        " (SELECT count(*) FROM message_version v WHERE v.key = m.key) FROM message m ORDER BY m.key"
    )  # type: ignore[return-value]  # the columns are of these types


async def due(room: MessagingRoom, *, action: str = "delete", days: int = 0, limit: int = 1000) -> dict[str, bool]:
    """Return what is older than so many days: id → held."""
    before = rfc3339(room.clock.now_us() - days * DAY_S * 1_000_000)
    found: dict[str, bool] = {}
    query = DueQuery(before=before, action=action, limit=limit)  # type: ignore[arg-type]  # one of the two
    while True:
        page = await room.messaging.due(COMPLIANCE, "messages", query)
        found.update({item.id: item.held for item in page.items})
        if page.next_cursor is None:
            return found
        query = DueQuery(before=before, action=action, limit=limit, cursor=page.next_cursor)  # type: ignore[arg-type]  # one of its literals


async def texts(room: MessagingRoom, who: Caller, where: Conversation) -> list[str | None]:
    page = await room.messaging.history(who, where.conversation_id, History(after_seq=0))
    return [message.body for message in page.items]


@pytest.mark.parametrize("by", ["subject", "conversation"])
async def test_a_message_deleted_under_a_hold_is_gone_for_its_readers_and_kept(
    room: MessagingRoom, anna: Caller, ben: Caller, by: str
) -> None:
    group = await room.group(anna, ben)
    await room.say(anna, group, "first form")
    await room.messaging.edit(anna, group.conversation_id, 1, Edit(body="second form"))
    await room.messaging.react(ben, group.conversation_id, 1, "👍")
    covered = {"subject_id": anna.user_id} if by == "subject" else {"conversation_id": group.conversation_id}
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(**covered))
    await room.messaging.delete(anna, group.conversation_id, 1)
    await room.again()
    message = (await room.messaging.history(ben, group.conversation_id, History(after_seq=0))).items[0]
    assert (message.deleted, message.body, message.reactions) == (True, None, [])
    await room.service._jobs.purge()
    assert stored(room) == [(1, 1, 1)]
    await room.messaging.release_hold(COMPLIANCE, "h1")
    await room.service._jobs.purge()
    assert stored(room) == [(1, 0, 0)]
    assert room.stores.db.read("SELECT count(*) FROM reaction") == [(0,)]


async def test_what_no_hold_covers_is_purged_at_once(room: MessagingRoom, anna: Caller, ben: Caller) -> None:
    group = await room.group(anna, ben)
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=ben.user_id))
    await room.say(anna, group, "hers")
    await room.say(ben, group, "his")
    for seq in (1, 2):
        await room.messaging.delete(anna, group.conversation_id, seq)
    assert stored(room) == [(1, 0, 0), (2, 1, 0)]


async def test_what_two_holds_cover_waits_for_both(room: MessagingRoom, anna: Caller, ben: Caller) -> None:
    group = await room.group(anna, ben)
    await room.say(anna, group, "kept twice")
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=anna.user_id))
    await room.messaging.put_hold(COMPLIANCE, "h2", HoldPlacement(conversation_id=group.conversation_id))
    await room.messaging.delete(anna, group.conversation_id, 1)
    for hold, kept in (("h1", 1), ("h2", 0)):
        await room.messaging.release_hold(COMPLIANCE, hold)
        await room.service._jobs.purge()
        assert stored(room) == [(1, kept, 0)]


async def test_a_disappearing_message_disappears_and_is_kept(room: MessagingRoom, anna: Caller, ben: Caller) -> None:
    group = await room.group(anna, ben)
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(conversation_id=group.conversation_id))
    await room.messaging.send(
        anna, group.conversation_id, Draft(body="soon gone", client_message_id="k", expires_in_s=60)
    )
    room.clock.advance(61)
    await room.service._jobs.purge()
    assert await texts(room, ben, group) == [None]
    assert stored(room) == [(1, 1, 0)]
    await room.messaging.release_hold(COMPLIANCE, "h1")
    await room.service._jobs.purge()
    assert stored(room) == [(1, 0, 0)]


@pytest.mark.parametrize("by", ["subject", "left", "conversation"])
async def test_a_removed_conversation_is_not_forgotten_under_a_hold(
    room: MessagingRoom, anna: Caller, ben: Caller, by: str
) -> None:
    group, other = await room.group(anna, ben), await room.group(anna)
    for where in (group, other):
        await room.say(anna, where, "something")
    await room.say(ben, group, "his")
    if by == "left":
        await room.messaging.remove_member(anna, group.conversation_id, ben.user_id)
    covered = {"conversation_id": group.conversation_id} if by == "conversation" else {"subject_id": ben.user_id}
    for custodian in (room.messaging, room.people.crypto):
        await custodian.put_hold(COMPLIANCE, "h1", HoldPlacement(**covered))
    for where in (group, other):
        await room.messaging.remove(anna, where.conversation_id)
    await room.stores.positions.save("audit", await room.stores.events.newest())
    room.clock.advance(8 * DAY_S)
    await room.service._jobs.tidy()
    assert stored(room) == [(1, 1, 0), (2, 1, 0)], "of the one under the hold all is kept, of the other nothing"
    forgotten = await room.messaging.forgotten(service_caller("media", "default"), ForgottenQuery())
    assert [f.conversation_id for f in forgotten.items] == [other.conversation_id]
    for custodian in (room.messaging, room.people.crypto):
        await custodian.release_hold(COMPLIANCE, "h1")
    await room.service._jobs.tidy()
    assert stored(room) == []


async def test_custody_is_for_compliance_alone(room: MessagingRoom, anna: Caller) -> None:
    for caller in (anna, service_caller("media", "default")):
        with pytest.raises(Forbidden):
            await room.messaging.put_hold(caller, "h1", HoldPlacement(subject_id=anna.user_id))
        with pytest.raises(Forbidden):
            await room.messaging.due(caller, "messages", DueQuery(before=rfc3339(0)))
        with pytest.raises(Forbidden):
            await room.messaging.dispose(caller, "messages", Disposal(run_id=new_id(), ids=["x"]))
        with pytest.raises(Forbidden):
            await room.messaging.reclaim(caller)


# ---- retention


async def test_due_is_what_is_older_and_says_what_is_held(room: MessagingRoom, anna: Caller, ben: Caller) -> None:
    group, second = await room.group(anna, ben), await room.group(anna, ben)
    old = [(await room.say(who, where, "old")).message_id for where in (group, second) for who in (anna, ben)]
    room.clock.advance(10 * DAY_S)
    young = [(await room.say(anna, where, "young")).message_id for where in (group, second)]
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=ben.user_id))
    for limit in (1, 2, 1000):
        found = await due(room, days=5, limit=limit)
        assert list(found.items()) == [(old[0], False), (old[1], True), (old[2], False), (old[3], True)]
    assert set(await due(room, days=-1)) == {*old, *young}
    assert (await room.messaging.due(COMPLIANCE, "media", DueQuery(before=rfc3339(room.clock.now_us())))).items == []
    other = service_caller("compliance", "elsewhere")
    assert (await room.messaging.due(other, "messages", DueQuery(before=rfc3339(room.clock.now_us())))).items == []


async def test_disposal_takes_what_is_not_held_and_tells_search(room: MessagingRoom, anna: Caller, ben: Caller) -> None:
    group = await room.group(anna, ben)
    said = [await room.say(who, group, "text") for who in (anna, ben, anna)]
    ids, first_key = [message.message_id for message in said], said[0].client_message_id
    room.clock.advance(DAY_S)
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=ben.user_id))
    run = Disposal(run_id=new_id(), ids=[*ids, new_id(), "no id at all"], action="tombstone")
    done = await room.messaging.dispose(COMPLIANCE, "messages", run)
    assert (done.disposed, done.held, done.missing) == (2, 1, 2)
    assert stored(room) == [(1, 0, 0), (2, 1, 0), (3, 0, 0)]
    assert await texts(room, anna, group) == [None, "text", None]
    newest = await room.stores.events.newest()
    told = await room.messaging.publications(service_caller("search", "system"), PublicationQuery(after=newest - 1))
    purged = [msgspec.json.decode(item.data, type=MessagesPurged).message_ids for item in told.items]
    assert purged == [[ids[0], ids[2]]]
    anew = await room.say(anna, group, "text", key=first_key)
    assert (anew.seq, anew.duplicate) == (4, False), "the life of the message is over, and so is its key"
    again = await room.messaging.dispose(COMPLIANCE, "messages", run)
    assert again == done, "the same batch again counts what it counted"
    other = await room.messaging.dispose(
        service_caller("compliance", "elsewhere"), "messages", Disposal(run_id=new_id(), ids=ids)
    )
    assert (other.disposed, other.missing) == (0, 3), "nobody disposes of another tenant's"


async def test_the_index_of_requests_is_swept_before_space_is_given_back(room: MessagingRoom, anna: Caller) -> None:
    group = await room.group(anna)
    for number in range(5):
        await room.say(anna, group, "old", key=f"k{number}")
    await room.stores.events.trim(0, 1)  # which carries what is in memory into the index
    room.clock.advance(40 * DAY_S)
    await room.say(anna, group, "young", key="young")
    ids = list(await due(room, days=10))
    await room.messaging.dispose(COMPLIANCE, "messages", Disposal(run_id=new_id(), ids=ids, action="tombstone"))
    while (await room.messaging.reclaim(COMPLIANCE)).reclaimed_bytes:
        pass
    await room.stores.events.trim(0, 1)
    assert room.stores.db.read("SELECT count(*) FROM request") == [(1,)]
    assert (await room.say(anna, group, "young", key="young")).duplicate
    assert not (await room.say(anna, group, "old", key="k3")).duplicate


async def test_marks_that_come_while_others_are_swept_are_swept_too(room: MessagingRoom, anna: Caller) -> None:
    group = await room.group(anna)
    for number in range(4):
        await room.say(anna, group, "old", key=f"k{number}")
    await room.stores.events.trim(0, 1)  # which carries what is in memory into the index
    room.clock.advance(40 * DAY_S)
    ids = list(await due(room, days=10))
    some = Disposal(run_id=new_id(), ids=ids[:2], action="tombstone")
    others = Disposal(run_id=new_id(), ids=ids[2:], action="tombstone")
    await room.messaging.dispose(COMPLIANCE, "messages", some)
    pace = Gated(room.stores.db)
    sweeping = asyncio.create_task(room.stores.keeping._requests.sweep(pace))
    async with asyncio.timeout(20):
        await pace.asked.wait()  # it has looked
    await room.messaging.dispose(COMPLIANCE, "messages", others)
    pace.gate.set()
    left = await sweeping
    while (await room.messaging.reclaim(COMPLIANCE)).reclaimed_bytes:
        pass
    assert room.stores.db.read("SELECT count(*) FROM request") == [(0,)]
    assert not left, "who swept before does not begin anew behind who disposes: that one sweeps"


async def test_a_request_made_anew_while_the_old_one_is_carried_is_known(
    room: MessagingRoom, anna: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await room.group(anna)
    await room.say(anna, group, "old", key="k")
    room.clock.advance(40 * DAY_S)
    ids = list(await due(room, days=10))
    db, asked, gate = room.stores.db, asyncio.Event(), asyncio.Event()
    honest = db.write

    def later(fn: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        async def write() -> T:
            await gate.wait()
            return await honest(fn)

        monkeypatch.setattr(db, "write", honest)
        asked.set()
        return asyncio.ensure_future(write())

    monkeypatch.setattr(db, "write", later)
    carrying = asyncio.create_task(room.stores._requests.carry())
    async with asyncio.timeout(20):
        await asked.wait()  # it knows what it carries
    await room.messaging.dispose(COMPLIANCE, "messages", Disposal(run_id=new_id(), ids=ids, action="tombstone"))
    anew = await room.say(anna, group, "new", key="k")
    gate.set()
    await carrying
    again = await room.say(anna, group, "new", key="k")
    assert (again.seq, again.duplicate, anew.duplicate) == (anew.seq, True, False)


async def test_rows_go_once_no_event_names_them_and_the_first_seq_rises(
    room: MessagingRoom, anna: Caller, ben: Caller
) -> None:
    group = await room.group(anna, ben)
    for who in (anna, anna, ben, anna):
        await room.say(who, group, "old", key=f"k{len(stored(room))}")
    room.clock.advance(40 * DAY_S)
    await room.say(anna, group, "young")
    await room.messaging.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=ben.user_id))
    ids = list(await due(room, days=10))
    assert len(ids) == 4
    done = await room.messaging.dispose(COMPLIANCE, "messages", Disposal(run_id=new_id(), ids=ids))
    assert (done.disposed, done.held) == (3, 1)
    await room.service._jobs.tidy()
    assert [seq for seq, *_ in stored(room)] == [1, 2, 3, 4, 5], "their events can still be asked for"
    await room.stores.positions.save("audit", await room.stores.events.newest())
    await room.service._jobs.tidy()
    await room.service._jobs.tidy()
    assert [seq for seq, *_ in stored(room)] == [3, 4, 5], "what a hold keeps, and what comes after it"
    assert (await room.messaging.get(anna, group.conversation_id)).first_seq == 3
    assert await due(room, days=10) == {ids[2]: True}, "what was disposed of is not due again"
    await room.messaging.release_hold(COMPLIANCE, "h1")
    await room.messaging.dispose(COMPLIANCE, "messages", Disposal(run_id=new_id(), ids=ids[2:3]))
    await room.service._jobs.tidy()
    assert [seq for seq, *_ in stored(room)] == [5]
    again = await room.say(anna, group, "the key of a message that is gone is free", key="k0")
    assert (again.seq, again.duplicate) == (6, False)


async def test_disk_space_is_given_back(room: MessagingRoom, anna: Caller) -> None:
    group = await room.group(anna)
    for _ in range(60):
        await room.say(anna, group, "x" * 30_000)
    room.clock.advance(DAY_S)
    await room.stores.db.compact()
    path = room.stores.db.path
    before = path.stat().st_size
    ids = list(await due(room))
    await room.messaging.dispose(COMPLIANCE, "messages", Disposal(run_id=new_id(), ids=ids))
    given = 0
    while step := (await room.messaging.reclaim(COMPLIANCE)).reclaimed_bytes:
        given += step
    await room.stores.db.compact()
    assert given >= 1_500_000
    assert path.stat().st_size < before / 3
