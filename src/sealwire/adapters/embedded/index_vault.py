"""Saves shards of the search index as sealed snapshots and restores them at start."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from sealwire.adapters.embedded.drivers.tantivy import lay_out
from sealwire.adapters.embedded.index_shard import Link, Shard
from sealwire.adapters.embedded.index_snapshots import Damaged, Manifest, SnapshotFolder, State
from sealwire.kit.caller import SYSTEM_TENANT
from sealwire.kit.envelopes import EnvelopeRefused, SealingKey
from sealwire.kit.telemetry import fields
from sealwire.ports.index import KeyDestroyed, KeyOut, SnapshotKeys

MANIFEST, STATE = "manifest", "state"
_LOG = logging.getLogger("sealwire.search")


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's shard whose files were laid out."""

    tenant_id: str
    root: Path
    position: int
    seqs: dict[str, int]


class Restoration(msgspec.Struct, frozen=True, kw_only=True):
    """What could be restored, and the position after which the feed is to be read."""

    position: int
    shards: list[Restored]
    mark: str


class Vault:
    """Knows which files belong together; the folder knows how to seal one."""

    def __init__(self, folder: SnapshotFolder, keys: SnapshotKeys) -> None:
        self._folder = folder
        self._keys = keys
        self._saving = asyncio.Lock()
        self._saved = State(position=-1, tenants=())
        self._lacking: set[str] = set()

    def folder_name(self, tenant_id: str) -> str:
        """Return the name of a tenant's folder."""
        return self._folder.tenant_folder(tenant_id).name

    async def restore(self, root_of: Callable[[str], Path | None]) -> Restoration:
        """Lay out every shard that is whole. What is damaged is removed, and the feed then read from its beginning.

        Raises what the keys raise when they can't be had for now.
        """
        await asyncio.to_thread(self._folder.open)
        try:
            content = await self._open(self._folder.root / STATE, SYSTEM_TENANT)
            state = msgspec.msgpack.decode(content, type=State)
        except (Damaged, EnvelopeRefused, KeyDestroyed, KeyOut, msgspec.MsgspecError) as error:
            if (self._folder.root / STATE).exists():
                _LOG.warning("search_snapshot_damaged", extra=fields(part=STATE, error=str(error)))
            state = State(position=0, tenants=())
        await asyncio.to_thread(self._folder.drop_all_but, state.tenants)
        self._lacking = {tenant_id for tenant_id in state.lacking if await self._is_out(tenant_id)}
        position, shards = 0 if state.lacking else state.position, []
        for tenant_id in state.tenants:
            root = root_of(tenant_id)
            assert root is not None
            try:
                part = await self._restore_shard(tenant_id, root)
            except (Damaged, EnvelopeRefused, KeyDestroyed, KeyOut, msgspec.MsgspecError) as error:
                if isinstance(error, KeyOut):  # the others' search doesn't wait for it
                    self._lacking.add(tenant_id)
                _LOG.warning(
                    "search_snapshot_damaged",
                    extra=fields(tenant_id=tenant_id, error=str(error) or type(error).__name__),
                )
                await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
                await asyncio.to_thread(self._folder.drop, tenant_id)
                position = position if isinstance(error, KeyDestroyed) else 0
            else:
                shards.append(part)
        return Restoration(position=position, shards=shards, mark=state.mark)

    async def _restore_shard(self, tenant_id: str, root: Path) -> Restored:
        target = root / "0"
        source = self._folder.tenant_folder(tenant_id)
        content = await self._open(source / MANIFEST, tenant_id)
        manifest = msgspec.msgpack.decode(content, type=Manifest)
        await asyncio.to_thread(target.mkdir, parents=True, mode=0o700)
        for name in manifest.files:
            key = await self._keys.key_by_id(tenant_id, self._folder.key_id(source / name))
            await asyncio.to_thread(self._folder.open_file, source / name, tenant_id, key, target / name)
        lay_out(target, manifest.meta, manifest.files)
        return Restored(tenant_id=tenant_id, root=root, position=manifest.position, seqs=manifest.seqs)

    async def _open(self, path: Path, tenant_id: str) -> bytes:
        key = await self._keys.key_by_id(tenant_id, self._folder.key_id(path))
        return await asyncio.to_thread(self._folder.open_bytes, path, tenant_id, key)

    async def save(
        self,
        shards: Mapping[str, Shard],
        covered: Callable[[], int],
        upto: Callable[[], int],
        mark: Callable[[], str],
    ) -> None:
        """Seal the shards that changed, then the state that names them. Raises what keys and disk raise."""
        async with self._saving:
            position = covered()
            for shard in list(shards.values()):
                if shard.changed:
                    await self._save_shard(shard, upto)
            tenants = sorted(shard.tenant_id for shard in shards.values() if shard.saved)
            lacking = tuple(sorted(self._lacking))
            state = State(position=0 if lacking else position, tenants=tuple(tenants), mark=mark(), lacking=lacking)
            if state != self._saved:
                key = await self._keys.sealing_key(SYSTEM_TENANT)
                content = msgspec.msgpack.encode(state)
                await asyncio.to_thread(self._folder.seal_bytes, self._folder.root / STATE, SYSTEM_TENANT, content, key)
                self._saved = state

    async def _is_out(self, tenant_id: str) -> bool:
        try:
            with suppress(KeyDestroyed):
                await self._keys.sealing_key(tenant_id)
        except KeyOut:
            return True
        return False

    async def drop_all(self) -> None:
        """Remove every snapshot."""
        async with self._saving:
            self._saved = State(position=-1, tenants=())
            await asyncio.to_thread((self._folder.root / STATE).unlink, missing_ok=True)
            await asyncio.to_thread(self._folder.drop_all_but, ())

    async def _save_shard(self, shard: Shard, upto: Callable[[], int]) -> None:
        try:
            key = await self._keys.sealing_key(shard.tenant_id)
        except KeyDestroyed:  # nothing of the tenant may be kept, and the others' snapshots must not wait for it
            _LOG.warning("search_snapshot_without_key", extra=fields(tenant_id=shard.tenant_id))
            shard.saved = False
            await asyncio.to_thread(self._folder.drop, shard.tenant_id)
            return
        except KeyOut:  # nor for this one
            _LOG.warning("search_snapshot_key_damaged", extra=fields(tenant_id=shard.tenant_id))
            self._lacking.add(shard.tenant_id)
            return
        async with shard.lock:
            shard.changed = False
            link = await asyncio.to_thread(shard.link, shard.covered(upto()))
        try:
            await asyncio.to_thread(self._seal, shard.tenant_id, link, key)
        except BaseException:
            shard.changed = True
            raise
        shard.saved = True

    def _seal(self, tenant_id: str, link: Link, key: SealingKey) -> None:
        folder = self._folder.tenant_folder(tenant_id)
        for name in link.files:
            if not (folder / name).exists():
                self._folder.seal_file(folder / name, tenant_id, link.folder / name, key)
        manifest = Manifest(
            tenant_id=tenant_id, position=link.position, meta=link.meta, files=link.files, seqs=link.seqs
        )
        self._folder.seal_bytes(folder / MANIFEST, tenant_id, msgspec.msgpack.encode(manifest), key)
        self._folder.keep_only(tenant_id, {MANIFEST, *link.files})
        shutil.rmtree(link.folder, ignore_errors=True)
