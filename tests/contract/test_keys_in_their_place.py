"""A stored key opens in its own place only, and a key that was switched off is off for every use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import msgspec
import pytest

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.ciphers import Ciphertext, Plaintext, Sealed
from sealwire.contracts.crypto_terms import DataKeyDestroyed, DecryptionFailed, KeyDamaged, KeyUnusable
from sealwire.contracts.data_keys import DataKeyDestruction, SystemDataKeyRequest, WrappedKey
from sealwire.contracts.keys import Destruction, KeyChange, NewKey
from sealwire.contracts.signatures import Signable, SignedMessage, SystemSignable
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.permission import Role
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.events import key_event
from sealwire.services.crypto.model import US_PER_DAY, KeyState
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock

COMPLIANCE = service_caller("compliance", "t1")
ANNA = Caller(principal=Principal(kind="user", tenant_id="t1", subject="anna", role=Role.ADMIN))
BEN = Caller(principal=Principal(kind="user", tenant_id="t2", subject="ben", role=Role.ADMIN))


class Room:
    """Crypto on a folder, and its file for who changes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(now_us=SystemClock().now_us())

    async def open(self) -> CryptoService:
        self.db = Database.open(self.folder / "crypto.db", MIGRATIONS)
        self.crypto = CryptoService(
            store=SqliteKeyStore(self.db),
            provider=FileKeyProvider.open(self.folder / "kek"),
            clock=self.clock,
            config=CryptoConfig(),
        )
        await self.crypto.start()
        return self.crypto

    async def close(self) -> None:
        await self.crypto.stop()
        await self.db.close()

    async def edited(self, *changes: str) -> CryptoService:
        await self.close()
        conn = apsw.Connection(str(self.folder / "crypto.db"))
        for sql in changes:
            conn.execute(sql)
            assert conn.changes() or sql.startswith("CREATE")
        conn.close()
        return await self.open()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path)
    await room.open()
    yield room
    await room.close()


def again(sealed: Sealed) -> Ciphertext:
    return Ciphertext(ciphertext=sealed.ciphertext, iv=sealed.iv, auth_tag=sealed.auth_tag, version=sealed.version)


async def test_versions_of_a_key_that_change_places_do_not_open(room: Room) -> None:
    key = await room.crypto.generate_key(ANNA, NewKey())
    first = await room.crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=b"text"))
    await room.crypto.rotate(ANNA, key.key_id)
    of = f"UPDATE versions SET version = {{}} WHERE key_id = '{key.key_id}' AND version = {{}}"
    crypto = await room.edited(of.format(9, 1), of.format(1, 2), of.format(2, 9))
    with pytest.raises(DecryptionFailed):
        await crypto.decrypt(ANNA, key.key_id, again(first))
    with pytest.raises(KeyUnusable):
        await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=b"text"))


async def test_a_master_key_serves_no_other_tenant(room: Room) -> None:
    sealed = await room.crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=b"text"))
    await room.crypto.encrypt_with_master_key(BEN, Plaintext(plaintext=b"text"))
    of = "UPDATE keys SET tenant_id = '{}' WHERE tenant_id = '{}'"
    crypto = await room.edited(of.format("t9", "t1"), of.format("t1", "t2"), of.format("t2", "t9"))
    with pytest.raises(KeyDamaged):
        await crypto.decrypt_with_master_key(BEN, again(sealed))
    with pytest.raises(KeyDamaged):
        await crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=b"text"))


async def test_a_key_that_is_off_proves_nothing_and_lies_in_no_memory(room: Room) -> None:
    for kind, use in (("ed25519", room.crypto.sign), ("hmac-sha256", room.crypto.hmac)):
        key = await room.crypto.generate_key(ANNA, NewKey(key_type=kind))
        made = await use(ANNA, key.key_id, Signable(message=b"text"))
        signed = SignedMessage(message=b"text", signature=made.signature, version=made.version)
        live = await room.crypto._chain.find("t1", key.key_id)
        assert (await room.crypto.verify(ANNA, key.key_id, signed)).valid
        assert live.materials
        await room.crypto.change_key(ANNA, key.key_id, KeyChange(state="disabled"))
        assert not live.materials, "wiped, not only refused"
        with pytest.raises(KeyUnusable):
            await room.crypto.verify(ANNA, key.key_id, signed)


