"""Data keys for snapshots without a crypto service: real keys, kept in memory."""

from __future__ import annotations

import os

from sealwire.kit.envelopes import KEY_BYTES, KEY_ID_BYTES, EnvelopeRefused, SealingKey
from sealwire.ports.index import KeyDestroyed


class LocalSnapshotKeys:
    """Keeps `ports.index.SnapshotKeys`; hand the same one to a second index to let it restart."""

    def __init__(self) -> None:
        self._keys: dict[str, SealingKey] = {}
        self._destroyed: set[tuple[str, bytes]] = set()

    async def sealing_key(self, tenant_id: str) -> SealingKey:
        """Return the tenant's key, made on first use."""
        if tenant_id not in self._keys:
            self._keys[tenant_id] = SealingKey(key_id=os.urandom(KEY_ID_BYTES), key=os.urandom(KEY_BYTES))
        return self._keys[tenant_id]

    async def key_by_id(self, tenant_id: str, key_id: bytes) -> SealingKey:
        """Return the key. Raises: KeyDestroyed, EnvelopeRefused."""
        if (tenant_id, key_id) in self._destroyed:
            raise KeyDestroyed(tenant_id)
        key = self._keys.get(tenant_id)
        if key is None or key.key_id != key_id:
            raise EnvelopeRefused
        return key

    def destroy(self, tenant_id: str) -> None:
        """Forget a tenant's key for good."""
        self._destroyed.add((tenant_id, self._keys.pop(tenant_id).key_id))
