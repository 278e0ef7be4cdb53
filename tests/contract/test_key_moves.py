"""Wrapped keys move to newer versions and to other providers while they are in use; a kill leaves nothing half done."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.hsm.pkcs11 import Pkcs11KeyProvider
from sealwire.clients.crypto import local_crypto
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.ciphers import Ciphertext, Plaintext, Sealed
from sealwire.contracts.crypto import OPERATIONS, Crypto
from sealwire.contracts.crypto_terms import KeyDamaged
from sealwire.contracts.data_keys import DataKeyRequest, WrappedKey
from sealwire.contracts.keys import NewKey, RewrapStep
from sealwire.contracts.signatures import Signable, SignedMessage
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Retry
from sealwire.resilience.failure import PartOut
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.events import key_event
from sealwire.services.crypto.material import Material
from sealwire.services.crypto.model import Life
from sealwire.services.crypto.ports import Rewrap
from sealwire.services.crypto.provider_set import ProviderSet
from sealwire.services.crypto.providers import FileKeyProvider, KekUnusable, KeyProvider, WrapRefused
from sealwire.services.crypto.rewrapping import Progress
from sealwire.services.crypto.routes import routes
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock
from sealwire.testing.softhsm import SoftHsm, library
from sealwire.testing.wirings import WIRINGS, open_wiring

SECRET = b"attack at dawn"
CONTEXT = {"record": "7"}


def person(tenant_id: str, role: Role = Role.ADMIN) -> Caller:
    return Caller(
        principal=Principal(
            kind="user", tenant_id=tenant_id, subject=f"anna-{tenant_id}", role=role, auth_time_s=4_000_000_000
        )
    )


class Room:
    """A crypto service on a folder, under the providers it is opened with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()

    def file(self, name: str = "kek") -> FileKeyProvider:
        return FileKeyProvider.open(self.folder / name)

    async def open(self, *providers: KeyProvider) -> CryptoService:
        self.db = Database.open(self.folder / "crypto.db", MIGRATIONS)
        self.store = SqliteKeyStore(self.db)
        self.providers = ProviderSet(*(providers or (self.file(),)))
        config = CryptoConfig(reserve_uses=16, journal_window_ms=1)
        self.service = CryptoService(store=self.store, provider=self.providers, clock=self.clock, config=config)
        await self.service.start()
        return self.service

    async def close(self) -> None:
        await self.service.stop()
        await self.db.close()

    async def events(self) -> list[str]:
        await self.service._journal.flush()
        return [event.kind for event in await self.store.feed.read(0, 10_000)]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path)
    await room.open()
    yield room
    await room.close()


class Sample:
    """Something made by every kind of key of a tenant; `read` opens all of it again."""

    def __init__(self, tenant_id: str) -> None:
        self.caller = person(tenant_id)
        self.tenant_id = tenant_id

    async def make(self, crypto: CryptoService) -> Sample:
        plain = Plaintext(plaintext=SECRET, context=CONTEXT)
        self.aes = await crypto.generate_key(self.caller, NewKey())
        self.signer = await crypto.generate_key(self.caller, NewKey(key_type="ed25519"))
        self.mac = await crypto.generate_key(self.caller, NewKey(key_type="hmac-sha256"))
        self.sealed = [await crypto.encrypt(self.caller, self.aes.key_id, plain)]
        self.master = await crypto.encrypt_with_master_key(self.caller, plain)
        self.signature = await crypto.sign(self.caller, self.signer.key_id, Signable(message=SECRET))
        self.tag = await crypto.hmac(self.caller, self.mac.key_id, Signable(message=SECRET))
        self.data_key = await crypto.data_key(self.caller, self.aes.key_id, DataKeyRequest(context=CONTEXT))
        ring = self.ring(crypto)
        self.envelopes = [await ring.seal(self.tenant_id, f"c{n}", "u1", b"a body", b"aad") for n in range(5)]
        return self

    def ring(self, crypto: Crypto) -> KeyRing:
        return KeyRing(crypto=crypto, service="messaging", clock=SystemClock())

    async def read(self, crypto: CryptoService) -> None:
        for sealed in self.sealed:
            assert (await crypto.decrypt(self.caller, self.aes.key_id, back(sealed))).plaintext == SECRET
        assert (await crypto.decrypt_with_master_key(self.caller, back(self.master))).plaintext == SECRET
        signed = SignedMessage(message=SECRET, signature=self.signature.signature, version=1)
        assert (await crypto.verify(self.caller, self.signer.key_id, signed)).valid
        tagged = SignedMessage(message=SECRET, signature=self.tag.signature, version=1)
        assert (await crypto.verify(self.caller, self.mac.key_id, tagged)).valid
        wrapped = WrappedKey(wrapped=self.data_key.wrapped, context=CONTEXT)
        await crypto.open_data_key(service_caller("messaging", self.tenant_id), wrapped)
        ring = self.ring(crypto)
        for n, envelope in enumerate(self.envelopes):
            assert await ring.open(self.tenant_id, f"c{n}", "u1", envelope, b"aad") == b"a body"


