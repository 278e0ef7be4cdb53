"""One person's rights in auth: what an erasure takes and leaves, step by step and after a crash; restriction; putting
right. What every service promises alike is in test_custody.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from sealwire.contracts.api_keys import ApiKeyQuery, ApiKeyRefused, NewApiKey
from sealwire.contracts.credentials import (
    InvitationInvalid,
    NewInvitation,
    ResetConfirmation,
    ResetInvalid,
    ResetRequest,
)
from sealwire.contracts.custody import (
    HoldPlacement,
    OwnersOnly,
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectQuery,
    SubjectRestriction,
)
from sealwire.contracts.logins import BadCredentials, LoginResult
from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.sessions import RefreshInvalid, RefreshRequest, SessionNotFound, SessionQuery
from sealwire.contracts.tenancy import OwnerInvitation, TenantOwned
from sealwire.contracts.users import EmailTaken, LastOwner, Registration, UserChange, UserNotFound, UserQuery
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.files import count_in_files
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Invalid
from sealwire.services.auth.records import Cut, NewRevocation, Reason
from sealwire.testing.auth_room import BOUNDARY, CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.wirings import WIRINGS

COMPLIANCE = service_caller("compliance", "default")
ERASURE = SubjectErasure(job_id="job-1", pseudonym="nobody-1")
RESTRICTED, LIFTED = SubjectRestriction(restricted=True), SubjectRestriction(restricted=False)


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    room = AuthRoom(tmp_path, config=CHEAP, wiring=request.param)
    await room.open()
    yield room
    await room.close()


async def erase(room: AuthRoom, user_id: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _ in range(50):
        answer = await room.auth.erase_subject(COMPLIANCE, user_id, ERASURE)
        for kind, count in answer.erased.items():
            counts[kind] = counts.get(kind, 0) + count
        if answer.done:
            return counts
    raise AssertionError("the erasure does not end")


def _insert(conn: Any, *, row: str, given: dict[str, str]) -> None:
    conn.execute(row, given)


async def people(room: AuthRoom) -> tuple[Caller, Caller, LoginResult]:
    owner, _ = await room.enter("owner")
    await room.add(owner, "anna")
    granted = await room.log_in("anna")
    return owner, room.caller(granted), granted


# ---- erasure


async def test_an_erased_person_is_cut_off_everywhere_and_the_id_never_comes_back(room: AuthRoom) -> None:
    owner, anna, granted = await people(room)
    key = (await room.auth.add_api_key(owner, NewApiKey(name="k", scopes=["read"]))).key
    number = (await room.auth.revocations(BOUNDARY, FeedQuery())).newest
    counts = await erase(room, anna.user_id)
    assert counts["profile"] == counts["session"] == 1
    (entry,) = (await room.auth.revocations(BOUNDARY, FeedQuery(after=number))).items
    assert (entry.kind, entry.subject, entry.reason) == ("subject", anna.user_id, "user_erased")
    with pytest.raises(SessionNotFound):
        await room.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))
    with pytest.raises(RefreshInvalid):
        await room.auth.refresh(somebody(), RefreshRequest(refresh_token=granted.refresh_token))
    with pytest.raises(BadCredentials):
        await room.log_in("anna")
    assert (await room.auth.profiles(BOUNDARY, UserQuery(user_ids=[anna.user_id]))).items == []
    assert [user.user_id for user in (await room.auth.users(owner, Page())).items] == [owner.user_id]
    with pytest.raises(UserNotFound):
        await room.auth.change_user(owner, anna.user_id, UserChange(status="active"))
    with pytest.raises(UserNotFound):
        await room.auth.me(anna)
    again = await room.register("anna")
    assert again != anna.user_id, "the address is free, the id is not"
    assert (await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=key))).owner_id == owner.user_id


async def test_an_erasure_that_is_blocked_after_its_first_step_sends_nothing(room: AuthRoom) -> None:
    _, anna, _ = await people(room)
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    answer = await room.auth.erase_subject(COMPLIANCE, anna.user_id, ERASURE)
    assert (answer.done, answer.erased["letter"]) == (False, 1)
    # A hold that comes now has compliance ask no further; the postman goes on.
    await room.service._post.deliver()
    assert await room.letters() == []


async def test_letters_invitations_and_what_is_sealed_into_events_go_too(room: AuthRoom) -> None:
    owner, anna, _ = await people(room)
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    (kept,) = await room.letters()
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    await room.auth.invite(owner, NewInvitation(email="guest@example.org"))
    before = await room.service.audit_entries(await room.service.events.read(0, 1000))
    assert any(entry.personal for entry in before if entry.subject_id == anna.user_id)
    counts = await erase(room, anna.user_id)
    assert counts["letter"] == 2, "one that was handed over, one that waited"
    assert counts["reset"] == 2
    after = await room.service.audit_entries(await room.service.events.read(0, 1000))
    assert not any(entry.personal for entry in after if anna.user_id in (entry.subject_id, entry.actor.id))
    assert [entry.audit_id for entry in after][: len(before)] == [entry.audit_id for entry in before]
    assert any(entry.personal for entry in after), "of others it stays"
    letters = await room.letters()
    assert [letter["To"] for letter in letters] == ["guest@example.org"]
    token = kept.get_content().split("token=")[1].split()[0]
    with pytest.raises(ResetInvalid):
        await room.auth.confirm_reset(somebody(), ResetConfirmation(token=token, new_password="granite otter plinth 9"))


def sealed_of(room: AuthRoom, user_id: str) -> list[bytes]:
    """Return what is sealed of a person in auth's file: the tenant's key, which opens it, outlives them."""
    conn = apsw.Connection(str(room.folder / "auth.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        sql = "SELECT sealed FROM user WHERE user_id = ?1 UNION SELECT sealed_origin FROM session WHERE user_id = ?1"
        return [bytes(sealed) for (sealed,) in conn.execute(sql, (user_id,))]
    finally:
        conn.close()


@pytest.mark.parametrize("crash_at_the_end", [False, True])
async def test_no_sealed_copy_stays_in_the_files_not_even_in_the_log(room: AuthRoom, crash_at_the_end: bool) -> None:
    _, anna, _ = await people(room)
    sealed = sealed_of(room, anna.user_id)
    assert len(sealed) >= 2
    assert count_in_files([room.folder], sealed) >= len(sealed)
    if crash_at_the_end:  # the last step was stored, its log was not emptied
        await room.auth.erase_subject(COMPLIANCE, anna.user_id, ERASURE)
        await room.storage.stores.subjects.finish_erasing(anna.user_id, [])
        assert count_in_files([room.folder], sealed)
    await erase(room, anna.user_id)
    assert count_in_files([room.folder], sealed) == 0


async def test_events_that_the_audit_relay_has_not_passed_are_waited_for(room: AuthRoom) -> None:
    _, anna, _ = await people(room)
    await room.service.positions.load("auth-audit")
    await room.auth.erase_subject(COMPLIANCE, anna.user_id, ERASURE)
    for _ in range(3):
        assert not (await room.auth.erase_subject(COMPLIANCE, anna.user_id, ERASURE)).done
    before = await room.service.audit_entries(await room.service.events.read(0, 1000))
    assert any(entry.personal for entry in before if entry.subject_id == anna.user_id), "it will be sent as it is"
    await room.service.positions.save("auth-audit", await room.service.events.newest())
    await erase(room, anna.user_id)
    after = await room.service.audit_entries(await room.service.events.read(0, 1000))
    assert not any(entry.personal for entry in after if entry.subject_id == anna.user_id)


async def test_after_a_crash_between_any_two_steps_it_goes_on(room: AuthRoom) -> None:
    _, anna, granted = await people(room)
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    answers: list[SubjectErased] = []
    while not answers or not answers[-1].done:
        answers.append(await room.auth.erase_subject(COMPLIANCE, anna.user_id, ERASURE))
        await room.close()
        await room.open()
        with pytest.raises(SessionNotFound):
            await room.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))
    assert len(answers) > 1
    assert (await room.auth.erase_subject(COMPLIANCE, anna.user_id, ERASURE)) == SubjectErased(done=True)
    assert await room.letters() == []


async def test_what_races_an_erasure_leaves_nothing_behind(room: AuthRoom) -> None:
    _, anna, _ = await people(room)
    racing: list[Callable[[], Awaitable[Any]]] = [
        *(lambda: room.log_in("anna") for _ in range(4)),
        lambda: room.auth.totp_enroll(anna),
        lambda: room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org")),
        lambda: erase(room, anna.user_id),
        lambda: erase(room, anna.user_id),
    ]
    await asyncio.gather(*(act() for act in racing), return_exceptions=True)
    await erase(room, anna.user_id)
    for table in ("session", "totp", "challenge", "reset", "api_key"):
        column = "owner_id" if table == "api_key" else "user_id"
        assert room.storage.db.read(f"SELECT count(*) FROM {table} WHERE {column} = ?", (anna.user_id,)) == [(0,)], (
            table
        )


async def test_the_last_owner_can_t_be_erased_and_two_at_once_leave_one(room: AuthRoom) -> None:
    owner, _, _ = await people(room)
    check = SubjectErasure(job_id="job-1", pseudonym="nobody-1", check_only=True)
    for erasure in (check, ERASURE):
        with pytest.raises(LastOwner):
            await room.auth.erase_subject(COMPLIANCE, owner.user_id, erasure)
    with pytest.raises(LastOwner):
        await room.auth.restrict_subject(COMPLIANCE, owner.user_id, RESTRICTED)
    others = [await room.add(owner, f"o{at}", "owner") for at in range(3)]
    answers = await asyncio.gather(
        room.auth.change_user(owner, owner.user_id, UserChange(role="member")),
        room.auth.change_user(owner, others[0], UserChange(status="disabled")),
        room.auth.erase_subject(COMPLIANCE, others[1], ERASURE),
        room.auth.restrict_subject(COMPLIANCE, others[2], RESTRICTED),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, LastOwner) for answer in answers) == 1, answers
    owners = room.storage.db.read("SELECT count(*) FROM user WHERE role = 'owner' AND status = 'active'")
    assert owners == [(1,)]


async def test_a_tenant_whose_owner_was_erased_is_not_up_for_grabs(room: AuthRoom) -> None:
    owner, _, _ = await people(room)
    await room.add(owner, "second", "owner")
    await erase(room, owner.user_id)
    await room.register("stranger")
    (stranger,) = [
        profile
        for profile in (await room.auth.users(room.caller(await room.log_in("second")), Page())).items
        if profile.email.startswith("stranger")
    ]
    assert stranger.role == "member"
    system = service_caller("gateway", "system")
    with pytest.raises(TenantOwned):
        await room.auth.invite_owner(system, "default", OwnerInvitation(email="x@example.org"))


async def test_whom_an_erased_person_invited_does_not_come_in(room: AuthRoom) -> None:
    owner, _, _ = await people(room)
    admin_id = await room.add(owner, "admin", "admin")
    admin = room.caller(await room.log_in("admin"))
    await room.auth.invite(admin, NewInvitation(email="guest@example.org"))
    (letter,) = await room.letters()
    await erase(room, admin_id)
    token = letter.get_content().split("invitation=")[1].split()[0]
    with pytest.raises(InvitationInvalid):
        await room.auth.register(
            somebody(),
            Registration(email="guest@example.org", password=PASSWORD, display_name="Guest", invitation=token),
        )


# ---- restriction


async def test_a_restricted_person_can_t_use_anything_and_comes_back_as_before(room: AuthRoom) -> None:
    owner, anna, granted = await people(room)
    ben_id = await room.add(owner, "ben")
    await room.auth.change_user(owner, ben_id, UserChange(status="disabled"))
    key = (await room.auth.add_api_key(owner, NewApiKey(name="k", scopes=["read"]))).key
    for user_id in (anna.user_id, ben_id):
        await room.auth.restrict_subject(COMPLIANCE, user_id, RESTRICTED)
        with pytest.raises(Forbidden):
            await room.auth.change_user(owner, user_id, UserChange(status="active"))
    assert not (await room.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))).active
    with pytest.raises(BadCredentials):
        await room.log_in("anna")
    (profile,) = (await room.auth.profiles(BOUNDARY, UserQuery(user_ids=[anna.user_id]))).items
    assert (profile.active, profile.display_name) == (False, "Anna"), "kept, and not processed"
    await room.close()
    await room.open()
    for user_id in (anna.user_id, ben_id):
        await room.auth.restrict_subject(COMPLIANCE, user_id, LIFTED)
    assert (await room.log_in("anna")).session_id
    with pytest.raises(BadCredentials):
        await room.log_in("ben")
    with pytest.raises(RefreshInvalid):
        await room.auth.refresh(somebody(), RefreshRequest(refresh_token=granted.refresh_token))
    assert (await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=key))).owner_id == owner.user_id
    await room.auth.restrict_subject(COMPLIANCE, owner.user_id, LIFTED)
    with pytest.raises(ApiKeyRefused):
        await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=key[:-1] + "_"))


async def test_the_keys_of_a_restricted_person_end_and_do_not_come_back(room: AuthRoom) -> None:
    owner, _, _ = await people(room)
    admin_id = await room.add(owner, "adam", "admin")
    admin = room.caller(await room.log_in("adam"))
    key = (await room.auth.add_api_key(admin, NewApiKey(name="k", scopes=["read"]))).key
    assert (await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=key))).owner_id == admin_id
    for change in (RESTRICTED, LIFTED):
        await room.auth.restrict_subject(COMPLIANCE, admin_id, change)
        with pytest.raises(ApiKeyRefused):
            await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=key))


async def test_a_restricted_person_can_be_erased(room: AuthRoom) -> None:
    _, anna, _ = await people(room)
    await room.auth.restrict_subject(COMPLIANCE, anna.user_id, RESTRICTED)
    assert (await erase(room, anna.user_id))["profile"] == 1


# ---- putting right


async def test_a_new_address_is_where_the_person_is_found_and_the_old_one_is_nobodys(room: AuthRoom) -> None:
    owner, anna, granted = await people(room)
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    number = (await room.auth.revocations(BOUNDARY, FeedQuery())).newest
    changes = SubjectChanges(job_id="job-1", email="anne@example.org", display_name="Anne")
    assert (await room.auth.rectify_subject(COMPLIANCE, anna.user_id, changes)).changed == {"profile": 1}
    assert (await room.auth.rectify_subject(COMPLIANCE, anna.user_id, changes)).changed == {}
    entries = (await room.auth.revocations(BOUNDARY, FeedQuery(after=number))).items
    assert [entry.kind for entry in entries] == ["role"], "who holds the old address asks again"
    state = await room.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))
    assert (state.active, state.email) == (True, "anne@example.org")
    assert (await room.log_in("anne")).user.display_name == "Anne"  # type: ignore[union-attr]  # a login has one
    with pytest.raises(BadCredentials):
        await room.log_in("anna")
    (notice,) = await room.letters()
    assert str(notice["Subject"]) == "Sealwire: your e-mail address was changed", "not the letter that waited for it"
    with pytest.raises(EmailTaken):
        await room.auth.rectify_subject(
            COMPLIANCE, anna.user_id, SubjectChanges(job_id="job-2", email="owner@example.org")
        )
    assert owner.user_id != anna.user_id


async def asked_by_an_admin(room: AuthRoom, kind: str, user_id: str) -> Any:
    if kind == "restrict":
        return await room.auth.restrict_subject(
            COMPLIANCE, user_id, SubjectRestriction(restricted=True, spares_owners=True)
        )
    if kind == "rectify":
        changes = SubjectChanges(job_id="job-1", display_name="Mine", spares_owners=True)
        return await room.auth.rectify_subject(COMPLIANCE, user_id, changes)
    erasure = SubjectErasure(job_id="job-1", pseudonym="nobody-1", spares_owners=True)
    return await room.auth.erase_subject(COMPLIANCE, user_id, erasure)


@pytest.mark.parametrize("kind", ["restrict", "rectify", "erase"])
async def test_who_becomes_an_owner_at_the_same_moment_is_spared(room: AuthRoom, kind: str) -> None:
    owner, _ = await room.enter("owner")
    for steps in range(0, 24, 1 if room.wiring == "direct" else 4):  # whichever comes first by how much
        user_id = await room.add(owner, f"person{steps}")
        promotion = asyncio.create_task(room.auth.change_user(owner, user_id, UserChange(role="owner")))
        for _ in range(steps):
            await asyncio.sleep(0)
        acting = asyncio.create_task(asked_by_an_admin(room, kind, user_id))
        await asyncio.wait({promotion, acting})
        entries = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
        told = [entry.reason for entry in entries if entry.subject == user_id]
        assert "role_changed" not in told[:-1], f"{steps}: {told}"
        if told == ["role_changed"]:  # an erasure that saw another role just says that it is not done
            assert isinstance(acting.exception(), OwnersOnly) or not acting.result().erased, steps
            with pytest.raises(OwnersOnly):
                await asked_by_an_admin(room, kind, user_id)
        else:
            assert acting.exception() is None, steps


async def test_a_restriction_that_is_not_lifted_keeps_what_it_will_go_back_to(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    ben_id = await room.add(owner, "ben")
    await room.auth.change_user(owner, ben_id, UserChange(status="disabled"))
    await room.auth.restrict_subject(COMPLIANCE, ben_id, RESTRICTED)
    revocation = NewRevocation(
        change_id="c-1", kind="role", tenant_id="default", at_us=1, expires_at_s=0, reason=Reason.ENABLED,
        subject=ben_id,
    )  # fmt: skip
    cut = Cut(
        tenant_id="default", user_id=ben_id, reason=Reason.ENABLED, revocation=revocation, ends_sessions=False,
        status="disabled", from_status="restricted", expected_role=Role.GUEST,
    )  # fmt: skip
    subjects = room.storage.stores.subjects
    assert not await subjects.release(cut, [])
    assert await subjects.kept_status(ben_id) == "disabled"
    await room.auth.restrict_subject(COMPLIANCE, ben_id, LIFTED)
    with pytest.raises(BadCredentials):
        await room.log_in("ben")


async def test_an_export_tells_what_auth_has(room: AuthRoom) -> None:
    _, anna, _ = await people(room)
    given = {"anna": anna.user_id}
    for row in (
        "INSERT INTO openid_consent VALUES ($anna, 'app-1', 'openid', 1)",
        "INSERT INTO external_identity VALUES ('i-1', 'default', $anna, 'corp', 'https://corp.example', x'01', 1)",
        "INSERT INTO passkey VALUES ('p-1', 'default', $anna, x'02', x'', x'', 0, 0, 1, 0, 0)",
    ):
        await room.storage.db.write(partial(_insert, row=row, given=given))
    profile, cursor = await room.auth.export_subject(COMPLIANCE, anna.user_id, SubjectQuery()), ""
    assert profile.items[0].data["email"] == "anna@example.org"
    cursor = profile.next_cursor or ""
    (session,) = (await room.auth.export_subject(COMPLIANCE, anna.user_id, SubjectQuery(cursor=cursor))).items
    kinds = set()
    while cursor:
        page = await room.auth.export_subject(COMPLIANCE, anna.user_id, SubjectQuery(cursor=cursor))
        kinds |= {item.kind for item in page.items}
        cursor = page.next_cursor or ""
    assert kinds == {"session", "consent", "identity", "passkey"}
    assert (session.data["ip_address"], session.data["user_agent"]) == ("192.0.2.7", "test/1.0")


async def test_what_does_not_open_keeps_nobody_from_their_rights(room: AuthRoom) -> None:
    owner, anna, _ = await people(room)
    for column in ("user SET sealed", "session SET sealed_origin"):
        row = f"UPDATE {column} = x'00' WHERE user_id = $anna"
        await room.storage.db.write(partial(_insert, row=row, given={"anna": anna.user_id}))
    page = await room.auth.export_subject(COMPLIANCE, anna.user_id, SubjectQuery())
    found = page.items
    while page.next_cursor:
        page = await room.auth.export_subject(COMPLIANCE, anna.user_id, SubjectQuery(cursor=page.next_cursor))
        found = [*found, *page.items]
    assert {item.kind: item.data.get("damaged") for item in found} == {"profile": True, "session": True}
    assert found[0].data["role"] == "member"
    with pytest.raises(Invalid):
        await room.auth.rectify_subject(COMPLIANCE, anna.user_id, SubjectChanges(job_id="j", display_name="Anna"))
    await room.auth.restrict_subject(COMPLIANCE, anna.user_id, RESTRICTED)
    assert (await erase(room, anna.user_id))["profile"] == 1
    assert [user.user_id for user in (await room.auth.users(owner, Page())).items] == [owner.user_id]


async def test_a_hold_wins_over_an_erasure_that_runs_beside_it(room: AuthRoom) -> None:
    _, anna, granted = await people(room)
    await asyncio.gather(
        room.auth.put_hold(COMPLIANCE, "hold-1", HoldPlacement(subject_id=anna.user_id)),
        room.auth.erase_subject(COMPLIANCE, anna.user_id, ERASURE),
        return_exceptions=True,
    )
    (count,) = room.storage.db.read("SELECT count(*) FROM user WHERE user_id = ?", (anna.user_id,))[0]
    if count:
        assert await room.is_live(granted)
    await room.auth.release_hold(COMPLIANCE, "hold-1")
