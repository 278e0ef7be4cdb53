"""Keys are used while they expire, are pushed out, rotated, rewrapped, switched off, and while callers give up.

Wiped memory is zeros, and AES works under zeros as well: nothing that comes out may ever have been made under such a
key, and everything that comes out has to open again.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.ciphers import Ciphertext, Plaintext, PlaintextBatch, Sealed
from sealwire.contracts.crypto_terms import KeyUnusable
from sealwire.contracts.data_keys import DataKeyRequest, WrappedKey
from sealwire.contracts.keys import KeyChange, NewKey, RewrapStep
from sealwire.contracts.signatures import Signable, SignedMessage
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.envelopes import EnvelopeRefused, SealingKey, envelope_key_id
from sealwire.kit.permission import Role
from sealwire.services.crypto import material
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock

AGE_S = 300.0
SECRET = b"attack at dawn"
ZEROS = bytearray(32)
UNDER_ZEROS = [AESGCM(ZEROS), AESGCM(material._derive(ZEROS, material._API_INFO))]
TENANTS = [f"t{n}" for n in range(6)]


class Waiting(FileKeyProvider):
    """Answers some turns of the loop later, as one over a network would."""

    turns = Random(7)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        for _ in range(self.turns.randrange(4)):
            await asyncio.sleep(0)
        return await super().unwrap(wrapped, context)


def person(tenant_id: str) -> Caller:
    return Caller(principal=Principal(kind="user", tenant_id=tenant_id, subject="anna", role=Role.ADMIN))


class Load:
    """Asks for everything at once, in an order that a seed says, and keeps what came out."""

    def __init__(self, crypto: CryptoService, clock: ManualClock, seed: int) -> None:
        self.crypto, self.clock, self.chance = crypto, clock, Random(seed)
        self.ring = KeyRing(
            crypto=crypto, service="messaging", clock=clock, max_keys=3, max_age_s=AGE_S / 7, max_uses=5
        )
        self.keys: list[tuple[Caller, str]] = []
        self.tagging: list[tuple[Caller, str]] = []
        self.sealed: list[tuple[Caller, Sealed]] = []
        self.tags: list[tuple[Caller, str, SignedMessage]] = []
        self.envelopes: list[tuple[str, bytes]] = []
        self.wrapped: list[tuple[str, WrappedKey, bytes]] = []

    async def prepare(self) -> None:
        for tenant_id in TENANTS:
            caller = person(tenant_id)
            self.keys += [(caller, (await self.crypto.generate_key(caller, NewKey())).key_id) for _ in range(3)]
            made = await self.crypto.generate_key(caller, NewKey(key_type="hmac-sha256"))
            self.tagging.append((caller, made.key_id))

    async def encrypt(self) -> None:
        caller, key_id = self.chance.choice(self.keys)
        items = [Plaintext(plaintext=SECRET)] * self.chance.randrange(1, 5)
        batch = await self.crypto.encrypt_batch(caller, key_id, PlaintextBatch(items=items))
        self.sealed += [(caller, one) for one in batch.items]

    async def decrypt(self) -> None:
        if self.sealed:
            caller, one = self.chance.choice(self.sealed)
            await self.open(caller, one)

    async def open(self, caller: Caller, one: Sealed) -> None:
        back = Ciphertext(ciphertext=one.ciphertext, iv=one.iv, auth_tag=one.auth_tag, version=one.version)
        assert (await self.crypto.decrypt(caller, one.key_id, back)).plaintext == SECRET

    async def tag(self) -> None:
        caller, key_id = self.chance.choice(self.tagging)
        made = await self.crypto.hmac(caller, key_id, Signable(message=SECRET))
        told = SignedMessage(message=SECRET, signature=made.signature, version=made.version)
        self.tags.append((caller, key_id, told))

    async def wrap(self) -> None:
        caller, key_id = self.chance.choice(self.keys)
        service = service_caller("messaging", caller.tenant_id)
        made = await self.crypto.data_key(service, key_id, DataKeyRequest(plain=True))
        self.wrapped.append((caller.tenant_id, WrappedKey(wrapped=made.wrapped, context={}), made.plaintext))

    async def seal(self) -> None:
        tenant_id = self.chance.choice(TENANTS)
        scope = f"c{self.chance.randrange(3)}"
        self.envelopes.append((f"{tenant_id} {scope}", await self.ring.seal(tenant_id, scope, "", SECRET, b"here")))

    async def rotate(self) -> None:
        caller, key_id = self.chance.choice(self.keys + self.tagging)
        await self.crypto.rotate(caller, key_id)

    async def rewrap(self) -> None:
        await self.crypto.rewrap_keys(person(self.chance.choice(TENANTS)), RewrapStep())

    async def switch(self) -> None:
        caller, key_id = self.chance.choice(self.keys)
        await self.crypto.change_key(caller, key_id, KeyChange(state="disabled"))
        await asyncio.sleep(0)
        await self.crypto.change_key(caller, key_id, KeyChange(state="enabled"))

    async def age(self) -> None:
        self.clock.advance(self.chance.choice([AGE_S / 10, AGE_S]))
        if self.chance.randrange(2):
            self.crypto._chain.sweep()
            self.ring.sweep()

    async def forget(self) -> None:
        self.ring.forget(self.chance.choice(TENANTS))

    async def run(self, rounds: int) -> None:
        uses = [self.encrypt, self.decrypt, self.tag, self.wrap, self.seal, self.seal]
        rare = [self.rotate, self.rewrap, self.switch, self.age, self.age, self.forget]
        for _ in range(rounds):
            works: list[Callable[[], Awaitable[Any]]] = self.chance.choices(uses, k=12) + self.chance.choices(rare, k=2)
            self.chance.shuffle(works)
            tasks = [asyncio.ensure_future(work()) for work in works]
            for _ in range(self.chance.randrange(4)):
                await asyncio.sleep(0)
            self.chance.choice(tasks).cancel()
            for failed in await asyncio.gather(*tasks, return_exceptions=True):
                if failed is not None and not isinstance(failed, KeyUnusable | asyncio.CancelledError):
                    raise failed

    async def look_through(self) -> None:
        for caller, key_id in self.keys:  # who switched one off may have given up before switching it on again
            await self.crypto.change_key(caller, key_id, KeyChange(state="enabled"))
        for caller, one in self.sealed:
            await self.open(caller, one)
            for zeros in UNDER_ZEROS:
                with pytest.raises(InvalidTag):
                    zeros.decrypt(one.iv, one.ciphertext + one.auth_tag, b"{}")
        for caller, key_id, told in self.tags:
            assert (await self.crypto.verify(caller, key_id, told)).valid
            assert told.signature not in (hmac.digest(key, SECRET, "sha256") for key in (ZEROS, b""))
        for tenant_id, key, plaintext in self.wrapped:
            opened = await self.crypto.open_data_key(service_caller("messaging", tenant_id), key)
            assert opened.plaintext == plaintext != bytes(32)
        for place, envelope in self.envelopes:
            tenant_id, scope = place.split()
            assert await self.ring.open(tenant_id, scope, "", envelope, b"here") == SECRET
            with pytest.raises(EnvelopeRefused):
                SealingKey(key_id=envelope_key_id(envelope), key=ZEROS).open(envelope, b"here")


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_ever_made_under_a_key_of_zeros(tmp_path: Path, seed: int) -> None:
    clock = ManualClock()
    db = Database.open(tmp_path / "crypto.db", MIGRATIONS)
    config = CryptoConfig(cache_age_s=AGE_S, cache_keys=16, journal_window_ms=1)
    provider = Waiting.open(tmp_path / "kek")
    crypto = CryptoService(store=SqliteKeyStore(db), provider=provider, clock=clock, config=config)
    await crypto.start()
    load = Load(crypto, clock, seed)
    async with asyncio.timeout(60):
        await load.prepare()
        await load.run(60)
        await load.look_through()
    assert min(map(len, (load.sealed, load.tags, load.wrapped, load.envelopes))) > 20
    load.ring.clear_cache()
    await crypto.stop()
    await db.close()
