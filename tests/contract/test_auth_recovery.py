"""The promises to who is locked out: fresh codes for oneself, a reset by who ranks higher, and everything open ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sealwire.contracts.api_keys import ApiKeyQuery, ApiKeyRefused, NewApiKey
from sealwire.contracts.credentials import ResetConfirmation, ResetRequest
from sealwire.contracts.custody import SubjectRestriction
from sealwire.contracts.logins import (
    BadCredentials,
    LoginResult,
    MfaAnswer,
    MfaFailed,
    TooManyAttempts,
    TotpCode,
)
from sealwire.contracts.passkeys import PasskeyLoginStart, PasskeyRefused
from sealwire.contracts.recovery import LockedOut, NoSecondFactor
from sealwire.contracts.revocations import FeedQuery, Revocation
from sealwire.contracts.users import NewUser, UserChange, UserNotFound
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.permission import Role
from sealwire.kit.problem import Conflict, Forbidden
from sealwire.services.auth.model import check_outranks
from sealwire.testing.auth_room import BOUNDARY, PASSWORD, AuthRoom, somebody
from sealwire.testing.authenticator import Bent, SoftAuthenticator
from sealwire.testing.wirings import WIRINGS

ORIGIN = "https://sealwire.local"
MACHINE = service_caller("gateway", "system")


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


async def app_of(room: AuthRoom, caller: Caller) -> list[str]:
    secret = (await room.auth.totp_enroll(caller)).secret
    return (await room.auth.totp_confirm(caller, TotpCode(code=room.app_code(secret)))).recovery_codes


async def passkey_of(room: AuthRoom, caller: Caller) -> SoftAuthenticator:
    device = SoftAuthenticator(ORIGIN)
    await room.auth.passkey_register(caller, device.create(await room.auth.passkey_register_options(caller)))
    return device


async def by_code(room: AuthRoom, name: str, recovery: str) -> LoginResult:
    asked = await room.log_in(name)
    return await room.auth.mfa_verify(
        somebody(), MfaAnswer(mfa_token=asked.mfa_token, method="recovery", code=recovery)
    )


async def subjects(room: AuthRoom) -> list[str]:
    return [str(letter["Subject"]) for letter in await room.letters()]


async def test_new_recovery_codes_replace_the_old_ones(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    with pytest.raises(NoSecondFactor):
        await room.auth.new_recovery_codes(anna)
    old = await app_of(room, anna)
    new = (await room.auth.new_recovery_codes(anna)).recovery_codes
    assert len(new) == 10
    assert not set(new) & set(old)
    with pytest.raises(MfaFailed):
        await by_code(room, "anna", old[0])
    assert (await by_code(room, "anna", new[0])).access_token
    assert "Sealwire: new recovery codes were made" in await subjects(room)


async def test_an_administrator_lets_a_locked_out_person_in_again(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    anna_id = await room.add(owner, "anna")
    granted = await room.log_in("anna")
    anna = room.caller(granted)
    codes = await app_of(room, anna)
    device = await passkey_of(room, anna)
    newest = (await room.auth.revocations(BOUNDARY, FeedQuery())).newest

    await room.auth.reset_factors(owner, anna_id)
    assert not await room.is_live(granted)
    (entry,) = (await room.auth.revocations(BOUNDARY, FeedQuery(after=newest))).items
    assert (entry.kind, entry.subject, entry.reason) == ("subject", anna_id, "factors_reset")
    options = await room.auth.passkey_login_options(somebody(), PasskeyLoginStart())
    with pytest.raises(PasskeyRefused):
        await room.auth.passkey_login(somebody(), device.get(options))
    again = await room.log_in("anna")
    assert again.access_token, "the password is as it was"
    assert again.user is not None
    assert not again.user.mfa
    fresh = await app_of(room, room.caller(again))
    with pytest.raises(MfaFailed):
        await by_code(room, "anna", codes[0])
    assert (await by_code(room, "anna", fresh[0])).access_token
    assert "Sealwire: your second factors were reset" in await subjects(room)
    told = await room.service.audit_entries(await room.service.events.read(0, 1_000))
    (entry_of_it,) = [entry for entry in told if entry.action == "auth.factors.reset"]
    assert (entry_of_it.actor.id, entry_of_it.subject_id) == (owner.user_id, anna_id)


async def test_a_suspended_passkey_without_codes_is_a_way_back_all_the_same(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    anna_id = await room.add(owner, "anna")
    anna = room.caller(await room.log_in("anna"))
    device = SoftAuthenticator(ORIGIN)
    added = await room.auth.passkey_register(anna, device.create(await room.auth.passkey_register_options(anna)))
    for recovery in added.recovery_codes:
        await by_code(room, "anna", recovery)
    for _ in range(2):
        options = await room.auth.passkey_login_options(somebody(), PasskeyLoginStart())
        with suppress(PasskeyRefused):
            await room.auth.passkey_login(somebody(), device.get(options, Bent(sign_count=7)))
    assert (await room.log_in("anna")).methods == [], "nothing is left that would finish it"
    await room.auth.reset_factors(owner, anna_id)
    assert (await room.log_in("anna")).access_token


async def test_what_a_reset_ends_is_what_every_cut_ends(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    admin_id = await room.add(owner, "admin", "admin")
    admin = room.caller(await room.log_in("admin"))
    key = (await room.auth.add_api_key(admin, NewApiKey(name="robot", scopes=["post"]))).key
    await app_of(room, admin)
    waiting = await room.log_in("admin")
    await room.auth.reset_factors(owner, admin_id)
    with pytest.raises(ApiKeyRefused):
        await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=key))
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(somebody(), MfaAnswer(mfa_token=waiting.mfa_token, method="totp", code="000000"))
    newest = (await room.auth.revocations(BOUNDARY, FeedQuery())).newest
    await room.auth.reset_factors(owner, admin_id)
    assert (await room.auth.revocations(BOUNDARY, FeedQuery())).newest == newest, "there is nothing left to take"


async def test_who_ranks_no_higher_resets_nobody(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    admin_id, anna_id = await room.add(owner, "admin", "admin"), await room.add(owner, "anna")
    second_id = await room.add(owner, "second", "owner")
    peer_id = await room.add(owner, "peer", "admin")
    admin, anna = room.caller(await room.log_in("admin")), room.caller(await room.log_in("anna"))
    for by, of in (
        (admin, owner.user_id),
        (admin, peer_id),
        (admin, admin_id),
        (anna, admin_id),
        (owner, owner.user_id),
    ):
        with pytest.raises(Forbidden):
            await room.auth.reset_factors(by, of)
    with pytest.raises(UserNotFound):
        await room.auth.reset_factors(owner, "0190-nobody")
    for by, of in ((admin, anna_id), (owner, peer_id), (owner, second_id)):
        await app_of(room, room.caller(await room.log_in({anna_id: "anna", peer_id: "peer", second_id: "second"}[of])))
        await room.auth.reset_factors(by, of)


async def test_an_administrator_starts_a_reset_and_never_knows_the_password(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    anna_id = await room.add(owner, "anna")
    granted = await room.log_in("anna")
    await room.auth.send_reset(owner, anna_id)
    assert await room.is_live(granted), "asking changes nothing"
    letter = (await room.letters())[-1]
    assert str(letter["To"]) == "anna@example.org"
    assert "an administrator asked" in letter.get_content()
    await confirm(room, letter.get_content(), "lantern otter seven")
    assert not await room.is_live(granted)
    assert (await room.log_in("anna", password="lantern otter seven")).access_token
    for _ in range(room.config.resets_per_hour):
        await room.auth.send_reset(owner, anna_id)
    with pytest.raises(TooManyAttempts):
        await room.auth.send_reset(owner, anna_id)
    await room.auth.change_user(owner, anna_id, UserChange(status="disabled"))
    with pytest.raises(Conflict):
        await room.auth.send_reset(owner, anna_id)
    told = await room.service.audit_entries(await room.service.events.read(0, 1_000))
    asked = [entry for entry in told if entry.action == "auth.password-reset.asked"]
    assert {(entry.actor.id, entry.subject_id) for entry in asked} == {(owner.user_id, anna_id)}
    sent = room.config.resets_per_hour + 1
    assert [entry.outcome for entry in asked] == ["success"] * sent + ["denied"], "no letter went, and the log says so"


async def test_whoever_floods_with_resets_keeps_no_administrator_from_sending_one(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    anna_id = await room.add(owner, "anna")
    most = room.config.resets_per_hour
    for _ in range(most + 3):
        await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    for _ in range(most):
        await room.auth.send_reset(owner, anna_id)
    with pytest.raises(TooManyAttempts):
        await room.auth.send_reset(owner, anna_id)
    assert len(await room.letters()) == 2 * most
    await confirm(room, (await room.letters())[most - 1].get_content(), "lantern otter seven")
    assert (await room.log_in("anna", password="lantern otter seven")).access_token


async def test_who_is_made_without_a_password_sets_it_themself(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    new = NewUser(email="anna@example.org", display_name="Anna")
    made = await room.auth.add_user(owner, new)
    assert made.status == "active"
    hashes = room.service.hasher.work_done
    for guess in ("", "!", PASSWORD):
        with pytest.raises(BadCredentials):
            await room.log_in("anna", password=guess or " ")
    assert room.service.hasher.work_done == hashes + 3, "the same work as for anybody"
    (letter,) = await room.letters()
    await confirm(room, letter.get_content(), "lantern otter seven")
    assert (await room.log_in("anna", password="lantern otter seven")).access_token


async def confirm(room: AuthRoom, letter: str, password: str) -> None:
    found = re.search(r"token=(\S+)", letter)
    assert found
    await room.auth.confirm_reset(somebody(), ResetConfirmation(token=found[1], new_password=password))


async def test_an_administrator_ends_all_sessions_of_one_person(room: AuthRoom) -> None:
    owner, granted = await room.enter("owner")
    admin_id, anna_id = await room.add(owner, "admin", "admin"), await room.add(owner, "anna")
    here, there = await room.log_in("admin"), await room.log_in("admin")
    key = (await room.auth.add_api_key(room.caller(here), NewApiKey(name="robot", scopes=["post"]))).key
    await room.auth.end_sessions_of(owner, admin_id)
    assert [await room.is_live(each) for each in (here, there, granted)] == [False, False, True]
    with pytest.raises(ApiKeyRefused):
        await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=key))
    assert [entry.reason for entry in await entries_of(room, admin_id)] == ["ended_by_admin"]
    admin, anna = room.caller(await room.log_in("admin")), room.caller(await room.log_in("anna"))
    await room.auth.end_sessions_of(admin, anna_id)
    for by, of in ((admin, owner.user_id), (admin, admin_id), (anna, admin_id), (owner, owner.user_id)):
        for act in (room.auth.end_sessions_of, room.auth.send_reset):
            with pytest.raises(Forbidden):
                await act(by, of)


async def test_a_promotion_at_the_same_moment_is_not_ranked_over(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    await room.add(owner, "admin", "admin")
    admin = room.caller(await room.log_in("admin"))
    for steps in range(24):  # whichever comes first by how much
        name = f"person{steps}"
        user_id = await room.add(owner, name)
        await app_of(room, room.caller(await room.log_in(name)))
        promotion = asyncio.create_task(room.auth.change_user(owner, user_id, UserChange(role="admin")))
        for _ in range(steps):
            await asyncio.sleep(0)
        reset = asyncio.create_task(room.auth.reset_factors(admin, user_id))
        await asyncio.wait({promotion, reset})
        told = [entry.reason for entry in await entries_of(room, user_id)]
        assert told in (["role_changed"], ["factors_reset", "role_changed"]), steps
        assert isinstance(reset.exception(), Forbidden | Conflict) == ("factors_reset" not in told)


async def entries_of(room: AuthRoom, user_id: str) -> list[Revocation]:
    newest = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
    return [entry for entry in newest if entry.subject == user_id]


async def test_a_command_on_the_machine_lets_in_whom_nobody_outranks(room: AuthRoom) -> None:
    owner, granted = await room.enter("owner")
    await app_of(room, owner)
    who = LockedOut(tenant="default", email="owner@example.org")
    for nobody in (owner, BOUNDARY):
        with pytest.raises(Forbidden):
            await room.service.rescue(nobody, who)
    for service in ("messaging", "media", "search", "socket", "compliance", "crypto"):
        with pytest.raises(Forbidden):
            await room.auth.rescue(service_caller(service, "system"), who)
    with pytest.raises(UserNotFound):
        await room.auth.rescue(MACHINE, LockedOut(tenant="default", email="nobody@example.org"))
    await room.auth.rescue(MACHINE, who)
    assert not await room.is_live(granted)
    assert (await room.log_in("owner")).access_token
    assert "Sealwire: your second factors were reset" in await subjects(room)


async def test_a_command_that_did_nothing_says_so(room: AuthRoom) -> None:
    await room.enter("owner")
    anna, _ = await room.enter("anna")
    await app_of(room, anna)
    await room.auth.restrict_subject(
        service_caller("compliance", "default"), anna.user_id, SubjectRestriction(restricted=True)
    )
    with pytest.raises(Forbidden):
        await room.auth.rescue(MACHINE, LockedOut(tenant="default", email="anna@example.org"))


def test_the_table_of_ranks() -> None:
    people = [Role.GUEST, Role.MEMBER, Role.AUDITOR, Role.ADMIN, Role.OWNER]
    may = {Role.OWNER: set(people), Role.ADMIN: {Role.GUEST, Role.MEMBER, Role.AUDITOR}, Role.SERVICE: set(people)}
    may |= {Role.AUDITOR: {Role.GUEST, Role.MEMBER}, Role.MEMBER: {Role.GUEST}}
    for by in Role:
        for of in people:
            if of in may.get(by, set()):
                check_outranks(by=by, of=of)
            else:
                with pytest.raises(Forbidden):
                    check_outranks(by=by, of=of)
    with pytest.raises(Forbidden):
        check_outranks(by=Role.OPERATOR, of=Role.OPERATOR)
