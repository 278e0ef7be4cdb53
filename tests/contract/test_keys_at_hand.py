"""Keys that are unwrapped: for how long, how many, which go first; and versions begun while something else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.ciphers import Plaintext
from sealwire.contracts.crypto_terms import KeyUnusable
from sealwire.contracts.data_keys import DataKeyDestruction, DataKeyRequest, Destroyed
from sealwire.contracts.keys import KeyChange, NewKey
from sealwire.contracts.signatures import Signable
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.codec import Page
from sealwire.kit.envelopes import draw_key
from sealwire.kit.permission import Role
from sealwire.resilience.failure import PartOut
from sealwire.services.crypto import keys
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.material import Material
from sealwire.services.crypto.model import UseBudget
from sealwire.services.crypto.provider_set import ProviderSet
from sealwire.services.crypto.providers import FileKeyProvider, KekUnusable
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock

AGE_S = 300.0
TEXT = Plaintext(plaintext=b"attack at dawn")
DEADLINE_S = 30.0


def person(tenant_id: str) -> Caller:
    return Caller(principal=Principal(kind="user", tenant_id=tenant_id, subject="anna", role=Role.ADMIN))


ANNA = person("t1")


class Late(FileKeyProvider):
    """Wraps and unwraps, and answers when it is told to; `asked` is set when it waits."""

    asked: asyncio.Event
    go_on: asyncio.Event

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        self.asked.set()
        await self.go_on.wait()
        return await super().unwrap(wrapped, context)

    async def wrap(self, key: bytes | bytearray, context: bytes) -> bytes:
        wrapped = await super().wrap(key, context)
        self.asked.set()
        await self.go_on.wait()
        return wrapped


class Room:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.db = Database.open(folder / "crypto.db", MIGRATIONS)
        self.store = SqliteKeyStore(self.db)
        provider = Late.open(folder / "kek")
        assert isinstance(provider, Late)
        self.provider = provider
        self.provider.asked, self.provider.go_on = asyncio.Event(), asyncio.Event()
        self.provider.go_on.set()
        self.providers = ProviderSet(self.provider)
        config = CryptoConfig(cache_age_s=AGE_S, cache_keys=16, journal_window_ms=1)
        self.crypto = CryptoService(store=self.store, provider=self.providers, clock=self.clock, config=config)

    @property
    def at_hand(self) -> set[str]:
        """Tenants whose keys are held."""
        return {tenant_id for tenant_id, _ in self.crypto._chain._keys}


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path)
    await room.crypto.start()
    yield room
    await room.crypto.stop()
    await room.db.close()


async def test_a_key_past_its_time_is_not_used_though_nobody_wiped_it(room: Room) -> None:
    key = await room.crypto.generate_key(ANNA, NewKey())
    await room.crypto.encrypt(ANNA, key.key_id, TEXT)
    room.provider.close()
    room.clock.advance(AGE_S - 1)
    await room.crypto.encrypt(ANNA, key.key_id, TEXT)
    room.clock.advance(1)
    with pytest.raises(PartOut):
        await room.crypto.encrypt(ANNA, key.key_id, TEXT)


async def test_a_key_that_is_unwrapped_anew_leaves_no_old_copy(room: Room) -> None:
    key = await room.crypto.generate_key(ANNA, NewKey())
    await room.crypto.encrypt(ANNA, key.key_id, TEXT)
    live = room.crypto._chain._keys["t1", key.key_id]
    first = live.materials[1]
    room.clock.advance(AGE_S)
    await room.crypto.encrypt(ANNA, key.key_id, TEXT)
    assert live.materials[1] is not first
    assert not any(first._root)


async def test_the_key_that_was_not_used_for_longest_makes_room(room: Room) -> None:
    tenants = [f"tenant-{n}" for n in range(16)]
    for tenant_id in tenants:
        await room.crypto.encrypt_with_master_key(person(tenant_id), TEXT)
    assert room.at_hand == set(tenants)
    await room.crypto.encrypt_with_master_key(person(tenants[0]), TEXT)
    await room.crypto.encrypt_with_master_key(person("one-more"), TEXT)
    assert room.at_hand == {*tenants, "one-more"} - {tenants[1]}


async def test_who_asks_late_for_a_rotation_by_itself_causes_no_second(room: Room) -> None:
    key = await room.crypto.generate_key(ANNA, NewKey())
    live = await room.crypto._chain.find("t1", key.key_id)
    for _ in range(3):
        await room.crypto._chain.rotate(ANNA, live, expected=1)
    assert [version.version for version in live.stored.versions] == [1, 2]


async def test_a_version_of_a_master_key_begun_under_the_old_provider_is_moved_too(room: Room, tmp_path: Path) -> None:
    await room.crypto.encrypt_with_master_key(ANNA, TEXT)
    master = next(one for one in (await room.crypto.keys(ANNA, Page())).items if one.name == "master")
    room.provider.asked.clear()
    room.provider.go_on.clear()
    async with asyncio.timeout(DEADLINE_S):
        rotating = asyncio.create_task(room.crypto.rotate(ANNA, master.key_id))
        await room.provider.asked.wait()
        new = FileKeyProvider.open(tmp_path / "another")
        moving = asyncio.create_task(room.crypto.move_to(new, lambda progress: None))
        done, _ = await asyncio.wait([moving], timeout=0.3)
        room.provider.go_on.set()
        assert not done, "it waits for what was begun"
        await rotating
        assert await moving == 2
    assert await room.store.kek_ids() == {new.kek_id}
    room.providers.keep_only(new.kek_id)
    room.clock.advance(AGE_S)
    await room.crypto.encrypt_with_master_key(ANNA, TEXT)


async def begun(room: Room, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Begin what has to unwrap its keys first, and waits for the provider now."""
    room.clock.advance(AGE_S)
    room.provider.asked.clear()
    room.provider.go_on.clear()
    task = asyncio.create_task(work)
    await room.provider.asked.wait()
    return task


