"""What media keeps while a legal hold is in force, what retention takes, and what one person may reserve."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.contracts.conversations import NewConversation
from sealwire.contracts.custody import ContentQuery, Disposal, DueQuery, HoldPlacement, SubjectQuery
from sealwire.contracts.media import MediaNotFound
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import rfc3339
from sealwire.kit.ids import new_id
from sealwire.services.media.config import MediaConfig
from sealwire.testing.media_room import TUS, MediaRoom
from sealwire.testing.wirings import WIRINGS

COMPLIANCE = service_caller("compliance", "default")
DAY_S = 86_400


@pytest.fixture(params=WIRINGS)
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MediaRoom]:
    config = MediaConfig(sweep_s=3600, max_open_uploads=3, max_file_bytes=1000, max_open_bytes=1500)
    room = MediaRoom(tmp_path, wiring=request.param, config=config)
    await room.open()
    yield room
    await room.close()


@pytest.fixture
async def anna(room: MediaRoom) -> Caller:
    return await room.enter("anna")


def blobs(room: MediaRoom) -> int:
    return sum(1 for path in (room.folder / "blobs").rglob("*") if path.is_file())


async def sweep(room: MediaRoom) -> None:
    sweeper = room.service._sweeper
    await sweeper._released()
    await sweeper._forgotten()
    await sweeper.bury()


async def conversation(room: MediaRoom, who: Caller) -> str:
    made = await room.messages.messaging.create(who, NewConversation(kind="group", member_ids=[]))
    return made.conversation_id


@pytest.mark.parametrize("by", ["subject", "conversation"])
async def test_a_file_deleted_under_a_hold_is_gone_for_all_and_kept(room: MediaRoom, anna: Caller, by: str) -> None:
    where = await conversation(room, anna)
    media_id = await room.upload("anna", b"evidence", conversation_id=where)
    covered = {"subject_id": anna.user_id} if by == "subject" else {"conversation_id": where}
    await room.media.put_hold(COMPLIANCE, "h1", HoldPlacement(**covered))
    await room.media.delete(anna, media_id)
    await room.again()
    with pytest.raises(MediaNotFound):
        await room.media.info(anna, media_id)
    assert (await room.ask("anna", "GET", f"/media/{media_id}")).status == 404
    await sweep(room)
    assert blobs(room) == 1
    (item,) = (await room.media.export_subject(COMPLIANCE, anna.user_id, SubjectQuery())).items
    assert (item.media_id, item.data["former"]) == (media_id, True)
    assert item.data["deleted_at"]
    part = await room.media.subject_content(COMPLIANCE, anna.user_id, media_id, ContentQuery())
    assert b64decode(part.data) == b"evidence", "what is stored is the person's to have"
    await room.media.release_hold(COMPLIANCE, "h1")
    await sweep(room)
    assert blobs(room) == 0
    with pytest.raises(MediaNotFound):
        await room.media.subject_content(COMPLIANCE, anna.user_id, media_id, ContentQuery())
    assert room.db.read("SELECT count(*) FROM files") == [(0,)]
    assert room.db.read("SELECT bytes FROM room") == [(0,)]


async def test_an_unfinished_upload_of_a_held_person_expires_for_all_and_is_kept(room: MediaRoom, anna: Caller) -> None:
    where = await room.begin("anna", 10)
    await room.send("anna", where, 0, [b"half"])
    await room.media.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=anna.user_id))
    room.clock.advance(2 * DAY_S)
    assert await room.service._sweeper.expire() == 1
    assert await room.service._sweeper.expire() == 0
    await sweep(room)
    assert (await room.position("anna", where)).status == 410
    assert blobs(room) == 1
    await room.media.release_hold(COMPLIANCE, "h1")
    await sweep(room)
    assert blobs(room) == 0


async def test_an_upload_expires_by_itself_only_once_the_holds_are_told(room: MediaRoom, anna: Caller) -> None:
    await room.send("anna", await room.begin("anna", 10), 0, [b"half"])
    sweeper, told, asked = room.service._sweeper, False, 0

    def holds_told() -> bool:
        nonlocal asked
        asked += 1
        return told

    await sweeper.stop()
    sweeper._holds_told = holds_told
    room.clock.advance(2 * DAY_S)
    sweeper.start()
    async with asyncio.timeout(60):
        while asked < 3:  # noqa: ASYNC110 - the sweeper tells nobody
            await asyncio.sleep(0.01)
        assert await room.store.expired(room.clock.now_us(), 1)
        await room.media.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=anna.user_id))
        told = True
        while await room.store.expired(room.clock.now_us(), 1):  # noqa: ASYNC110 - the sweeper tells nobody
            await asyncio.sleep(0.01)
    await sweep(room)
    assert blobs(room) == 1


async def test_the_files_of_a_forgotten_conversation_go_unless_held(room: MediaRoom, anna: Caller) -> None:
    ben = await room.enter("ben")
    first, second = await conversation(room, anna), await conversation(room, anna)
    for where in (first, second):
        await room.upload("anna", b"of it", conversation_id=where)
    private = await room.upload("anna", b"her own")
    assert ben.user_id != anna.user_id
    await room.media.put_hold(COMPLIANCE, "h1", HoldPlacement(conversation_id=second))
    for where in (first, second):
        await room.messages.messaging.remove(anna, where)
    await room.messages.stores.positions.save("audit", await room.messages.stores.events.newest())
    await sweep(room)
    assert blobs(room) == 3, "removed, and not forgotten yet"
    room.clock.advance(8 * DAY_S)
    await room.messages.service._jobs.tidy()
    await sweep(room)
    assert blobs(room) == 2, "her own, and what the hold keeps"
    await room.media.release_hold(COMPLIANCE, "h1")
    await sweep(room)
    assert blobs(room) == 1
    assert (await room.media.info(anna, private)).status == "clean"


async def test_retention_takes_old_files_that_are_not_held(room: MediaRoom, anna: Caller) -> None:
    ben = await room.enter("ben")
    old = [await room.upload(name, b"old") for name in ("anna", "ben", "anna")]
    room.clock.advance(10 * DAY_S)
    young = await room.upload("anna", b"young")
    await room.begin("anna", 10)
    await room.media.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=ben.user_id))
    before = rfc3339(room.clock.now_us() - 5 * DAY_S * 1_000_000)
    first = await room.media.due(COMPLIANCE, "media", DueQuery(before=before, limit=2))
    rest = await room.media.due(COMPLIANCE, "media", DueQuery(before=before, limit=2, cursor=first.next_cursor))
    found = {item.id: item.held for item in [*first.items, *rest.items]}
    assert found == {old[0]: False, old[1]: True, old[2]: False}
    run = Disposal(run_id=new_id(), ids=[*old, new_id()])
    done = await room.media.dispose(COMPLIANCE, "media", run)
    assert (done.disposed, done.held, done.missing) == (2, 1, 1)
    assert await room.media.dispose(COMPLIANCE, "media", run) == done
    await sweep(room)
    assert blobs(room) == 2
    assert (await room.media.info(anna, young)).status == "clean"
    nothing = Disposal(run_id=new_id(), ids=["no such file", "x" * 128])
    assert (await room.media.dispose(COMPLIANCE, "media", nothing)).missing == 2
    elsewhere = service_caller("compliance", "elsewhere")
    assert (await room.media.dispose(elsewhere, "media", Disposal(run_id=new_id(), ids=[young]))).missing == 1


async def test_one_person_cannot_reserve_the_tenants_room(room: MediaRoom, anna: Caller) -> None:
    await room.enter("ben")
    where = await room.begin("anna", 1000)
    for length in ("600", "501"):
        answer = await room.ask("anna", "POST", "/media/uploads", headers={**TUS, "upload-length": length})
        assert (answer.status, b"quota_exceeded" in answer.body) == (409, True)
    await room.begin("anna", 500)
    await room.send("anna", where, 0, [b"x" * 900])
    await room.begin("anna", 600)  # what was sent is no reservation any more
    answer = await room.ask("anna", "POST", "/media/uploads", headers={**TUS, "upload-length": "1"})
    assert answer.status == 409, "three unfinished uploads are what one person may have"
    await room.begin("ben", 1000)


async def test_the_room_is_shared_fairly_under_a_race(room: MediaRoom, anna: Caller) -> None:
    headers = {**TUS, "upload-length": "10"}
    answers = await asyncio.gather(*(room.ask("anna", "POST", "/media/uploads", headers=headers) for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [201] * 3 + [409] * 9
