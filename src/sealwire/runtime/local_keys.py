"""Keys of this process's own files (spool, session journal): random, wrapped under the key-encryption key."""

from __future__ import annotations

import os
from pathlib import Path

from sealwire.kit.envelopes import SealingKey, draw_key, wiping
from sealwire.kit.files import write_whole
from sealwire.services.crypto.provider_set import ProviderSet
from sealwire.services.crypto.providers import KeyProvider, WrapRefused

ID_BYTES = 16


class LocalKeys:
    """`<folder>/<name>`: an id and a wrapped key, mode 0600. Needs the key provider at the start only."""

    def __init__(self, *, folder: Path, provider: KeyProvider) -> None:
        self._folder = folder
        self._provider = ProviderSet.of(provider)

    async def sealing_key(self, name: str) -> SealingKey:
        """Return the key of this name, made on first use. Raises: WrapRefused for a file of another installation."""
        key_id, key = await self.secret(name)
        with wiping(key):
            return SealingKey(key_id=key_id, key=key)

    async def secret(self, name: str) -> tuple[bytes, bytearray]:
        """Return the id of this name's key, made on first use, and the key. Raises: as `sealing_key`."""
        path = self._folder / name
        context = b"local:" + name.encode()
        if not path.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            key_id = os.urandom(ID_BYTES)
            async with self._provider.making():
                with wiping(draw_key()) as key:
                    write_whole(path, key_id + await self._provider.wrap(key, context + key_id))
        content = path.read_bytes()
        key_id, wrapped = content[:ID_BYTES], content[ID_BYTES:]
        return key_id, await self._provider.unwrap(wrapped, context + key_id)

    async def move(self) -> int:
        """Wrap every key anew under the provider that wraps now; returns how many moved. Raises: WrapRefused."""
        moved = 0
        for path in sorted(self._folder.glob("[!.]*")):
            content = path.read_bytes()
            key_id, wrapped = content[:ID_BYTES], content[ID_BYTES:]
            if self._provider.is_newest(wrapped):
                continue
            context = b"local:" + path.name.encode() + key_id
            with wiping(await self._provider.unwrap(wrapped, context)) as key:
                again = await self._provider.wrap(key, context)
                with wiping(await self._provider.unwrap(again, context)) as back:
                    if back != key:
                        raise WrapRefused(f"{path} does not come back from its new wrapping")
            write_whole(path, key_id + again)
            moved += 1
        return moved