@pytest.mark.parametrize("use", ["encrypt", "hmac", "data_key"])
async def test_a_key_that_may_protect_no_more_by_the_time_it_is_unwrapped_does_not(room: Room, use: str) -> None:
    key = await room.crypto.generate_key(ANNA, NewKey(key_type="hmac-sha256" if use == "hmac" else "aes-256-gcm"))
    asked = {"encrypt": TEXT, "hmac": Signable(message=b"x"), "data_key": DataKeyRequest()}[use]
    async with asyncio.timeout(DEADLINE_S):
        waiting = await begun(room, getattr(room.crypto, use)(ANNA, key.key_id, asked))
        await room.crypto.change_key(ANNA, key.key_id, KeyChange(state="decrypt_only"))
        room.provider.go_on.set()
        with pytest.raises(KeyUnusable, match="decrypt_only"):
            await waiting
        await room.crypto.change_key(ANNA, key.key_id, KeyChange(state="enabled"))
        await getattr(room.crypto, use)(ANNA, key.key_id, asked)


def kept(monkeypatch: pytest.MonkeyPatch) -> list[Material]:
    """Return what will hold all that is unwrapped from now on."""
    made: list[Material] = []

    def material(**given: Any) -> Material:
        made.append(Material(**given))
        return made[-1]

    monkeypatch.setattr(keys, "Material", material)
    return made


