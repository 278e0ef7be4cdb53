"""Vault: what auth keeps secret at rest. Nothing readable of a person or credential lies in a dump of the store.

Addresses, names and secrets are sealed under the tenant's data key for auth; addresses are found by a keyed hash whose
key is itself sealed. Both keys come from the crypto service and are not in auth's file.
"""

from __future__ import annotations

import hmac
import os
from typing import Final

import msgspec

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.kit.caller import SYSTEM_TENANT
from sealwire.kit.envelopes import EnvelopeRefused, bind
from sealwire.services.auth.model import folded_email
from sealwire.services.auth.ports import KeyStore, Sealer

SCOPE: Final = "auth"
_INDEX: Final = "index"
_SECRET_BYTES: Final = 32


class Person(msgspec.Struct, frozen=True):
    """The sealed part of a user. `former`: addresses they had, newest first, to which letters may have gone."""

    email: str
    display_name: str
    former: tuple[str, ...] = ()


class Device(msgspec.Struct, frozen=True):
    """The sealed part of a session: where it was last used from."""

    ip: str
    user_agent: str


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_person: Final = msgspec.msgpack.Decoder(Person).decode
_decode_device: Final = msgspec.msgpack.Decoder(Device).decode


class Vault:
    """Seals and finds. `start` before use; then only a key that left the ring makes it ask crypto again."""

    def __init__(self, *, sealer: Sealer, keys: KeyStore) -> None:
        self._sealer = sealer
        self._keys = keys
        self._index_key = b""

    async def start(self) -> None:
        """Load, or make, the key of the index. Raises: Unavailable when crypto is out of reach."""
        fresh = await self.seal("", "secret:" + _INDEX, os.urandom(_SECRET_BYTES))
        stored = await self._keys.secret(_INDEX, lambda: fresh)
        self._index_key = await self.open("", "secret:" + _INDEX, stored)

    async def seal(self, tenant_id: str, record: str, plaintext: bytes) -> bytes:
        """Seal for a tenant ("" for the installation), bound to the record it belongs to."""
        owner = tenant_id or SYSTEM_TENANT
        return await self._sealer.seal(owner, SCOPE, "", plaintext, bind(owner, SCOPE, record))

    async def open(self, tenant_id: str, record: str, sealed: bytes) -> bytes:
        """Open. Raises: EnvelopeRefused, DecryptionFailed, KeyUnusable, Unavailable."""
        owner = tenant_id or SYSTEM_TENANT
        return await self._sealer.open(owner, SCOPE, "", sealed, bind(owner, SCOPE, record))

    async def open_if_possible(self, tenant_id: str, record: str, sealed: bytes) -> bytes | None:
        """Open what may have been erased: None once its key is gone. Raises: Unavailable, which is no erasure."""
        try:
            return await self.open(tenant_id, record, sealed)
        except (EnvelopeRefused, DecryptionFailed, KeyUnusable):
            return None

    async def seal_person(self, tenant_id: str, user_id: str, person: Person) -> bytes:
        """Seal a user's address and name."""
        return await self.seal(tenant_id, "user:" + user_id, _encode(person))

    async def open_person(self, tenant_id: str, user_id: str, sealed: bytes) -> Person:
        """Open a user's address and name."""
        return _decode_person(await self.open(tenant_id, "user:" + user_id, sealed))

    async def person_if_possible(self, tenant_id: str, user_id: str, sealed: bytes) -> Person | None:
        """Return a user's address and name; None where they are erased, or do not open. Raises: Unavailable."""
        opened = await self.open_if_possible(tenant_id, "user:" + user_id, sealed)
        return None if opened is None else _decode_person(opened)

    async def seal_device(self, tenant_id: str, session_id: str, device: Device) -> bytes:
        """Seal where a session was used from."""
        return await self.seal(tenant_id, "session:" + session_id, _encode(device))

    async def open_device(self, tenant_id: str, session_id: str, sealed: bytes) -> Device:
        """Open where a session was used from."""
        return _decode_device(await self.open(tenant_id, "session:" + session_id, sealed))

    async def device_if_possible(self, tenant_id: str, session_id: str, sealed: bytes) -> Device | None:
        """Return where a session was used from, as `person_if_possible`."""
        opened = await self.open_if_possible(tenant_id, "session:" + session_id, sealed)
        return None if opened is None else _decode_device(opened)

    async def forget_tenant(self, tenant_id: str) -> None:
        """Destroy the tenant's keys: what was sealed under them is unreadable, in backups too."""
        await self._sealer.destroy(tenant_id, scope=SCOPE)

    def email_index(self, tenant_id: str, email: str) -> bytes:
        """Return the keyed hash by which an address is found in a tenant."""
        return self._hash("email", tenant_id, folded_email(email))

    def attempt_key(self, *parts: str) -> bytes:
        """Return the keyed hash under which failures are counted."""
        return self._hash("attempt", *parts)

    def client_hash(self, session_id: str, user_agent: str) -> bytes:
        """Return the keyed hash by which a client is known again within a session (128 bits)."""
        return self._hash("client", session_id, user_agent)[:16]

    def code_hash(self, user_id: str, code: str) -> bytes:
        """Return the keyed hash of a recovery code (120 bits of chance, so a fast hash is enough: ASVS 5.0, 6.5.2)."""
        return self._hash("recovery", user_id, code)

    def credential_index(self, credential_id: bytes) -> bytes:
        """Return the keyed hash by which a passkey is found."""
        return self._hash("credential", credential_id.hex())

    def derive(self, purpose: str, *parts: str) -> bytes:
        """Return 256 bits that nobody else can know, the same each time: the secret part of a token not stored."""
        return self._hash("derive", purpose, *parts)

    def _hash(self, *parts: str) -> bytes:
        return hmac.digest(self._index_key, bind(*parts), "sha256")
