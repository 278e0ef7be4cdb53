"""The promises of a change of address: proved by a letter to the new one, told to the old one, void when it has to."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sealwire.contracts.addresses import EmailChange, EmailChangeInvalid, EmailConfirmation
from sealwire.contracts.credentials import ResetConfirmation, ResetRequest
from sealwire.contracts.custody import SubjectChanges, SubjectErasure, SubjectProbe, SubjectQuery
from sealwire.contracts.logins import BadCredentials, Login, PasswordChange, TooManyAttempts
from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.tokens import SigningRotation
from sealwire.contracts.users import EmailTaken, ProfileChange, UserChange, UserNotFound
from sealwire.kit.caller import service_caller
from sealwire.kit.problem import Forbidden, Invalid
from sealwire.testing.auth_room import BOUNDARY, PASSWORD, AuthRoom, somebody
from sealwire.testing.wirings import WIRINGS

NEW = "anna@new.example"
DAY_S = 86_400
CUSTODIAN = service_caller("compliance", "default")


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


async def tokens(room: AuthRoom, to: str) -> list[str]:
    return [
        found
        for letter in await room.letters()
        if letter["To"] == to
        for found in re.findall(r"token=(swe1\.[\w-]+)", letter.get_content())
    ]


async def told(room: AuthRoom, to: str) -> list[str]:
    return sorted(str(letter["Subject"]) for letter in await room.letters() if letter["To"] == to)


async def confirm(room: AuthRoom, token: str) -> None:
    assert (await room.auth.confirm_email(somebody(), EmailConfirmation(token=token))).changed


async def log_in(room: AuthRoom, email: str) -> str:
    return (await room.auth.login(somebody(), Login(email=email, password=PASSWORD))).session_id


async def test_the_old_address_holds_until_the_new_one_is_proved(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    assert (await room.auth.change_email(anna, EmailChange(email=NEW))).accepted
    (token,) = await tokens(room, NEW)
    assert (await room.auth.me(anna)).email == "anna@example.org"
    with pytest.raises(BadCredentials):
        await log_in(room, NEW)
    newest = (await room.auth.revocations(BOUNDARY, FeedQuery())).newest

    await confirm(room, token)
    assert (await room.auth.me(anna)).email == NEW
    assert await log_in(room, NEW)
    with pytest.raises(BadCredentials):
        await log_in(room, "anna@example.org")
    (entry,) = (await room.auth.revocations(BOUNDARY, FeedQuery(after=newest))).items
    assert (entry.kind, entry.subject, entry.reason) == ("role", anna.user_id, "email_changed")
    assert entry.epoch == anna.principal.epoch + 1
    assert await room.is_live(granted), "who proved a new address need not log in again"
    with pytest.raises(EmailChangeInvalid):
        await room.auth.confirm_email(somebody(), EmailConfirmation(token=token))

    assert await told(room, "anna@example.org") == [
        "Sealwire: another e-mail address was asked for", "Sealwire: your e-mail address was changed"
    ]  # fmt: skip
    assert await told(room, NEW) == ["Confirm your new e-mail address for Sealwire"]
    assert not [letter for letter in await room.letters() if "Anna" in letter.get_content() and letter["To"] == NEW]


async def test_a_token_dies_of_age_of_another_one_and_of_a_new_password(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email=NEW))
    await room.auth.change_email(anna, EmailChange(email="third@new.example"))
    (replaced,), (old,) = await tokens(room, NEW), await tokens(room, "third@new.example")
    room.advance(room.config.email_change_ttl_s + 1)
    await room.auth.change_email(anna, EmailChange(email="fourth@new.example"))
    (void,) = await tokens(room, "fourth@new.example")
    await room.auth.change_password(anna, PasswordChange(current_password=PASSWORD, new_password="lantern otter seven"))
    for token in (replaced, old, void, "swe1.nonsense"):
        with pytest.raises(EmailChangeInvalid):
            await room.auth.confirm_email(somebody(), EmailConfirmation(token=token))


async def test_a_reset_of_the_password_voids_what_a_thief_asked_for(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email=NEW))
    (theirs,) = await tokens(room, NEW)
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    texts = [letter.get_content() for letter in await room.letters()]
    (reset,) = [found for text in texts for found in re.findall(r"token=(swp1\.[\w-]+)", text)]
    await room.auth.confirm_reset(somebody(), ResetConfirmation(token=reset, new_password="lantern otter seven"))
    with pytest.raises(EmailChangeInvalid):
        await confirm(room, theirs)


async def test_of_many_who_confirm_at_once_one_does(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email=NEW))
    (token,) = await tokens(room, NEW)
    done = await asyncio.gather(*(confirm(room, token) for _ in range(8)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["EmailChangeInvalid"] * 7 + ["NoneType"]


async def test_a_name_changed_at_the_same_moment_stays(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email=NEW))
    (token,) = await tokens(room, NEW)
    await asyncio.gather(confirm(room, token), room.auth.change_me(anna, ProfileChange(display_name="Anna B.")))
    me = await room.auth.me(anna)
    assert (me.email, me.display_name) == (NEW, "Anna B.")


async def test_who_asks_does_not_hear_whether_an_address_is_taken(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    await room.register("bob")
    free = await room.auth.change_email(anna, EmailChange(email=NEW))
    assert await room.auth.change_email(anna, EmailChange(email="bob@example.org")) == free
    assert await tokens(room, "bob@example.org") == []
    assert await told(room, "anna@example.org") == ["Sealwire: another e-mail address was asked for"] * 2
    kept = await room.service.audit_entries(await room.service.events.read(0, 1_000))
    about = {(each.outcome, str(each.metadata)) for each in kept if each.action == "auth.email-change.asked"}
    assert len(about) == 1, "what is kept of both is in the person's export"
    (token,) = await tokens(room, NEW)
    with pytest.raises(EmailChangeInvalid):
        await confirm(room, token)


async def test_an_address_that_was_taken_meanwhile_is_taken(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email="carol@example.org"))
    (token,) = await tokens(room, "carol@example.org")
    await room.register("carol")
    with pytest.raises(EmailTaken):
        await confirm(room, token)
    assert (await room.auth.me(anna)).email == "anna@example.org"


async def test_letters_to_new_addresses_are_few(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    with pytest.raises(Invalid):
        await room.auth.change_email(anna, EmailChange(email="anna@example.org"))
    for number in range(room.config.email_changes_per_hour):
        await room.auth.change_email(anna, EmailChange(email=f"anna{number}@new.example"))
    with pytest.raises(TooManyAttempts):
        await room.auth.change_email(anna, EmailChange(email=NEW))
    room.advance(3_601)
    assert (await room.auth.change_email(anna, EmailChange(email=NEW))).accepted


async def test_another_way_to_write_the_same_address_is_a_change(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email="Anna@example.org"))
    (token,) = await tokens(room, "Anna@example.org")
    await confirm(room, token)
    assert (await room.auth.me(anna)).email == "Anna@example.org"


async def test_an_administrator_asks_and_the_person_proves(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    admin_id, anna_id = await room.add(owner, "admin", "admin"), await room.add(owner, "anna")
    await room.add(owner, "other", "admin")
    admin = room.caller(await room.log_in("admin"))
    assert (await room.auth.change_email_of(admin, anna_id, EmailChange(email=NEW))).accepted
    assert any("By: an administrator" in letter.get_content() for letter in await room.letters())
    (token,) = await tokens(room, NEW)
    await confirm(room, token)
    assert await log_in(room, NEW)
    with pytest.raises(EmailTaken):
        await room.auth.change_email_of(admin, anna_id, EmailChange(email="owner@example.org"))
    for above in (owner.user_id, (await room.auth.me(room.caller(await room.log_in("other")))).user_id, admin_id):
        with pytest.raises(Forbidden):
            await room.auth.change_email_of(admin, above, EmailChange(email="thief@new.example"))
    with pytest.raises(Forbidden):
        await room.auth.change_email_of(somebody(), anna_id, EmailChange(email=NEW))
    with pytest.raises(UserNotFound):
        await room.auth.change_email_of(owner, "0190-nobody", EmailChange(email=NEW))
    assert (await room.auth.change_email_of(owner, admin_id, EmailChange(email="a@new.example"))).accepted


async def test_a_disabled_person_proves_nothing(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    anna_id = await room.add(owner, "anna")
    await room.auth.change_email(room.caller(await room.log_in("anna")), EmailChange(email=NEW))
    (token,) = await tokens(room, NEW)
    await room.auth.change_user(owner, anna_id, UserChange(status="disabled"))
    await room.auth.change_user(owner, anna_id, UserChange(status="active"))
    with pytest.raises(EmailChangeInvalid):
        await confirm(room, token)


async def test_who_rises_is_not_taken_over_by_what_was_asked_before(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    await room.add(owner, "admin", "admin")
    anna_id = await room.add(owner, "anna")
    admin = room.caller(await room.log_in("admin"))
    await room.auth.change_email_of(admin, anna_id, EmailChange(email="admins@own.example"))
    (token,) = await tokens(room, "admins@own.example")
    await room.auth.change_user(owner, anna_id, UserChange(role="owner"))
    with pytest.raises(EmailChangeInvalid):
        await confirm(room, token)


@pytest.mark.parametrize("fate", ["demoted", "disabled", "disabled for a while", "erased", "new password", "risen"])
async def test_what_an_administrator_asked_for_ends_with_them(room: AuthRoom, fate: str) -> None:
    owner, _ = await room.enter("owner")
    admin_id, anna_id = await room.add(owner, "admin", "admin"), await room.add(owner, "anna")
    admin = room.caller(await room.log_in("admin"))
    await room.auth.change_email_of(admin, anna_id, EmailChange(email="admins@own.example"))
    (token,) = await tokens(room, "admins@own.example")
    if fate == "demoted":
        await room.auth.change_user(owner, admin_id, UserChange(role="auditor"))
    elif fate == "erased":
        await room.auth.erase_subject(CUSTODIAN, admin_id, SubjectErasure(job_id="job-4", pseudonym="p-1"))
    elif fate == "new password":
        change = PasswordChange(current_password=PASSWORD, new_password="lantern otter seven")
        await room.auth.change_password(admin, change)
    elif fate == "risen":
        await room.auth.change_user(owner, admin_id, UserChange(role="member"))
        await room.auth.change_user(owner, admin_id, UserChange(role="admin"))
    else:
        await room.auth.change_user(owner, admin_id, UserChange(status="disabled"))
        if fate == "disabled for a while":
            await room.auth.change_user(owner, admin_id, UserChange(status="active"))
    with pytest.raises(EmailChangeInvalid):
        await confirm(room, token)
    assert (await room.log_in("anna")).access_token, "the address is as it was"


async def test_who_asked_is_looked_at_when_it_is_proved(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    admin_id, anna_id = await room.add(owner, "admin", "admin"), await room.add(owner, "anna")
    admin = room.caller(await room.log_in("admin"))  # by their token still one, for a moment
    await room.auth.change_user(owner, admin_id, UserChange(role="member"))
    await room.service.change_email_of(admin, anna_id, EmailChange(email="admins@own.example"))
    (token,) = await tokens(room, "admins@own.example")
    with pytest.raises(EmailChangeInvalid):
        await confirm(room, token)


async def test_a_demotion_at_the_moment_of_the_proof_is_before_it_or_after_it(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    admin_id, anna_id = await room.add(owner, "admin", "admin"), await room.add(owner, "anna")
    admin = room.caller(await room.log_in("admin"))
    await room.auth.change_email_of(admin, anna_id, EmailChange(email=NEW))
    (token,) = await tokens(room, NEW)
    proof, demotion = (
        asyncio.create_task(confirm(room, token)),
        asyncio.create_task(room.auth.change_user(owner, admin_id, UserChange(role="member"))),
    )
    await asyncio.wait({proof, demotion})
    reasons = [entry.reason for entry in (await room.auth.revocations(BOUNDARY, FeedQuery())).items]
    expected = ["role_changed"] if proof.exception() else ["email_changed", "role_changed"]
    assert reasons[-len(expected) :] == expected


async def test_a_compromised_key_ends_what_waits(room: AuthRoom) -> None:
    machine = service_caller("gateway", "system")
    await room.enter("owner")
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email=NEW))
    (token,) = await tokens(room, NEW)
    await room.auth.rotate_signing(machine, SigningRotation(compromised=True))
    with pytest.raises(EmailChangeInvalid):
        await confirm(room, token)


async def test_putting_an_address_right_is_direct_and_the_old_one_hears_of_it(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    before = anna.principal.epoch
    await room.auth.rectify_subject(CUSTODIAN, anna.user_id, SubjectChanges(job_id="job-1", email=NEW))
    assert await log_in(room, NEW)
    (letter,) = [letter for letter in await room.letters() if letter["To"] == "anna@example.org"]
    assert letter["Subject"] == "Sealwire: your e-mail address was changed"
    assert "By: an administrator" in letter.get_content()
    assert "Anna" not in letter.get_content()
    newest = (await room.auth.revocations(BOUNDARY, FeedQuery())).items[-1]
    assert (newest.reason, newest.epoch) == ("user_rectified", before + 1)
    (entry,) = [
        entry
        for entry in await room.service.audit_entries(await room.service.events.read(0, 1_000))
        if entry.action == "auth.profile.changed"
    ]
    assert entry.personal["email_before"] == "anna@example.org"


async def test_an_erasure_finds_letters_to_an_address_that_was_never_proved(room: AuthRoom) -> None:
    await room.enter("owner")
    anna, _ = await room.enter("anna")
    bob, _ = await room.enter("bob")
    await room.auth.change_email(anna, EmailChange(email=NEW))
    await room.auth.change_email(anna, EmailChange(email="bob@example.org"))
    await room.auth.change_password(bob, PasswordChange(current_password=PASSWORD, new_password="lantern otter seven"))
    assert {letter["To"] for letter in await room.letters()} == {NEW, "anna@example.org", "bob@example.org"}
    async with asyncio.timeout(30):
        while not (
            await room.auth.erase_subject(CUSTODIAN, anna.user_id, SubjectErasure(job_id="job-3", pseudonym="p-1"))
        ).done:
            pass
    assert [letter["To"] for letter in await room.letters()] == ["bob@example.org"], "his letters are his"


async def erase(room: AuthRoom, user_id: str) -> None:
    async with asyncio.timeout(30):
        erasure = SubjectErasure(job_id="job-5", pseudonym="p-1")
        while not (await room.auth.erase_subject(CUSTODIAN, user_id, erasure)).done:
            pass


async def test_an_erasure_finds_letters_to_every_address_there_was(room: AuthRoom) -> None:
    await room.enter("owner")
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email=NEW))
    (token,) = await tokens(room, NEW)
    await confirm(room, token)
    assert len(await room.letters()) == 3
    (profile,) = (await room.auth.export_subject(CUSTODIAN, anna.user_id, SubjectQuery())).items
    assert profile.data["former_emails"] == ["anna@example.org"]
    async with asyncio.timeout(30):
        while not (
            await room.auth.erase_subject(CUSTODIAN, anna.user_id, SubjectErasure(job_id="job-2", pseudonym="p-1"))
        ).done:
            pass
    assert await room.letters() == []
    found = await room.auth.probe_subject(CUSTODIAN, anna.user_id, SubjectProbe(words=["anna@example.org", NEW]))
    assert {place: count for place, count in found.places.items() if count} == {}


async def test_an_erasure_finds_letters_to_an_address_that_was_asked_for_long_ago(room: AuthRoom) -> None:
    await room.enter("owner")
    anna, _ = await room.enter("anna")
    bob, _ = await room.enter("bob")
    for email in (NEW, "bob@example.org"):
        await room.auth.change_email(anna, EmailChange(email=email))
    await room.auth.change_password(bob, PasswordChange(current_password=PASSWORD, new_password="lantern otter seven"))
    await room.letters()
    room.advance(20 * DAY_S)
    await room.service.upkeep.sweep()
    (profile,) = (await room.auth.export_subject(CUSTODIAN, anna.user_id, SubjectQuery())).items
    assert sorted(profile.data["unproved_emails"]) == [NEW, "bob@example.org"], "as she asked, whoever has them"
    assert profile.telling == [NEW], "letters to the other are somebody else's"
    await erase(room, anna.user_id)
    assert [letter["To"] for letter in await room.letters()] == ["bob@example.org"]


async def test_an_erasure_finds_letters_to_more_addresses_than_a_person_remembers(room: AuthRoom) -> None:
    await room.enter("owner")
    anna, _ = await room.enter("anna")
    asked = [f"anna{number}@new.example" for number in range(6)]
    for email in asked:
        await room.auth.change_email(anna, EmailChange(email=email))
        (token,) = await tokens(room, email)
        await confirm(room, token)
    (profile,) = (await room.auth.export_subject(CUSTODIAN, anna.user_id, SubjectQuery())).items
    assert sorted(profile.data["former_emails"]) == sorted(["anna@example.org", *asked[:-1]])
    assert "unproved_emails" not in profile.data
    await erase(room, anna.user_id)
    assert await room.letters() == []


async def test_letters_of_others_at_an_address_somebody_had_before_are_left_alone(room: AuthRoom) -> None:
    await room.enter("owner")
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email=NEW))
    (token,) = await tokens(room, NEW)
    await confirm(room, token)
    heir, _ = await room.enter("anna")
    await room.auth.change_password(heir, PasswordChange(current_password=PASSWORD, new_password="lantern otter seven"))
    before = await told(room, "anna@example.org")
    assert "Sealwire: your password was changed" in before
    await erase(room, anna.user_id)
    assert await told(room, "anna@example.org") == before
    assert await told(room, NEW) == []


async def test_an_address_is_forgotten_once_no_letter_to_it_can_lie_anywhere(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    await room.auth.change_email(anna, EmailChange(email=NEW))
    room.advance(34 * DAY_S)
    await room.service.upkeep.sweep()
    (profile,) = (await room.auth.export_subject(CUSTODIAN, anna.user_id, SubjectQuery())).items
    assert "unproved_emails" not in profile.data