async def test_a_key_that_is_pushed_out_while_it_is_unwrapped_is_wiped_too(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [(await room.crypto.generate_key(ANNA, NewKey())).key_id for _ in range(17)]
    made = kept(monkeypatch)
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(2):
            waiting = await begun(room, room.crypto.encrypt(ANNA, own[0], TEXT))
            for key_id in own[1:]:
                await room.crypto.key(ANNA, key_id)
            assert ("t1", own[0]) not in room.crypto._chain._keys
            room.provider.go_on.set()
            await waiting
            assert any(any(one._root) for one in made)
            room.crypto._chain.sweep()
            left = [one for live in room.crypto._chain._keys.values() for one in live.materials.values()]
            assert not any(any(one._root) for one in made if one not in left)


async def test_keys_that_were_pushed_out_are_not_more_than_may_be(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [(await room.crypto.generate_key(ANNA, NewKey())).key_id for _ in range(17)]
    made = kept(monkeypatch)
    async with asyncio.timeout(DEADLINE_S):
        for key_id in own:
            waiting = await begun(room, room.crypto.encrypt(ANNA, key_id, TEXT))
            for other in own:
                if other != key_id:
                    await room.crypto.key(ANNA, other)
            room.provider.go_on.set()
            await waiting
    held = [one for live in room.crypto._chain._keys.values() for one in live.materials.values()]
    assert len(made) > 2 * 16
    assert sum(any(one._root) for one in made if one not in held) <= 16
    await room.crypto.stop()
    assert not any(any(one._root) for one in made)


async def test_a_key_that_is_switched_off_while_it_is_unwrapped_is_wiped(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await room.crypto.generate_key(ANNA, NewKey())
    unwrap, opened = Material.unwrap, []

    def unwrapped(material: Material, wrapped: bytes, context: bytes) -> bytearray:
        opened.append(unwrap(material, wrapped, context))
        return opened[-1]

    monkeypatch.setattr(Material, "unwrap", unwrapped)
    async with asyncio.timeout(DEADLINE_S):
        waiting = await begun(room, room.crypto.encrypt(ANNA, key.key_id, TEXT))
        await room.crypto.change_key(ANNA, key.key_id, KeyChange(state="disabled"))
        room.provider.go_on.set()
        with pytest.raises(KeyUnusable, match="disabled"):
            await waiting
    assert opened
    assert not any(map(any, opened))


async def test_a_ring_forgets_what_it_is_told_to_and_nothing_else(room: Room) -> None:
    ring = KeyRing(crypto=room.crypto, service="messaging", clock=room.clock)
    owners = [("t1", "c1", "u1"), ("t1", "c2", "u1"), ("t1", "c1", "u2"), ("t2", "c1", "u1")]
    held = [await ring.sealing_key(*owner) for owner in owners]
    ring.forget("t1", scope="c1", subject_id="u1")
    assert [key.wiped for key in held] == [True, False, False, False]
    assert [ring.ready(*owner) for owner in owners] == [None, *held[1:]]
    ring.forget("t1", scope="c1")
    assert [key.wiped for key in held] == [True, False, True, False]
    ring.forget("t1")
    assert [key.wiped for key in held] == [True, True, True, False]
    ring.clear_cache()


async def test_nothing_is_sealed_under_a_key_while_it_is_destroyed(room: Room) -> None:
    class Watched:
        """Crypto that looks into the ring when it is asked to destroy."""

        def __getattr__(self, name: str) -> Any:
            return getattr(room.crypto, name)

        async def destroy_data_keys(self, caller: Caller, which: DataKeyDestruction) -> Destroyed:
            assert held.wiped
            assert ring.ready("t1", "c1", "u1") is None
            return await room.crypto.destroy_data_keys(caller, which)

    ring = KeyRing(crypto=Watched(), service="messaging", clock=room.clock)  # type: ignore[arg-type]  # as far as used
    held = await ring.sealing_key("t1", "c1", "u1")
    assert await ring.destroy("t1", scope="c1") == 1


async def test_a_key_that_only_opens_leaves_the_ring_as_soon(room: Room) -> None:
    ring = KeyRing(crypto=room.crypto, service="messaging", clock=room.clock)
    sealed = await ring.seal("t1", "c1", "u1", b"text", b"context")
    opening = KeyRing(crypto=room.crypto, service="messaging", clock=room.clock, max_age_s=60)
    await opening.open("t1", "c1", "u1", sealed, b"context")
    room.clock.advance(59)
    assert opening.ready_for("t1", sealed) is not None
    room.clock.advance(1)
    assert opening.ready_for("t1", sealed) is None
    ring.clear_cache()
    opening.clear_cache()


def test_what_was_wiped_makes_no_tag_that_others_could_make() -> None:
    budget = UseBudget(total=0, left=0, block=16, limit=16)
    tagging = Material(key_type="hmac-sha256", version=1, root=draw_key(), budget=budget, expires_s=1.0)
    tagging.wipe()
    with pytest.raises(RuntimeError, match="wiped"):
        tagging.tag(b"x")


async def test_while_keys_move_both_providers_have_to_work(tmp_path: Path) -> None:
    old, new = FileKeyProvider.open(tmp_path / "old"), FileKeyProvider.open(tmp_path / "new")
    both = ProviderSet(new, old)
    await both.check()
    old.close()
    with pytest.raises(KekUnusable):
        await both.check()
    new.close()


async def test_a_stop_removes_what_was_destroyed_and_waits_for_that(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = room.crypto._keeper
    async with asyncio.timeout(DEADLINE_S):
        while keeper._shred_due:  # noqa: ASYNC110 - the start's own; what is waited for has no event
            await asyncio.sleep(0.005)
    shred, calls = room.store.shred, []

    async def counted() -> None:
        calls.append("shred")
        await shred()

    monkeypatch.setattr(room.store, "shred", counted)
    keeper._shred_due = True
    await room.crypto.stop()
    assert calls == ["shred"]