async def test_a_services_key_that_is_off_opens_and_signs_nothing(room: Room) -> None:
    crypto, context = room.crypto, {"scope": "s"}
    made = await crypto.system_data_key(COMPLIANCE, SystemDataKeyRequest(context=context))
    await crypto.system_sign(COMPLIANCE, SystemSignable(name="log", message=b"text"))
    signer = await crypto._chain.named(COMPLIANCE, "system:compliance", "sign:log", "ed25519")
    await crypto._chain.rotate(COMPLIANCE, signer)
    older = SystemSignable(name="log", message=b"text", version=1)
    assert (await crypto.system_sign(COMPLIANCE, older)).version == 1
    event = key_event(COMPLIANCE, "crypto.key.state_changed", key_id=signer.stored.key_id, at_us=1)
    await crypto._chain.change_life(signer, lambda life: life.set_state(KeyState.DECRYPT_ONLY), event)
    with pytest.raises(KeyUnusable, match="decrypt_only"):
        await crypto.system_sign(COMPLIANCE, older)
    for name in ("data", "sign:log"):
        live = await crypto._chain.named(COMPLIANCE, "system:compliance", name, "aes-256-gcm")
        event = key_event(COMPLIANCE, "crypto.key.state_changed", key_id=live.stored.key_id, at_us=1)
        await crypto._chain.change_life(live, lambda life: life.set_state(KeyState.DISABLED), event)
    with pytest.raises(KeyUnusable, match="disabled"):
        await crypto.open_data_key(COMPLIANCE, WrappedKey(wrapped=made.wrapped, context=context))
    with pytest.raises(KeyUnusable, match="disabled"):
        await crypto.system_sign(COMPLIANCE, older)


async def test_a_damaged_key_holds_up_no_others_destruction(room: Room) -> None:
    mine = await room.crypto.generate_key(ANNA, NewKey())
    other = await room.crypto.generate_key(BEN, NewKey())
    for caller, key in ((ANNA, mine), (BEN, other)):
        await room.crypto.schedule_destruction(caller, key.key_id, Destruction(delay_days=7))
    crypto = await room.edited(f"DELETE FROM versions WHERE key_id = '{mine.key_id}'")
    room.clock.advance(8 * US_PER_DAY / 1_000_000)
    assert await crypto.destroy_due() == 1
    assert (await crypto.key(BEN, other.key_id)).state == "destroyed"


async def test_what_was_wrapped_before_a_move_is_removed_from_the_files(room: Room, tmp_path: Path) -> None:
    await room.crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=b"text"))
    shredded = asyncio.Event()
    honest: Callable[[], object] = room.crypto._store.shred
    async with asyncio.timeout(60):
        while room.crypto._keeper._shred_due:  # noqa: ASYNC110 - that of the start, which tells nobody
            await asyncio.sleep(0.01)

        async def shred() -> None:
            await honest()
            shredded.set()

        room.crypto._store.shred = shred
        await room.crypto.move_to(FileKeyProvider.open(tmp_path / "kek2"), lambda progress: None)
        await shredded.wait()


async def test_a_ciphertext_is_cut_in_one_way_only(room: Room) -> None:
    sealed = await room.crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=b"text"))
    assert (await room.crypto.decrypt_with_master_key(ANNA, again(sealed))).plaintext == b"text"
    both = sealed.ciphertext + sealed.auth_tag
    for cut in (0, 1, len(both) - 4, len(both)):
        moved = Ciphertext(ciphertext=both[:cut], iv=sealed.iv, auth_tag=both[cut:], version=sealed.version)
        with pytest.raises(DecryptionFailed):
            await room.crypto.decrypt_with_master_key(ANNA, moved)


