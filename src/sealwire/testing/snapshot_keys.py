"""Data keys for snapshots without a crypto service: real keys, wrapped by a table in memory."""

from __future__ import annotations

import os

from sealwire.ports.index import KeyDestroyed, SnapshotKey


class LocalSnapshotKeys:
    """Keeps `ports.index.SnapshotKeys`; hand the same one to a second index to let it restart."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, bytes], bytes] = {}
        self._current: dict[str, SnapshotKey] = {}

    async def fresh(self, tenant_id: str) -> SnapshotKey:
        """Return the tenant's key, made on first use."""
        if tenant_id not in self._current:
            key = SnapshotKey(wrapped=os.urandom(40), key=os.urandom(32))
            self._current[tenant_id] = key
            self._keys[tenant_id, key.wrapped] = key.key
        return self._current[tenant_id]

    async def open(self, tenant_id: str, wrapped: bytes) -> bytes:
        """Return the key. Raises: KeyDestroyed."""
        try:
            return self._keys[tenant_id, wrapped]
        except KeyError:
            raise KeyDestroyed(tenant_id) from None

    def destroy(self, tenant_id: str) -> None:
        """Forget a tenant's keys for good."""
        self._current.pop(tenant_id, None)
        for pair in [pair for pair in self._keys if pair[0] == tenant_id]:
            del self._keys[pair]
