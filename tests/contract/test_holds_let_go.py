"""A hold released while somebody is erased whose messages it kept: what it kept goes, and is not said to stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sealwire.contracts.gdpr import GdprJob, JobQuery, NewErasure
from sealwire.contracts.messages import History
from sealwire.services.compliance.certificates import read_certificate
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.notes import parse_key
from sealwire.testing.keeping_room import KeepingRoom


class Gate:
    """Around a call: the first one waits before it is made."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, *args: Any) -> Any:
        if not (args and getattr(args[-1], "check_only", False)):
            self.reached.set()
            await self.open.wait()
        return await self._call(*args)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[KeepingRoom]:
    config = ComplianceConfig(
        retention_every_s=0, retention_pause_ms=0, hold_patience_s=5, job_retry_base_s=0.01, job_retry_cap_s=0.02
    )
    room = KeepingRoom(tmp_path, config=config)
    await room.open()
    yield room
    await room.close()


@pytest.mark.parametrize("when", ["behind the step of messaging", "behind the probe"])
async def test_what_a_hold_kept_goes_when_it_is_released_before_the_certificate(room: KeepingRoom, when: str) -> None:
    anna, agnes = await room.files.enter("anna"), await room.files.enter("agnes")
    group = await room.messages.group(anna, agnes)
    await room.messages.say(agnes, group, "kept for a while")
    hold_id = await room.hold(anna, conversation_id=group.conversation_id)
    service = room.compliance.service
    if when == "behind the probe":
        certificates: Any = service.rights._erasures._certificates
        certificates.sign = gate = Gate(certificates.sign)
    else:
        door: Any = room.doors["media"]
        door.erase_subject = gate = Gate(door.erase_subject)
    await service.request_erasure(anna, NewErasure(subject_id=agnes.user_id, messages="tombstone"))
    async with asyncio.timeout(30):
        await gate.reached.wait()
        releasing = asyncio.ensure_future(service.release(anna, hold_id))
        held = "SELECT 1 FROM legal_hold WHERE released_us IS NULL"
        while room.messages.stores.db.read(held):  # noqa: ASYNC110 - a state in a file wakes nobody
            await asyncio.sleep(0.01)
        gate.open.set()
        await releasing
        jobs: list[GdprJob] = []
        while not jobs or any(job.status != "done" for job in jobs):
            await asyncio.sleep(0.01)
            jobs = (await service.gdpr_jobs(anna, JobQuery(kind="erasure"))).items
    last = jobs[0]
    assert not any(receipt.kept or receipt.kept_in for receipt in last.receipts)
    statement = read_certificate(last.certificate or "", [parse_key(last.public_key or "")])
    assert (statement["legal_holds"], statement["probe"]["found"]) == ([], 0)
    said = await room.messages.messaging.history(anna, group.conversation_id, History())
    assert [(message.deleted, message.sender_id == agnes.user_id) for message in said.items] == [(True, False)]
