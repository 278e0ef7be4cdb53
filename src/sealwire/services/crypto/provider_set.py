"""The key providers in use: one that wraps, and beside it, while keys move, the one they move away from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sealwire.services.crypto.providers import KeyProvider


class ProviderSet:
    """A `KeyProvider` made of several: the first wraps, each unwraps what it holds. The set may change at any time."""

    def __init__(self, wrapping: KeyProvider, *others: KeyProvider) -> None:
        self._providers = [wrapping, *others]
        self._makings: set[asyncio.Future[None]] = set()

    @classmethod
    def of(cls, provider: KeyProvider) -> ProviderSet:
        """Return `provider` as a set, or itself if it is one."""
        return provider if isinstance(provider, ProviderSet) else cls(provider)

    @property
    def name(self) -> str:
        """The kind of the one that wraps."""
        return self._providers[0].name

    @property
    def kek_id(self) -> str:
        """The KEK that wraps now."""
        return self._providers[0].kek_id

    @property
    def kek_ids(self) -> frozenset[str]:
        """All KEKs at hand."""
        return frozenset(provider.kek_id for provider in self._providers)

    def find(self, kek_id: str) -> KeyProvider | None:
        """Return the provider of a KEK, if it is here."""
        return next((provider for provider in self._providers if provider.kek_id == kek_id), None)

    def holds(self, wrapped: bytes) -> bool:
        return any(provider.holds(wrapped) for provider in self._providers)

    def is_newest(self, wrapped: bytes) -> bool:
        """Tell whether a key was wrapped by the one that wraps now."""
        return self._providers[0].holds(wrapped)

    async def wrap(self, key: bytes | bytearray, context: bytes) -> bytes:
        return await self._providers[0].wrap(key, context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        found = next((p for p in self._providers if p.holds(wrapped)), self._providers[0])
        return await found.unwrap(wrapped, context)

    async def check(self) -> None:
        await asyncio.gather(*(provider.check() for provider in self._providers))

    def close(self) -> None:
        for provider in self._providers:
            provider.close()

    def prefer(self, provider: KeyProvider) -> None:
        """Let `provider` wrap from now on; those that were there still unwrap."""
        self._providers = [provider, *(p for p in self._providers if p.kek_id != provider.kek_id)]

    def keep_only(self, kek_id: str) -> None:
        """Close all providers but this one. Raises: ValueError when it isn't there."""
        kept = [p for p in self._providers if p.kek_id == kek_id]
        if not kept:
            raise ValueError(f"no provider holds {kek_id}")
        for provider in self._providers:
            if provider.kek_id != kek_id:
                provider.close()
        self._providers = kept

    @asynccontextmanager
    async def making(self) -> AsyncIterator[None]:
        """Between these, a key is wrapped by the one that wraps, and stored; `settled` waits for it."""
        under_way = asyncio.get_running_loop().create_future()
        self._makings.add(under_way)
        try:
            yield
        finally:
            self._makings.discard(under_way)
            under_way.set_result(None)

    async def settled(self) -> None:
        """Wait until every key whose making has begun is stored: none begun before appears after."""
        if self._makings:
            await asyncio.wait(set(self._makings))
