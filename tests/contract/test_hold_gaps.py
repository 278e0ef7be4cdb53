"""A hold that comes while somebody is erased: which came first is decided once, and what was gone is said."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from sealwire.contracts.custody import SubjectErased
from sealwire.contracts.gdpr import NewErasure
from sealwire.contracts.holds import Hold, HoldGap, LegalHold, NewHold
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.codec import Page
from sealwire.kit.permission import Role
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.testing.compliance import open_compliance
from sealwire.testing.custody import MemoryCustody

TENANT, AGNES = "tenant-a", "agnes-1"
QUICK = ComplianceConfig(job_retry_base_s=0.01, job_retry_cap_s=0.02, relay_wait_s=0.01)


def person(subject: str, role: Role = Role.MEMBER) -> Caller:
    return Caller(principal=Principal(kind="user", tenant_id=TENANT, subject=subject, role=role, session_id="s"))


ME, OWNER = person(AGNES), person("owner-1", Role.OWNER)


class Stoppable(MemoryCustody):
    """A service whose erasure waits at a gate, after it was asked and before it does anything."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def erase_subject(self, caller, subject_id, erasure) -> SubjectErased:
        if not erasure.check_only:
            self.asked.set()
            await self.gate.wait()
        return await super().erase_subject(caller, subject_id, erasure)


@asynccontextmanager
async def town(folder, there):
    folder.mkdir(exist_ok=True)
    async with open_compliance(folder, custodians=there, config=QUICK) as room:
        yield room


def services() -> dict[str, Stoppable]:
    there = {name: Stoppable() for name in ("auth", "messaging", "crypto")}
    there["auth"].put(TENANT, AGNES, "profile", AGNES, email="agnes.quill@example.org", display_name="Agnes Quill")
    for number in range(7):
        there["messaging"].put(TENANT, AGNES, "message", f"m{number}", body=f"number {number}")
    return there


async def status(room, job_id: str, wanted: str):
    async with asyncio.timeout(20):
        while (job := await room.service.erasure_job(OWNER, job_id)).status != wanted:  # noqa: ASYNC110 - a state in a file wakes nobody
            await asyncio.sleep(0.01)
    return job


async def test_a_hold_says_what_was_gone_before_it(tmp_path):
    there = services()
    there["messaging"].gate.clear()
    async with town(tmp_path / "data", there) as room:
        asked = await room.service.request_erasure(ME, NewErasure())
        await asyncio.wait_for(there["messaging"].asked.wait(), 20)
        placing = asyncio.create_task(room.service.hold(OWNER, NewHold(reason="case 7", subject_id=AGNES)))
        async with asyncio.timeout(20):
            while (TENANT, AGNES) not in {(t, h.subject_id) for (t, _), h in there["crypto"].holds.items()}:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        there["messaging"].gate.set()
        hold = await asyncio.wait_for(placing, 20)
        job = await status(room, asked.job_id, "blocked")
        assert hold.state == "in_force"
        assert hold.gaps == [HoldGap(job_id=asked.job_id, subject_id=AGNES, erased={"auth": {"profile": 1}})]
        assert len(there["messaging"].things[TENANT, AGNES]) == 7, "what was not gone is held"
        assert {r.service: r.counts for r in job.receipts if r.counts} == hold.gaps[0].erased
    async with town(tmp_path / "data", there) as room:
        (kept,) = (await room.service.holds(OWNER, Page())).items
        assert kept == hold, "it says so as long as it is there"
        await room.service.release(OWNER, hold.hold_id)
        await status(room, asked.job_id, "done")


async def test_a_step_that_was_begun_before_belongs_to_what_is_gone(tmp_path):
    there = services()
    auth = there["auth"]
    erase, begun, go_on = auth.erase_subject, asyncio.Event(), asyncio.Event()

    async def slow(caller, subject_id, erasure):
        answer = await erase(caller, subject_id, erasure)
        if not erasure.check_only and answer.erased:
            begun.set()
            await go_on.wait()
        return answer

    auth.erase_subject = slow
    async with town(tmp_path / "data", there) as room:
        await room.service.request_erasure(ME, NewErasure())
        await asyncio.wait_for(begun.wait(), 20)
        placing = asyncio.create_task(room.service.hold(OWNER, NewHold(reason="case 7", subject_id=AGNES)))
        async with asyncio.timeout(20):
            while not there["messaging"].holds:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert not placing.done(), "it is not in force while a step is under way whose end nobody knows"
        go_on.set()
        hold: Hold = await asyncio.wait_for(placing, 20)
    assert [gap.erased for gap in hold.gaps] == [{"auth": {"profile": 1}}]


async def test_a_hold_that_came_first_has_no_gap_and_stands_against_it(tmp_path):
    there = services()
    async with town(tmp_path / "data", there) as room:
        hold = await room.service.hold(OWNER, NewHold(reason="case 7", subject_id=AGNES))
        assert hold.gaps == []
        with pytest.raises(LegalHold):
            await room.service.request_erasure(ME, NewErasure())


async def test_a_hold_on_somebody_who_is_gone_says_so(tmp_path):
    there = services()
    async with town(tmp_path / "data", there) as room:
        asked = await room.service.request_erasure(ME, NewErasure())
        await status(room, asked.job_id, "done")
        hold = await room.service.hold(OWNER, NewHold(reason="case 7", subject_id=AGNES))
        assert hold.gaps[0].erased["messaging"] == {"message": 7}
        assert hold.found, "there was such a person"


@pytest.mark.parametrize("covered", [{"conversation_id": "c1"}, {"subject_id": "ben-1"}])
async def test_a_hold_names_erasures_of_others_under_way(tmp_path, covered):
    there = services() | {"media": Stoppable()}
    there["media"].put(TENANT, AGNES, "file", "f1", filename="attached.pdf")
    there["crypto"].gate.clear()
    async with town(tmp_path / "data", there) as room:
        asked = await room.service.request_erasure(ME, NewErasure())
        await asyncio.wait_for(there["crypto"].asked.wait(), 20)
        unfinished, looked = room.stores.rights.unfinished, asyncio.Event()

        async def look():
            looked.set()
            return await unfinished()

        room.stores.rights.unfinished = look
        placing = asyncio.create_task(room.service.hold(OWNER, NewHold(reason="case 7", **covered)))
        await asyncio.wait_for(looked.wait(), 20)
        there["crypto"].gate.set()
        hold = await asyncio.wait_for(placing, 20)
    gone = {"messaging": {"message": 7}, "media": {"file": 1}}
    assert hold.gaps == [HoldGap(job_id=asked.job_id, subject_id=AGNES, erased=gone)]
    assert hold.found is ("conversation_id" in covered), "nobody knows Ben: what was erased was of somebody else"
