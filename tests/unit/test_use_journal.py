"""The journal of key uses on a disk that fails: nothing recorded is lost, nothing is done that can't be recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.ciphers import Plaintext
from sealwire.contracts.keys import NewKey
from sealwire.kit.caller import service_caller
from sealwire.kit.problem import Unavailable
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.events import KeyEvent, audit_entry, key_event
from sealwire.services.crypto.journal import UseJournal
from sealwire.services.crypto.providers import FileKeyProvider, KekUnusable
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock

MEDIA = service_caller("media", "t1")
DEADLINE_S = 30.0


class FullDisk(SqliteKeyStore):
    """A store that takes nothing while it is `full`; `tried` is set when it refused."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.full = False
        self.tried = asyncio.Event()

    async def record(self, events: Sequence[KeyEvent]) -> None:
        if self.full:
            self.tried.set()
            raise Unavailable("The disk is full.")
        await super().record(events)

    async def release(self, unspent: Sequence[tuple[str, int, int]]) -> None:
        if self.full:
            raise Unavailable("The disk is full.")
        await super().release(unspent)

    async def told(self) -> list[tuple[str, object]]:
        entries = [audit_entry(event) for event in await self.feed.read(0, 1000)]
        return [(entry.action, entry.metadata.get("count", 1)) for entry in entries]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FullDisk]:
    db = Database.open(tmp_path / "crypto.db", MIGRATIONS)
    yield FullDisk(db)
    await db.close()


def a_use(action: str = "crypto.encrypt") -> KeyEvent:
    return key_event(MEDIA, action, key_id="k", at_us=1)


def a_journal(store: FullDisk, *, window_s: float = 0.001, individually: int = 2, limit: int = 100) -> UseJournal:
    return UseJournal(store=store, window_s=window_s, individually=individually, limit=limit)


async def test_what_a_full_disk_refused_is_recorded_later(store: FullDisk) -> None:
    journal = a_journal(store)
    store.full = True
    for _ in range(5):
        journal.note(a_use())
    async with asyncio.timeout(DEADLINE_S):
        await store.tried.wait()
    assert (await store.told(), journal.waiting) == ([], 3)
    journal.note(a_use("crypto.decrypt"))
    store.full = False
    async with asyncio.timeout(DEADLINE_S):
        while journal.waiting:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
    assert await store.told() == [
        ("crypto.encrypt", 1), ("crypto.encrypt", 1), ("crypto.encrypt", 3), ("crypto.decrypt", 1),
    ]  # fmt: skip
    await journal.stop()


async def test_a_stop_records_what_waits_and_what_was_tallied(store: FullDisk) -> None:
    journal = a_journal(store, window_s=60.0)
    journal.note(a_use())
    for _ in range(7):
        journal.tally(a_use("crypto.sign"))
    await journal.stop()
    assert await store.told() == [("crypto.encrypt", 1), ("crypto.sign", 7)]


async def test_keys_are_of_no_use_while_their_use_cannot_be_recorded(store: FullDisk, tmp_path: Path) -> None:
    service = CryptoService(
        store=store, provider=FileKeyProvider.open(tmp_path / "kek"), clock=ManualClock(),
        config=CryptoConfig(journal_window_ms=1, journal_limit=100, journal_individually=1000),
    )  # fmt: skip
    await service.start()
    key = await service.generate_key(MEDIA, NewKey())
    store.full = True
    plain = Plaintext(plaintext=b"x", context={"record": "1"})
    for _ in range(100):
        await service.encrypt(MEDIA, key.key_id, plain)
    with pytest.raises(Unavailable, match="recorded"):
        await service.encrypt(MEDIA, key.key_id, plain)
    store.full = False
    async with asyncio.timeout(DEADLINE_S):
        while service._journal.waiting:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
    await service.encrypt(MEDIA, key.key_id, plain)
    await service.stop()
    assert sum(action == "crypto.encrypt" for action, _ in await store.told()) == 101


async def test_a_stop_on_a_full_disk_wipes_every_key_all_the_same(store: FullDisk, tmp_path: Path) -> None:
    provider = FileKeyProvider.open(tmp_path / "kek")
    service = CryptoService(store=store, provider=provider, clock=ManualClock(), config=CryptoConfig())
    await service.start()
    key = await service.generate_key(MEDIA, NewKey())
    await service.encrypt(MEDIA, key.key_id, Plaintext(plaintext=b"x", context={"record": "1"}))
    held = [material for live in service._chain._keys.values() for material in live.materials.values()]
    assert len(held) == 2
    store.full = True
    with pytest.raises(Unavailable):
        await service.stop()
    assert all(bytes(material._root) == bytes(32) for material in held)
    with pytest.raises(KekUnusable, match="closed"):
        await provider.wrap(bytes(32), b"x")
