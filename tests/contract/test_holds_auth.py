"""What auth keeps while a legal hold is in force, and what retention takes of sessions that are over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.contracts.custody import (
    Disposal,
    DueQuery,
    HoldPlacement,
    SubjectChanges,
    SubjectErasure,
    SubjectItem,
    SubjectQuery,
)
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.users import ProfileChange
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.clock import rfc3339
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Role
from sealwire.testing.auth_room import AuthRoom

COMPLIANCE = service_caller("compliance", "default")
OPERATOR = Caller(principal=Principal(kind="user", tenant_id="system", subject="op", role=Role.OPERATOR))
DAY_S = 86_400


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[AuthRoom]:
    room = AuthRoom(tmp_path)
    await room.open()
    yield room
    await room.close()


def sessions(room: AuthRoom) -> set[str]:
    return {row[0] for row in room.storage.db.read("SELECT session_id FROM session")}


async def test_the_record_of_a_held_persons_session_outlives_upkeep(room: AuthRoom) -> None:
    anna, hers = await room.enter("anna")
    ben, _ = await room.enter("ben")
    await room.auth.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=anna.user_id))
    for caller in (anna, ben):
        await room.auth.logout(caller)
    room.clock.advance(40 * DAY_S)  # type: ignore[attr-defined]  # a clock that is moved by hand
    room.service.upkeep._holds_told = lambda: False
    await room.service.upkeep.sweep()
    assert len(sessions(room)) == 2, "who is held is not known yet"
    room.service.upkeep._holds_told = lambda: True
    await room.service.upkeep.sweep()
    assert sessions(room) == {hers.session_id}
    await room.auth.release_hold(COMPLIANCE, "h1")
    await room.service.upkeep.sweep()
    assert sessions(room) == set()


async def test_sessions_are_looked_through_beside_the_loop(room: AuthRoom) -> None:
    await room.enter("anna")
    before = rfc3339(room.clock.now_us())
    looking = asyncio.ensure_future(room.service.due(COMPLIANCE, "sessions", DueQuery(before=before)))
    await asyncio.sleep(0)
    assert not looking.done(), "a tenant may have a million of them, and none that is over"
    assert (await looking).items == []


async def test_retention_takes_sessions_that_are_over_and_not_held(room: AuthRoom) -> None:
    anna, first = await room.enter("anna")
    ben, second = await room.enter("ben")
    _, lives = await room.enter("carl")
    for caller in (anna, ben):
        await room.auth.logout(caller)
    room.clock.advance(10 * DAY_S)  # type: ignore[attr-defined]  # as above
    await room.auth.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=ben.user_id))
    before = rfc3339(room.clock.now_us() - 5 * DAY_S * 1_000_000)
    page = await room.auth.due(COMPLIANCE, "sessions", DueQuery(before=before, limit=1))
    rest = await room.auth.due(COMPLIANCE, "sessions", DueQuery(before=before, cursor=page.next_cursor))
    assert {item.id: item.held for item in [*page.items, *rest.items]} == {
        first.session_id: False,
        second.session_id: True,
    }
    run = Disposal(run_id=new_id(), ids=[first.session_id, second.session_id, lives.session_id])
    done = await room.auth.dispose(COMPLIANCE, "sessions", run)
    assert (done.disposed, done.held, done.missing) == (1, 1, 1), "one that lives is nobody's to delete"
    assert await room.auth.dispose(COMPLIANCE, "sessions", run) == done
    assert sessions(room) == {second.session_id, lives.session_id}


async def test_a_tenant_under_a_hold_is_not_removed(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna", tenant="selftest-acme")
    there = service_caller("compliance", anna.tenant_id)
    await room.auth.put_hold(there, "h1", HoldPlacement(subject_id="anybody"))
    with pytest.raises(LegalHold):
        await room.auth.remove_tenant(OPERATOR, anna.tenant_id)
    await room.auth.release_hold(there, "h1")
    await room.auth.remove_tenant(OPERATOR, anna.tenant_id)


async def former(room: AuthRoom, who: Caller) -> list[SubjectItem]:
    """Return what is exported of a person and marked as former, one by one."""
    found: list[SubjectItem] = []
    cursor = None
    while True:
        page = await room.auth.export_subject(COMPLIANCE, who.user_id, SubjectQuery(limit=1, cursor=cursor))
        found += [item for item in page.items if item.data.get("former")]
        cursor = page.next_cursor
        if cursor is None:
            return found


async def test_a_profile_replaced_under_a_hold_is_kept_until_the_release(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    ben, _ = await room.enter("ben")

    def count() -> int:
        return int(room.storage.db.read("SELECT count(*) FROM former_profile")[0][0])

    await room.auth.change_me(anna, ProfileChange(display_name="Anna the First"))
    assert count() == 0, "nothing is kept without a hold"
    for hold_id in ("h1", "h2"):
        await room.auth.put_hold(COMPLIANCE, hold_id, HoldPlacement(subject_id=anna.user_id))
    await room.auth.change_me(anna, ProfileChange(display_name="Anna the Second"))
    changes = SubjectChanges(job_id=new_id(), email="new@example.org", display_name="Anna the Third")
    await room.auth.rectify_subject(COMPLIANCE, anna.user_id, changes)
    await room.auth.change_me(ben, ProfileChange(display_name="Ben the Second"))
    items = await former(room, anna)
    assert [(item.kind, item.data["display_name"]) for item in items] == [
        ("profile", "Anna the First"),
        ("profile", "Anna the Second"),
    ]
    assert items[1].data["email"] != "new@example.org"
    first = (await room.auth.export_subject(COMPLIANCE, anna.user_id, SubjectQuery())).items
    assert [(item.data["email"], item.data.get("former")) for item in first] == [("new@example.org", None)]
    assert await former(room, ben) == []
    await room.auth.release_hold(COMPLIANCE, "h1")
    await room.service.upkeep.sweep()
    assert count() == 2
    await room.auth.release_hold(COMPLIANCE, "h2")
    await room.service.upkeep.sweep()
    assert count() == 0


async def test_an_erasure_takes_a_former_profile_once_no_hold_covers_it(room: AuthRoom) -> None:
    await room.enter("olga")
    anna, _ = await room.enter("anna")
    await room.auth.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id=anna.user_id))
    await room.auth.change_me(anna, ProfileChange(display_name="Anna the Second"))
    await room.auth.release_hold(COMPLIANCE, "h1")
    job = SubjectErasure(job_id=new_id(), pseudonym=new_id())
    erased = (await room.auth.erase_subject(COMPLIANCE, anna.user_id, job)).erased
    assert erased["former_profile"] == 1
    assert room.storage.db.read("SELECT count(*) FROM former_profile") == [(0,)]
