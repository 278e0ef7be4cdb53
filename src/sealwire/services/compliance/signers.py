"""Who signs a log's checkpoints: a key of the crypto service per tenant, and its successors.

The crypto service rotates a key by giving it a new version, whoever asks. The first signature of a new version is
not given before the version before has vouched for it, durably.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sealwire.contracts.crypto import Crypto
from sealwire.contracts.signatures import SystemSignable, SystemSignature
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import Clock
from sealwire.services.compliance.key_chain import Rotation, verify_rotation
from sealwire.services.compliance.notes import ED25519, NoteSignature, VerifierKey, parse_key, write_note
from sealwire.services.compliance.ports import AuditStore, StoredKey

SERVICE = "compliance"
KEY_NAME = "audit-checkpoint"


class Signers:
    """Signs notes with the keys of the tenants' logs."""

    def __init__(self, *, store: AuditStore, crypto: Crypto, clock: Clock, origin: Callable[[str], str]) -> None:
        """`origin` names a tenant's log."""
        self._store = store
        self._crypto = crypto
        self._clock = clock
        self._origin = origin
        self._versions: dict[str, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def sign(self, tenant_id: str, text: str) -> tuple[VerifierKey, NoteSignature]:
        """Sign a note's text with the newest key, whose succession is settled by then."""
        signed = await self._sign(tenant_id, text)
        key = self._key(tenant_id, signed)
        if self._versions.get(tenant_id) != signed.version:
            async with self._locks.setdefault(tenant_id, asyncio.Lock()):
                await self._succeed(tenant_id, key, signed.version)
                self._versions[tenant_id] = signed.version
        return key, NoteSignature(key.name, key.key_id, signed.signature)

    async def rotate(self, tenant_id: str) -> None:
        """Give the key a new version; the next signature has it vouched for."""
        key_id = (await self._sign(tenant_id, f"{self._origin(tenant_id)}\nkey-rotation is asked for\n")).key_id
        await self._crypto.rotate(service_caller(SERVICE, tenant_id), key_id)

    async def _succeed(self, tenant_id: str, key: VerifierKey, version: int) -> None:
        """Have the key before vouch for this one, unless it did, or there is none before."""
        stored = await self._store.checkpoint_keys(tenant_id)
        if stored and stored[-1].version >= version:
            return
        last = await self._store.last_checkpoint(tenant_id)
        size = last.size if last is not None and stored else 0
        note = await self._vouch(tenant_id, stored[-1], key, version, size) if stored else ""
        added = StoredKey(version=version, public_key=key.text, size=size, rotation=note, at_us=self._clock.now_us())
        await self._store.add_checkpoint_key(tenant_id, added)

    async def _vouch(self, tenant_id: str, old: StoredKey, new: VerifierKey, version: int, size: int) -> str:
        rotation = Rotation(origin=self._origin(tenant_id), size=size, old=parse_key(old.public_key), new=new)
        signatures = []
        for key, number in ((rotation.old, old.version), (new, version)):
            signed = await self._sign(tenant_id, rotation.text, number)
            signatures.append(NoteSignature(key.name, key.key_id, signed.signature))
        note = write_note(rotation.text, signatures)
        verify_rotation(note)
        return note

    async def _sign(self, tenant_id: str, text: str, version: int | None = None) -> SystemSignature:
        message = SystemSignable(name=KEY_NAME, message=text.encode(), version=version)
        return await self._crypto.system_sign(service_caller(SERVICE, tenant_id), message)

    def _key(self, tenant_id: str, signed: SystemSignature) -> VerifierKey:
        return VerifierKey(name=self._origin(tenant_id), type=ED25519, public_key=signed.public_key)
