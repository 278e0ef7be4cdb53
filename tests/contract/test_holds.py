"""A legal hold is in force once every service has it, whatever happens on the way, and gone once all let it go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from sealwire.contracts.audit_log import AuditQuery
from sealwire.contracts.conversations import Conversation
from sealwire.contracts.custody import MessagePolicy, SubjectQuery
from sealwire.contracts.gdpr import GdprJob, JobQuery, NewErasure
from sealwire.contracts.holds import HoldPending, NewHold
from sealwire.contracts.keys import Destruction, NewKey
from sealwire.contracts.messages import History, Message
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Conflict, Invalid, NotFound
from sealwire.services.compliance.certificates import read_certificate
from sealwire.services.compliance.notes import parse_key
from sealwire.testing.keeping_room import KeepingRoom

HOLDERS = ("crypto", "auth", "messaging", "media")


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[KeepingRoom]:
    room = KeepingRoom(tmp_path)
    await room.open()
    yield room
    await room.close()


@pytest.fixture
async def anna(room: KeepingRoom) -> Caller:
    return await room.files.enter("anna")


def copies(room: KeepingRoom) -> dict[str, int]:
    """Return how many holds in force each service knows."""
    people = room.messages.people
    dbs = {
        "crypto": people._crypto_db,
        "auth": people.storage.db,
        "messaging": room.messages.stores.db,
        "media": room.files.db,
    }
    count = "SELECT count(*) FROM legal_hold WHERE released_us IS NULL"
    return {name: int(db.read(count)[0][0]) for name, db in dbs.items()}


async def states(room: KeepingRoom, by: Caller) -> list[str]:
    return [hold.state for hold in (await room.compliance.service.holds(by, Page())).items]


async def until(room: KeepingRoom, by: Caller, wanted: list[str]) -> None:
    async with asyncio.timeout(20):
        while await states(room, by) != wanted:  # noqa: ASYNC110 - a state in a file wakes nobody
            await asyncio.sleep(0.01)


async def test_a_hold_in_force_is_known_to_every_service(room: KeepingRoom, anna: Caller) -> None:
    hold_id = await room.hold(anna, subject_id=anna.user_id)
    assert copies(room) == dict.fromkeys(HOLDERS, 1)
    hold = (await room.compliance.service.holds(anna, Page())).items[0]
    assert (hold.hold_id, hold.state) == (hold_id, "in_force")
    assert hold.in_force_at is not None
    await room.compliance.service.release(anna, hold_id)
    assert copies(room) == dict.fromkeys(HOLDERS, 0)
    assert await states(room, anna) == []
    with pytest.raises(NotFound):
        await room.compliance.service.release(anna, hold_id)


@pytest.mark.parametrize("out", HOLDERS)
async def test_a_hold_is_not_acknowledged_while_a_service_is_out(room: KeepingRoom, anna: Caller, out: str) -> None:
    room.doors[out].shut = True
    with pytest.raises(HoldPending) as pending:
        await room.hold(anna, subject_id=anna.user_id)
    assert await states(room, anna) == ["placing"]
    assert copies(room)[out] == 0
    room.doors[out].shut = False
    await until(room, anna, ["in_force"])
    assert copies(room) == dict.fromkeys(HOLDERS, 1)
    assert (await room.compliance.service.holds(anna, Page())).items[0].hold_id == pending.value.extra["hold_id"]


@pytest.mark.parametrize("out", HOLDERS)
async def test_what_was_under_way_goes_on_after_a_restart(room: KeepingRoom, anna: Caller, out: str) -> None:
    room.doors[out].shut = True
    with pytest.raises(HoldPending):
        await room.hold(anna, subject_id=anna.user_id)
    await room.close_compliance()
    await room.open_compliance()
    await until(room, anna, ["in_force"])
    assert copies(room) == dict.fromkeys(HOLDERS, 1)
    room.doors[out].shut = True
    hold_id = (await room.compliance.service.holds(anna, Page())).items[0].hold_id
    await room.compliance.service.release(anna, hold_id)
    assert await states(room, anna) == ["releasing"]
    await room.close_compliance()
    await room.open_compliance()
    await until(room, anna, [])
    assert copies(room) == dict.fromkeys(HOLDERS, 0)


async def test_a_hold_can_be_released_before_it_is_in_force(room: KeepingRoom, anna: Caller) -> None:
    room.doors["media"].shut = True
    with pytest.raises(HoldPending) as pending:
        await room.hold(anna, subject_id=anna.user_id)
    await room.compliance.service.release(anna, pending.value.extra["hold_id"])
    room.doors["media"].shut = False
    await until(room, anna, [])
    assert copies(room) == dict.fromkeys(HOLDERS, 0)


async def hang_up(calling: asyncio.Task[object], turns: int) -> None:
    """Leave while a call is under way, after so many turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait({calling})


