"""The keys of snapshots, from the service's key ring: one data key per tenant, under the tenant's own keys."""

from __future__ import annotations

from typing import Protocol

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyDamaged, KeyUnusable
from sealwire.kit.envelopes import EnvelopeRefused, SealingKey
from sealwire.ports.index import KeyDestroyed, KeyOut

SCOPE = "search-snapshot"


class DataKeys(Protocol):
    """What snapshots ask of the key ring (`clients/crypto.py`)."""

    async def sealing_key(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey:
        """Return the key to seal with. Raises: KeyUnusable, Unavailable."""

    async def key_by_id(self, tenant_id: str, scope: str, subject_id: str, key_id: bytes) -> SealingKey:
        """Return the key with this id. Raises: DecryptionFailed, KeyUnusable, Unavailable."""

    def sweep(self) -> None:
        """Wipe what is past its time."""


class SnapshotDataKeys:
    """Keeps `ports.index.SnapshotKeys` over a key ring."""

    def __init__(self, ring: DataKeys) -> None:
        self._ring = ring

    async def sealing_key(self, tenant_id: str) -> SealingKey:
        """See `SnapshotKeys.sealing_key`."""
        self._ring.sweep()
        try:
            return await self._ring.sealing_key(tenant_id, SCOPE, "")
        except KeyUnusable as error:
            raise KeyDestroyed(tenant_id) from error
        except KeyDamaged as error:
            raise KeyOut(tenant_id) from error

    async def key_by_id(self, tenant_id: str, key_id: bytes) -> SealingKey:
        """See `SnapshotKeys.key_by_id`."""
        try:
            return await self._ring.key_by_id(tenant_id, SCOPE, "", key_id)
        except KeyUnusable as error:
            raise KeyDestroyed(tenant_id) from error
        except KeyDamaged as error:
            raise KeyOut(tenant_id) from error
        except DecryptionFailed as error:
            raise EnvelopeRefused from error
