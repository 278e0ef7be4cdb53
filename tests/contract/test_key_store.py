"""The promises of `KeyStore`, for every family of storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.outbox import SqlitePositions
from sealwire.kit.caller import service_caller
from sealwire.kit.ids import new_id
from sealwire.kit.problem import QuotaExceeded
from sealwire.services.crypto.events import KeyEvent, audit_entry, key_event
from sealwire.services.crypto.model import KeyState, Life
from sealwire.services.crypto.ports import KeyStore, StoredDataKey, StoredKey, StoredVersion

T = "tenant-1"


@pytest.fixture(params=["embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyStore]:
    db = Database.open(tmp_path / "crypto.db", MIGRATIONS)
    yield SqliteKeyStore(db)
    await db.close()


async def events(store: KeyStore) -> list[str]:
    assert isinstance(store, SqliteKeyStore)
    return [event.kind for event in await store.feed.read(0, 1000)]


def event(action: str = "crypto.key.created", tenant_id: str = T) -> KeyEvent:
    return key_event(service_caller("crypto", tenant_id), action, key_id="k", at_us=1)


def a_key(*, tenant_id: str = T, purpose: str = "tenant", name: str | None = None, key_id: str = "") -> StoredKey:
    return StoredKey(
        key_id=key_id or new_id(),
        tenant_id=tenant_id,
        key_type="aes-256-gcm",
        purpose=purpose,
        name=name,
        life=Life(),
        created_at_us=7,
        versions=(a_version(1),),
    )


def a_version(number: int) -> StoredVersion:
    return StoredVersion(
        version=number, created_at_us=8, reserved_uses=10, wrapped=b"w%d" % number, master_version=1, public_key=b"p"
    )


def a_data_key(key_id: str, *, digest: bytes = b"d", scope: str = "c1", subject_id: str = "u1") -> StoredDataKey:
    return StoredDataKey(
        data_key_id=new_id(),
        tenant_id=T,
        service="messaging",
        scope=scope,
        subject_id=subject_id,
        context_digest=digest,
        key_id=key_id,
        version=1,
        wrapped=b"wrapped data key",
        reserved_uses=5,
        created_at_us=9,
    )


async def test_what_is_stored_comes_back(store: KeyStore) -> None:
    key = a_key(name="reports")
    assert await store.create(key, event(), max_keys=10) == key
    assert await store.key(T, key.key_id) == key
    assert await store.key("tenant-2", key.key_id) is None
    assert await events(store) == ["crypto.key.created"]


async def test_a_named_key_is_made_once_under_any_race(store: KeyStore) -> None:
    made = await asyncio.gather(
        *(store.create(a_key(purpose="master", name="master"), event(), max_keys=1) for _ in range(20))
    )
    assert len({key.key_id for key in made}) == 1
    assert await store.named(T, "master", "master") == made[0]
    assert await events(store) == ["crypto.key.created"]
    other = await store.create(a_key(purpose="master", name="master", tenant_id="tenant-2"), event(), max_keys=1)
    assert other.key_id != made[0].key_id


async def test_tenants_keys_may_share_a_name_and_are_counted(store: KeyStore) -> None:
    await store.create(a_key(purpose="system:media", name="data"), event(), max_keys=1)
    for _ in range(2):
        await store.create(a_key(name="same"), event(), max_keys=2)
    with pytest.raises(QuotaExceeded):
        await store.create(a_key(name="same"), event(), max_keys=2)
    assert await store.named(T, "tenant", "same") is None


async def test_pages_in_the_order_of_making(store: KeyStore) -> None:
    made = [(await store.create(a_key(), event(), max_keys=100)).key_id for _ in range(7)]
    await store.create(a_key(tenant_id="tenant-2"), event(), max_keys=100)
    first = await store.keys(T, after="", limit=4)
    second = await store.keys(T, after=first[-1].key_id, limit=4)
    assert [key.key_id for key in first + second] == sorted(made)


async def test_one_version_of_a_number(store: KeyStore) -> None:
    key = await store.create(a_key(), event(), max_keys=10)
    added = await asyncio.gather(
        *(store.add_version(key.key_id, a_version(2), event("crypto.key.rotated")) for _ in range(5))
    )
    assert sorted(added) == [False] * 4 + [True]
    assert not await store.add_version(key.key_id, a_version(4), event("crypto.key.rotated"))
    found = await store.key(T, key.key_id)
    assert found is not None
    assert [v.version for v in found.versions] == [1, 2]
    assert found.newest == a_version(2)
    assert (await events(store)).count("crypto.key.rotated") == 1


async def test_a_life_changes_from_what_it_is_only(store: KeyStore) -> None:
    key = await store.create(a_key(), event(), max_keys=10)
    scheduled = Life(state=KeyState.SCHEDULED, destroy_at_us=50)
    assert await store.change_life(key.key_id, Life(), scheduled, event("x"))
    assert not await store.change_life(key.key_id, Life(), Life(state=KeyState.DISABLED), event("y"))
    assert not await store.change_life(key.key_id, Life(state=KeyState.SCHEDULED, destroy_at_us=51), Life(), event("y"))
    assert "y" not in await events(store)
    assert await store.due(49, 10) == []
    assert [k.key_id for k in await store.due(50, 10)] == [key.key_id]
    assert await store.change_life(key.key_id, scheduled, Life(state=KeyState.DESTROYED), event("z"))
    found = await store.key(T, key.key_id)
    assert found is not None
    assert found.life == Life(state=KeyState.DESTROYED)
    assert found.newest.wrapped is None
    assert await store.due(99, 10) == []


async def test_destroyed_material_is_gone_from_the_files(store: KeyStore, tmp_path: Path) -> None:
    secret = b"unmistakable wrapped bytes" * 4
    key = a_key()
    key = StoredKey(**{f: getattr(key, f) for f in key.__struct_fields__} | {
        "versions": (StoredVersion(version=1, created_at_us=1, reserved_uses=0, wrapped=secret),)
    })  # fmt: skip
    await store.create(key, event(), max_keys=10)
    data_key = a_data_key(key.key_id)
    await store.put_data_key(data_key, replaces="", event=event())

    def files() -> bytes:
        return b"".join(f.read_bytes() for f in sorted(tmp_path.iterdir()))

    assert secret in files()
    assert b"wrapped data key" in files()
    await store.change_life(key.key_id, Life(), Life(state=KeyState.DESTROYED), event())
    await store.destroy_data_keys(
        T, "messaging", scope="", subject_id="u1", spare_held=False, spare=None, event=event()
    )
    await store.shred()
    assert store._db.read("SELECT kind, id, tenant_id, at_us FROM destructions ORDER BY number") == [
        ("key", key.key_id, T, 1), ("data_key", data_key.data_key_id, T, 1),
    ], "what a restore would have to destroy again"  # fmt: skip
    assert secret not in files()
    assert b"wrapped data key" not in files()


async def test_uses_are_reserved_up_to_a_limit_and_given_back(store: KeyStore) -> None:
    key = await store.create(a_key(), event(), max_keys=10)
    sums = await asyncio.gather(*(store.reserve(key.key_id, 1, 5, limit=100) for _ in range(4)))
    assert sorted(s for s in sums if s is not None) == [15, 20, 25, 30]
    assert await store.reserve(key.key_id, 1, 71, limit=100) is None
    assert await store.reserve(key.key_id, 1, 70, limit=100) == 100
    await store.release([(key.key_id, 1, 60)])
    found = await store.key(T, key.key_id)
    assert found is not None
    assert found.newest.reserved_uses == 40


async def test_one_data_key_is_current_per_context(store: KeyStore) -> None:
    key = await store.create(a_key(), event(), max_keys=10)
    made = await asyncio.gather(
        *(store.put_data_key(a_data_key(key.key_id), replaces="", event=event("made")) for _ in range(10))
    )
    assert len({k.data_key_id for k in made}) == 1
    assert (await events(store)).count("made") == 1
    current = await store.current_data_key(T, "messaging", b"d")
    assert current == made[0]
    assert await store.current_data_key(T, "media", b"d") is None
    fresh = a_data_key(key.key_id)
    assert await store.put_data_key(fresh, replaces=made[0].data_key_id, event=event()) == fresh
    assert await store.current_data_key(T, "messaging", b"d") == fresh
    assert await store.data_key(T, "messaging", made[0].data_key_id) == made[0]
    assert await store.data_key(T, "media", made[0].data_key_id) is None
    assert await store.data_key("tenant-2", "messaging", made[0].data_key_id) is None


async def test_uses_are_granted_to_the_current_data_key_only(store: KeyStore) -> None:
    key = await store.create(a_key(), event(), max_keys=10)
    old, new = a_data_key(key.key_id), a_data_key(key.key_id)
    await store.put_data_key(old, replaces="", event=event())
    assert await store.grant_uses(old.data_key_id, 100, event("loaded"))
    await store.put_data_key(new, replaces=old.data_key_id, event=event())
    assert not await store.grant_uses(old.data_key_id, 100, event("loaded"))
    found = await store.data_key(T, "messaging", old.data_key_id)
    assert found is not None
    assert found.reserved_uses == 105
    assert (await events(store)).count("loaded") == 1


async def test_data_keys_are_destroyed_by_scope_and_subject(store: KeyStore) -> None:
    key = await store.create(a_key(), event(), max_keys=10)
    keys = {}
    for scope in ("c1", "c2"):
        for subject in ("u1", "u2"):
            data_key = a_data_key(key.key_id, digest=f"{scope}{subject}".encode(), scope=scope, subject_id=subject)
            keys[scope, subject] = await store.put_data_key(data_key, replaces="", event=event())

    async def alive() -> set[tuple[str, str]]:
        found = {name: await store.data_key(T, "messaging", k.data_key_id) for name, k in keys.items()}
        return {name for name, k in found.items() if k is not None and k.wrapped is not None}

    async def destroy(tenant_id: str, service: str, scope: str, subject_id: str) -> int:
        gone, stayed, spared = await store.destroy_data_keys(
            tenant_id, service, scope=scope, subject_id=subject_id, spare_held=False, spare=None, event=event("gone")
        )
        assert (not stayed, spared) == (True, 0), "no hold covers any"
        return gone

    with pytest.raises(ValueError, match="neither"):
        await destroy(T, "messaging", "", "")
    assert await destroy("tenant-2", "messaging", "", "u1") == 0
    assert await destroy(T, "media", "", "u1") == 0
    assert await alive() == set(keys)
    assert await destroy(T, "messaging", "c1", "u1") == 1
    assert await destroy(T, "messaging", "", "u1") == 1
    assert await alive() == {("c1", "u2"), ("c2", "u2")}
    assert await destroy(T, "messaging", "c1", "") == 1
    assert await destroy(T, "messaging", "c1", "") == 0
    assert await alive() == {("c2", "u2")}
    assert (await events(store)).count("gone") == 3
    assert await store.current_data_key(T, "messaging", b"c1u1") is None
    assert not await store.grant_uses(keys["c1", "u1"].data_key_id, 5, event())


async def test_events_are_audit_records_without_secrets(store: KeyStore) -> None:
    await store.record([event("crypto.encrypt"), event("crypto.decrypt")])
    assert isinstance(store, SqliteKeyStore)
    stored = await store.feed.read(0, 10)
    entries = [audit_entry(e) for e in stored]
    assert [e.action for e in entries] == ["crypto.encrypt", "crypto.decrypt"]
    assert entries[0].audit_id == stored[0].event_id
    assert entries[0].resource_id == "k"
    assert entries[0].personal == {}


async def test_old_events_go_once_everybody_has_passed_them(store: KeyStore) -> None:
    await store.record([event("one"), event("two")])
    await store.trim(2**62)
    assert await events(store) == ["one", "two"]  # nobody follows the feed yet
    assert isinstance(store, SqliteKeyStore)
    positions = SqlitePositions(store._db)
    await positions.load("audit")
    await positions.save("audit", 1)
    await store.trim(2**62)
    assert await events(store) == ["two"]


async def test_kek_ids_and_check(store: KeyStore) -> None:
    assert await store.kek_ids() == set()
    key = a_key(purpose="master", name="master")
    version = StoredVersion(version=1, created_at_us=1, reserved_uses=0, wrapped=b"w", kek_id="file:ab")
    await store.create(
        StoredKey(**{f: getattr(key, f) for f in key.__struct_fields__} | {"versions": (version,)}),
        event(),
        max_keys=1,
    )
    assert await store.kek_ids() == {"file:ab"}
    await store.check()
