"""The promises of auth over every wiring: coming in, carrying on, going out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from argon2 import PasswordHasher as Argon2

from sealwire.contracts.logins import BadCredentials, Login, PasswordChange, TooManyAttempts
from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.sessions import (
    RefreshInvalid,
    RefreshRequest,
    RefreshReused,
    Seen,
    SeenSession,
    SessionNotFound,
    SessionQuery,
)
from sealwire.contracts.tokens import TokenQuery
from sealwire.contracts.users import EmailTaken, ProfileChange, Registration, RegistrationClosed, WeakPassword
from sealwire.kit.caller import Caller
from sealwire.kit.clock import rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.jose import KeySet, Rules, verify
from sealwire.kit.jose_keys import Key
from sealwire.kit.permission import Role
from sealwire.kit.problem import NotFound, Problem, QuotaExceeded
from sealwire.services.auth.config import AuthConfig
from sealwire.testing.auth_room import BOUNDARY, CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.wirings import WIRINGS

S = 1_000_000


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Any) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def open_room(tmp_path: Any) -> AsyncIterator[Any]:
    rooms: list[AuthRoom] = []

    async def open_(**changes: Any) -> AuthRoom:
        made = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, **changes))
        await made.open()
        rooms.append(made)
        return made

    yield open_
    for made in rooms:
        await made.close()


def refresh_with(token: str) -> RefreshRequest:
    return RefreshRequest(refresh_token=token)


# ---- registering


async def test_the_first_person_is_the_owner_and_everyone_after_a_member(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    ben, granted = await room.enter("ben")
    assert (anna.principal.role, ben.principal.role) == (Role.OWNER, Role.MEMBER)
    assert granted.user is not None
    assert (granted.user.email, granted.user.display_name) == ("ben@example.org", "Ben")
    assert granted.expires_in == 600
    assert granted.token_type == "Bearer"


async def test_two_first_registrations_at_once_make_one_owner(room: AuthRoom) -> None:
    ids = await asyncio.gather(*(room.register(f"p{i}") for i in range(8)))
    assert len(set(ids)) == 8
    users = (await room.auth.users(BOUNDARY, Page())).items
    assert [u.role for u in users].count(Role.OWNER) == 1


async def test_addresses_are_compared_case_folded(room: AuthRoom) -> None:
    await room.register("strasse")
    for same in ("STRASSE@EXAMPLE.ORG", "straße@example.org", "ｓtrasse@example.org"):
        with pytest.raises(EmailTaken):
            await room.auth.register(
                somebody(), Registration(email=same, password=PASSWORD, display_name="Another person")
            )
        assert (await room.auth.login(somebody(), Login(email=same, password=PASSWORD))).access_token


async def test_weak_passwords_are_refused_with_a_reason(room: AuthRoom) -> None:
    for password in ("short", "password123", "anna@example.org", "Anna Example 1"):
        with pytest.raises(WeakPassword) as caught:
            await room.auth.register(
                somebody(), Registration(email="anna@example.org", password=password, display_name="Anna Example")
            )
        assert caught.value.extra["path"] == "$.password"
        assert "password" in caught.value.detail
    assert (await room.auth.users(BOUNDARY, Page())).items == []


async def test_registering_in_a_tenant_that_is_not_there_or_not_for_people(room: AuthRoom) -> None:
    for tenant in ("nowhere", "system", "anonymous", "selftest-"):
        with pytest.raises(NotFound):
            await room.register("anna", tenant=tenant)


async def test_the_self_test_gets_a_throwaway_tenant(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna", tenant="selftest-42")
    assert anna.principal.role is Role.OWNER
    assert anna.tenant_id not in ("default", "selftest-42")
    assert (await room.auth.users(BOUNDARY, Page())).items == [], "not in default"
    await room.auth.remove_tenant(anna, anna.tenant_id)
    assert (await room.auth.revocations(BOUNDARY, FeedQuery())).items[-1].kind == "tenant"
    with pytest.raises(SessionNotFound):
        await room.auth.session(BOUNDARY, SessionQuery(session_id=granted.session_id))
    with pytest.raises(BadCredentials):
        await room.log_in("anna", tenant="selftest-42")
    with pytest.raises(RefreshInvalid):
        await room.auth.refresh(somebody(), refresh_with(granted.refresh_token))


async def test_a_forgotten_throwaway_tenant_goes_by_itself(room: AuthRoom) -> None:
    await room.register("anna", tenant="selftest-42")
    room.advance(3_601)
    await room.service.upkeep.sweep()
    with pytest.raises(BadCredentials):
        await room.log_in("anna", tenant="selftest-42")


@pytest.mark.parametrize("mode", ["invite", "closed"])
async def test_closed_registration(open_room: Any, mode: str) -> None:
    room = await open_room(registration=mode, owner_token="one time token")
    with pytest.raises(RegistrationClosed):
        await room.register("anna")
    first = Registration(email="a@b.cd", password=PASSWORD, display_name="Someone", owner_token="wrong")
    with pytest.raises(RegistrationClosed):
        await room.auth.register(somebody(), first)
    first = msgspec.structs.replace(first, owner_token="one time token")
    assert (await room.auth.register(somebody(), first)).user.role is Role.OWNER
    for again in (msgspec.structs.replace(first, email="x@b.cd"), msgspec.structs.replace(first, tenant="selftest-1")):
        with pytest.raises(Problem) as caught:
            await room.auth.register(somebody(), again)
        assert caught.value.code in ("registration_closed", "tenant_not_found")


async def test_with_an_owner_token_nobody_becomes_owner_without_it(open_room: Any) -> None:
    room = await open_room(owner_token="one time token")
    early, _ = await room.enter("early")
    assert early.principal.role is Role.MEMBER


async def test_the_quota_of_users(open_room: Any) -> None:
    room = await open_room(users_per_tenant=2)
    for name in ("anna", "ben"):
        await room.register(name)
    with pytest.raises(QuotaExceeded):
        await room.register("cleo")


# ---- logging in


async def test_every_failure_costs_the_same_and_says_the_same(open_room: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    room = await open_room(lockout_free=2)
    owner, _ = await room.enter("owner")
    for name in ("anna", "gone", "locked"):
        await room.register(name)
    gone = next(u for u in (await room.auth.users(owner, Page())).items if u.display_name == "Gone")
    await room.auth.change_user(owner, gone.user_id, msgspec.convert({"status": "disabled"}, user_change()))
    for _ in range(2):
        with pytest.raises(BadCredentials):
            await room.log_in("locked", password="wrong wrong wrong")
    for name, statement in (
        ("unhashed", "UPDATE user SET password_hash = '!' WHERE user_id = ?"),
        ("factored", "UPDATE user SET mfa = 1 WHERE user_id = ?"),
    ):
        user_id = await room.register(name)
        await room.storage.db.write(lambda conn, sql=statement, of=user_id: conn.execute(sql, (of,)).fetchall())
    await room.hush()
    verified: list[str] = []

    class Counting(Argon2):
        def verify(self, hash: str | bytes, password: str | bytes) -> Any:
            try:
                return super().verify(hash, password)
            finally:
                verified.append(str(hash))

    monkeypatch.setattr(room.service.hasher, "_argon2", Counting(memory_cost=64, time_cost=1, parallelism=1))
    seen = []
    for name, tenant, password in (
        ("nobody", None, "wrong wrong wrong"),
        ("anna", None, "wrong wrong wrong"),
        ("gone", None, "wrong wrong wrong"),
        ("locked", None, "wrong wrong wrong"),
        ("unhashed", None, "wrong wrong wrong"),
        ("factored", None, "wrong wrong wrong"),
        ("anna", "no-such-tenant", "wrong wrong wrong"),
    ):
        verified.clear()
        hashes, writes, events = room.service.hasher.work_done, room.storage.db.stats.rows, len(await room.events())
        with pytest.raises(BadCredentials) as caught:
            await room.log_in(name, tenant=tenant, password=password)
        work = (
            room.service.hasher.work_done - hashes,
            room.storage.db.stats.rows - writes,
            len(await room.events()) - events,
            [stored.rpartition("$")[0].rpartition("$")[0] for stored in verified if stored != "!"],
        )
        seen.append((work, caught.value.document()))
    assert seen[0][0] == (1, 1, 1, ["$argon2id$v=19$m=64,t=1,p=1"]), "one verification, of one cost"
    assert seen == [seen[0]] * 7
    # The right password opens neither of these, and costs no less.
    for name in ("gone", "locked"):
        hashes = room.service.hasher.work_done
        with pytest.raises(BadCredentials) as caught:
            await room.log_in(name)
        assert (room.service.hasher.work_done - hashes, caught.value.document()) == (1, seen[0][1])


def user_change() -> Any:
    from sealwire.contracts.users import UserChange

    return UserChange


async def test_waiting_grows_with_failures_and_ends_with_success(open_room: Any) -> None:
    room = await open_room(lockout_free=3, lockout_base_s=2.0, lockout_cap_s=8.0)
    await room.register("anna")
    for wait_s in (0, 0, 2, 4, 8, 8):
        with pytest.raises(BadCredentials):
            await room.log_in("anna", password="wrong wrong wrong")
        if wait_s:
            room.advance(wait_s - 0.1)
            with pytest.raises(BadCredentials):
                await room.log_in("anna")
            room.advance(0.1)
    assert (await room.log_in("anna")).access_token
    for _ in range(2):
        with pytest.raises(BadCredentials):
            await room.log_in("anna", password="wrong wrong wrong")
    assert (await room.log_in("anna")).access_token, "the count began again"


async def test_a_clock_that_is_put_back_makes_no_lock_longer_than_the_longest(open_room: Any) -> None:
    room = await open_room(lockout_free=3)
    await room.register("anna")
    for _ in range(4):
        with pytest.raises(BadCredentials):
            await room.log_in("anna", password="wrong wrong wrong")
    with pytest.raises(BadCredentials):
        await room.log_in("anna")
    room.clock.step_wall(-86_400)
    with pytest.raises(BadCredentials):
        await room.log_in("anna", password="wrong wrong wrong")
    with pytest.raises(BadCredentials):
        await room.log_in("anna")
    room.advance(room.config.lockout_cap_s)
    assert (await room.log_in("anna")).access_token, "and what was counted before counts on"


async def test_a_lock_of_account_and_address_leaves_other_addresses_alone(open_room: Any) -> None:
    room = await open_room(lockout_free=2)
    await room.register("anna")
    login = Login(email="anna@example.org", password=PASSWORD)
    for _ in range(2):
        with pytest.raises(BadCredentials):
            await room.auth.login(somebody("203.0.113.9"), msgspec.structs.replace(login, password="wrong"))
    with pytest.raises(BadCredentials):
        await room.auth.login(somebody("203.0.113.9"), login)
    assert (await room.auth.login(somebody("203.0.113.10"), login)).access_token


async def test_a_flood_of_guesses_keeps_nobody_out_of_a_network_they_are_logged_in_from(open_room: Any) -> None:
    room = await open_room(lockout_free=3, lockout_free_account=6)
    await room.register("anna")
    login = Login(email="anna@example.org", password=PASSWORD)
    wrong = msgspec.structs.replace(login, password="not it at all")
    here, there = somebody("2001:db8:1::1"), somebody("192.0.2.77")
    anna = room.caller(await room.auth.login(here, login))

    async def flood() -> None:
        for n in range(8):
            with pytest.raises(BadCredentials):
                await room.auth.login(somebody(f"203.0.113.{n}"), wrong)

    await flood()
    with pytest.raises(BadCredentials):
        await room.auth.login(there, login)
    beside = somebody("2001:db8:1::2")
    back = await room.auth.login(beside, login)
    assert back.access_token, "the network is theirs, whichever address in it"
    events = [event for event in await room.service.events.read(0, 1_000) if event.kind == "auth.session-established"]
    told = await room.service.audit_entries(events)
    assert told[-1].metadata["failed_before"] == 6
    await room.auth.refresh(there, refresh_with(back.refresh_token))
    with pytest.raises(BadCredentials):  # neither who gets in at home lifts it for others, nor a session taken along
        await room.auth.login(there, login)
    await flood()
    for _ in range(3):
        with pytest.raises(BadCredentials):
            await room.auth.login(here, wrong)
    with pytest.raises(BadCredentials):
        await room.auth.login(here, login)
    room.advance(900)
    await flood()
    await room.auth.logout_all(anna)
    with pytest.raises(BadCredentials):
        await room.auth.login(here, login)


async def test_an_address_that_tries_many_accounts_is_told_to_wait(open_room: Any) -> None:
    room = await open_room(lockout_free_ip=4, lockout_base_s=30.0)
    await room.register("anna")
    for i in range(4):
        with pytest.raises(BadCredentials):
            await room.log_in(f"person{i}")
    before = room.service.hasher.work_done
    with pytest.raises(TooManyAttempts) as caught:
        await room.log_in("anna")
    assert caught.value.retry_after_s == 30.0
    assert room.service.hasher.work_done == before
    room.advance(30)
    assert (await room.log_in("anna")).access_token


async def test_all_addresses_of_one_network_of_ipv6_wait_together(open_room: Any) -> None:
    room = await open_room(lockout_free_ip=4, lockout_base_s=30.0)
    await room.register("anna")
    for i in range(4):
        with pytest.raises(BadCredentials):
            await room.auth.login(somebody(f"2001:db8:0:1::{i}"), Login(email=f"p{i}@example.org", password="x" * 12))
    login = Login(email="anna@example.org", password=PASSWORD)
    with pytest.raises(TooManyAttempts):
        await room.auth.login(somebody("2001:db8:0:1:ffff::7"), login)
    assert (await room.auth.login(somebody("2001:db8:0:2::7"), login)).access_token


async def test_guesses_sent_at_once_count_one_by_one(open_room: Any) -> None:
    room = await open_room(lockout_free=5)
    await room.register("anna")
    guesses = [room.log_in("anna", password=f"guess number {i}") for i in range(20)]
    guesses.append(room.log_in("anna"))
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert all(isinstance(answer, BadCredentials) for answer in answers), "the right one came too late"


async def test_guesses_from_many_addresses_at_once_are_counted_on_the_account(open_room: Any) -> None:
    room = await open_room(lockout_free_account=6)
    await room.register("anna")
    login = Login(email="anna@example.org", password=PASSWORD)
    wrong = msgspec.structs.replace(login, password="wrong wrong wrong")
    guesses = [room.auth.login(somebody(f"203.0.113.{i}"), wrong) for i in range(30)]
    guesses.append(room.auth.login(somebody("198.51.100.7"), login))
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert all(isinstance(answer, BadCredentials) for answer in answers), "the right one came too late"
    (count,) = room.storage.db.read("SELECT max(count) FROM attempt")[0]
    assert count == 6, "what comes while it is locked does not prolong the wait"


async def test_who_guesses_from_many_addresses_gains_nothing_by_pausing(open_room: Any) -> None:
    """Failures on an account are forgotten after a day without one, those of one address on it after an hour."""
    room = await open_room(lockout_free=3, lockout_free_account=6)
    await room.register("anna")
    login = Login(email="anna@example.org", password=PASSWORD)
    wrong = msgspec.structs.replace(login, password="wrong wrong wrong")
    home = somebody("198.51.100.7")
    for n in range(3):
        for _ in range(2):
            with pytest.raises(BadCredentials):
                await room.auth.login(somebody(f"203.0.113.{n}"), wrong)
        if n < 2:
            room.advance(3_601)
            await room.service.upkeep.sweep()
    with pytest.raises(BadCredentials):
        await room.auth.login(home, login)
    room.advance(2)
    with pytest.raises(BadCredentials):
        await room.auth.login(somebody("203.0.113.9"), wrong)
    room.advance(86_400)
    await room.service.upkeep.sweep()
    for _ in range(2):
        with pytest.raises(BadCredentials):
            await room.auth.login(somebody("203.0.113.9"), wrong)
    assert (await room.auth.login(home, login)).access_token, "the count began again"


async def test_guesses_on_many_accounts_at_once_are_counted_on_the_address(open_room: Any) -> None:
    room = await open_room(lockout_free_ip=6)
    await room.register("anna")
    names = [f"person{i}" for i in range(30)]
    answers = await asyncio.gather(*(room.log_in(name) for name in (*names, "anna")), return_exceptions=True)
    assert all(isinstance(answer, BadCredentials | TooManyAttempts) for answer in answers)
    login = Login(email="anna@example.org", password=PASSWORD)
    assert (await room.auth.login(somebody("198.51.100.7"), login)).access_token, "from elsewhere she comes in"


async def test_many_honest_logins_at_once(room: AuthRoom) -> None:
    await room.register("anna")
    granted = await asyncio.gather(*(room.log_in("anna") for _ in range(32)))
    assert len({g.session_id for g in granted}) == 32


async def test_a_hash_made_with_lower_parameters_is_renewed_at_login(open_room: Any) -> None:
    room = await open_room()
    user_id = await room.register("anna")
    old = await room.storage.stores.users.get(user_id)
    await room.close()
    dearer = AuthRoom(room.folder, config=msgspec.structs.replace(CHEAP, password_memory_kib=128))
    await dearer.open()
    granted = await dearer.log_in("anna")
    new = await dearer.storage.stores.users.get(user_id)
    assert old is not None
    assert new is not None
    assert ("m=64" in old.password_hash, "m=128" in new.password_hash) == (True, True)
    assert await dearer.is_live(granted)
    await dearer.close()
    await room.open()


# ---- access tokens


async def test_an_access_token_says_what_the_contract_says(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    published = (await room.auth.jwks(somebody())).keys
    keys = KeySet([Key.from_public_jwk(dict(key)) for key in published])
    rules = Rules(typ=frozenset({"at+jwt"}), issuer=CHEAP.issuer, audience=CHEAP.audience)
    said = verify(granted.access_token, keys, rules, now_us=room.clock.now_us())
    assert said.claims.keys() >= {
        "iss", "aud", "sub", "client_id", "email", "role", "tid", "sid", "jti", "iat", "exp", "auth_time", "amr",
    }  # fmt: skip
    assert said.claims["sub"] == anna.user_id
    assert said.claims["email"] == "anna@example.org"
    assert said.claims["amr"] == ["pwd"]
    assert said.exp - said.iat == 600
    assert said.typ == "at+jwt"
    assert all("d" not in key for key in published)


async def test_introspection_and_revocation_of_an_access_token(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    ben, _ = await room.enter("ben")
    query = TokenQuery(token=granted.access_token)
    told = await room.auth.introspect(anna, query)
    assert (told.active, told.sub, told.sid, told.role) == (True, anna.user_id, granted.session_id, "owner")
    assert not (await room.auth.introspect(ben, query)).active, "somebody else's"
    assert (await room.auth.introspect(BOUNDARY, query)).active, "a service may ask"
    await room.auth.revoke(ben, query)
    assert (await room.auth.introspect(anna, query)).active, "nor may they revoke it"
    await room.auth.revoke(anna, query)
    await room.auth.revoke(anna, query)
    assert not (await room.auth.introspect(anna, query)).active
    entries = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
    assert [(e.kind, e.token_id) for e in entries] == [("token", anna.principal.token_id)]
    assert await room.is_live(granted), "the session goes on"


async def test_introspection_and_revocation_of_a_refresh_token(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    ben, _ = await room.enter("ben")
    query = TokenQuery(token=granted.refresh_token, token_type_hint="refresh_token")
    assert (await room.auth.introspect(anna, query)).active
    assert not (await room.auth.introspect(ben, query)).active
    await room.auth.revoke(ben, query)
    assert await room.is_live(granted)
    await room.auth.revoke(anna, query)
    assert not await room.is_live(granted)
    assert not (await room.auth.introspect(anna, query)).active
    for garbage in ("x", "swr1.x.1.y", granted.refresh_token[:-1] + "!", "a.b.c"):
        await room.auth.revoke(anna, TokenQuery(token=garbage))
        assert not (await room.auth.introspect(anna, TokenQuery(token=garbage))).active


async def test_a_token_of_an_ended_or_expired_session_is_inactive(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    query = TokenQuery(token=granted.access_token)
    await room.auth.logout(anna)
    assert not (await room.auth.introspect(BOUNDARY, query)).active
    again = await room.log_in("anna")
    room.advance(606)
    assert not (await room.auth.introspect(BOUNDARY, TokenQuery(token=again.access_token))).active


# ---- refreshing


async def test_rotation_repeat_and_reuse(room: AuthRoom) -> None:
    _, granted = await room.enter("anna")
    second = await room.auth.refresh(somebody(), refresh_with(granted.refresh_token))
    assert second.refresh_token != granted.refresh_token
    assert second.session_id == granted.session_id
    room.advance(4)
    again = await room.auth.refresh(somebody(), refresh_with(granted.refresh_token))
    assert again.refresh_token == second.refresh_token, "a lost answer is given again"
    room.advance(2)
    with pytest.raises(RefreshReused) as caught:
        await room.auth.refresh(somebody(), refresh_with(granted.refresh_token))
    assert (caught.value.status, caught.value.code) == (401, "refresh_reused")
    assert not await room.is_live(granted), "the family is revoked"
    with pytest.raises(RefreshInvalid):
        await room.auth.refresh(somebody(), refresh_with(second.refresh_token))
    assert {"auth.token.reused", "auth.session-revoked"} <= set(await room.events())
    assert (await room.auth.revocations(BOUNDARY, FeedQuery())).items[-1].reason == "refresh_reused"


async def test_thirty_two_tabs_get_one_successor(room: AuthRoom) -> None:
    _, granted = await room.enter("anna")
    request = refresh_with(granted.refresh_token)
    answers = await asyncio.gather(*(room.auth.refresh(somebody(), request) for _ in range(32)))
    assert len({a.refresh_token for a in answers}) == 1
    following = await asyncio.gather(*(room.auth.refresh(somebody(), refresh_with(a.refresh_token)) for a in answers))
    assert len({a.refresh_token for a in following}) == 1
    assert (await room.events()).count("auth.token.refreshed") == 2


async def test_texts_that_are_no_refresh_token_of_ours(room: AuthRoom) -> None:
    _, granted = await room.enter("anna")
    _, other = await room.enter("ben")
    head, session_id, number, mac = granted.refresh_token.split(".")
    other_id = other.refresh_token.split(".")[1]
    for forged in (
        "x",
        granted.access_token,
        f"{head}.{session_id}.2.{mac}",
        f"{head}.{session_id}.01.{mac}",
        f"{head}.{other_id}.{number}.{mac}",
        f"{head}.{session_id}.{number}.{'A' * 43}",
        f"{head}.{session_id}.{number}.{mac[:-1]}",
        granted.refresh_token + "\n",
        granted.refresh_token + "=",
        " " + granted.refresh_token,
        f"{head}.{'0' * 36}.1.{mac}",
        f"{head}.{session_id}.99999999999.{mac}",
    ):
        with pytest.raises(RefreshInvalid):
            await room.auth.refresh(somebody(), refresh_with(forged))
    assert (await room.auth.refresh(somebody(), refresh_with(granted.refresh_token))).access_token


async def test_sessions_end_when_idle_and_at_last(open_room: Any) -> None:
    room = await open_room(session_idle_s=1_000, session_absolute_s=2_500)
    _, granted = await room.enter("anna")
    token = granted.refresh_token
    for _ in range(2):
        room.advance(999)
        token = (await room.auth.refresh(somebody(), refresh_with(token))).refresh_token
    room.advance(501)
    last = await room.auth.refresh(somebody(), refresh_with(token))
    assert room.caller(last).principal.expires_at_s == (await state(room, granted.session_id)).expires_at_s
    room.advance(1)
    with pytest.raises(RefreshInvalid):
        await room.auth.refresh(somebody(), refresh_with(last.refresh_token))
    idle = await room.log_in("anna")
    room.advance(1_000)
    with pytest.raises(RefreshInvalid):
        await room.auth.refresh(somebody(), refresh_with(idle.refresh_token))
    assert not (await state(room, idle.session_id)).active


async def state(room: AuthRoom, session_id: str) -> Any:
    return await room.auth.session(BOUNDARY, SessionQuery(session_id=session_id))


# ---- sessions


async def test_sessions_are_listed_and_ended(room: AuthRoom) -> None:
    anna, first = await room.enter("anna")
    second = await room.auth.login(
        msgspec.structs.replace(somebody("203.0.113.4"), user_agent="phone"),
        Login(email="anna@example.org", password=PASSWORD),
    )
    ben, _ = await room.enter("ben")
    items = (await room.auth.sessions(anna, Page())).items
    assert [(s.session_id, s.current, s.ip, s.user_agent) for s in items] == [
        (second.session_id, False, "203.0.113.4", "phone"),
        (first.session_id, True, "192.0.2.7", "test/1.0"),
    ]
    page = await room.auth.sessions(anna, Page(limit=1))
    assert page.next_cursor is not None
    assert (await room.auth.sessions(anna, Page(limit=1, cursor=page.next_cursor))).items == [items[1]]
    for not_mine in (second.session_id, "nothing"):
        with pytest.raises(SessionNotFound):
            await room.auth.end_session(ben, not_mine)
    await room.auth.end_session(anna, second.session_id)
    with pytest.raises(SessionNotFound):
        await room.auth.end_session(anna, second.session_id)
    assert [await room.is_live(first), await room.is_live(second)] == [True, False]


async def test_logging_out_ends_one_session_and_logging_out_everywhere_all(room: AuthRoom) -> None:
    anna, first = await room.enter("anna")
    second, third = await room.log_in("anna"), await room.log_in("anna")
    await room.auth.logout(anna)
    await room.auth.logout(anna)
    assert [await room.is_live(g) for g in (first, second, third)] == [False, True, True]
    await room.auth.logout_all(room.caller(second))
    assert [await room.is_live(g) for g in (first, second, third)] == [False, False, False]
    entries = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
    assert [(e.kind, e.session_id, e.epoch) for e in entries] == [("session", first.session_id, 0), ("subject", "", 2)]
    assert await room.is_live(await room.log_in("anna"))


async def test_logging_out_a_legacy_token_is_in_the_feed(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    until_s = room.clock.now_us() // S + 10 * 86_400
    principal = msgspec.structs.replace(anna.principal, legacy=True, session_id="f" * 64, expires_at_s=until_s)
    await room.auth.logout(msgspec.structs.replace(anna, principal=principal))
    (entry,) = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
    assert (entry.kind, entry.session_id, entry.expires_at_s) == ("session", "f" * 64, until_s)


async def test_the_oldest_session_makes_room(open_room: Any) -> None:
    room = await open_room(sessions_per_user=3)
    await room.register("anna")
    granted = []
    for _ in range(4):
        granted.append(await room.log_in("anna"))
        room.advance(1)
    assert [await room.is_live(g) for g in granted] == [False, True, True, True]


async def test_last_uses_are_coalesced_off_the_path(room: AuthRoom) -> None:
    anna, granted = await room.enter("anna")
    await room.hush()
    begun = room.clock.now_us()
    room.advance(100)
    rows = room.storage.db.stats.rows
    for at_s in (50, 99, 20, 10_000):
        await room.auth.seen(
            BOUNDARY, Seen(items=[SeenSession(session_id=granted.session_id, at_us=begun + at_s * S)] * 2)
        )
    assert room.storage.db.stats.rows == rows
    await room.service.upkeep.flush_seen()
    assert room.storage.db.stats.rows == rows + 1
    (item,) = (await room.auth.sessions(anna, Page())).items
    assert item.last_seen_at == rfc3339(begun + 100 * S), "now at most"


# ---- the password


async def test_changing_the_password_ends_all_other_sessions(room: AuthRoom) -> None:
    anna, first = await room.enter("anna")
    second = await room.log_in("anna")
    good = "harbour kettle nine"
    with pytest.raises(BadCredentials):
        await room.auth.change_password(anna, PasswordChange(current_password="wrong", new_password=good))
    for weak in (PASSWORD, "password123", "anna example org"):
        with pytest.raises(WeakPassword):
            await room.auth.change_password(anna, PasswordChange(current_password=PASSWORD, new_password=weak))
    assert [await room.is_live(first), await room.is_live(second)] == [True, True]
    await room.auth.change_password(anna, PasswordChange(current_password=PASSWORD, new_password=good))
    assert [await room.is_live(first), await room.is_live(second)] == [True, False]
    (entry,) = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
    assert (entry.kind, entry.subject, entry.session_id, entry.epoch) == ("subject", anna.user_id, first.session_id, 2)
    renewed = await room.auth.refresh(somebody(), refresh_with(first.refresh_token))
    assert room.caller(renewed).principal.epoch == 2
    with pytest.raises(BadCredentials):
        await room.log_in("anna")
    assert (await room.log_in("anna", password=good)).access_token


async def test_two_password_changes_at_once(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    passwords = [f"harbour kettle {word}" for word in ("nine", "tin")]
    answers = await asyncio.gather(
        *(
            room.auth.change_password(anna, PasswordChange(current_password=PASSWORD, new_password=p))
            for p in passwords
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(a, BadCredentials) for a in answers) == 1
    winner = passwords[answers.index(None)]
    assert (await room.log_in("anna", password=winner)).access_token


async def test_guessing_the_current_password_in_a_stolen_session_is_slow(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    change = PasswordChange(current_password="wrong", new_password="harbour kettle nine")
    for _ in range(5):
        with pytest.raises(BadCredentials):
            await room.auth.change_password(anna, change)
    with pytest.raises(TooManyAttempts):
        await room.auth.change_password(anna, msgspec.structs.replace(change, current_password=PASSWORD))


# ---- oneself


async def test_the_own_profile(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    assert (await room.auth.me(anna)).display_name == "Anna"
    assert (await room.auth.change_me(anna, ProfileChange())).display_name == "Anna"
    assert (await room.auth.change_me(anna, ProfileChange(display_name="Änne"))).display_name == "Änne"
    assert (await room.auth.me(anna)).display_name == "Änne"
    stranger: Caller = msgspec.structs.replace(
        anna, principal=msgspec.structs.replace(anna.principal, tenant_id="system")
    )
    with pytest.raises(NotFound):
        await room.auth.me(stranger)


def test_every_setting_is_described() -> None:
    for name, field in AuthConfig.__annotations__.items():
        assert "description=" in field, name