def back(sealed: Sealed) -> Ciphertext:
    return Ciphertext(
        ciphertext=sealed.ciphertext, iv=sealed.iv, auth_tag=sealed.auth_tag, version=sealed.version, context=CONTEXT
    )


async def rotate_all(crypto: CryptoService, store: SqliteKeyStore, sample: Sample) -> None:
    """Rotate the master key and every other one, system keys too."""
    for stored in await store.keys(sample.tenant_id, after="", limit=100):
        await crypto.rotate(sample.caller, stored.key_id)


async def stale_rows(room: Room, tenant_id: str) -> int:
    """Count by reading every row, not by the store's own query."""
    keys = await room.store.keys(tenant_id, after="", limit=1000)
    newest = {key.key_id: key.newest.version for key in keys}
    master = next(key for key in keys if key.purpose == "master")
    stale = sum(
        v.master_version != master.newest.version for key in keys if key.purpose != "master" for v in key.versions
    )
    rows = room.db.read("SELECT key_id, version FROM data_keys WHERE tenant_id = ?", (tenant_id,))
    return stale + sum(version != newest[key_id] for key_id, version in rows)


# ---- to the newest version


async def test_after_a_rotation_everything_moves_to_the_newest_version(room: Room) -> None:
    sample, other = await Sample("t1").make(room.service), await Sample("t2").make(room.service)
    assert await room.service.rewrap_keys(sample.caller, RewrapStep()) == moved(0, 0)
    await rotate_all(room.service, room.store, sample)
    await rotate_all(room.service, room.store, other)
    there = await stale_rows(room, "t1")
    assert there >= 9
    found, remaining = 0, there
    while remaining:
        answer = await room.service.rewrap_keys(sample.caller, RewrapStep(limit=3))
        assert 1 <= answer.moved <= 3
        found += answer.moved
        assert answer.remaining == remaining - answer.moved, "progress that can be counted on"
        remaining = answer.remaining
    assert (found, await stale_rows(room, "t1")) == (there, 0)
    assert await stale_rows(room, "t2") >= 9, "another tenant's keys are that tenant's business"
    assert await room.service.rewrap_keys(sample.caller, RewrapStep()) == moved(0, 0)
    await sample.read(room.service)
    await room.close()
    await room.open()
    await sample.read(room.service)
    await other.read(room.service)
    assert (await room.events()).count("crypto.keys.rewrapped") == -(-there // 3)


def moved(now: int, left: int) -> object:
    from sealwire.contracts.keys import Rewrapped

    return Rewrapped(moved=now, remaining=left)


async def test_all_tenants_move_with_progress_while_keys_are_used(room: Room) -> None:
    samples = [await Sample(f"t{n}").make(room.service) for n in range(4)]
    for sample in samples:
        await rotate_all(room.service, room.store, sample)
    told: list[Progress] = []
    stop = asyncio.Event()

    async def use() -> int:
        rounds = 0
        while not stop.is_set() or not rounds:
            for sample in samples:
                await sample.read(room.service)
            rounds += 1
        return rounds

    user = asyncio.create_task(use())
    count = await room.service.rewrap_all(service_caller("crypto", "system"), told.append)
    stop.set()
    assert await user >= 1
    assert count >= 36
    assert [(p.done, p.total) for p in told] == [(n, 4) for n in range(1, 5)]
    assert [await stale_rows(room, f"t{n}") for n in range(4)] == [0] * 4
    assert await room.service.rewrap_all(service_caller("crypto", "system"), told.append) == 0
    with pytest.raises(Forbidden):
        await room.service.rewrap_all(samples[0].caller, told.append)


async def test_what_was_destroyed_meanwhile_stays_destroyed(room: Room) -> None:
    sample = await Sample("t1").make(room.service)
    await rotate_all(room.service, room.store, sample)
    stale = await room.store.rewraps.stale("t1", limit=1000)
    await sample.ring(room.service).destroy("t1", scope="c1")
    event = key_event(sample.caller, "crypto.key.destroyed", key_id=sample.aes.key_id, at_us=1)
    assert await room.store.change_life(sample.aes.key_id, Life(), Life().erase(), event)
    late = [Rewrap(item=item, wrapped=b"late", under="9") for item in stale]
    data_keys = [rewrap for rewrap in late if rewrap.item.kind == "data_key"]
    keys = [rewrap for rewrap in late if rewrap.item.kind == "key"]
    assert await room.store.rewraps.replace(data_keys, []) == 4, "the fifth was destroyed after it was read"
    assert room.db.read("SELECT count(*) FROM data_keys WHERE wrapped IS NULL") == [(1,)]
    gone = [rewrap for rewrap in keys if rewrap.item.id == sample.aes.key_id]
    assert gone
    assert await room.store.rewraps.replace(gone, []) == 0
    assert room.db.read("SELECT DISTINCT wrapped FROM versions WHERE key_id = ?", (sample.aes.key_id,)) == [(None,)]
    assert await room.store.rewraps.replace(keys, []) == len(keys) - len(gone)
    assert await room.store.rewraps.replace(keys, []) == 0, "what moved meanwhile stays as it is"


async def test_one_key_that_does_not_open_stops_no_other(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    damaged, whole = await Sample("t1").make(room.service), await Sample("t2").make(room.service)
    for sample in (damaged, whole):
        await rotate_all(room.service, room.store, sample)
    there = await stale_rows(room, "t1") + await stale_rows(room, "t2")
    ((data_key_id,),) = room.db.read("SELECT min(data_key_id) FROM data_keys WHERE tenant_id = 't1'")
    await room.db.write(
        lambda conn: conn.execute(
            "UPDATE data_keys SET wrapped = zeroblob(length(wrapped)) WHERE data_key_id = ?", (data_key_id,)
        ).fetchall()
    )
    told: list[Progress] = []
    assert await room.service.rewrap_all(service_caller("crypto", "system"), told.append) == there - 1
    assert (await stale_rows(room, "t1"), await stale_rows(room, "t2")) == (1, 0)
    assert await room.service.rewrap_keys(damaged.caller, RewrapStep()) == moved(0, 1)
    assert data_key_id in caplog.text, "whoever runs it hears which"
    await whole.read(room.service)


@pytest.mark.parametrize("wiring", WIRINGS)
async def test_the_operation_is_for_those_who_manage_keys(room: Room, wiring: str) -> None:
    crypto = open_wiring(wiring, room.service, OPERATIONS, routes, clock=room.clock)
    sample = await Sample("t1").make(room.service)
    await rotate_all(room.service, room.store, sample)
    with pytest.raises(Forbidden):
        await crypto.rewrap_keys(person("t1", Role.MEMBER), RewrapStep())
    answer = await crypto.rewrap_keys(sample.caller, RewrapStep(limit=1000))
    assert (answer.moved >= 9, answer.remaining) == (True, 0)
    assert (await crypto.rewrap_keys(person("nobody-here"), RewrapStep())).moved == 0


# ---- to another provider


async def targets(room: Room, kind: str, monkeypatch: pytest.MonkeyPatch) -> KeyProvider:
    if kind == "file":
        return room.file("another")
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    hsm = SoftHsm(room.folder / "hsm")
    return await Pkcs11KeyProvider.open(
        hsm.place(), create=True, refused_pin=room.folder / "pin-refused", clock=SystemClock()
    )


KINDS = ["file", pytest.param("pkcs11", marks=pytest.mark.skipif(library() is None, reason="needs SoftHSM2"))]


@pytest.mark.parametrize("kind", KINDS)
async def test_everything_moves_to_another_provider_while_it_is_used(
    room: Room, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [await Sample(f"t{n}").make(room.service) for n in range(6)]
    await room.service.rotate(samples[0].caller, samples[0].master.key_id)
    old = room.providers.kek_id
    new = await targets(room, kind, monkeypatch)
    told: list[Progress] = []
    stop = asyncio.Event()

    async def use() -> list[Sample]:
        made = []
        while not stop.is_set() or not made:
            made.append(await Sample(f"new{len(made)}").make(room.service))
            room.clock.advance(1000)  # all material is wiped: the next use asks the provider
            for sample in samples:
                await sample.read(room.service)
        return made

    user = asyncio.create_task(use())
    await asyncio.sleep(0)
    assert await room.service.move_to(new, told.append) >= 7
    stop.set()
    samples += await user
    assert await room.store.kek_ids() == {new.kek_id}
    assert room.providers.kek_ids == {old, new.kek_id}, "both are readable until the caller lets the old one go"
    steps = [(p.step, p.done) for p in told]
    assert steps == sorted(steps), "moved, then verified, and never backwards"
    assert told[-1].step == "verified"
    assert told[-1].done == told[-1].total >= 7
    room.providers.keep_only(new.kek_id)
    (room.folder / "kek").unlink()
    room.clock.advance(1000)
    for sample in samples:
        await sample.read(room.service)
    events = await room.events()
    assert events.count("crypto.key.rewrapped") >= 7
    assert events.count("crypto.provider.moved") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_the_way_back_works_too(room: Room, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = await Sample("t1").make(room.service)
    new = await targets(room, kind, monkeypatch)
    await room.service.move_to(new, lambda progress: None)
    room.providers.keep_only(new.kek_id)
    third = room.file("third")
    assert await room.service.move_to(third, lambda progress: None) == 1
    room.providers.keep_only(third.kek_id)
    with pytest.raises(KekUnusable):
        await new.check()  # closed with what it held
    room.clock.advance(1000)
    await sample.read(room.service)
    with pytest.raises(ValueError, match="no provider"):
        room.providers.keep_only("file:of-nobody")


class Stop(BaseException):
    """Ends a sweep wherever it is, as a kill would."""


@pytest.mark.parametrize("after", [1, 2, 3, 4])
async def test_a_move_that_was_cut_off_goes_on_where_it_was(
    room: Room, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sealwire.services.crypto import rewrapping

    monkeypatch.setattr(rewrapping, "AT_ONCE", 2)
    samples = [await Sample(f"t{n}").make(room.service) for n in range(5)]
    calls = 0

    def tell(progress: Progress) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise Stop

    with pytest.raises(Stop):
        await room.service.move_to(room.file("another"), tell)
    await room.close()
    with pytest.raises(KekUnusable, match="stored keys are wrapped under"):
        await room.open(room.file("another") if after < 2 else room.file("a-third"))
    await room.db.close()
    await room.open(room.file("another"), room.file())  # both, as the record beside the keys says
    for sample in samples:
        await sample.read(room.service)
    left = await room.store.rewraps.count_masters(not_under=room.providers.kek_id)
    assert left == max(0, 5 - 2 * after)
    assert await room.service.move_to(room.file("another"), lambda progress: None) == left
    room.providers.keep_only(room.providers.kek_id)
    for sample in samples:
        await sample.read(room.service)


@pytest.mark.parametrize("change", ["kek_id = 'file:of-nobody'", "kek_id = 'file:of-nobody', wrapped = x'01'"])
async def test_a_tenant_whose_row_names_an_unknown_kek_holds_up_no_other_start(
    room: Room, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, whole = [await Sample(tenant_id).make(room.service) for tenant_id in ("t1", "t2")]
    sql = f"UPDATE versions SET {change} WHERE key_id = ?"
    await room.db.write(lambda conn: conn.execute(sql, (damaged.master.key_id,)).fetchall())
    await room.close()
    await room.open()
    await whole.read(room.service)
    if "wrapped" not in change:
        await damaged.read(room.service)  # only its label was changed
        return
    assert damaged.master.key_id in caplog.text, "whoever runs it hears which"
    with pytest.raises(PartOut):
        await damaged.read(room.service)
    await room.close()
    with pytest.raises(KekUnusable, match="put the right"):
        await room.open(room.file("another"))
    await room.db.close()
    await room.open()


async def test_a_row_from_before_a_move_waits_for_its_key_and_is_not_called_damaged(room: Room) -> None:
    older, *others = [await Sample(f"t{n}").make(room.service) for n in range(3)]
    of = "FROM versions WHERE key_id = ?"
    ((wrapped, kek_id),) = room.db.read(f"SELECT wrapped, kek_id {of}", (older.master.key_id,))
    new = room.file("another")
    await room.service.move_to(new, lambda progress: None)
    row = (wrapped, kek_id, older.master.key_id)
    sql = "UPDATE versions SET wrapped = ?, kek_id = ? WHERE key_id = ?"
    await room.db.write(lambda conn: conn.execute(sql, row).fetchall())  # put back from a backup
    await room.close()
    await room.open(room.file("another"))
    for sample in others:
        await sample.read(room.service)
    with pytest.raises(PartOut) as told:
        await older.read(room.service)
    assert told.value.code == "part_out"
    assert await room.service.move_to(room.file(), lambda progress: None) == 2
    room.providers.keep_only(kek_id)
    for sample in (older, *others):
        await sample.read(room.service)


async def test_the_new_provider_alone_has_to_open_everything(room: Room) -> None:
    await Sample("t1").make(room.service)
    new = room.file("another")
    sql = "UPDATE versions SET kek_id = ? WHERE kek_id != ''"
    await room.db.write(lambda conn: conn.execute(sql, (new.kek_id,)).fetchall())
    with pytest.raises(WrapRefused):
        await room.service.move_to(new, lambda progress: None)
    assert "crypto.provider.moved" not in await room.events()


async def test_a_damaged_master_key_stops_no_others_move(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    samples = [await Sample(f"t{n}").make(room.service) for n in range(5)]
    changes = ("wrapped = zeroblob(60)", "kek_id = 'file:of-nobody', wrapped = zeroblob(60)")
    for sample, change in zip(samples[:2], changes, strict=True):
        sql = f"UPDATE versions SET {change} WHERE key_id = '{sample.master.key_id}'"
        await room.db.write(lambda conn, sql=sql: conn.execute(sql).fetchall())
    told: list[Progress] = []
    new = room.file("another")
    assert await room.service.move_to(new, told.append) == 3
    assert {p.left for p in told if p.left} == {
        f"version 1 of the master key {sample.master.key_id} of tenant {sample.tenant_id}" for sample in samples[:2]
    }
    assert (told[-1].step, told[-1].done, told[-1].total) == ("verified", 3, 3)
    assert all(sample.master.key_id in caplog.text for sample in samples[:2])
    room.providers.keep_only(new.kek_id)
    await room.close()
    await room.open(new := room.file("another"))
    for sample in samples[2:]:
        await sample.read(room.service)
    await room.db.write(lambda conn: conn.execute("UPDATE versions SET wrapped = zeroblob(60)").fetchall())
    with pytest.raises(KeyDamaged, match="5 of 5"):
        await room.service.move_to(room.file("third"), lambda progress: None)
    assert new.kek_id in room.providers.kek_ids, "where most is damaged nothing is let go"


class Late(FileKeyProvider):
    """Wraps, and answers when it is told to; `asked` is set when it waits."""

    asked: asyncio.Event
    go_on: asyncio.Event

    async def wrap(self, key: bytes | bytearray, context: bytes) -> bytes:
        wrapped = await super().wrap(key, context)
        self.asked.set()
        await self.go_on.wait()
        return wrapped


async def test_a_key_begun_under_the_old_provider_is_moved_too(tmp_path: Path) -> None:
    room = Room(tmp_path)
    old = Late.open(tmp_path / "kek")
    assert isinstance(old, Late)
    old.asked, old.go_on = asyncio.Event(), asyncio.Event()
    old.go_on.set()
    await room.open(old)
    await Sample("t1").make(room.service)
    old.asked.clear()
    old.go_on.clear()
    async with asyncio.timeout(30):
        making = asyncio.create_task(room.service.encrypt_with_master_key(person("t2"), Plaintext(plaintext=SECRET)))
        await old.asked.wait()
        new = room.file("another")
        moving = asyncio.create_task(room.service.move_to(new, lambda progress: None))
        done, _ = await asyncio.wait([moving], timeout=0.3)
        assert not done, "it waits for what was begun"
        old.go_on.set()
        await making
        assert await moving == 2
    assert await room.store.kek_ids() == {new.kek_id}
    await room.close()


class Garbling(FileKeyProvider):
    """Gives back another key than it wrapped, its probe excepted."""

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        key = await super().unwrap(wrapped, context)
        if context != b"check":
            key[0] ^= 1
        return key


class Forgetful(FileKeyProvider):
    """Opens what it wrapped once, and never again."""

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        self.opened: set[bytes] = getattr(self, "opened", set())
        if wrapped in self.opened:
            raise WrapRefused("it was opened before")
        self.opened.add(wrapped)
        return await super().unwrap(wrapped, context)


async def test_a_provider_that_gives_back_another_key_gets_none(room: Room) -> None:
    sample = await Sample("t1").make(room.service)
    old = room.providers.kek_id
    with pytest.raises(KekUnusable, match="does not give back what it wrapped"):
        await room.service.move_to(Garbling.open(room.folder / "another"), lambda progress: None)
    assert await room.store.kek_ids() == {old}
    room.clock.advance(1000)
    await sample.read(room.service)


async def test_a_move_ends_only_when_all_was_opened_again(room: Room) -> None:
    await Sample("t1").make(room.service)
    old, new = room.providers.kek_id, Forgetful.open(room.folder / "another")
    with pytest.raises(WrapRefused, match="opened before"):
        await room.service.move_to(new, lambda progress: None)
    assert "crypto.provider.moved" not in await room.events()
    assert room.providers.kek_ids == {old, new.kek_id}, "the old one was not let go"


async def test_a_wrapping_that_does_not_come_back_replaces_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = await Sample("t1").make(room.service)
    await rotate_all(room.service, room.store, sample)
    there = await stale_rows(room, "t1")
    honest = Material.wrap
    with monkeypatch.context() as patch:
        patch.setattr(Material, "wrap", lambda self, key, context: honest(self, bytes(len(key)), context))
        with pytest.raises(RuntimeError, match="does not come back"):
            await room.service.rewrap_keys(sample.caller, RewrapStep())
    assert await stale_rows(room, "t1") == there
    await sample.read(room.service)


async def test_a_provider_that_is_out_is_no_destination(room: Room) -> None:
    sample = await Sample("t1").make(room.service)
    gone = room.file("another")
    gone.close()
    with pytest.raises(KekUnusable):
        await room.service.move_to(gone, lambda progress: None)
    assert room.providers.kek_ids == {room.providers.kek_id}
    room.clock.advance(1000)
    await sample.read(room.service)
    assert os.listdir(room.folder)


async def test_a_provider_that_is_out_stops_only_those_who_need_it(room: Room) -> None:
    """Neither the breaker nor the other tenants hear of it."""
    here, away = await Sample("t1").make(room.service), await Sample("t2").make(room.service)
    registry = Registry(clock=room.clock)
    crypto = local_crypto(room.service, Guard.of("crypto", registry=registry, clock=room.clock, rng=Random(7)))
    room.service._chain._keys["t2", away.master.key_id].wipe()
    room.providers.close()
    for _ in range(200):
        with pytest.raises(PartOut) as told:
            await crypto.decrypt_with_master_key(away.caller, back(away.master))
        assert (told.value.status, told.value.retry, told.value.retry_after_s) == (503, Retry.AFTER, 1.0)
        assert (await crypto.decrypt_with_master_key(here.caller, back(here.master))).plaintext == SECRET
    with pytest.raises(KekUnusable):
        await room.service.checks()["key_provider"]()


async def test_a_ring_wipes_by_itself_what_nobody_uses(room: Room) -> None:
    clock = ManualClock()
    ring = KeyRing(crypto=room.service, service="messaging", clock=clock, max_age_s=0.05)
    key = await ring.sealing_key("t1", "c1", "u1")
    clock.advance(1)
    async with asyncio.timeout(10):
        while len(ring):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
        clock.advance(60)
        while not key.wiped:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.01)
