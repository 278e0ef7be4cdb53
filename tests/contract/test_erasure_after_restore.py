"""Older data is put back, and with it somebody who was erased: erased again, as docs/life/erasure.md says."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from sealwire.contracts.custody import OwnersOnly, SubjectProbe
from sealwire.contracts.gdpr import GdprJob, NewErasure, NewExport, NewRestriction, PersonNotFound
from sealwire.contracts.messages import History
from sealwire.contracts.users import UserChange
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.permission import Role
from sealwire.kit.problem import Unavailable
from sealwire.services.compliance.certificates import read_certificate
from sealwire.services.compliance.notes import parse_key
from sealwire.testing.keeping_room import KeepingRoom

COMPLIANCE = service_caller("compliance", "default")
EVERYTHING = ("auth.db", "crypto.db", "messaging.db", "media.db", "compliance", "blobs")
BUT_THE_BOOKS = ("auth.db", "messaging.db", "media.db", "blobs")


async def erased(room: KeepingRoom, by: Caller, wanted: NewErasure) -> GdprJob:
    job = await room.compliance.service.request_erasure(by, wanted)
    async with asyncio.timeout(60):
        while job.status != "done":
            await asyncio.sleep(0.02)
            job = await room.compliance.service.erasure_job(by, job.job_id)
    return job


@pytest.mark.parametrize(
    "put_back", [EVERYTHING, BUT_THE_BOOKS, ("messaging.db",), ("crypto.db",), ("compliance",), ("auth.db",)]
)
async def test_who_came_back_with_a_copy_is_erased_again(tmp_path: Path, put_back: tuple[str, ...]) -> None:
    room, copy = KeepingRoom(tmp_path / "data"), tmp_path / "copy"
    room.folder.mkdir()
    await room.open()
    anna, agnes = await room.files.enter("anna"), await room.files.enter("agnes")
    group = await room.messages.group(anna, agnes)
    await room.messages.say(agnes, group, "kingfisher at the weir")
    await room.close()
    shutil.copytree(room.folder, copy)
    await room.open()
    first = await erased(room, anna, NewErasure(subject_id=agnes.user_id))
    await room.close()
    put_back_from(copy, room, put_back)
    await room.open()
    try:
        told = await room.messages.messaging.history(anna, group.conversation_id, History())
        if put_back == EVERYTHING:
            assert told.items[0].body == "kingfisher at the weir", "so it is with a copy"
        again = await erased(room, anna, NewErasure(subject_id=agnes.user_id, again=True))
        assert again.job_id != first.job_id
        statement = read_certificate(again.certificate or "", [parse_key(again.public_key or "")])
        assert statement["probe"]["found"] == 0
        told = await room.messages.messaging.history(anna, group.conversation_id, History())
        assert [(m.body, m.deleted) for m in told.items] == [(None, True)]
        assert told.items[0].sender_id != agnes.user_id
        services = (
            room.messages.people.service,
            room.messages.service,
            room.files.service,
            room.messages.people.crypto,
        )
        for custodian in services:
            found = await custodian.probe_subject(COMPLIANCE, agnes.user_id, SubjectProbe(words=["kingfisher"]))
            assert set(found.places.values()) <= {0}
    finally:
        await room.close()


def put_back_from(copy: Path, room: KeepingRoom, names: Sequence[str]) -> None:
    for name in names:
        for old in room.folder.glob(f"{name}*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for kept in copy.glob(f"{name}*"):
            target = room.folder / kept.name
            shutil.copytree(kept, target) if kept.is_dir() else shutil.copy(kept, target)


async def test_a_hold_that_older_files_do_not_know_is_told_to_them_again(tmp_path: Path) -> None:
    room, copy = KeepingRoom(tmp_path / "data"), tmp_path / "copy"
    room.folder.mkdir()
    await room.open()
    anna, agnes = await room.files.enter("anna"), await room.files.enter("agnes")
    group = await room.messages.group(anna, agnes)
    await room.messages.say(agnes, group, "kept for the court")
    await room.close()
    shutil.copytree(room.folder, copy)
    await room.open()
    await room.hold(anna, conversation_id=group.conversation_id)
    ended = await room.hold(anna, subject_id=anna.user_id)
    await room.compliance.service.release(anna, ended)
    await room.close()
    put_back_from(copy, room, ("auth.db", "crypto.db", "messaging.db", "media.db"))
    await room.open()
    try:
        job = await erased(room, anna, NewErasure(subject_id=agnes.user_id, again=True))
        told = await room.messages.messaging.history(anna, group.conversation_id, History())
        assert [m.body for m in told.items] == ["kept for the court"]
        assert {r.service: r.kept.get("message") for r in job.receipts}["messaging"] == 1
        people = room.messages.people
        for db in (people._crypto_db, people.storage.db, room.messages.stores.db, room.files.db):
            held = db.read("SELECT conversation_id FROM legal_hold WHERE released_us IS NULL")
            assert held == [(group.conversation_id,)]
    finally:
        await room.close()


async def test_nothing_is_erased_before_every_service_was_told_the_holds_again(tmp_path: Path) -> None:
    room = KeepingRoom(tmp_path)
    await room.open()
    try:
        anna, agnes = await room.files.enter("anna"), await room.files.enter("agnes")
        await room.hold(anna, subject_id=anna.user_id)
        await room.close_compliance()
        await room.open_compliance(shut=("media",))
        with pytest.raises(Unavailable, match="told"):
            await room.compliance.service.request_erasure(anna, NewErasure(subject_id=agnes.user_id))
        # What deletes nothing goes as far as ever where a service is out.
        assert (await room.compliance.service.request_export(agnes, NewExport())).status == "pending"
        with pytest.raises(Unavailable, match="out"):
            await room.compliance.service.restrict(anna, NewRestriction(subject_id=agnes.user_id, reason="asked"))
        restricted = (await room.compliance.service.restrictions(anna, Page())).items
        assert [restriction.subject_id for restriction in restricted] == [agnes.user_id]
        room.doors["media"].shut = False
        async with asyncio.timeout(60):
            while True:
                with suppress(Unavailable):
                    await erased(room, anna, NewErasure(subject_id=agnes.user_id))
                    break
                await asyncio.sleep(0.02)
    finally:
        await room.close()


async def test_an_owner_who_came_back_is_erased_by_an_owner(tmp_path: Path) -> None:
    room, copy = KeepingRoom(tmp_path / "data"), tmp_path / "copy"
    room.folder.mkdir()
    await room.open()
    anna, agnes = await room.files.enter("anna"), await room.files.enter("agnes")
    await room.messages.people.auth.change_user(anna, agnes.user_id, UserChange(role="owner"))
    group = await room.messages.group(anna, agnes)
    await room.messages.say(agnes, group, "kept for the court")
    await room.close()
    shutil.copytree(room.folder, copy)
    await room.open()
    await room.hold(anna, conversation_id=group.conversation_id)
    await erased(room, anna, NewErasure(subject_id=agnes.user_id))
    await room.close()
    for old in room.folder.glob("auth.db*"):
        old.unlink()
    for kept in copy.glob("auth.db*"):
        shutil.copy(kept, room.folder / kept.name)
    await room.open()
    try:
        admin = replace(anna, principal=replace(anna.principal, role=Role.ADMIN))
        for again in (False, True):
            with pytest.raises(OwnersOnly):
                await room.compliance.service.request_erasure(admin, NewErasure(subject_id=agnes.user_id, again=again))
    finally:
        await room.close()


async def test_nobody_is_erased_who_is_not_there_but_on_purpose(tmp_path: Path) -> None:
    room = KeepingRoom(tmp_path)
    await room.open()
    try:
        anna = await room.files.enter("anna")
        with pytest.raises(PersonNotFound):
            await room.compliance.service.request_erasure(anna, NewErasure(subject_id="nobody-1"))
        assert (await erased(room, anna, NewErasure(subject_id="nobody-1", again=True))).status == "done"
        # Of another tenant it erases nobody, and its certificate tells nothing of who is there.
        stranger = replace(anna, principal=replace(anna.principal, tenant_id="elsewhere", subject="stranger-1"))
        job = await erased(room, stranger, NewErasure(subject_id=anna.user_id, again=True))
        statement = read_certificate(job.certificate or "", [parse_key(job.public_key or "")])
        assert (job.problem, statement["probe"]["found"]) == (None, 0)
        assert await room.messages.say(anna, await room.messages.group(anna), "still here")
    finally:
        await room.close()
