"""Keys in the clear are wiped when they were used, also when something failed; and nothing shows them in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.data_keys import (
    DataKey,
    DataKeyRequest,
    PlainKey,
    SystemDataKey,
    SystemDataKeyRequest,
    WrappedKey,
)
from sealwire.contracts.keys import NewKey, RewrapStep
from sealwire.contracts.signatures import Signable
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.codec import Page
from sealwire.kit.envelopes import EnvelopeRefused, draw_key, wiping
from sealwire.kit.permission import Role
from sealwire.kit.problem import Unavailable
from sealwire.resilience.failure import PartOut
from sealwire.runtime import local_keys
from sealwire.services.crypto import data_keys, keys, material, providers
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.journal import UseJournal
from sealwire.services.crypto.material import Material
from sealwire.services.crypto.provider_set import ProviderSet
from sealwire.services.crypto.providers import FileKeyProvider, KekUnusable
from sealwire.services.crypto.service import CryptoService
from sealwire.services.messaging.request_marks import RequestMarks

MESSAGING = service_caller("messaging", "t1")
ANNA = Caller(principal=Principal(kind="user", tenant_id="t1", subject="anna", role=Role.ADMIN))
CONTEXT = {"scope": "c1", "subject_id": "u1"}


@pytest.fixture
async def crypto(tmp_path: Path) -> AsyncIterator[CryptoService]:
    db = Database.open(tmp_path / "crypto.db", MIGRATIONS)
    provider = FileKeyProvider.open(tmp_path / "kek")
    service = CryptoService(store=SqliteKeyStore(db), provider=provider, clock=SystemClock(), config=CryptoConfig())
    await service.start()
    yield service
    await service.stop()
    await db.close()


class Kept:
    """Remembers the memory that keys in the clear were put into, and how many of them there were."""

    def __init__(self) -> None:
        self.keys: list[bytearray] = []

    def by(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def remembering(*args: Any, **named: Any) -> Any:
            answer = call(*args, **named)
            self.keys.append(answer[0] if isinstance(answer, tuple) else answer)
            assert any(self.keys[-1])
            return answer

        return remembering

    def all_wiped(self, at_least: int) -> bool:
        return len(self.keys) >= at_least and not any(map(any, self.keys))


class Asked:
    """A crypto service that remembers what it gave out."""

    def __init__(self, crypto: CryptoService) -> None:
        self._crypto = crypto
        self.kept = Kept()

    async def system_data_key(self, caller: Caller, request: SystemDataKeyRequest) -> SystemDataKey:
        answer = await self._crypto.system_data_key(caller, request)
        self.kept.keys.append(answer.plaintext)
        return answer

    async def open_data_key(self, caller: Caller, key: WrappedKey) -> PlainKey:
        answer = await self._crypto.open_data_key(caller, key)
        self.kept.keys.append(answer.plaintext)
        return answer


async def test_the_ring_wipes_what_it_was_given(crypto: CryptoService) -> None:
    asked = Asked(crypto)
    ring = KeyRing(crypto=asked, service="messaging", clock=SystemClock())  # type: ignore[arg-type]  # the calls it makes
    sealed = await ring.seal("t1", "c1", "u1", b"text", b"context")
    ring.clear_cache()
    assert await ring.open("t1", "c1", "u1", sealed, b"context") == b"text"
    await RequestMarks(crypto=asked, service="messaging", clock=SystemClock()).key("t1")  # type: ignore[arg-type]  # the same
    assert asked.kept.all_wiped(3)
    ring.clear_cache()


async def test_a_ring_that_can_not_use_a_key_wipes_it_too(crypto: CryptoService) -> None:
    asked = Asked(crypto)
    honest = asked.system_data_key

    async def nameless(caller: Caller, request: SystemDataKeyRequest) -> SystemDataKey:
        answer = await honest(caller, request)
        return SystemDataKey(wrapped="no id", key_id=answer.key_id, version=1, plaintext=answer.plaintext)

    asked.system_data_key = nameless  # type: ignore[method-assign]  # a crypto of another make
    ring = KeyRing(crypto=asked, service="messaging", clock=SystemClock())  # type: ignore[arg-type]  # the calls it makes
    with pytest.raises(EnvelopeRefused):
        await ring.sealing_key("t1", "c1", "u1")
    assert asked.kept.all_wiped(1)


async def test_a_key_that_is_forgotten_while_it_is_loaded_is_wiped_when_it_was_used(crypto: CryptoService) -> None:
    asked, begun, go_on = Asked(crypto), asyncio.Event(), asyncio.Event()
    honest = asked.system_data_key

    async def late(caller: Caller, request: SystemDataKeyRequest) -> SystemDataKey:
        begun.set()
        await go_on.wait()
        return await honest(caller, request)

    asked.system_data_key = late  # type: ignore[method-assign]  # a crypto that answers when it is told to
    ring = KeyRing(crypto=asked, service="messaging", clock=SystemClock())  # type: ignore[arg-type]  # the calls it makes
    async with asyncio.timeout(30):
        waiting = asyncio.create_task(ring.sealing_key("t1", "c1", "u1"))
        await begun.wait()
        ring.forget("t1")
        go_on.set()
        key = await waiting
    assert key.seal(b"text", b"context"), "good for who waited"
    assert len(ring) == 0
    ring.clear_cache()
    assert key.wiped


async def test_a_data_key_that_can_not_be_recorded_is_wiped(
    crypto: CryptoService, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await crypto.system_data_key(MESSAGING, SystemDataKeyRequest(context=CONTEXT))
    kept = Kept()
    monkeypatch.setattr(Material, "unwrap", kept.by(Material.unwrap))

    def full(journal: UseJournal, event: object) -> None:
        raise Unavailable("Uses of keys can't be recorded for the moment.")

    with monkeypatch.context() as patch:
        patch.setattr(UseJournal, "note", full)
        with pytest.raises(Unavailable):
            await crypto.open_data_key(MESSAGING, WrappedKey(wrapped=made.wrapped, context=CONTEXT))
    assert kept.all_wiped(1)


async def test_what_was_drawn_is_wiped_when_it_is_wrapped(
    crypto: CryptoService, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    monkeypatch.setattr(keys, "new_material", kept.by(keys.new_material))
    monkeypatch.setattr(data_keys, "draw_key", kept.by(draw_key))
    signer = await crypto.generate_key(ANNA, NewKey(key_type="ed25519"))
    await crypto.sign(ANNA, signer.key_id, Signable(message=b"x"))
    await crypto.data_key(ANNA, (await crypto.generate_key(ANNA, NewKey())).key_id, DataKeyRequest())
    given = await crypto.system_data_key(MESSAGING, SystemDataKeyRequest(context=CONTEXT))
    assert kept.all_wiped(6), "master, signer, a key and a data key under it, the service's key, its data key"
    assert any(given.plaintext), "a copy is given out"


async def test_what_can_not_be_wrapped_is_wiped(crypto: CryptoService, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setattr(keys, "new_material", kept.by(keys.new_material))
    with monkeypatch.context() as patch:

        async def out(*_: object) -> bytes:
            raise KekUnusable("out")

        patch.setattr(FileKeyProvider, "wrap", out)
        with pytest.raises(PartOut):
            await crypto.generate_key(ANNA, NewKey())
    assert kept.all_wiped(2)


async def test_a_rewrap_leaves_no_key_behind(crypto: CryptoService, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    master = next(one for one in (await crypto.keys(ANNA, Page())).items if one.name == "master")
    await crypto.rotate(ANNA, master.key_id)
    kept = Kept()
    honest = Material.unwrap

    def unwrapped(material: Material, wrapped: bytes, context: bytes) -> bytearray:
        answer = honest(material, wrapped, context)
        if b"key" in context and key.key_id.encode() in context:
            kept.keys.append(answer)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Material, "unwrap", unwrapped)
        patch.setattr(Material, "wrap", lambda *_: b"no envelope")
        await crypto.rewrap_keys(ANNA, RewrapStep())
        assert kept.all_wiped(1), "what was about to be wrapped, also when that fails"
        kept.keys.clear()
        patch.undo()
        patch.setattr(Material, "unwrap", unwrapped)
        assert (await crypto.rewrap_keys(ANNA, RewrapStep())).moved == 1
        assert kept.all_wiped(2), "the key, and what its new wrapping gave back"


async def test_a_move_to_another_provider_leaves_no_key_behind(
    crypto: CryptoService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crypto.generate_key(ANNA, NewKey())
    kept = Kept()
    unwrap = FileKeyProvider.unwrap

    async def unwrapped(provider: FileKeyProvider, wrapped: bytes, context: bytes) -> bytearray:
        answer = await unwrap(provider, wrapped, context)
        if context != b"check":
            kept.keys.append(answer)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(FileKeyProvider, "unwrap", unwrapped)
        assert await crypto.move_to(FileKeyProvider.open(tmp_path / "another"), lambda progress: None) == 1
    assert kept.all_wiped(3), "the master key, what its new wrapping gave back, and what proved that all has moved"


async def test_what_was_derived_of_a_key_is_wiped_with_it(
    crypto: CryptoService, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    monkeypatch.setattr(material, "_derive", kept.by(material._derive))
    await crypto.generate_key(ANNA, NewKey())
    assert not kept.all_wiped(2)
    await crypto.stop()
    assert kept.all_wiped(2)


async def test_the_keys_of_own_files_are_wiped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setattr(local_keys, "draw_key", kept.by(draw_key))
    unwrap = FileKeyProvider.unwrap

    async def unwrapped(provider: FileKeyProvider, wrapped: bytes, context: bytes) -> bytearray:
        kept.keys.append(await unwrap(provider, wrapped, context))
        return kept.keys[-1]

    monkeypatch.setattr(FileKeyProvider, "unwrap", unwrapped)
    under = ProviderSet(FileKeyProvider.open(tmp_path / "kek"))
    own = local_keys.LocalKeys(folder=tmp_path / "local", provider=under)
    sealed = (await own.sealing_key("spool")).seal(b"text", b"context")
    under.prefer(FileKeyProvider.open(tmp_path / "another"))
    assert await own.move() == 1
    assert (await own.sealing_key("spool")).open(sealed, b"context") == b"text"
    assert kept.all_wiped(5), "drawn, opened, moved and compared, opened again"
    assert await own.move() == 0
    under.close()


def test_the_text_of_a_key_file_is_wiped_when_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setattr(providers, "_line", kept.by(providers._line))
    monkeypatch.setattr(providers, "draw_key", kept.by(draw_key))
    parse = providers._parse

    def parsed(content: bytearray, path: Path) -> bytearray:
        kept.keys.append(content)
        return parse(content, path)

    monkeypatch.setattr(providers, "_parse", parsed)
    FileKeyProvider.open(tmp_path / "kek").close()
    assert kept.all_wiped(3)


def test_a_closed_key_file_leaves_no_key_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setattr(providers, "_read", kept.by(providers._read))
    provider = FileKeyProvider.open(tmp_path / "kek")
    assert not kept.all_wiped(1)
    provider.close()
    assert kept.all_wiped(1)


def test_a_key_is_not_shown_in_words() -> None:
    secret = b"\x11" * 32
    for shown in (
        DataKey(wrapped="w", key_id="k", version=1, plaintext=secret),
        SystemDataKey(wrapped="w", key_id="k", version=1, plaintext=bytearray(secret)),
        PlainKey(plaintext=bytearray(secret)),
    ):
        assert "x11" not in f"{shown} {shown!r}"


def test_wiping_does_not_depend_on_how_it_ends() -> None:
    key = draw_key()
    assert len(key) == 32
    assert key != draw_key()
    with pytest.raises(ValueError, match="on the way"), wiping(key):
        raise ValueError("on the way")
    assert key == bytes(32)