async def test_the_master_key_opens_nothing_in_another_keys_name(room: Room) -> None:
    sealed = await room.crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=b"text"))
    other = await room.crypto.generate_key(ANNA, NewKey())
    for name, opens in ((sealed.key_id, True), (other.key_id, False)):
        named = msgspec.structs.replace(again(sealed), key_id=name)
        if opens:
            assert (await room.crypto.decrypt_with_master_key(ANNA, named)).plaintext == b"text"
        else:
            with pytest.raises(DecryptionFailed):
                await room.crypto.decrypt_with_master_key(ANNA, named)


async def test_what_is_put_back_opens_at_the_first_call(room: Room) -> None:
    await room.crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=b"text"))
    crypto = await room.edited("CREATE TABLE kept AS SELECT * FROM versions", "UPDATE versions SET wrapped = x'01'")
    with pytest.raises(KeyDamaged):
        await crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=b"text"))
    await room.db.write(lambda conn: conn.execute("REPLACE INTO versions SELECT * FROM kept").fetchall())
    await crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=b"text"))


async def test_a_data_key_that_is_lost_is_not_called_destroyed_before_it_is(room: Room) -> None:
    context = {"scope": "s", "subject_id": "anna"}
    made = await room.crypto.system_data_key(COMPLIANCE, SystemDataKeyRequest(context=context))
    lost = WrappedKey(wrapped=made.wrapped, context=context)
    crypto = await room.edited("UPDATE data_keys SET wrapped = NULL")
    with pytest.raises(KeyDamaged):
        await crypto.open_data_key(COMPLIANCE, lost)
    assert (await crypto.system_data_key(COMPLIANCE, SystemDataKeyRequest(context=context))).wrapped != made.wrapped
    with pytest.raises(KeyDamaged):
        await crypto.open_data_key(COMPLIANCE, lost)
    assert (await crypto.destroy_data_keys(COMPLIANCE, DataKeyDestruction(subject_id="anna"))).destroyed == 2
    with pytest.raises(DataKeyDestroyed):
        await crypto.open_data_key(COMPLIANCE, lost)
    assert (await crypto.destroy_data_keys(COMPLIANCE, DataKeyDestruction(subject_id="anna"))).destroyed == 0


async def test_the_number_of_a_lost_version_is_never_given_again(room: Room) -> None:
    key = await room.crypto.generate_key(ANNA, NewKey())
    await room.crypto.rotate(ANNA, key.key_id)
    sealed = await room.crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=b"text"))
    assert sealed.version == 2
    of = f"WHERE key_id = '{key.key_id}' AND version = 2"
    crypto = await room.edited(f"CREATE TABLE kept AS SELECT * FROM versions {of}", f"DELETE FROM versions {of}")
    assert [v.version for v in (await crypto.rotate(ANNA, key.key_id)).versions] == [1, 3]
    assert [v.version for v in (await crypto.rotate(ANNA, key.key_id)).versions] == [1, 3, 4]
    with pytest.raises(DecryptionFailed):
        await crypto.decrypt(ANNA, key.key_id, again(sealed))
    crypto = await room.edited("INSERT INTO versions SELECT * FROM kept")
    assert (await crypto.decrypt(ANNA, key.key_id, again(sealed))).plaintext == b"text"
    assert [v.version for v in (await crypto.rotate(ANNA, key.key_id)).versions] == [1, 2, 3, 4, 5]


async def test_a_destruction_that_somebody_gave_up_is_removed_from_the_files_too(room: Room) -> None:
    begun, shredded = asyncio.Event(), asyncio.Event()
    honest: Callable[[], object] = room.crypto._store.shred

    async def late(*_: object, **__: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def shred() -> None:
        await honest()
        shredded.set()

    async with asyncio.timeout(60):
        while room.crypto._keeper._shred_due:  # noqa: ASYNC110 - that of the start, which tells nobody
            await asyncio.sleep(0.01)
        room.crypto._store.shred, room.crypto._store.destroy_data_keys = shred, late
        which = DataKeyDestruction(scope="s")
        destroying = asyncio.create_task(room.crypto.destroy_data_keys(COMPLIANCE, which))
        await begun.wait()
        destroying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await destroying
        await shredded.wait()