@pytest.mark.parametrize("shut", [False, True])
@pytest.mark.parametrize("turns", range(6))
async def test_who_hangs_up_while_a_hold_is_released_leaves_it_to_be_released(
    room: KeepingRoom, anna: Caller, turns: int, shut: bool
) -> None:
    service = room.compliance.service
    room.doors["media"].shut = shut
    try:
        hold_id = await room.hold(anna, subject_id=anna.user_id)
    except HoldPending as pending:
        hold_id = pending.extra["hold_id"]
    first = asyncio.create_task(service.release(anna, hold_id))
    second = asyncio.create_task(service.release(anna, hold_id))
    before = await states(room, anna)
    if turns % 2:  # before or after it is decided
        async with asyncio.timeout(20):
            while await states(room, anna) == before:  # noqa: ASYNC110 - a state in a file wakes nobody
                await asyncio.sleep(0)
    await asyncio.gather(hang_up(first, turns), hang_up(second, turns))
    assert first.cancelled() or first.exception() is None
    assert second.cancelled() or isinstance(second.exception(), NotFound)
    room.doors["media"].shut = False
    if await states(room, anna) == before:  # they left before anything was written, or while it was
        with suppress(NotFound):
            await service.release(anna, hold_id)
    await until(room, anna, [])
    assert copies(room) == dict.fromkeys(HOLDERS, 0)


@pytest.mark.parametrize("turns", range(6))
async def test_who_hangs_up_while_a_hold_is_placed_leaves_it_to_be_placed(
    room: KeepingRoom, anna: Caller, turns: int
) -> None:
    placing = asyncio.create_task(room.hold(anna, subject_id=anna.user_id))
    await hang_up(placing, turns)
    second = await room.hold(anna, subject_id=anna.user_id)
    await until(room, anna, ["in_force"] * len(await states(room, anna)))
    assert second


@pytest.mark.parametrize("out", ["auth", "messaging", "media"])
async def test_keys_are_let_go_when_nobody_keeps_what_they_open(room: KeepingRoom, anna: Caller, out: str) -> None:
    held = await room.hold(anna, subject_id=anna.user_id)
    room.doors[out].shut = True
    await room.compliance.service.release(anna, held)
    assert copies(room)["crypto"] == 1, f"{out} keeps its data still"
    room.doors[out].shut = False
    await until(room, anna, [])
    assert set(copies(room).values()) == {0}


async def test_a_hold_names_one_thing(room: KeepingRoom, anna: Caller) -> None:
    both = NewHold(reason="r", subject_id="a", conversation_id="b")
    for wrong, member in ((NewHold(reason="r"), "subject_id"), (both, "conversation_id")):
        with pytest.raises(Invalid) as refused:
            await room.compliance.service.hold(anna, wrong)
        assert refused.value.extra["path"] == f"$.{member}"


async def test_a_hold_says_whether_there_is_what_it_names(room: KeepingRoom, anna: Caller) -> None:
    compliance, where = room.compliance.service, await room.messages.group(anna)
    gone = await room.messages.group(anna)
    await room.messages.messaging.remove(anna, gone.conversation_id)
    wanted = (
        NewHold(reason="a case", subject_id=anna.user_id),
        NewHold(reason="a case", conversation_id=where.conversation_id),
        NewHold(reason="a case", conversation_id=gone.conversation_id),
        NewHold(reason="a slip", subject_id=new_id()),
        NewHold(reason="a slip", conversation_id=new_id()),
        NewHold(reason="one taken for the other", subject_id=where.conversation_id),
        NewHold(reason="one taken for the other", conversation_id=anna.user_id),
    )
    holds = [await compliance.hold(anna, new) for new in wanted]
    assert [hold.found for hold in holds] == [True] * 3 + [False] * 4
    assert {hold.state for hold in holds} == {"in_force"}
    assert (await compliance.holds(anna, Page())).items == holds
    async with asyncio.timeout(20):
        while True:
            told = (await compliance.query(anna, AuditQuery(action="hold.in_force"))).items
            if len(told) == len(wanted):
                break
            await asyncio.sleep(0.02)
    assert [record.metadata.get("found") for record in told] == [None] * 3 + ["nothing"] * 4


async def test_a_hold_does_not_wait_for_what_can_not_be_read(room: KeepingRoom, anna: Caller) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    room.messages.people.service.export_subject = broken  # type: ignore[assignment,method-assign]  # a fault of auth's
    hold = await room.compliance.service.hold(anna, NewHold(reason="a case", subject_id=anna.user_id))
    assert (hold.state, hold.found) == ("in_force", None)


async def test_keys_are_not_destroyed_under_a_hold(room: KeepingRoom, anna: Caller) -> None:
    crypto = room.messages.people.crypto
    key = await crypto.generate_key(anna, NewKey(key_type="aes-256-gcm"))
    hold_id = await room.hold(anna, subject_id=anna.user_id)
    with pytest.raises(Conflict, match="hold") as refused:
        await crypto.schedule_destruction(anna, key.key_id, Destruction(delay_days=7))
    assert refused.value.code == "legal_hold"
    await room.compliance.service.release(anna, hold_id)
    assert (await crypto.schedule_destruction(anna, key.key_id, Destruction(delay_days=7))).destroy_at is not None


