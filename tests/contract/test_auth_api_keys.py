"""The promises of API keys and service accounts, over every wiring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.contracts.api_keys import (
    ApiKeyMade,
    ApiKeyNotFound,
    ApiKeyQuery,
    ApiKeyRefused,
    NewApiKey,
    NewServiceAccount,
)
from sealwire.contracts.logins import BadCredentials, Login, PasswordChange
from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.sessions import Seen, SeenSession, SessionNotFound, SessionQuery
from sealwire.contracts.users import NewUser, UserChange
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Conflict, Forbidden, Invalid, QuotaExceeded
from sealwire.services.auth.ports import ApiKeyStore
from sealwire.testing.auth_room import BOUNDARY, CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.wirings import WIRINGS

DAY_S = 86_400


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(
        tmp_path,
        wiring=request.param,
        config=msgspec.structs.replace(CHEAP, api_keys_per_tenant=5, api_key_max_s=100 * DAY_S),
    )
    await opened.open()
    yield opened
    await opened.close()


async def robot(room: AuthRoom, by: Caller, *, role: Any = "member", scopes: Any = ("read", "post")) -> ApiKeyMade:
    account = NewServiceAccount(display_name="Robot", role=role)
    return await room.auth.add_api_key(by, NewApiKey(name="ci", scopes=list(scopes), service_account=account))


async def is_refused(room: AuthRoom, made: ApiKeyMade) -> bool:
    """Whether neither the key nor its id as a session is good any more."""
    try:
        await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=made.key))
    except ApiKeyRefused:
        try:
            state = await room.auth.session(BOUNDARY, SessionQuery(session_id=made.api_key.api_key_id))
        except SessionNotFound:
            return True
        return not state.active
    return False


async def test_a_key_is_shown_once_and_stored_as_a_hash(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    made = await robot(room, owner)
    assert made.key.startswith(made.api_key.prefix)
    (listed,) = (await room.auth.api_keys(owner, Page())).items
    assert listed == made.api_key
    assert made.key not in msgspec.json.encode(listed).decode()
    stored = b"".join(file.read_bytes() for file in room.folder.glob("auth.db*"))
    assert made.key.encode() not in stored
    _, _, secret = made.key.split("_", 2)
    assert len(secret) == 43
    assert secret.encode() not in stored
    state = await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=made.key))
    assert (state.owner_id, state.role, state.scopes) == (
        made.api_key.owner_id, Role.MEMBER, [Permission.POST, Permission.READ],
    )  # fmt: skip
    session = await room.auth.session(BOUNDARY, SessionQuery(session_id=state.api_key_id))
    assert session.active
    assert (session.user_id, session.epoch, session.kind) == (state.owner_id, state.epoch, "api_key")
    assert {"auth.api-key.added", "auth.user.added"} <= set(await room.events())


async def test_nothing_like_a_key_is_one(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    made = await robot(room, owner)
    version, name, secret = made.key.split("_", 2)
    for wrong in ("x", made.key[:-1], made.key + "A", f"{version}_{name}_{'A' * 43}", f"swk1_{'a' * 16}_{secret}"):
        with pytest.raises(ApiKeyRefused):
            await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=wrong))
    with pytest.raises(Forbidden):
        await room.auth.api_key(owner, ApiKeyQuery(key=made.key))


async def test_a_service_account_can_not_log_in_nor_own_the_tenant(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    made = await robot(room, owner)
    email = f"{made.api_key.owner_id}@service.invalid"
    for password in (PASSWORD, "!", "no one has this password"):
        with pytest.raises(BadCredentials):
            await room.auth.login(somebody(), Login(email=email, password=password))
    with pytest.raises(Forbidden):
        await room.auth.change_user(owner, made.api_key.owner_id, UserChange(role="owner"))
    again = await room.auth.add_api_key(
        owner, NewApiKey(name="second", scopes=["read"], owner_id=made.api_key.owner_id)
    )
    assert again.api_key.owner_id == made.api_key.owner_id


async def test_nobody_makes_a_key_for_somebody_else_or_wider_than_its_owner(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    anna = await room.add(owner, "anna")
    for new in (
        NewApiKey(name="x", scopes=["read"], owner_id=anna),
        NewApiKey(name="x", scopes=["read"], owner_id="nobody"),
        NewApiKey(name="x", scopes=["manage_keys"], service_account=NewServiceAccount(display_name="R")),
    ):
        with pytest.raises(Forbidden):
            await room.auth.add_api_key(owner, new)
    with pytest.raises(Invalid):
        await room.auth.add_api_key(
            owner,
            NewApiKey(name="x", scopes=["read"], owner_id=anna, service_account=NewServiceAccount(display_name="R")),
        )
    member = room.caller(await room.log_in("anna"))
    with pytest.raises(Forbidden):
        await room.auth.add_api_key(member, NewApiKey(name="x", scopes=["read"]))
    assert not any(user.display_name == "R" for user in (await room.auth.users(owner, Page())).items)


async def test_a_key_makes_no_keys_and_needs_no_more_than_its_scopes(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    made = await room.auth.add_api_key(owner, NewApiKey(name="admin", scopes=["manage_users"]))
    principal = msgspec.structs.replace(
        owner.principal, kind="api_key", session_id=made.api_key.api_key_id, scopes=(Permission.MANAGE_USERS,),
    )  # fmt: skip
    key = Caller(principal=principal)
    assert (await room.auth.users(key, Page())).items
    with pytest.raises(Forbidden):
        await room.auth.add_api_key(key, NewApiKey(name="child", scopes=["read"]))
    with pytest.raises(Forbidden):
        await room.auth.change_user(key, owner.user_id, UserChange(status="disabled"))
    new = NewUser(email="eve@example.org", password=PASSWORD, display_name="Eve", role="admin")
    with pytest.raises(Forbidden):
        await room.auth.add_user(key, new)
    assert not key.may(Permission.OWN_PROFILE)
    assert not key.may(Permission.MANAGE_KEYS)


async def test_who_may_manage_retention_may_look_at_it(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    made = await room.auth.add_api_key(owner, NewApiKey(name="clerk", scopes=["manage_retention"]))
    state = await room.auth.api_key(BOUNDARY, ApiKeyQuery(key=made.key))
    assert state.scopes == [Permission.MANAGE_RETENTION, Permission.READ_RETENTION]
    assert made.api_key.scopes == ["manage_retention"]


async def test_an_ended_key_is_in_the_feed_and_dead(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    made = await robot(room, owner)
    answers = await asyncio.gather(
        *(room.auth.end_api_key(owner, made.api_key.api_key_id) for _ in range(5)), return_exceptions=True
    )
    assert sum(answer is None for answer in answers) == 1
    assert all(isinstance(answer, ApiKeyNotFound) for answer in answers if answer is not None)
    (entry,) = (await room.auth.revocations(BOUNDARY, FeedQuery())).items
    assert (entry.kind, entry.session_id, entry.subject) == (
        "session", made.api_key.api_key_id, made.api_key.owner_id,
    )  # fmt: skip
    assert await is_refused(room, made)
    assert (await room.auth.api_keys(owner, Page())).items == []


async def test_another_tenants_key_is_not_there(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    other, _ = await room.enter("boss", tenant="selftest-other")
    made = await robot(room, owner)
    with pytest.raises(ApiKeyNotFound):
        await room.auth.end_api_key(other, made.api_key.api_key_id)
    assert (await room.auth.api_keys(other, Page())).items == []


async def test_what_ends_its_owners_sessions_ends_a_key(room: AuthRoom) -> None:
    owner, granted = await room.enter("boss")
    made = await robot(room, owner)
    await room.auth.change_user(owner, made.api_key.owner_id, UserChange(status="disabled"))
    assert await is_refused(room, made)
    await room.auth.change_user(owner, made.api_key.owner_id, UserChange(status="active"))
    assert await is_refused(room, made), "it stays dead when the account comes back"
    own = await room.auth.add_api_key(room.caller(granted), NewApiKey(name="mine", scopes=["read"]))
    change = PasswordChange(current_password=PASSWORD, new_password="lantern otter seven")
    await room.auth.change_password(owner, change)
    assert await is_refused(room, own), "who had the password may have made it"


async def test_a_role_change_bounds_a_key_at_once(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    made = await robot(room, owner, role="admin", scopes=["manage_users", "read"])
    await room.auth.change_user(owner, made.api_key.owner_id, UserChange(role="guest"))
    state = await room.auth.session(BOUNDARY, SessionQuery(session_id=made.api_key.api_key_id))
    assert state.active
    assert state.role is Role.GUEST


async def test_keys_expire_and_are_counted_and_swept(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    for n in range(5):
        await room.auth.add_api_key(owner, NewApiKey(name=f"k{n}", scopes=["read"], expires_in_s=60))
    with pytest.raises(QuotaExceeded):
        await room.auth.add_api_key(owner, NewApiKey(name="six", scopes=["read"]))
    first = await room.auth.api_keys(owner, Page(limit=3))
    rest = await room.auth.api_keys(owner, Page(limit=3, cursor=first.next_cursor))
    assert sorted(key.name for key in (*first.items, *rest.items)) == [f"k{n}" for n in range(5)]
    room.advance(60)
    assert (await room.auth.api_keys(owner, Page())).items == []
    wanted = NewApiKey(name="six", scopes=["read"], expires_in_s=365 * DAY_S)
    six = (await room.auth.add_api_key(owner, wanted)).api_key
    assert six.expires_at == rfc3339(room.clock.now_us() + 100 * DAY_S * US_PER_S), "no longer than the settings allow"
    room.advance(2 * DAY_S)
    await room.service.upkeep.sweep()
    assert len((await room.auth.api_keys(owner, Page())).items) == 1


async def test_the_last_use_is_noted(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    made = await robot(room, owner)
    used = SeenSession(session_id=made.api_key.api_key_id, at_us=room.clock.now_us())
    await room.auth.seen(BOUNDARY, Seen(items=[used]))
    await room.service.upkeep.flush_seen()
    (listed,) = (await room.auth.api_keys(owner, Page())).items
    assert listed.last_used_at is not None


async def test_a_key_is_not_made_across_a_deactivation(room: AuthRoom) -> None:
    owner, _ = await room.enter("boss")
    made = await robot(room, owner)
    store: ApiKeyStore = room.storage.stores.api_keys
    record = await store.get(made.api_key.api_key_id, room.clock.now_us())
    assert record is not None
    await room.auth.change_user(owner, made.api_key.owner_id, UserChange(status="disabled"))
    late = msgspec.structs.replace(record, key_id="late", prefix="late")
    with pytest.raises(Conflict):
        await store.add(late, most=10, events=[])
