"""Tenants and operators: who makes and suspends them, what a suspension ends, quotas, and who owns what."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.contracts.addresses import EmailChange, EmailChangeInvalid, EmailConfirmation
from sealwire.contracts.api_keys import ApiKeyQuery, ApiKeyRefused, NewApiKey
from sealwire.contracts.credentials import InvitationInvalid
from sealwire.contracts.logins import BadCredentials, LoginResult
from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.sessions import RefreshInvalid, RefreshRequest, SessionQuery
from sealwire.contracts.tenancy import (
    NewOperator,
    OperatorChange,
    OwnerInvitation,
    QuotaChange,
    Quotas,
    TenantChange,
    TenantDetails,
    TenantNotFound,
    TenantOwned,
    TenantReserved,
)
from sealwire.contracts.tenants import NewTenant
from sealwire.contracts.users import Registration, RegistrationClosed, UserChange, UserQuery
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Forbidden, NotFound, QuotaExceeded
from sealwire.testing.auth_room import BOUNDARY, CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.wirings import WIRINGS

SYSTEM = service_caller("gateway", "system")
SUSPEND, RESUME = TenantChange(status="suspended"), TenantChange(status="active")


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    room = AuthRoom(tmp_path, config=CHEAP, wiring=request.param)
    await room.open()
    yield room
    await room.close()


async def join(room: AuthRoom, name: str, invitation: str) -> Caller:
    registration = Registration(
        email=f"{name}@example.org", password=PASSWORD, display_name=name.title(), invitation=invitation
    )
    user = (await room.auth.register(somebody(), registration)).user
    return room.caller(await room.log_in(name, tenant=user.tenant_id))


async def new_operator(room: AuthRoom, name: str = "op", *, by: Caller = SYSTEM) -> Caller:
    invited = await room.auth.add_operator(by, NewOperator(email=f"{name}@example.org"))
    return await join(room, name, invited.token or await token_for(room, name))


async def token_for(room: AuthRoom, name: str) -> str:
    letters = [letter for letter in await room.letters() if letter["To"] == f"{name}@example.org"]
    return letters[-1].get_content().split("invitation=")[1].split()[0]


async def new_tenant(room: AuthRoom, slug: str = "clinic") -> TenantDetails:
    await room.auth.add_tenant(SYSTEM, NewTenant(slug=slug, name=slug.title()))
    return await room.auth.tenant(SYSTEM, slug)


async def new_owner(room: AuthRoom, tenant: str, name: str = "chief") -> Caller:
    invited = await room.auth.invite_owner(SYSTEM, tenant, OwnerInvitation(email=f"{name}@example.org"))
    return await join(room, name, invited.token)


async def test_an_invitation_names_the_tenant_that_is_asked_for_at_the_login(room: AuthRoom) -> None:
    await new_tenant(room)
    await room.auth.invite_owner(SYSTEM, "clinic", OwnerInvitation(email="chief@example.org"))
    assert "give the tenant as well: clinic" in (await room.letters())[-1].get_content()


# ---- operators


async def test_the_first_operator_comes_by_a_command_on_the_machine_the_next_by_letter(room: AuthRoom) -> None:
    first = await new_operator(room)
    assert (first.tenant_id, first.principal.role) == ("system", Role.OPERATOR)
    invited = await room.auth.add_operator(first, NewOperator(email="second@example.org"))
    assert invited.token == "", "to a person the token is told by letter only"
    second = await join(room, "second", await token_for(room, "second"))
    shown = await room.auth.operators(second, Page())
    assert [operator.email for operator in shown.items] == ["op@example.org", "second@example.org"]


async def test_a_disabled_operator_is_out_and_so_is_whom_they_invited(room: AuthRoom) -> None:
    first, second = await new_operator(room), await new_operator(room, "second")
    await room.auth.add_operator(second, NewOperator(email="third@example.org"))
    disabled = await room.auth.change_operator(first, second.user_id, OperatorChange(status="disabled"))
    assert disabled.status == "disabled"
    with pytest.raises(BadCredentials):
        await room.log_in("second", tenant="system")
    with pytest.raises(InvitationInvalid):
        await join(room, "third", await token_for(room, "third"))
    for stranger in (await new_owner(room, "default", "o"), first):
        with pytest.raises(NotFound if stranger is first else Forbidden):
            await room.auth.change_operator(stranger, "0190-nobody", OperatorChange(status="disabled"))


async def test_an_operator_sees_no_content(room: AuthRoom) -> None:
    operator = await new_operator(room)
    for permission in Permission:
        allowed = permission in (
            Permission.OWN_PROFILE, Permission.HEALTH_DETAILS, Permission.MANAGE_TENANTS, Permission.READ_AUDIT
        )  # fmt: skip
        assert operator.may(permission) is allowed
    for call in (room.auth.users(operator, Page()), room.auth.invitations(operator, Page())):
        with pytest.raises(Forbidden):
            await call


async def test_people_of_tenants_run_nothing(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    for call in (
        room.auth.tenants(owner, Page()),
        room.auth.tenant(owner, "default"),
        room.auth.change_tenant(owner, "default", RESUME),
        room.auth.invite_owner(owner, "default", OwnerInvitation(email="x@example.org")),
        room.auth.operators(owner, Page()),
        room.auth.add_operator(owner, NewOperator(email="x@example.org")),
        room.auth.tenant_quotas(owner),
    ):
        with pytest.raises(Forbidden):
            await call


# ---- owners


async def test_a_tenant_belongs_to_whom_the_operator_invites_and_to_nobody_who_comes_first(room: AuthRoom) -> None:
    operator = await new_operator(room)
    await room.auth.add_tenant(operator, NewTenant(slug="clinic", name="Clinic", owner_email="chief@example.org"))
    await room.register("early", tenant="clinic")
    early = room.caller(await room.log_in("early", tenant="clinic"))
    assert early.principal.role is Role.MEMBER
    chief = await join(room, "chief", await token_for(room, "chief"))
    assert (chief.tenant_id, chief.principal.role) == (early.tenant_id, Role.OWNER)
    assert (await room.auth.tenant(operator, "clinic")).owned
    with pytest.raises(TenantOwned):
        await room.auth.invite_owner(operator, "clinic", OwnerInvitation(email="op2@example.org"))


async def test_two_invited_owners_make_one(room: AuthRoom) -> None:
    await new_tenant(room)
    tokens = [
        (await room.auth.invite_owner(SYSTEM, "clinic", OwnerInvitation(email=f"{name}@example.org"))).token
        for name in ("a", "b")
    ]
    answers = await asyncio.gather(
        *(join(room, name, token) for name, token in zip("ab", tokens, strict=True)), return_exceptions=True
    )
    assert sum(isinstance(answer, RegistrationClosed) for answer in answers) == 1
    (owner,) = (answer for answer in answers if isinstance(answer, Caller))
    assert owner.principal.role is Role.OWNER


async def test_system_has_no_owner_no_quotas_and_is_not_suspended(room: AuthRoom) -> None:
    for call in (
        room.auth.change_tenant(SYSTEM, "system", SUSPEND),
        room.auth.change_tenant(SYSTEM, "system", TenantChange(quotas=QuotaChange(users=1))),
        room.auth.invite_owner(SYSTEM, "system", OwnerInvitation(email="x@example.org")),
    ):
        with pytest.raises(TenantReserved):
            await call
    for unknown in ("nowhere", "anonymous"):
        with pytest.raises(TenantNotFound):
            await room.auth.change_tenant(SYSTEM, unknown, SUSPEND)


# ---- suspending


async def test_a_suspension_cuts_everybody_and_a_resumption_brings_nothing_back(room: AuthRoom) -> None:
    tenant = await new_tenant(room)
    owner = await new_owner(room, "clinic")
    granted = await room.log_in("chief", tenant="clinic")
    key = (await room.auth.add_api_key(owner, NewApiKey(name="k", scopes=["read"]))).key
    bystander, beside = await room.enter("bystander")
    in_tenant = service_caller("gateway", tenant.tenant_id)
    (before,) = (await room.auth.profiles(in_tenant, UserQuery(user_ids=[owner.user_id]))).items
    number = (await room.auth.revocations(BOUNDARY, FeedQuery())).newest

    shown = await room.auth.change_tenant(SYSTEM, "clinic", SUSPEND)
    assert shown.status == "suspended"
    entries = (await room.auth.revocations(BOUNDARY, FeedQuery(after=number))).items
    assert [(entry.kind, entry.tenant_id, entry.reason) for entry in entries] == [
        ("tenant", tenant.tenant_id, "tenant_suspended")
    ]
    await room.auth.change_tenant(SYSTEM, "clinic", SUSPEND)
    assert (await room.auth.revocations(BOUNDARY, FeedQuery())).newest == entries[-1].number, "once is enough"
    (after,) = (await room.auth.profiles(in_tenant, UserQuery(user_ids=[owner.user_id]))).items
    assert not after.active
    assert after.epoch == before.epoch + 1
    await dead(room, granted, key)
    with pytest.raises(BadCredentials) as told:
        await room.log_in("chief", tenant="clinic")
    with pytest.raises(BadCredentials) as unknown:
        await room.log_in("chief", tenant="nowhere")
    assert told.value.detail == unknown.value.detail, "whether a tenant is suspended is told to nobody"
    with pytest.raises(NotFound):
        await room.register("late", tenant="clinic")
    assert await room.is_live(beside)

    assert (await room.auth.change_tenant(SYSTEM, "clinic", RESUME)).status == "active"
    await dead(room, granted, key)
    again = await room.log_in("chief", tenant="clinic")
    assert await room.is_live(again)
    assert bystander.tenant_id == "default"


async def test_an_address_asked_for_before_a_suspension_is_not_proved_after_it(room: AuthRoom) -> None:
    await new_tenant(room)
    owner = await new_owner(room, "clinic")
    await room.auth.change_email(owner, EmailChange(email="new@clinic.example"))
    (letter,) = [letter for letter in await room.letters() if letter["To"] == "new@clinic.example"]
    (token,) = re.findall(r"token=(swe1\.[\w-]+)", letter.get_content())
    await room.auth.change_tenant(SYSTEM, "clinic", SUSPEND)
    await room.auth.change_tenant(SYSTEM, "clinic", RESUME)
    with pytest.raises(EmailChangeInvalid):
        await room.auth.confirm_email(somebody(), EmailConfirmation(token=token))


async def dead(room: AuthRoom, granted: LoginResult, key: str) -> None:
    assert not (await room.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))).active
    with pytest.raises(RefreshInvalid):
        await room.auth.refresh(somebody(), RefreshRequest(refresh_token=granted.refresh_token))
    with pytest.raises(ApiKeyRefused):
        await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=key))


async def test_a_login_does_not_survive_a_suspension_that_comes_between(room: AuthRoom) -> None:
    await new_tenant(room)
    await new_owner(room, "clinic")
    racing = await asyncio.gather(
        *(room.log_in("chief", tenant="clinic") for _ in range(8)),
        room.auth.change_tenant(SYSTEM, "clinic", SUSPEND),
        return_exceptions=True,
    )
    for granted in racing[:-1]:
        if isinstance(granted, LoginResult):
            state = await room.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))
            assert not state.active
    await room.auth.change_tenant(SYSTEM, "clinic", RESUME)
    for granted in racing[:-1]:
        if isinstance(granted, LoginResult):
            assert not await room.is_live(granted)


# ---- quotas


async def test_quotas_are_set_one_by_one_and_taken_away(room: AuthRoom) -> None:
    tenant = await new_tenant(room)
    in_tenant = service_caller("messaging", tenant.tenant_id)
    assert tenant.quotas == Quotas()
    change = TenantChange(quotas=QuotaChange(users=2, messages=10), name="The Clinic")
    shown = await room.auth.change_tenant(SYSTEM, "clinic", change)
    assert (shown.name, shown.quotas) == ("The Clinic", Quotas(users=2, messages=10))
    shown = await room.auth.change_tenant(SYSTEM, "clinic", TenantChange(quotas=QuotaChange(users=None, keys=0)))
    assert shown.quotas == await room.auth.tenant_quotas(in_tenant) == Quotas(messages=10, keys=0)
    assert await room.auth.tenant_quotas(service_caller("media", "nowhere")) == Quotas()
    assert [t.slug for t in (await room.auth.tenants(SYSTEM, Page())).items if t.slug == "clinic"] == ["clinic"]


async def test_a_tenants_users_are_counted_against_its_quota(room: AuthRoom) -> None:
    await new_tenant(room)
    await room.auth.change_tenant(SYSTEM, "clinic", TenantChange(quotas=QuotaChange(users=2)))
    owner = await new_owner(room, "clinic")
    await room.add(owner, "anna")
    for full in (room.add(owner, "ben"), room.register("carl", tenant="clinic")):
        with pytest.raises(QuotaExceeded, match="2 users"):
            await full
    assert (await room.auth.tenant(SYSTEM, "clinic")).users == 2
    await room.auth.change_tenant(SYSTEM, "clinic", TenantChange(quotas=QuotaChange(users=3)))
    await room.add(owner, "ben")


# ---- life


async def test_tenants_survive_a_restart(room: AuthRoom) -> None:
    await new_tenant(room)
    await room.auth.change_tenant(SYSTEM, "clinic", TenantChange(quotas=QuotaChange(keys=7), status="suspended"))
    await room.close()
    await room.open()
    shown = await room.auth.tenant(SYSTEM, "clinic")
    assert (shown.status, shown.quotas.keys) == ("suspended", 7)


async def test_a_suspension_that_was_cut_short_is_finished_before_the_tenant_comes_back(room: AuthRoom) -> None:
    tenant = await new_tenant(room)
    await new_owner(room, "clinic")
    granted = await room.log_in("chief", tenant="clinic")
    await room.auth.change_tenant(SYSTEM, "clinic", SUSPEND)

    def as_after_a_crash(conn: Any) -> None:
        conn.execute("UPDATE session SET ended_us = 0")
        conn.execute("INSERT INTO suspended_tenant VALUES (?, 1, '')", (tenant.tenant_id,))

    await room.storage.db.write(as_after_a_crash)
    await room.auth.change_tenant(SYSTEM, "clinic", RESUME)
    assert not (await room.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))).active


async def test_operators_come_in_where_registration_is_closed(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, registration="closed"))
    await room.open()
    try:
        operator = await new_operator(room)
        assert (await room.auth.tenants(operator, Page())).items
        with pytest.raises(RegistrationClosed):
            await room.register("stranger")
        await new_tenant(room)
        owner = await new_owner(room, "clinic")
        assert owner.principal.role is Role.OWNER
        await room.auth.change_user(owner, owner.user_id, UserChange())
    finally:
        await room.close()
