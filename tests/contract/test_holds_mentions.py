"""Somebody who is erased and only mentioned where a hold keeps everything: said, and erased once the hold is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sealwire.contracts.gdpr import GdprJob, JobQuery, NewErasure
from sealwire.contracts.holds import NewHold
from sealwire.contracts.messages import Draft, History
from sealwire.kit.caller import Caller
from sealwire.services.compliance.certificates import read_certificate
from sealwire.services.compliance.notes import parse_key
from sealwire.testing.keeping_room import KeepingRoom


async def erased(room: KeepingRoom, by: Caller, jobs: int) -> GdprJob:
    """Return the newest erasure once there are that many, all done."""
    async with asyncio.timeout(30):
        while True:
            items = (await room.compliance.service.gdpr_jobs(by, JobQuery(kind="erasure"))).items
            if len(items) == jobs and all(job.status == "done" for job in items):
                return items[0]
            await asyncio.sleep(0.02)


async def test_a_mention_that_a_hold_keeps_is_told_and_goes_with_the_hold(tmp_path: Path) -> None:
    room = KeepingRoom(tmp_path)
    await room.open()
    try:
        anna, agnes = await room.files.enter("anna"), await room.files.enter("agnes")
        group = await room.messages.group(anna, agnes)
        draft = Draft(body="as you wish", client_message_id="k", mentions=[agnes.user_id])
        await room.messages.messaging.send(anna, group.conversation_id, draft)
        service = room.compliance.service
        hold = await service.hold(anna, NewHold(reason="case 7", conversation_id=group.conversation_id))
        await service.request_erasure(anna, NewErasure(subject_id=agnes.user_id))
        job = await erased(room, anna, 1)
        statement = read_certificate(job.certificate or "", [parse_key(job.public_key or "")])
        parts = {part["where"]: part for part in statement["erased"]}
        assert parts["messaging"]["kept_under_legal_hold"] == {"mention": 1, "membership": 1}
        assert parts["messaging"]["kept_in"] == [group.conversation_id]
        assert [why["hold_id"] for why in statement["legal_holds"]] == [hold.hold_id]

        async def mentions() -> list[str]:
            said = await room.messages.messaging.history(anna, group.conversation_id, History())
            return said.items[0].mentions

        assert await mentions() == [agnes.user_id]
        await service.release(anna, hold.hold_id)
        last = await erased(room, anna, 2)
        assert not any(receipt.kept for receipt in last.receipts)
        assert await mentions() == []
    finally:
        await room.close()


@pytest.mark.parametrize("kind", ["message", "mention", "reaction"])
async def test_the_certificate_names_those_holds_alone_that_kept_something(tmp_path: Path, kind: str) -> None:
    """Agnes had left before anybody was held: no hold keeps that she sat there with them."""
    room = KeepingRoom(tmp_path)
    await room.open()
    try:
        anna, ben, cora, agnes = [await room.files.enter(name) for name in ("anna", "ben", "cora", "agnes")]
        group = await room.messages.group(anna, ben, cora, agnes)
        messaging, where = room.messages.messaging, group.conversation_id
        if kind == "message":
            draft = Draft(body="as you wish", client_message_id="k", mentions=[ben.user_id])
            await messaging.send(agnes, where, draft)
        elif kind == "mention":
            draft = Draft(body="as she wished", client_message_id="k", mentions=[agnes.user_id])
            await messaging.send(ben, where, draft)
        else:
            said = await messaging.send(ben, where, Draft(body="look", client_message_id="k"))
            await messaging.react(agnes, where, said.seq, "+1")
        await messaging.remove_member(agnes, where, agnes.user_id)
        service = room.compliance.service
        keeps = await room.hold(anna, subject_id=ben.user_id)
        await room.hold(anna, subject_id=cora.user_id)
        await service.request_erasure(anna, NewErasure(subject_id=agnes.user_id))
        job = await erased(room, anna, 1)
        (receipt,) = [receipt for receipt in job.receipts if receipt.service == "messaging"]
        assert receipt.kept[kind] == 1
        assert receipt.kept_by == [keeps]
        statement = read_certificate(job.certificate or "", [parse_key(job.public_key or "")])
        assert [why["hold_id"] for why in statement["legal_holds"]] == [keeps]
    finally:
        await room.close()
