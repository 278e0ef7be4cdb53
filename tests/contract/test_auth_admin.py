"""The promises of auth to administrators, operators and the other services, over every wiring."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.contracts.logins import BadCredentials, TotpCode
from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.sessions import RefreshInvalid, RefreshRequest, SessionQuery
from sealwire.contracts.tenants import NewTenant
from sealwire.contracts.tokens import SigningRotation, TokenQuery
from sealwire.contracts.users import EmailTaken, LastOwner, NewUser, UserChange, UserNotFound, UserQuery, WeakPassword
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.permission import Role
from sealwire.kit.problem import Conflict, Forbidden, Unauthenticated
from sealwire.testing.auth_room import BOUNDARY, CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.wirings import WIRINGS

SYSTEM = service_caller("gateway", "system")


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Any) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


async def as_role(room: AuthRoom, owner: Caller, name: str, role: Any) -> Caller:
    await room.add(owner, name, role)
    return room.caller(await room.log_in(name))


# ---- users


async def test_administrators_make_and_list_users(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    admin = await as_role(room, owner, "admin", "admin")
    await room.add(admin, "cleo", "guest")
    with pytest.raises(EmailTaken):
        await room.add(admin, "cleo")
    with pytest.raises(WeakPassword):
        await room.auth.add_user(admin, NewUser(email="x@y.zz", display_name="X", password="password123"))
    page = await room.auth.users(admin, Page(limit=2))
    rest = await room.auth.users(admin, Page(limit=2, cursor=page.next_cursor))
    assert [(u.display_name, u.role) for u in (*page.items, *rest.items)] == [
        ("Owner", Role.OWNER),
        ("Admin", Role.ADMIN),
        ("Cleo", Role.GUEST),
    ]
    assert rest.next_cursor is None
    assert (await room.log_in("cleo")).access_token


async def test_only_owners_make_or_touch_owners(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    admin = await as_role(room, owner, "admin", "admin")
    with pytest.raises(Forbidden):
        await room.add(admin, "other", "owner")
    for change in (UserChange(role="member"), UserChange(status="disabled")):
        with pytest.raises(Forbidden):
            await room.auth.change_user(admin, owner.user_id, change)
    with pytest.raises(Forbidden):
        await room.auth.change_user(admin, admin.user_id, UserChange(role="owner"))
    with pytest.raises(Forbidden):
        await room.add(owner, "op", "operator")
    assert (await room.auth.change_user(owner, admin.user_id, UserChange(role="owner"))).role is Role.OWNER


async def test_the_last_owner_stays(room: AuthRoom) -> None:
    owner, granted = await room.enter("owner")
    for change in (UserChange(role="admin"), UserChange(status="disabled")):
        with pytest.raises(LastOwner):
            await room.auth.change_user(owner, owner.user_id, change)
    assert await room.is_live(granted)
    second = await as_role(room, owner, "second", "owner")
    answers = await asyncio.gather(
        room.auth.change_user(owner, owner.user_id, UserChange(role="admin")),
        room.auth.change_user(second, second.user_id, UserChange(role="admin")),
        return_exceptions=True,
    )
    assert sum(isinstance(a, LastOwner) for a in answers) == 1


async def test_a_disabled_user_is_out_everywhere(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    ben, granted = await room.enter("ben")
    changed = await room.auth.change_user(owner, ben.user_id, UserChange(status="disabled"))
    assert changed.status == "disabled"
    assert not await room.is_live(granted)
    (entry,) = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
    assert (entry.kind, entry.subject, entry.session_id, entry.epoch) == ("subject", ben.user_id, "", 2)
    with pytest.raises(RefreshInvalid):
        await room.auth.refresh(somebody(), RefreshRequest(refresh_token=granted.refresh_token))
    with pytest.raises(BadCredentials):
        await room.log_in("ben")
    assert not (await room.auth.introspect(BOUNDARY, TokenQuery(token=granted.access_token))).active
    await room.auth.change_user(owner, ben.user_id, UserChange(status="active"))
    assert not await room.is_live(granted), "enabled again, but the old session stays dead"
    assert await room.is_live(await room.log_in("ben"))


async def test_a_new_role_holds_at_once_and_sessions_live_on(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    ben, granted = await room.enter("ben")
    await room.auth.change_user(owner, ben.user_id, UserChange(role="auditor"))
    state = await room.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))
    assert (state.role, state.active) == (Role.AUDITOR, True)
    assert await room.is_live(granted)
    (entry,) = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
    assert (entry.kind, entry.subject, entry.epoch) == ("role", ben.user_id, 2)
    renewed = await room.auth.refresh(somebody(), RefreshRequest(refresh_token=granted.refresh_token))
    assert room.caller(renewed).principal.role is Role.AUDITOR
    before = (await room.auth.revocations(BOUNDARY, FeedQuery())).newest
    await room.auth.change_user(owner, ben.user_id, UserChange(role="auditor"))
    assert (await room.auth.revocations(BOUNDARY, FeedQuery())).newest == before, "no change, no entry"


async def test_users_of_other_tenants_are_not_there(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    other, _ = await room.enter("other", tenant="selftest-1")
    with pytest.raises(UserNotFound):
        await room.auth.change_user(owner, other.user_id, UserChange(role="guest"))
    with pytest.raises(UserNotFound):
        await room.auth.change_user(owner, "nobody", UserChange(role="guest"))
    assert [u.user_id for u in (await room.auth.users(owner, Page())).items] == [owner.user_id]
    found = await room.auth.profiles(BOUNDARY, UserQuery(user_ids=[other.user_id, owner.user_id, "nobody"]))
    assert [(p.user_id, p.display_name, p.email, p.epoch, p.active) for p in found.items] == [
        (owner.user_id, "Owner", "owner@example.org", 1, True)
    ]
    many = await room.auth.profiles(BOUNDARY, UserQuery(user_ids=[f"u{i}" for i in range(2_000)]))
    assert many.items == []


async def test_members_administer_nothing_and_ask_nothing_meant_for_services(room: AuthRoom) -> None:
    owner, granted = await room.enter("owner")
    ben, _ = await room.enter("ben")
    auditor = await as_role(room, owner, "auditor", "auditor")
    for caller in (ben, auditor, somebody()):
        for call in (
            room.auth.users(caller, Page()),
            room.add(caller, "x"),
            room.auth.change_user(caller, owner.user_id, UserChange(role="guest")),
        ):
            with pytest.raises((Forbidden, Unauthenticated)):
                await call
    for caller in (ben, owner):
        for call in (
            room.auth.add_tenant(caller, NewTenant(slug="clinic", name="Clinic")),
            room.auth.rotate_signing(caller, SigningRotation()),
            room.auth.session(caller, SessionQuery(session_id=granted.session_id)),
            room.auth.profiles(caller, UserQuery(user_ids=[ben.user_id])),
            room.auth.revocations(caller, FeedQuery()),
            room.auth.remove_tenant(caller, "default"),
        ):
            with pytest.raises((Forbidden, Unauthenticated)):
                await call


# ---- tenants and operators


async def test_operators_make_tenants_with_an_owner(room: AuthRoom) -> None:
    await room.add(SYSTEM, "op", "operator")
    operator = room.caller(await room.log_in("op", tenant="system"))
    assert operator.principal.role is Role.OPERATOR
    tenant = await room.auth.add_tenant(operator, NewTenant(slug="clinic", name="Clinic"))
    for slug in ("clinic", "default", "system", "anonymous", "selftest-9"):
        with pytest.raises(Conflict):
            await room.auth.add_tenant(operator, NewTenant(slug=slug, name="X"))
    await room.add(service_caller("gateway", tenant.tenant_id), "chief", "owner")
    chief = room.caller(await room.log_in("chief", tenant="clinic"))
    assert (chief.tenant_id, chief.principal.role) == (tenant.tenant_id, Role.OWNER)
    assert (await room.log_in("chief", tenant=tenant.tenant_id)).access_token
    with pytest.raises(Forbidden):
        await room.add(SYSTEM, "member", "member")
    with pytest.raises(Forbidden):
        await room.auth.remove_tenant(SYSTEM, tenant.tenant_id)
    await room.auth.remove_tenant(SYSTEM, "nowhere")


# ---- signing keys


async def test_rotation_publishes_first_and_overlaps(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    (first,) = (await room.auth.jwks(somebody())).keys
    published = (await room.auth.rotate_signing(SYSTEM, SigningRotation())).keys
    assert {k["kid"] for k in published} > {first["kid"]}
    assert len(published) == 2
    assert len((await room.auth.rotate_signing(SYSTEM, SigningRotation())).keys) == 2, "one at a time"
    assert header_kid(await room.log_in("anna")) == first["kid"], "not before verifiers know it"
    room.advance(CHEAP.key_publish_s)
    await room.service.upkeep.sweep()
    later = await room.log_in("anna")
    assert header_kid(later) != first["kid"]
    query = TokenQuery(token=granted.access_token)
    assert (await room.auth.introspect(anna, query)).active, "a token in flight goes on"
    await room.close()
    await room.open()
    assert (await room.auth.introspect(anna, query)).active
    room.advance(700)
    assert [k["kid"] for k in (await room.auth.jwks(somebody())).keys] == [header_kid(later)]


async def test_a_compromised_key_counts_no_longer_and_every_session_ends(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    other, other_granted = await room.enter("other", tenant="selftest-1")
    old = header_kid(granted)
    keys = (await room.auth.rotate_signing(SYSTEM, SigningRotation(compromised=True))).keys
    assert [k["kid"] for k in keys] != [old]
    assert len(keys) == 1
    assert not (await room.auth.introspect(anna, TokenQuery(token=granted.access_token))).active
    for dead in (granted, other_granted):
        with pytest.raises(RefreshInvalid):
            await room.auth.refresh(somebody(), RefreshRequest(refresh_token=dead.refresh_token))
    entries = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
    assert {e.tenant_id for e in entries} == {"default", "system", other.tenant_id}
    assert {e.kind for e in entries} == {"tenant"}
    again = await room.log_in("anna")
    assert (await room.auth.introspect(anna, TokenQuery(token=again.access_token))).active


async def test_keys_that_verify_nothing_any_more_are_destroyed(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    await room.auth.rotate_signing(SYSTEM, SigningRotation())
    room.advance(CHEAP.key_publish_s)
    await room.service.upkeep.sweep()
    assert len(await room.storage.stores.keys.signing_keys()) == 2, "in the overlap both are there"
    query = TokenQuery(token=granted.access_token)
    assert (await room.auth.introspect(anna, query)).active
    room.advance(CHEAP.access_ttl_s + 2 * CHEAP.leeway_s + 61)
    await room.service.upkeep.sweep()
    (left,) = await room.storage.stores.keys.signing_keys()
    assert left.state == "signing"
    await room.auth.rotate_signing(SYSTEM, SigningRotation(compromised=True))
    await room.service.upkeep.sweep()
    (after,) = await room.storage.stores.keys.signing_keys()
    assert after.kid != left.kid
    await room.close()
    await room.open()
    assert (await room.log_in("anna")).access_token


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
async def test_other_signing_algorithms(tmp_path: Path, alg: Any) -> None:
    room = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, signing_alg=alg))
    await room.open()
    anna, granted = await room.enter("anna")
    assert (await room.auth.jwks(somebody())).keys[0]["alg"] == alg
    assert (await room.auth.introspect(anna, TokenQuery(token=granted.access_token))).active
    await room.close()


def header_kid(granted: Any) -> str:
    import base64
    import json

    head = granted.access_token.split(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]
    return kid


# ---- the feed


async def test_the_feed_wakes_those_who_wait(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    assert (await room.auth.revocations(BOUNDARY, FeedQuery(after=0, wait_ms=10))).items == []
    waiting = asyncio.create_task(room.auth.revocations(BOUNDARY, FeedQuery(after=0, wait_ms=10_000)))
    await asyncio.sleep(0.02)
    began = time.monotonic()
    await room.auth.logout(anna)
    answer = await waiting
    assert time.monotonic() - began < 8, "woken long before the wait is over"
    assert [(e.number, e.session_id) for e in answer.items] == [(1, granted.session_id)]
    assert answer.newest == 1
    assert (await room.auth.revocations(BOUNDARY, FeedQuery(after=1))).items == []


# ---- events and what lies on the disk


async def test_every_state_change_is_an_audit_entry_with_sealed_personal_data(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    ben, granted = await room.enter("ben")
    with pytest.raises(BadCredentials):
        await room.log_in("nobody")
    with pytest.raises(BadCredentials):
        await room.log_in("nobody", tenant="no-such-tenant")
    await room.auth.change_user(owner, ben.user_id, UserChange(role="auditor"))
    await room.auth.refresh(somebody(), RefreshRequest(refresh_token=granted.refresh_token))
    await room.auth.logout(ben)
    events = await room.service.events.read(0, 100)
    assert [e.position for e in events] == list(range(1, len(events) + 1))
    for event in events:
        for personal in (b"192.0.2.7", b"example.org", b"test/1.0", b"Ben"):
            assert personal not in event.data
    entries = [e for e in await room.service.audit_entries(events) if e.tenant_id != "system"]
    assert [(e.action, e.outcome, e.tenant_id) for e in entries] == [
        ("auth.user.registered", "success", "default"),
        ("auth.session-established", "success", "default"),
        ("auth.user.registered", "success", "default"),
        ("auth.session-established", "success", "default"),
        ("auth.login.failed", "failure", "default"),
        ("auth.login.failed", "failure", "anonymous"),
        ("auth.user.changed", "success", "default"),
        ("auth.token.refreshed", "success", "default"),
        ("auth.session-revoked", "success", "default"),
    ]
    assert [e.audit_id for e in entries] == [e.event_id for e in events if e.tenant_id != "system"]
    failed, changed = entries[4], entries[6]
    assert failed.actor.type == "anonymous"
    assert failed.personal == {"ip_address": "192.0.2.7", "user_agent": "test/1.0", "email": "nobody@example.org"}
    assert failed.subject_id == ""
    assert (changed.actor.id, changed.subject_id, changed.resource_id) == (owner.user_id, ben.user_id, ben.user_id)
    assert changed.metadata == {
        "role_before": "member", "role": "auditor", "status_before": "active", "status": "active",
    }  # fmt: skip


async def test_a_dump_holds_nothing_readable_of_persons_and_no_secret(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    enrollment = await room.auth.totp_enroll(anna)
    import pyotp

    code = pyotp.TOTP(enrollment.secret).generate_otp(room.clock.now_us() // 30_000_000)
    recovery = (await room.auth.totp_confirm(anna, TotpCode(code=code))).recovery_codes
    challenge = await room.log_in("anna")
    with pytest.raises(BadCredentials):
        await room.log_in("somebody.unknown", password="a failed password")
    secrets = [
        granted.access_token,
        granted.refresh_token,
        granted.refresh_token.split(".")[-1],
        challenge.mfa_token,
        enrollment.secret,
        PASSWORD,
        "a failed password",
        "anna@example.org",
        "somebody.unknown",
        "Anna",
        "192.0.2.7",
        "test/1.0",
        "PRIVATE KEY",
        *recovery,
        *(text.replace("-", "") for text in recovery),
    ]
    dump = b"".join(path.read_bytes() for path in sorted(room.folder.glob("auth.db*")))
    assert len(dump) > 50_000
    for secret in secrets:
        for form in (secret.encode(), secret.encode().hex().encode(), secret.upper().encode()):
            assert form not in dump, secret
    assert anna.user_id.encode() in dump, "the dump is what we think it is"


async def test_probes(room: AuthRoom) -> None:
    for name, probe in room.service.checks().items():
        assert name in ("store", "keys")
        await probe()


async def test_changes_at_the_same_moment_do_not_undo_each_other(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    await room.add(owner, "admin", "admin")
    admin = room.caller(await room.log_in("admin"))
    for steps in range(24):  # whichever comes first by how much
        user_id = await room.add(owner, f"person{steps}")
        disabling = asyncio.create_task(room.auth.change_user(owner, user_id, UserChange(status="disabled")))
        for _ in range(steps):
            await asyncio.sleep(0)
        changed = await room.auth.change_user(admin, user_id, UserChange(role="auditor"))
        await disabling
        (now,) = [user for user in (await room.auth.users(owner, Page(limit=100))).items if user.user_id == user_id]
        assert (now.role, now.status) == ("auditor", "disabled"), steps
        assert changed.role == "auditor"
