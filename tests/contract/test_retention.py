"""Retention runs: what is past its time is listed, committed to, and disposed of exactly, minus what is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry, AuditQuery, VerifyQuery
from sealwire.contracts.conversations import Conversation, NewConversation
from sealwire.contracts.gdpr import NewRestriction
from sealwire.contracts.messages import History
from sealwire.contracts.retention import (
    START_RUN,
    ListNotWhole,
    ListQuery,
    ListUnusable,
    NewRetentionRun,
    RetentionRun,
    RunActive,
)
from sealwire.contracts.retention_policies import NewRetentionPolicy
from sealwire.kit.caller import ANONYMOUS_TENANT, Caller, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Invalid, NotFound
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.ports import RecordFilter, StoredRecord
from sealwire.testing.keeping_room import KeepingRoom

DAY_S = 86_400


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[KeepingRoom]:
    config = ComplianceConfig(retention_every_s=0, retention_pause_ms=0, retention_batch=2, hold_patience_s=5)
    room = KeepingRoom(tmp_path, config=config)
    await room.open()
    yield room
    await room.close()


@pytest.fixture
async def anna(room: KeepingRoom) -> Caller:
    return await room.files.enter("anna")


@pytest.fixture
async def ben(room: KeepingRoom, anna: Caller) -> Caller:
    return await room.files.enter("ben")


async def keep(room: KeepingRoom, by: Caller, action: str = "tombstone", **days: int) -> None:
    for resource_type, keep_days in days.items():
        what = action if resource_type == "messages" else "delete"  # nothing else leaves tombstones
        policy = NewRetentionPolicy(keep_days=keep_days, action=what)  # type: ignore[arg-type]  # one of the two
        await room.compliance.service.set_policy(by, resource_type, policy)


async def texts(room: KeepingRoom, who: Caller, where: Conversation) -> list[str | None]:
    page = await room.messages.messaging.history(who, where.conversation_id, History(after_seq=0))
    return [message.body for message in page.items]


def counts(run: RetentionRun, resource_type: str = "messages") -> dict[str, int]:
    part = next(part for part in run.parts if part.resource_type == resource_type)
    return {name: getattr(part, name) for name in ("due", "kept", "listed", "disposed", "held", "missing")}


async def test_a_dry_run_counts_and_changes_nothing(room: KeepingRoom, anna: Caller, ben: Caller) -> None:
    group = await room.messages.group(anna, ben)
    ids = [(await room.messages.say(who, group, "old")).message_id for who in (anna, ben, anna)]
    room.clock.advance(10 * DAY_S)
    await room.messages.say(anna, group, "young")
    await keep(room, anna, messages=5, media=5)
    await room.hold(anna, subject_id=ben.user_id)
    run = await room.run(anna, dry_run=True)
    assert (run.status, run.progress, run.dry_run) == ("listed", 1.0, True)
    assert counts(run) == {"due": 3, "kept": 1, "listed": 2, "disposed": 0, "held": 0, "missing": 0}
    lines = "".join(f"messages/{id_}\n" for id_ in sorted([ids[0], ids[2]]))
    assert run.list_hash == sha256(lines.encode()).hexdigest()
    assert await texts(room, anna, group) == ["old", "old", "old", "young"]


async def test_the_list_of_a_dry_run_is_read_in_pages_and_hashes_to_what_was_committed_to(
    room: KeepingRoom, anna: Caller, ben: Caller
) -> None:
    """As docs/life/retention.md shows it to who checks the hash."""
    group, service = await room.messages.group(anna, ben), room.compliance.service
    ids = [(await room.messages.say(anna, group, "old")).message_id for _ in range(5)]
    for name in ("anna", "ben"):
        await room.files.upload(name, name.encode())
    room.clock.advance(10 * DAY_S)
    await room.messages.say(anna, group, "young")
    await keep(room, anna, messages=5, media=5)
    dry = await room.run(anna, dry_run=True)
    for limit in (1, 2, 7, 200):
        digest, cursor, seen = sha256(), None, []
        while True:
            page = await service.run_items(anna, dry.run_id, ListQuery(limit=limit, cursor=cursor))
            assert len(page.items) <= limit
            for item in page.items:
                digest.update(f"{item.resource_type}/{item.id}\n".encode())
                seen.append(item)
            if (cursor := page.next_cursor) is None:
                break
        assert digest.hexdigest() == dry.list_hash
        assert sorted(i.id for i in seen if i.resource_type == "messages") == sorted(ids)
        assert [i.resource_type for i in seen] == ["media"] * 2 + ["messages"] * 5
    other = await room.files.enter("olga", tenant="selftest-elsewhere")
    with pytest.raises(NotFound):
        await service.run_items(other, dry.run_id, ListQuery())
    for cursor in ("nonsense", "c:x"):
        with pytest.raises(Invalid):
            await service.run_items(anna, dry.run_id, ListQuery(cursor=cursor))
    first = await service.run_items(anna, dry.run_id, ListQuery(limit=2))
    run = await room.run(anna, dry_run_id=dry.run_id)
    for run_id in (dry.run_id, run.run_id):  # half a list would hash to something else, and an empty one to nothing
        with pytest.raises(ListNotWhole):
            await service.run_items(anna, run_id, ListQuery(limit=2, cursor=first.next_cursor))


async def test_an_old_list_that_goes_is_not_read_in_part(room: KeepingRoom, anna: Caller) -> None:
    group, runs = await room.messages.group(anna), room.compliance.stores.runs
    for _ in range(3):
        await room.messages.say(anna, group, "old")
    room.clock.advance(10 * DAY_S)
    await keep(room, anna, messages=5)
    dry = await room.run(anna, dry_run=True)
    room.clock.advance(8 * DAY_S)
    now_us = room.clock.now_us()
    assert await runs.forget(runs_before_us=0, lists_before_us=now_us - 7 * DAY_S * 1_000_000, limit=1) == 1
    assert len(await runs.next(dry.run_id, "messages", 9)) == 2
    with pytest.raises(ListNotWhole):
        await room.compliance.service.run_items(anna, dry.run_id, ListQuery())
    with pytest.raises(ListUnusable):
        await room.run(anna, dry_run_id=dry.run_id)


async def test_a_run_disposes_of_exactly_the_list_of_its_dry_run(room: KeepingRoom, anna: Caller, ben: Caller) -> None:
    group = await room.messages.group(anna, ben)
    for who in (anna, ben, anna, anna):
        await room.messages.say(who, group, "old")
    room.clock.advance(10 * DAY_S)
    await keep(room, anna, messages=5)
    dry = await room.run(anna, dry_run=True)
    room.clock.advance(6 * DAY_S)
    await room.messages.say(anna, group, "not on the list")
    await room.messages.messaging.delete(anna, group.conversation_id, 4)
    await room.hold(anna, subject_id=ben.user_id)
    room.clock.advance(6 * DAY_S)
    run = await room.run(anna, dry_run_id=dry.run_id)
    assert (run.status, run.list_hash, run.dry_run_id) == ("done", dry.list_hash, dry.run_id)
    assert counts(run) == {"due": 4, "kept": 0, "listed": 4, "disposed": 2, "held": 1, "missing": 1}
    assert await texts(room, anna, group) == [None, "old", None, None, "not on the list"]
    with pytest.raises(ListUnusable):
        await room.run(anna, dry_run_id=dry.run_id)
    assert (await room.compliance.service.run(anna, dry.run_id)).status == "spent"


async def test_what_is_restricted_stays(room: KeepingRoom, anna: Caller, ben: Caller) -> None:
    carla, compliance = await room.files.enter("carla"), room.compliance.service
    group = await room.messages.group(anna, ben, carla)
    for who in (anna, ben, carla):
        await room.messages.say(who, group, "old")
    for name in ("anna", "ben", "carla"):
        await room.files.upload(name, name.encode())
    room.clock.advance(10 * DAY_S)
    await keep(room, anna, messages=5, media=5)
    await compliance.restrict(anna, NewRestriction(subject_id=ben.user_id, reason="contests what it says"))
    with pytest.raises(Invalid):
        await room.messages.group(anna, ben)
    dry = await room.run(anna, dry_run=True)
    for kind in ("messages", "media"):
        assert counts(dry, kind) == {"due": 3, "kept": 1, "listed": 2, "disposed": 0, "held": 0, "missing": 0}
    await compliance.restrict(anna, NewRestriction(subject_id=carla.user_id, reason="wants it kept"))  # after the list
    await room.hold(anna, subject_id=new_id())  # a hold on somebody else changes nothing
    run = await room.run(anna, dry_run_id=dry.run_id)
    for kind in ("messages", "media"):
        assert counts(run, kind) == {"due": 3, "kept": 1, "listed": 2, "disposed": 1, "held": 1, "missing": 0}
    assert await texts(room, anna, group) == [None, "old", "old"]
    await compliance.lift_restriction(anna, ben.user_id)
    again = await room.run(anna)
    for kind in ("messages", "media"):
        assert counts(again, kind) == {"due": 2, "kept": 1, "listed": 1, "disposed": 1, "held": 0, "missing": 0}
    assert await texts(room, anna, group) == [None, None, "old"]


async def test_a_list_is_of_no_use_once_the_policy_is_another(room: KeepingRoom, anna: Caller) -> None:
    await keep(room, anna, messages=5)
    dry = await room.run(anna, dry_run=True)
    await keep(room, anna, messages=50)
    with pytest.raises(ListUnusable):
        await room.run(anna, dry_run_id=dry.run_id)
    with pytest.raises(NotFound):
        await room.run(anna, dry_run_id=(await room.run(anna, dry_run=True)).run_id[:-1] + "x")
    with pytest.raises(Invalid):
        await room.run(anna, dry_run_id=dry.run_id, dry_run=True)


async def test_a_list_that_was_changed_in_the_file_is_not_executed(room: KeepingRoom, anna: Caller) -> None:
    group = await room.messages.group(anna)
    for _ in range(2):
        await room.messages.say(anna, group, "old")
    room.clock.advance(10 * DAY_S)
    await keep(room, anna, messages=5)
    dry = await room.run(anna, dry_run=True)
    young = await room.messages.say(anna, group, "young")
    runs = room.compliance.stores.runs
    stored = await runs.run(anna.tenant_id, dry.run_id)
    assert stored is not None
    await runs.add(stored, "messages", [young.message_id])
    run = await room.run(anna, dry_run_id=dry.run_id)
    assert (run.status, run.problem) == ("failed", "the stored list is not the one that was committed to")
    assert await texts(room, anna, group) == ["old", "old", "young"]


async def test_all_types_of_a_tenant_and_of_no_other(room: KeepingRoom, anna: Caller) -> None:
    other = await room.files.enter("olga", tenant="selftest-elsewhere")
    for who in (anna, other):
        group = await room.messages.messaging.create(who, NewConversation(kind="group", member_ids=[]))
        await room.messages.say(who, group, "old")
    await room.files.upload("anna", b"old")
    await room.messages.people.auth.logout(anna)
    room.clock.advance(10 * DAY_S)
    await keep(room, anna, action="delete", messages=5, media=5, sessions=5, exports=5, audit=0)
    run = await room.run(anna)
    assert run.status == "done"
    assert {part.resource_type for part in run.parts} == {"messages", "media", "sessions", "exports"}
    assert [counts(run, name)["disposed"] for name in ("messages", "media", "sessions", "exports")] == [1, 1, 1, 0]
    await room.files.service._sweeper.bury()
    assert not [path for path in (room.folder / "blobs").rglob("*") if path.is_file()]
    assert room.messages.stores.db.read("SELECT count(*) FROM message WHERE sealed IS NOT NULL") == [(1,)]
    with pytest.raises(NotFound):
        await room.compliance.service.run(other, run.run_id)
    assert (await room.compliance.service.runs(other, Page())).items == []


async def test_records_are_pruned_and_the_log_still_verifies(room: KeepingRoom, anna: Caller) -> None:
    service = room.compliance.service
    await keep(room, anna, messages=5)
    await until_recorded(room, anna, "retention.policy_set", 1)
    room.clock.advance(40 * DAY_S)
    await keep(room, anna, action="delete", audit=30)
    await until_recorded(room, anna, "retention.policy_set", 2)
    run = await room.run(anna, resource_type="audit")
    assert (run.status, counts(run, "audit")["disposed"]) == ("done", 1)
    verdict = await service.verify(anna, VerifyQuery())
    assert (verdict.ok, verdict.first_bad_seq) == (True, None)


async def write(room: KeepingRoom, tenant_id: str, resource_id: str = "") -> StoredRecord:
    """Have a record of today written of somebody who is not known; return it as a copy made elsewhere keeps it."""
    entry = AuditEntry(
        audit_id=new_id(), tenant_id=tenant_id, actor=Actor(type="anonymous", id="anonymous"), action="try",
        resource_type="thing", resource_id=resource_id, personal={"ip_address": "203.0.113.9"},
    )  # fmt: skip
    await room.compliance.service.append(service_caller("gateway", tenant_id), AuditBatch(records=[entry]))
    found = await room.compliance.stores.audit.search(tenant_id, RecordFilter(action="try"), after_seq=0, limit=100)
    return found.records[-1]


async def addresses(room: KeepingRoom, *copies: StoredRecord) -> list[str]:
    return [(await room.compliance.service.show(copy)).metadata["ip_address"] for copy in copies]


async def test_the_key_of_a_day_goes_with_its_last_record(room: KeepingRoom, anna: Caller, ben: Caller) -> None:
    """So what nobody is known by is gone from exports and backups too (R4.5)."""
    tenant_id = anna.tenant_id
    held, first = await write(room, tenant_id, ben.user_id), await write(room, tenant_id)
    room.clock.advance(DAY_S)
    second = await write(room, tenant_id)
    room.clock.advance(29.5 * DAY_S)
    young = await write(room, tenant_id)
    hold = await room.hold(anna, subject_id=ben.user_id)
    await keep(room, anna, audit=30)
    known = ["203.0.113.9"] * 4
    assert counts(await room.run(anna, resource_type="audit"), "audit")["kept"] == 1
    assert await addresses(room, held, first, second, young) == known, "the hold keeps one of the first day"
    room.clock.advance(DAY_S)
    await room.run(anna, resource_type="audit")
    assert await addresses(room, held, first, second, young) == [*known[:2], "erased", known[3]]
    await room.compliance.service.release(anna, hold)
    await room.run(anna, resource_type="audit")
    assert await addresses(room, held, first, second, young) == ["erased"] * 3 + known[3:]
    assert (await room.compliance.service.verify(anna, VerifyQuery())).ok


async def test_the_log_of_who_is_not_known_is_kept_as_the_settings_say(room: KeepingRoom) -> None:
    copy = await write(room, ANONYMOUS_TENANT)
    room.clock.advance(40 * DAY_S)
    young = await write(room, ANONYMOUS_TENANT)
    for keep_days, known in ((0, "203.0.113.9"), (30, "erased")):
        await room.close_compliance()
        room.config = ComplianceConfig(retention_every_s=0.2, retention_pause_ms=0, anonymous_keep_days=keep_days)
        await room.open_compliance()
        async with asyncio.timeout(20):
            while True:
                if await addresses(room, copy) == [known]:
                    break
                room.clock.advance(0.1)  # the policy counts an interval after it was set
                await asyncio.sleep(0.02)
    assert await addresses(room, young) == ["203.0.113.9"]
    await room.close_compliance()
    room.config = ComplianceConfig(retention_every_s=0)
    await room.open_compliance()
    policies = await room.compliance.stores.retention.policies(ANONYMOUS_TENANT, after="", limit=9)
    assert list(policies) == []


async def until_recorded(room: KeepingRoom, who: Caller, action: str, count: int) -> None:
    async with asyncio.timeout(20):
        while True:
            records = await room.compliance.service.query(who, AuditQuery(action=action))
            if len(records.items) >= count:
                return
            await asyncio.sleep(0.02)


async def test_every_run_is_in_the_audit_log(room: KeepingRoom, anna: Caller) -> None:
    await keep(room, anna, messages=5)
    run = await room.run(anna)
    await until_recorded(room, anna, "retention.run_finished", 1)
    records = (await room.compliance.service.query(anna, AuditQuery(resource_id=run.run_id))).items
    assert [r.action for r in records] == ["retention.run_started", "retention.listed", "retention.run_finished"]
    assert records[1].metadata["list_hash"] == run.list_hash
    assert records[0].actor.id == anna.user_id


async def test_who_has_things_deleted_at_once_is_told_by_which_list(room: KeepingRoom, anna: Caller) -> None:
    group = await room.messages.group(anna)
    ids = [(await room.messages.say(anna, group, "old")).message_id for _ in range(3)]
    room.clock.advance(10 * DAY_S)
    await keep(room, anna, messages=5)
    service = room.compliance.service
    begun = await service.start_run(anna, NewRetentionRun())
    assert begun.list_hash == sha256("".join(f"messages/{id_}\n" for id_ in sorted(ids)).encode()).hexdigest()
    assert begun.status in ("disposing", "reclaiming", "done")
    assert START_RUN.step_up
    await service.keeping.engine.settled(begun.run_id)
    assert (await service.run(anna, begun.run_id)).list_hash == begun.list_hash


async def test_one_run_of_a_tenant_at_a_time(room: KeepingRoom, anna: Caller) -> None:
    await keep(room, anna, messages=5)
    room.doors["messaging"].shut = True
    begun = await room.compliance.service.start_run(anna, NewRetentionRun())
    with pytest.raises(RunActive):
        await room.compliance.service.start_run(anna, NewRetentionRun(dry_run=True))
    room.doors["messaging"].shut = False
    async with asyncio.timeout(20):
        await room.compliance.service.keeping.engine.settled(begun.run_id)
    assert (await room.compliance.service.run(anna, begun.run_id)).status == "done"


async def test_a_run_goes_on_after_a_restart_at_any_batch(room: KeepingRoom, anna: Caller) -> None:
    group = await room.messages.group(anna)
    for _ in range(7):
        await room.messages.say(anna, group, "old")
    room.clock.advance(10 * DAY_S)
    await keep(room, anna, messages=5)
    service = room.compliance.service
    begun = await service.start_run(anna, NewRetentionRun())
    for _ in range(40):  # broken off wherever it is
        await room.close_compliance()
        await room.open_compliance()
        service = room.compliance.service
        await asyncio.sleep(0)
        if (await service.run(anna, begun.run_id)).status == "done":
            break
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        await service.keeping.engine.settled(begun.run_id)
    run = await service.run(anna, begun.run_id)
    assert (run.status, counts(run)["listed"]) == ("done", 7)
    assert counts(run)["disposed"] == 7, "a batch that was done before the break counts as done, not as missing"
    assert set(await texts(room, anna, group)) == {None}


async def test_the_schedule_runs_once_an_interval(tmp_path: Path) -> None:
    room = KeepingRoom(tmp_path, config=ComplianceConfig(retention_every_s=DAY_S, retention_pause_ms=0))
    await room.open()
    try:
        anna = await room.files.enter("anna")
        engine = room.compliance.service.keeping.engine
        assert await engine.look() == []
        await keep(room, anna, messages=5, media=0)
        room.clock.advance(DAY_S + 10)
        assert await engine.look() == [anna.tenant_id]
        run = (await engine.runs(anna, Page())).items[0]
        await engine.settled(run.run_id)
        assert (run.asked_by, [part.resource_type for part in run.parts]) == ("", ["messages"])
        assert await engine.look() == []
        await room.close_compliance()
        room.clock.advance(DAY_S - 10)
        await room.open_compliance()
        engine = room.compliance.service.keeping.engine
        assert await engine.look() == [], "a restart is no reason to run again"
        room.clock.advance(20)
        assert await engine.look() == [anna.tenant_id]
        await engine.settled((await engine.runs(anna, Page())).items[0].run_id)
    finally:
        await room.close()


async def test_the_schedule_heeds_a_policy_an_interval_after_it_was_changed(tmp_path: Path) -> None:
    room = KeepingRoom(tmp_path, config=ComplianceConfig(retention_every_s=DAY_S, retention_pause_ms=0))
    await room.open()
    try:
        anna = await room.files.enter("anna")
        service = room.compliance.service
        engine = service.keeping.engine

        async def scheduled() -> list[str] | None:
            if await engine.look() != [anna.tenant_id]:
                return None
            run = (await engine.runs(anna, Page())).items[0]
            await engine.settled(run.run_id)
            return [part.resource_type for part in run.parts]

        await keep(room, anna, messages=5)
        assert await scheduled() is None
        assert [p.resource_type for p in (await room.run(anna, dry_run=True)).parts] == ["messages"], "by hand at once"
        room.clock.advance(DAY_S - 10)
        assert await scheduled() is None
        await keep(room, anna, media=5)
        await keep(room, anna, messages=5)  # said again: no other
        room.clock.advance(20)
        assert await scheduled() == ["messages"]
        room.clock.advance(DAY_S + 10)
        assert await scheduled() == ["media", "messages"]
        await keep(room, anna, messages=4)
        room.clock.advance(DAY_S - 10)
        await service.remove_policy(anna, "media")
        await keep(room, anna, media=5)
        room.clock.advance(20)
        assert await scheduled() == ["messages"]
    finally:
        await room.close()


async def test_events_that_are_recorded_go(room: KeepingRoom, anna: Caller) -> None:
    await keep(room, anna, messages=5)
    await until_recorded(room, anna, "retention.policy_set", 1)
    events = room.compliance.stores.events
    async with asyncio.timeout(20):
        while await events.read(0, 10):
            room.clock.advance(8 * DAY_S)
            await room.compliance.service.keeping.engine.tidy()
            await asyncio.sleep(0.02)
    assert await events.newest() == 1, "a position is never given twice"


async def test_old_lists_and_old_runs_go(room: KeepingRoom, anna: Caller) -> None:
    group = await room.messages.group(anna)
    await room.messages.say(anna, group, "old")
    room.clock.advance(10 * DAY_S)
    await keep(room, anna, messages=5)
    service = room.compliance.service
    dry = await room.run(anna, dry_run=True)
    room.clock.advance(8 * DAY_S)
    await service.keeping.engine.tidy()
    run = await service.run(anna, dry.run_id)
    assert (run.status, run.problem) == ("spent", "nobody executed it")
    assert await room.compliance.stores.runs.next(dry.run_id, "messages", 10) == []
    room.clock.advance(400 * DAY_S)
    await service.keeping.engine.tidy()
    assert (await service.runs(anna, Page())).items == []
