"""Keys that are unwrapped: for how long, how many, which go first; and versions begun while something else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.ciphers import Plaintext
from sealwire.contracts.keys import NewKey
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.codec import Page
from sealwire.kit.permission import Role
from sealwire.resilience.failure import PartOut
from sealwire.services.crypto.config import CryptoConfig
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
    """Wraps, and answers when it is told to; `asked` is set when it waits."""

    asked: asyncio.Event
    go_on: asyncio.Event

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
