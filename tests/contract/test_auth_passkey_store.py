"""The promises of the passkey store, over every family."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sealwire.contracts.passkeys import PasskeyTaken
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Role
from sealwire.kit.problem import Conflict, QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.auth.passkey_store import PasskeyRecord, Removal, Use
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.records import TenantRecord, UserRecord
from sealwire.testing.auth_room import open_auth_stores

T0 = 1_800_000_000_000_000


@pytest.fixture(params=["embedded"])
async def stores(request: Any, tmp_path: Path) -> AsyncIterator[AuthStores]:
    async with open_auth_stores(request.param, tmp_path) as opened:
        await opened.tenants.add(TenantRecord(tenant_id="t1", slug="one", name="One", created_us=T0), [])
        yield opened


def event(kind: str) -> NewEvent:
    return NewEvent(event_id=new_id(), tenant_id="t1", kind=kind, at_us=T0, data=b"x")


async def somebody(stores: AuthStores, *, status: Any = "active") -> str:
    user_id = new_id()
    record = UserRecord(
        user_id=user_id, tenant_id="t1", email_index=user_id.encode(), sealed=b"s", role=Role.MEMBER,
        password_hash="h", created_us=T0, status=status,
    )  # fmt: skip
    await stores.users.add(record, most=100, claim_owner=False, needs_claim=False, events_of=lambda _: ())
    return user_id


def passkey(user_id: str, **changed: Any) -> PasskeyRecord:
    made: dict[str, Any] = {
        "passkey_id": new_id(), "tenant_id": "t1", "user_id": user_id, "credential_index": new_id().encode(),
        "sealed_key": b"key", "sealed_name": b"name", "sign_count": 1, "backup_eligible": False, "created_us": T0,
    }  # fmt: skip
    return PasskeyRecord(**{**made, **changed})


async def add(stores: AuthStores, record: PasskeyRecord, *, most: int = 10) -> bool:
    return await stores.passkeys.add(record, most=most, recovery=[b"r1", b"r2"], events=[event("added")])


async def has_factor(stores: AuthStores, user_id: str) -> bool:
    user = await stores.users.get(user_id)
    assert user is not None
    return user.mfa


async def kinds(stores: AuthStores) -> list[str]:
    return [found.kind for found in await stores.events.read(0, 1_000)]


async def test_a_challenge_is_spent_once_until_it_is_forgotten(stores: AuthStores) -> None:
    answers = await asyncio.gather(*(stores.passkeys.spend(b"h", T0) for _ in range(8)))
    assert sorted(answers) == [False] * 7 + [True]
    assert await stores.passkeys.spend(b"other", T0 + 1)
    await stores.upkeep.sweep(now_us=T0 + 1, over_before_us=0, attempts_before_us=0)
    assert await stores.passkeys.spend(b"h", T0 + 9)
    assert not await stores.passkeys.spend(b"other", T0 + 9)


async def test_a_passkey_is_a_second_factor_with_recovery_codes_of_its_own(stores: AuthStores) -> None:
    anna = await somebody(stores)
    first = passkey(anna)
    assert await add(stores, first)
    assert not await add(stores, passkey(anna, created_us=T0 + 1)), "there are codes"
    assert await has_factor(stores, anna)
    assert await stores.passkeys.is_usable(anna)
    assert await stores.mfa.has_recovery(anna)
    assert await stores.passkeys.by_credential(first.credential_index) == first
    assert next(p.passkey_id for p in await stores.passkeys.of_user(anna)) == first.passkey_id
    assert await stores.passkeys.by_credential(b"none") is None


async def test_what_may_not_be_added_changes_nothing(stores: AuthStores) -> None:
    anna, ben = await somebody(stores), await somebody(stores)
    gone = await somebody(stores, status="disabled")
    first = passkey(anna)
    await add(stores, first)
    with pytest.raises(PasskeyTaken):
        await add(stores, passkey(ben, credential_index=first.credential_index))
    with pytest.raises(QuotaExceeded):
        await add(stores, passkey(anna), most=1)
    with pytest.raises(Conflict):
        await add(stores, passkey(gone))
    assert not await has_factor(stores, ben)
    assert not await stores.mfa.has_recovery(ben)
    assert await kinds(stores) == ["added"]


async def test_a_counter_rises_or_the_passkey_is_suspended(stores: AuthStores) -> None:
    anna = await somebody(stores)
    record = passkey(anna, sign_count=5)
    await add(stores, record)

    async def use(count: int, at_us: int = T0) -> Use:
        return await stores.passkeys.use(
            record.passkey_id, sign_count=count, now_us=at_us, suspended_events=[event("suspended")]
        )

    assert [await use(6, T0 + 9), await use(9, T0 + 3)] == [Use.COUNTED] * 2
    found = await stores.passkeys.by_credential(record.credential_index)
    assert found is not None
    assert (found.sign_count, found.used_us) == (9, T0 + 9), "the last use never goes back"
    assert sorted(await asyncio.gather(*(use(12) for _ in range(4)))) == [
        Use.COUNTED,
        Use.GONE,
        Use.GONE,
        Use.WENT_BACK,
    ]
    assert await use(99) is Use.GONE
    assert (await kinds(stores)).count("suspended") == 1
    assert not await stores.passkeys.is_usable(anna)
    assert await has_factor(stores, anna), "what protected the account goes on to"


async def test_an_authenticator_without_a_counter_stays_at_zero(stores: AuthStores) -> None:
    anna = await somebody(stores)
    record = passkey(anna, sign_count=0)
    await add(stores, record)
    for _ in range(2):
        used = await stores.passkeys.use(record.passkey_id, sign_count=0, now_us=T0, suspended_events=[])
        assert used is Use.COUNTED
    assert await stores.passkeys.use("nobody's", sign_count=0, now_us=T0, suspended_events=[]) is Use.GONE


async def test_removing_the_last_factor_takes_the_recovery_codes_along(stores: AuthStores) -> None:
    anna, ben = await somebody(stores), await somebody(stores)
    record = passkey(anna)
    await add(stores, record)
    remove = stores.passkeys.remove
    removed = [event("removed")]
    assert await remove(ben, record.passkey_id, keeps_a_factor=False, events=removed) is Removal.ABSENT
    assert await remove(anna, record.passkey_id, keeps_a_factor=True, events=removed) is Removal.LAST_FACTOR
    assert await stores.passkeys.of_user(anna) == [record]
    await stores.mfa.enroll(anna, b"s", T0, [])
    assert await remove(anna, record.passkey_id, keeps_a_factor=True, events=removed) is Removal.LAST_FACTOR
    await stores.mfa.confirm(anna, pending_sealed=b"s", step=1, recovery=[b"c"], events=[])
    assert await remove(anna, record.passkey_id, keeps_a_factor=True, events=removed) is Removal.REMOVED
    assert await has_factor(stores, anna)
    assert await stores.mfa.remove(anna, keeps_a_factor=False, events=[]) is Removal.REMOVED
    assert not await has_factor(stores, anna)
    assert not await stores.mfa.has_recovery(anna)
    assert (await kinds(stores)).count("removed") == 1


async def test_a_name_is_changed_by_its_owner(stores: AuthStores) -> None:
    anna, ben = await somebody(stores), await somebody(stores)
    record = passkey(anna)
    await add(stores, record)
    assert await stores.passkeys.rename(ben, record.passkey_id, b"new", [event("renamed")]) is None
    renamed = await stores.passkeys.rename(anna, record.passkey_id, b"new", [event("renamed")])
    assert renamed is not None
    assert renamed.sealed_name == b"new"
    await stores.passkeys.note([event("refused")])
    assert await kinds(stores) == ["added", "renamed", "refused"]
