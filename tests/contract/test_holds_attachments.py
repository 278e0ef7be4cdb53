"""A legal hold keeps a message with the files attached to it, whoever sent them and wherever they are from."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.test_holds_mentions import erased

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.messaging_schema import ATTACHMENT_SCHEMA, MIGRATIONS
from sealwire.contracts.conversations import Conversation
from sealwire.contracts.custody import ContentQuery, DueQuery, HoldPlacement, SubjectErasure, SubjectQuery
from sealwire.contracts.gdpr import NewErasure
from sealwire.contracts.media import MediaNotFound
from sealwire.contracts.messages import Draft
from sealwire.contracts.messaging_stream import HeldFile, HeldFilesQuery
from sealwire.contracts.retention_policies import NewRetentionPolicy
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import rfc3339
from sealwire.kit.problem import Forbidden, Unavailable
from sealwire.services.compliance.certificates import read_certificate
from sealwire.services.compliance.notes import parse_key
from sealwire.testing.keeping_room import Door, KeepingRoom
from sealwire.testing.messaging_room import MessagingRoom
from sealwire.testing.patience import until
from sealwire.testing.wirings import WIRINGS

COMPLIANCE = service_caller("compliance", "default")
DAY_S = 86_400
EVIDENCE = b"as agreed"


class Case(msgspec.Struct, kw_only=True):
    """Agnes sent Ben a file in a message that mentions him; Anna administers."""

    room: KeepingRoom
    anna: Caller
    ben: Caller
    agnes: Caller
    group: Conversation
    media_id: str

    async def send(self, group: Conversation, media_id: str, key: str, *mentions: str) -> int:
        draft = Draft(body="see there", client_message_id=key, mentions=list(mentions), attachments=[media_id])
        return (await self.room.messages.messaging.send(self.agnes, group.conversation_id, draft)).seq

    async def kept(self) -> bytes:
        """Return the file's bytes, as its owner's data is read. Raises: MediaNotFound."""
        media = self.room.files.media
        part = await media.subject_content(COMPLIANCE, self.agnes.user_id, self.media_id, ContentQuery())
        return b64decode(part.data)

    async def sweep(self) -> None:
        sweeper = self.room.files.service._sweeper
        await sweeper._released()
        await sweeper._forgotten()
        await sweeper.bury()


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    room = KeepingRoom(tmp_path)
    await room.open()
    try:
        anna, ben, agnes = [await room.files.enter(name) for name in ("anna", "ben", "agnes")]
        group = await room.messages.group(anna, ben, agnes)
        media_id = await room.files.upload("agnes", EVIDENCE, conversation_id=group.conversation_id)
        made = Case(room=room, anna=anna, ben=ben, agnes=agnes, group=group, media_id=media_id)
        await made.send(group, media_id, "k1", ben.user_id)
        yield made
    finally:
        await room.close()


async def test_a_file_its_owner_deletes_stays_until_the_release(case: Case) -> None:
    room, media = case.room, case.room.files.media
    hold = await room.hold(case.anna, subject_id=case.ben.user_id)
    await media.delete(case.agnes, case.media_id)
    with pytest.raises(MediaNotFound):
        await media.info(case.agnes, case.media_id)
    await case.sweep()
    assert await case.kept() == EVIDENCE
    (item,) = (await media.export_subject(COMPLIANCE, case.agnes.user_id, SubjectQuery())).items
    assert item.data["former"] is True
    await room.compliance.service.release(case.anna, hold)
    await case.sweep()
    with pytest.raises(MediaNotFound):
        await case.kept()


async def test_a_file_of_a_message_that_no_hold_keeps_goes(case: Case) -> None:
    await case.room.hold(case.anna, subject_id="somebody-else")
    await case.room.files.media.delete(case.agnes, case.media_id)
    with pytest.raises(MediaNotFound):
        await case.kept()


async def test_while_messaging_is_out_nothing_goes_where_a_hold_is(case: Case) -> None:
    media = case.room.files.service
    door = Door(media._sparing._messaging)
    door.shut = True
    media._sparing._messaging = door
    other = await case.room.files.upload("agnes", b"her own")
    await media.delete(case.agnes, other)
    await case.room.hold(case.anna, subject_id=case.ben.user_id)
    with pytest.raises(Unavailable):
        await media._sparing.ask("default", [case.media_id])
    own = await case.room.files.upload("agnes", b"her own")
    with pytest.raises(Unavailable):
        await media.delete(case.agnes, own)
    door.shut = False
    await media.delete(case.agnes, own)


async def test_while_messaging_is_out_what_others_deleted_is_buried(case: Case) -> None:
    room, media = case.room, case.room.files.service
    hold = await room.hold(case.anna, subject_id=case.ben.user_id)
    await media.delete(case.agnes, case.media_id)
    await room.hold(case.anna, subject_id="somebody-else")
    door = Door(media._sparing._messaging)
    door.shut = True
    media._sparing._messaging = door
    await room.compliance.service.release(case.anna, hold)  # what it kept can't be purged for now
    gert = await room.files.enter("gert", tenant="selftest-other")
    blob = await room.files.blob_of(other := await room.files.upload("gert", b"her own"))
    await media.delete(gert, other)
    await until(lambda: not blob.exists())
    assert await case.kept() == EVIDENCE
    door.shut = False
    await case.sweep()
    with pytest.raises(MediaNotFound):
        await case.kept()


async def test_retention_lists_it_as_held_and_leaves_it(case: Case) -> None:
    room, service = case.room, case.room.compliance.service
    other = await room.files.upload("agnes", b"nothing", conversation_id=case.group.conversation_id)
    await service.set_policy(case.anna, "media", NewRetentionPolicy(keep_days=1, action="delete"))
    room.clock.advance(3 * DAY_S)  # type: ignore[attr-defined]  # a clock that is moved by hand
    dry = await room.run(case.anna, dry_run=True)
    assert [part.listed for part in dry.parts] == [2]
    await room.hold(case.anna, subject_id=case.ben.user_id)
    due = await room.files.media.due(COMPLIANCE, "media", DueQuery(before=rfc3339(room.clock.now_us())))
    assert {item.id: item.held for item in due.items} == {case.media_id: True, other: False}
    done = await room.run(case.anna, dry_run_id=dry.run_id)
    assert [(part.disposed, part.held, part.missing) for part in done.parts] == [(1, 1, 0)]
    assert await case.kept() == EVIDENCE


async def test_the_erasure_of_who_sent_it_leaves_it_and_says_why(case: Case) -> None:
    room, service = case.room, case.room.compliance.service
    await room.files.upload("agnes", b"nothing", conversation_id=case.group.conversation_id)
    await room.files.upload("agnes", b"her own")
    hold = await room.hold(case.anna, subject_id=case.ben.user_id)
    await room.hold(case.anna, subject_id="somebody-else")
    await service.request_erasure(case.anna, NewErasure(subject_id=case.agnes.user_id))
    job = await erased(room, case.anna, 1)
    statement = read_certificate(job.certificate or "", [parse_key(job.public_key or "")])
    part = next(part for part in statement["erased"] if part["where"] == "media")
    assert part["kept_under_legal_hold"]["file"] == 1
    assert part["counts"]["file"] == 2
    assert statement["probe"]["found"] == 0
    assert [why["hold_id"] for why in statement["legal_holds"]] == [hold]
    assert await case.kept() == EVIDENCE, "with its key"
    await service.release(case.anna, hold)
    last = await erased(room, case.anna, 2)
    assert not any(receipt.kept for receipt in last.receipts)
    with pytest.raises(MediaNotFound):
        await case.kept()


@pytest.mark.parametrize("on", ["person", "conversation"])
async def test_a_file_of_a_forgotten_conversation_that_a_message_elsewhere_has_attached(case: Case, on: str) -> None:
    room = case.room
    first = await room.messages.group(case.agnes)
    case.media_id = await room.files.upload("agnes", EVIDENCE, conversation_id=first.conversation_id)
    await case.send(case.group, case.media_id, "k2", *([case.ben.user_id] if on == "person" else []))
    covered = {"subject_id": case.ben.user_id} if on == "person" else {"conversation_id": case.group.conversation_id}
    hold = await room.hold(case.anna, **covered)
    await room.messages.messaging.remove(case.agnes, first.conversation_id)
    await room.messages.stores.positions.save("audit", await room.messages.stores.events.newest())
    room.clock.advance(8 * DAY_S)  # type: ignore[attr-defined]  # a clock that is moved by hand
    await room.messages.service._jobs.tidy()
    await case.sweep()
    assert await case.kept() == EVIDENCE
    await room.compliance.service.release(case.anna, hold)
    await case.sweep()
    with pytest.raises(MediaNotFound):
        await case.kept()


@pytest.mark.parametrize("by", ["owner", "erasure", "retention"])
async def test_a_hold_that_comes_when_messaging_has_answered_wins(case: Case, by: str) -> None:
    """Put behind the answer and before the deletion: the deletion sees it, and asks again."""
    room, media = case.room, case.room.files.service
    keeping: Any = media._sparing._store.keeping
    in_force = keeping.in_force
    came = asyncio.Event()

    async def then_hold(tenant_id: str) -> frozenset[str]:
        found: frozenset[str] = await in_force(tenant_id)
        if not came.is_set():
            came.set()
            await room.hold(case.anna, subject_id=case.ben.user_id)
        return found

    service = room.compliance.service
    if by == "retention":
        await service.set_policy(case.anna, "media", NewRetentionPolicy(keep_days=1, action="delete"))
        room.clock.advance(3 * DAY_S)  # type: ignore[attr-defined]  # a clock that is moved by hand
        dry = await room.run(case.anna, dry_run=True)
    keeping.in_force = then_hold
    if by == "owner":
        await room.files.media.delete(case.agnes, case.media_id)
    elif by == "erasure":
        erasure = SubjectErasure(job_id="job", pseudonym="somebody")
        while not (told := await room.files.media.erase_subject(COMPLIANCE, case.agnes.user_id, erasure)).done:
            pass
        assert told.kept["file"] == 1
    else:
        done = await room.run(case.anna, dry_run_id=dry.run_id)
        assert [(part.disposed, part.held) for part in done.parts] == [(0, 1)]
    assert came.is_set()
    assert await case.kept() == EVIDENCE


@pytest.mark.parametrize("wiring", WIRINGS)
async def test_messaging_says_which_files_holds_keep_and_which_holds(tmp_path: Path, wiring: str) -> None:
    room = MessagingRoom(tmp_path, wiring=wiring)
    await room.open()
    try:
        anna, ben = await room.enter("anna"), await room.enter("ben")
        group = await room.group(anna, ben)
        where = group.conversation_id

        async def send(key: str, attached: list[str], *mentions: str) -> int:
            draft = Draft(body="see", client_message_id=key, mentions=list(mentions), attachments=attached)
            return (await room.messaging.send(anna, where, draft)).seq

        plain = await send("k1", ["file-1", "file-2"])
        await send("k2", ["file-2"], ben.user_id)
        compliance, media = service_caller("compliance", "default"), service_caller("media", "default")
        query = HeldFilesQuery(media_ids=["file-1", "file-2", "file-3"])
        assert (await room.messaging.held_files(media, query)).items == []
        await room.messaging.put_hold(compliance, "h1", HoldPlacement(subject_id=ben.user_id))
        assert (await room.messaging.held_files(media, query)).items == [HeldFile(media_id="file-2", hold_ids=["h1"])]
        elsewhere = service_caller("media", "elsewhere")
        assert (await room.messaging.held_files(elsewhere, query)).items == []
        await room.messaging.put_hold(compliance, "h2", HoldPlacement(subject_id=anna.user_id))
        await room.messaging.put_hold(compliance, "h3", HoldPlacement(conversation_id=where))
        await room.messaging.put_hold(compliance, "h4", HoldPlacement(subject_id="somebody-else"))
        await room.messaging.delete(anna, where, plain)
        assert (await room.messaging.held_files(media, query)).items == [
            HeldFile(media_id="file-1", hold_ids=["h2", "h3"]),
            HeldFile(media_id="file-2", hold_ids=["h1", "h2", "h3"]),
        ]
        for hold_id in ("h1", "h2", "h3", "h4"):
            await room.messaging.release_hold(compliance, hold_id)
        await room.service._jobs.purge()
        assert (await room.messaging.held_files(media, query)).items == []
        assert room.stores.db.read("SELECT media_id FROM attachment") == [("file-2",)], "a tombstone names none"
        with pytest.raises(Forbidden):
            await room.messaging.held_files(anna, query)
    finally:
        await room.close()


async def test_files_attached_before_this_was_kept_are_known_too(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "messaging.db", MIGRATIONS[: MIGRATIONS.index(ATTACHMENT_SCHEMA)])
    values = "(4294967297, x'01', 'anna', 'k', x'', x'', 1, ?)"
    sql = "INSERT INTO message (key, message_id, sender_id, client_message_id, request_key, request_hash, created_at_us"
    meta = b'{"attachments":["file-1","file-2","file-1"]}'
    other = values.replace("97,", "98,").replace("x'01'", "x'02'").replace("'k'", "'l'")
    for row in (values, other):
        await db.write(lambda conn, row=row: conn.execute(f"{sql}, meta) VALUES {row}", (meta,)).fetchall())
    await db.write(lambda conn: conn.execute("UPDATE message SET meta = x'ff7b' WHERE message_id = x'02'").fetchall())
    await db.close()  # damage of one message keeps nobody from starting
    db = Database.open(tmp_path / "messaging.db", MIGRATIONS)
    try:
        assert db.read("SELECT media_id FROM attachment ORDER BY 1") == [("file-1",), ("file-2",)]
    finally:
        await db.close()
