"""What custody promises, over every service that keeps data of people (and the reference in memory)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sealwire.contracts import custody
from sealwire.contracts.custody import (
    HoldPlacement,
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectItem,
    SubjectProbe,
    SubjectQuery,
    SubjectRestriction,
)
from sealwire.contracts.holds import LegalHold
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Invalid
from sealwire.testing.custody import OPENERS, CustodyRoom

ERASURE = SubjectErasure(job_id="job-1", pseudonym="pseudonym-1", limit=2)


@pytest.fixture(params=list(OPENERS))
async def room(request, tmp_path) -> AsyncIterator[CustodyRoom]:
    opened = await OPENERS[request.param](tmp_path)
    yield opened
    await opened.close()


def compliance(room: CustodyRoom) -> Caller:
    return service_caller("compliance", room.tenant_id)


async def items(room: CustodyRoom, subject_id: str, *, limit: int = 1000, tenant_id: str = "") -> list[SubjectItem]:
    caller = service_caller("compliance", tenant_id or room.tenant_id)
    found: list[SubjectItem] = []
    cursor = None
    while True:
        page = await room.custody.export_subject(caller, subject_id, SubjectQuery(limit=limit, cursor=cursor))
        assert len(page.items) <= limit
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


async def erase(room: CustodyRoom, subject_id: str, erasure: SubjectErasure = ERASURE) -> list[SubjectErased]:
    calls = []
    while not calls or not calls[-1].done:
        assert len(calls) < 1000, "the erasure does not end"
        calls.append(await room.custody.erase_subject(compliance(room), subject_id, erasure))
    return calls


async def findings(room: CustodyRoom, subject_id: str, words: tuple[str, ...] = ()) -> dict[str, int]:
    probe = SubjectProbe(words=list(words))
    return (await room.custody.probe_subject(compliance(room), subject_id, probe)).places


def test_operations_are_for_services_and_their_names_are_distinct():
    everything = custody.operations("messaging", custody.SUBJECT, custody.HOLDS, custody.RETENTION)
    assert {operation.policy for operation in everything} == {Policy.SERVICE}
    assert {operation.service for operation in everything} == {"messaging"}
    assert len({operation.name for operation in everything}) == len(everything) == 10
    for operation in everything:
        assert callable(getattr(custody.Custody, operation.name))


@pytest.mark.parametrize("placement", [{}, {"subject_id": "a", "conversation_id": "b"}])
def test_a_hold_covers_exactly_one_thing(placement):
    with pytest.raises(ValueError, match="exactly one"):
        HoldPlacement(**placement)


async def test_only_compliance_may_ask(room):
    person = Principal(kind="user", tenant_id=room.tenant_id, subject=room.subject_id, role=Role.OWNER)
    for caller in (Caller(principal=person), service_caller("media", room.tenant_id)):
        asked = (
            lambda c=caller: room.custody.export_subject(c, room.subject_id, SubjectQuery()),
            lambda c=caller: room.custody.erase_subject(c, room.subject_id, ERASURE),
            lambda c=caller: room.custody.rectify_subject(c, room.subject_id, SubjectChanges(job_id="j")),
            lambda c=caller: room.custody.restrict_subject(c, room.subject_id, SubjectRestriction(restricted=True)),
            lambda c=caller: room.custody.probe_subject(c, room.subject_id, SubjectProbe()),
        )
        for ask in asked:
            with pytest.raises(Forbidden):
                await ask()


async def test_an_export_is_the_same_in_small_parts(room):
    whole = await items(room, room.subject_id)
    if room.exports:
        assert whole
    assert [(i.kind, i.resource_id) for i in await items(room, room.subject_id, limit=1)] == [
        (i.kind, i.resource_id) for i in whole
    ]


async def test_a_cursor_that_is_none_is_refused(room):
    if room.exports:
        with pytest.raises(Invalid):
            await room.custody.export_subject(compliance(room), room.subject_id, SubjectQuery(cursor="% nonsense %"))


async def test_another_tenants_compliance_finds_and_erases_nothing(room):
    before = await items(room, room.subject_id)
    elsewhere = service_caller("compliance", "another-tenant")
    assert await items(room, room.subject_id, tenant_id="another-tenant") == []
    answer = await room.custody.erase_subject(elsewhere, room.subject_id, ERASURE)
    assert answer.done
    assert not any(answer.erased.values())
    assert await items(room, room.subject_id) == before


async def test_erasing_leaves_nothing_of_the_person_and_all_of_others(room):
    other = await items(room, room.other_id)
    if room.exports:
        assert any((await findings(room, room.subject_id)).values())
    calls = await erase(room, room.subject_id)
    assert room.exports <= any(any(call.erased.values()) for call in calls)
    assert await items(room, room.subject_id) == []
    assert set((await findings(room, room.subject_id, room.words)).values()) <= {0}
    assert [(i.kind, i.resource_id) for i in await items(room, room.other_id)] == [
        (i.kind, i.resource_id) for i in other
    ]


async def test_a_check_erases_nothing(room):
    before = await items(room, room.subject_id)
    check = SubjectErasure(job_id="job-1", pseudonym="pseudonym-1", check_only=True)
    answer = await room.custody.erase_subject(compliance(room), room.subject_id, check)
    assert not answer.done
    assert await items(room, room.subject_id) == before


async def test_erasing_twice_is_erasing_once(room):
    await erase(room, room.subject_id)
    again = await erase(room, room.subject_id)
    assert not any(any(call.erased.values()) for call in again)


async def test_of_a_person_nobody_knows_there_is_nothing(room):
    assert await items(room, "nobody-1") == []
    assert len(await erase(room, "nobody-1")) == 1
    changes = SubjectChanges(job_id="job-1", display_name="Somebody")
    assert (await room.custody.rectify_subject(compliance(room), "nobody-1", changes)).changed == {}
    assert set((await findings(room, "nobody-1")).values()) <= {0}


async def test_restriction_keeps_what_is_there(room):
    before = await items(room, room.subject_id)
    for restricted in (True, True, False, False):
        change = SubjectRestriction(restricted=restricted)
        await room.custody.restrict_subject(compliance(room), room.subject_id, change)
        assert await items(room, room.subject_id) == before


async def test_a_hold_on_the_person_keeps_everything_until_it_is_released(room):
    if not room.has_holds:
        pytest.skip("this service holds copies only: the owners of the data keep the holds")
    before = await items(room, room.subject_id)
    for _ in range(2):
        await room.custody.put_hold(compliance(room), "hold-1", HoldPlacement(subject_id=room.subject_id))
    check = SubjectErasure(job_id="job-1", pseudonym="pseudonym-1", check_only=True)
    for erasure in (check, ERASURE):
        with pytest.raises(LegalHold):
            await room.custody.erase_subject(compliance(room), room.subject_id, erasure)
    assert await items(room, room.subject_id) == before
    for _ in range(2):
        await room.custody.release_hold(compliance(room), "hold-1")
    await erase(room, room.subject_id)
    assert await items(room, room.subject_id) == []