async def test_the_log_tells_of_a_holds_life(room: KeepingRoom, anna: Caller) -> None:
    hold_id = await room.hold(anna, subject_id=anna.user_id)
    await room.compliance.service.release(anna, hold_id)
    async with asyncio.timeout(20):
        while True:
            query = AuditQuery(resource_type="hold", resource_id=hold_id)
            records = (await room.compliance.service.query(anna, query)).items
            if len(records) == 4:
                break
            await asyncio.sleep(0.02)
    assert [r.action for r in records] == ["hold.put", "hold.in_force", "hold.released", "hold.ended"]
    assert [r.actor.id for r in records][::2] == [anna.user_id, anna.user_id]


async def erased(room: KeepingRoom, by: Caller, jobs: int) -> list[GdprJob]:
    """Return the erasures there are once there are that many, all done; the newest first."""
    async with asyncio.timeout(30):
        while True:
            items = (await room.compliance.service.gdpr_jobs(by, JobQuery(kind="erasure"))).items
            if len(items) == jobs and all(job.status == "done" for job in items):
                return items
            await asyncio.sleep(0.02)


async def test_an_erasure_keeps_what_a_hold_covers_and_no_more(room: KeepingRoom, anna: Caller) -> None:
    agnes = await room.files.enter("agnes")
    held, free = [await room.messages.group(anna, agnes) for _ in range(2)]
    for group in (held, free):
        await room.messages.say(agnes, group, "what was said there")
        await room.files.upload("agnes", b"what was sent there", conversation_id=group.conversation_id)
    hold_id = await room.hold(anna, conversation_id=held.conversation_id)
    service, crypto = room.compliance.service, room.messages.people.crypto
    await service.request_erasure(anna, NewErasure(subject_id=agnes.user_id, messages="tombstone"))
    (job,) = await erased(room, anna, 1)

    async def live() -> set[tuple[str, str]]:
        items = (
            await crypto.export_subject(service_caller("compliance", anna.tenant_id), agnes.user_id, SubjectQuery())
        ).items
        return {(item.data["service"], item.data["scope"]) for item in items}

    assert await live() == {("messaging", held.conversation_id), ("media", held.conversation_id)}
    statement = read_certificate(job.certificate or "", [parse_key(job.public_key or "")])
    parts = {part["where"]: part for part in statement["erased"]}
    assert parts["messaging"]["kept_under_legal_hold"] == {"message": 1, "data_key": 1, "membership": 1}
    assert parts["media"]["kept_under_legal_hold"] == {"file": 1, "data_key": 1}
    assert parts["crypto"]["kept_under_legal_hold"]["data_key"] == 2
    assert {id_ for part in statement["erased"] for id_ in part["kept_in"]} == {held.conversation_id}
    (why,) = statement["legal_holds"]
    assert (why["hold_id"], why["conversation_id"]) == (hold_id, held.conversation_id)
    said = await room.messages.messaging.history(anna, held.conversation_id, History())
    assert [message.body for message in said.items] == ["what was said there"]
    await service.release(anna, hold_id)
    last, _ = await erased(room, anna, 2)
    assert await live() == set()
    assert read_certificate(last.certificate or "", [parse_key(last.public_key or "")])["legal_holds"] == []


@pytest.mark.parametrize("policy", ["tombstone", "anonymise"])
@pytest.mark.parametrize("crash", [False, True])
async def test_what_a_hold_kept_of_an_erased_person_goes_with_the_hold(
    room: KeepingRoom, anna: Caller, policy: MessagePolicy, crash: bool
) -> None:
    agnes = await room.files.enter("agnes")
    group, other = [await room.messages.group(anna, agnes) for _ in range(2)]
    await room.messages.say(agnes, group, "kept for the court")
    await room.messages.say(agnes, other, "kept for another court")
    first, second = [await room.hold(anna, conversation_id=c.conversation_id) for c in (group, other)]
    service = room.compliance.service
    await service.request_erasure(anna, NewErasure(subject_id=agnes.user_id, messages=policy))
    (job,) = await erased(room, anna, 1)
    assert any(receipt.kept for receipt in job.receipts)
    if crash:  # decided, and not done when the process ends
        room.doors["media"].shut = True
        await service.release(anna, first)
        await room.close_compliance()
        await room.open_compliance()
    else:
        await service.release(anna, first)
    again, _ = await erased(room, anna, 2)
    assert any(receipt.kept for receipt in again.receipts), "the other hold is in force"

    async def said(where: Conversation) -> Message:
        return (await room.messages.messaging.history(anna, where.conversation_id, History())).items[0]

    assert ((await said(group)).deleted, (await said(other)).deleted) == (policy == "tombstone", False)
    assert (await said(group)).sender_id != agnes.user_id
    assert (await said(other)).sender_id == agnes.user_id
    await until(room, anna, ["in_force"])
    await room.compliance.service.release(anna, second)
    last, *_ = await erased(room, anna, 3)
    assert not any(receipt.kept for receipt in last.receipts)
    assert last.certificate is not None
    assert (await said(other)).sender_id != agnes.user_id
    assert (await said(other)).body == (None if policy == "tombstone" else "kept for another court")
    probed = read_certificate(last.certificate, [parse_key(last.public_key or "")])["probe"]
    assert probed["found"] == 0
