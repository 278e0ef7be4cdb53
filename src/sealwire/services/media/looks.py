"""Looks: files that no process saw from first byte to last are read again, hashed and scanned, one after another."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from sealwire.kit.caller import service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.tasks import cancel_and_wait
from sealwire.services.media.config import MediaConfig
from sealwire.services.media.events import media_event
from sealwire.services.media.examination import Examination
from sealwire.services.media.model import FileState
from sealwire.services.media.ports import MediaStore, StoredFile
from sealwire.services.media.scanning import Scanner
from sealwire.services.media.sparing import Sparing
from sealwire.services.media.uploads import Uploads, verdict
from sealwire.services.media.vault import Vault

_log = logging.getLogger("sealwire.media")
_RETRY_S: Final = 1.0
_PAGE: Final = 100


class Looks:
    """A background task over files in the state `scanning`; after a restart it goes on where it was."""

    def __init__(
        self,
        *,
        store: MediaStore,
        sparing: Sparing,
        vault: Vault,
        scanner: Scanner,
        clock: Clock,
        config: MediaConfig,
    ) -> None:
        self._store = store
        self._sparing = sparing
        self._vault = vault
        self._scanner = scanner
        self._clock = clock
        self._config = config
        self._queue: asyncio.Queue[StoredFile] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Event] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self, uploads: Uploads) -> None:
        """Queue what was left and begin."""
        after = ""
        while page := await self._store.scanning(after, _PAGE):
            for file in page:
                self.add(file)
            after = page[-1].media_id
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(uploads), name="media-looks")

    async def stop(self) -> None:
        """End; what wasn't looked at stays `scanning`."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    def add(self, file: StoredFile) -> None:
        """Have a file looked at."""
        if file.media_id not in self._waiting:
            self._waiting[file.media_id] = asyncio.Event()
            self._queue.put_nowait(file)

    async def wait(self, media_id: str, timeout_s: float) -> None:
        """Return when a file has been looked at, or after `timeout_s`."""
        if (looked := self._waiting.get(media_id)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await looked.wait()

    async def _run(self, uploads: Uploads) -> None:
        while True:
            file = await self._queue.get()
            try:
                await self._look(file, uploads)
            except Exception as error:
                _log.warning("the look at file %s failed and is tried again: %r", file.media_id, error)
                asyncio.get_running_loop().call_later(_RETRY_S, self._queue.put_nowait, file)
            else:
                self._waiting.pop(file.media_id).set()

    async def _look(self, file: StoredFile, uploads: Uploads) -> None:
        if await self._store.file(file.tenant_id, file.media_id) is None:
            return
        examination = Examination(self._scanner)
        segments = await self._store.segments(file.media_id)
        async for data in self._vault.read(file.tenant_id, file.owner_id, segments, 0, file.offset):
            await examination.feed(data)
        meta = await uploads.meta(file)
        facts = await examination.finish(meta.claimed_type)
        state = verdict(facts)
        refused = facts.content_type in self._config.blocked_types
        kind = "media.refused" if refused else "media.quarantined" if facts.found else "media.examined"
        event = media_event(
            service_caller("media", file.tenant_id),
            kind,
            media_id=file.media_id,
            at_us=self._clock.now_us(),
            owner_id=file.owner_id,
            conversation_id=file.conversation_id,
            size_bytes=file.offset,
            outcome="success" if state is FileState.CLEAN and not refused else "denied",
        )
        if refused:
            await self._sparing.delete(file, event)
        else:
            sealed = await uploads.seal_facts(file, facts)
            await self._store.conclude(file.media_id, state=state, facts=sealed, event=event)
