"""What media deletes by itself: uploads past their time, blobs of deleted files, bytes that belong to nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from sealwire.kit.caller import service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.blobs import BlobStore
from sealwire.services.media.config import MediaConfig
from sealwire.services.media.events import media_event
from sealwire.services.media.ports import DataKeys, MediaStore
from sealwire.services.media.sparing import Sparing

_log = logging.getLogger("sealwire.media")
_AT_ONCE: Final = 100
_HOUR_S: Final = 3600.0
_HOLDS_LOOK_S: Final = 0.05
_EVENTS_KEPT_US: Final = 7 * 86_400 * US_PER_S


class Sweeper:
    """A background task."""

    def __init__(
        self,
        *,
        store: MediaStore,
        sparing: Sparing,
        blobs: BlobStore,
        keys: DataKeys,
        clock: Clock,
        config: MediaConfig,
        released: Callable[[], Awaitable[None]],
        forgotten: Callable[[], Awaitable[None]],
        holds_told: Callable[[], bool],
    ) -> None:
        """`released` purges what holds kept, `forgotten` deletes the files of conversations that are gone; nothing goes
        before `holds_told` says so, as holds that are in force may not be known here yet."""
        self._holds_told = holds_told
        self._released = released
        self._forgotten = forgotten
        self._store = store
        self._sparing = sparing
        self._keys = keys
        self._blobs = blobs
        self._clock = clock
        self._config = config
        self._wake = asyncio.Event()
        self._next_hourly_s = clock.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="media-sweeper")

    async def stop(self) -> None:
        """End; what is left to delete is remembered."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    def soon(self) -> None:
        """Have doomed blobs deleted now, off the caller's path."""
        self._wake.set()

    async def expire(self) -> int:
        """Delete uploads past their time; return how many."""
        count = 0
        while files := await self._store.expired(self._clock.now_us(), _AT_ONCE):
            for file in files:
                event = media_event(
                    service_caller("media", file.tenant_id),
                    "media.upload.expired",
                    media_id=file.media_id,
                    at_us=self._clock.now_us(),
                    owner_id=file.owner_id,
                    conversation_id=file.conversation_id,
                    size_bytes=file.offset,
                )
                count += await self._sparing.delete(file, event)
        return count

    async def bury(self) -> int:
        """Delete the blobs of deleted files; return how many."""
        count = 0
        while keys := await self._store.doomed(_AT_ONCE):
            for key in keys:
                await self._blobs.delete(key)
            await self._store.buried(keys)
            count += len(keys)
        return count

    async def clear_orphans(self) -> int:
        """Delete blobs that a crash left before any file named them; return how many."""
        count = 0
        keys: list[str] = []
        async for key in self._blobs.leftovers(older_than_s=self._config.orphan_age_s):
            keys.append(key)
            if len(keys) == _AT_ONCE:
                count += await self._clear(keys)
                keys = []
        return count + await self._clear(keys)

    async def _clear(self, keys: list[str]) -> int:
        unknown = await self._store.unknown(keys)
        for key in unknown:
            await self._blobs.delete(key)
        return len(unknown)

    async def _run(self) -> None:
        while not self._holds_told():  # noqa: ASYNC110 - for a moment of each start
            await asyncio.sleep(_HOLDS_LOOK_S)
        while True:
            self._wake.clear()
            self._keys.sweep()
            try:
                await self.bury()  # before what asks messaging, which may be out
                await self.expire()
                await self._released()
                await self.bury()
                if self._clock.monotonic() >= self._next_hourly_s:
                    self._next_hourly_s = self._clock.monotonic() + _HOUR_S
                    await self._forgotten()
                    await self.bury()
                    await self.clear_orphans()
                    await self._store.trim(self._clock.now_us() - _EVENTS_KEPT_US)
            except Exception as error:
                _log.warning("sweeping failed and is tried again: %r", error)
                await asyncio.sleep(min(1.0, self._config.sweep_s))
            with suppress(TimeoutError):  # not wait_for: in Python 3.11 it may swallow a cancellation
                async with asyncio.timeout(self._config.sweep_s):
                    await self._wake.wait()
