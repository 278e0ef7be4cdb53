"""What crypto does by itself: destroy keys whose time has come, wipe old material, sum up tallied uses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sealwire.contracts.holds import LegalHold
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.problem import Unavailable
from sealwire.kit.tasks import cancel_and_wait
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.events import key_event
from sealwire.services.crypto.journal import UseJournal
from sealwire.services.crypto.keys import KeyChain
from sealwire.services.crypto.model import US_PER_DAY, TransitionRefused
from sealwire.services.crypto.ports import KeyStore, StoredKey

_log = logging.getLogger("sealwire.crypto")
_DUE_AT_ONCE: Final = 100
_SUM_UP_S: Final = 3600.0
_EVENTS_KEPT_US: Final = 7 * US_PER_DAY


class Keeper:
    """A background task over the keys."""

    def __init__(
        self,
        *,
        chain: KeyChain,
        store: KeyStore,
        journal: UseJournal,
        clock: Clock,
        config: CryptoConfig,
        holds_told: Callable[[], bool],
    ) -> None:
        """`holds_told`: until it says so no key goes by itself, as a hold on its tenant may not be known here yet."""
        self._holds_told = holds_told
        self._chain = chain
        self._store = store
        self._journal = journal
        self._clock = clock
        self._look_every_s = config.destroy_check_s
        self._pause_s = min(config.destroy_check_s, config.cache_age_s / 4)
        self._next_look_s = self._next_sum_s = clock.monotonic()
        self._shred_due = True  # a kill may have come between a destruction and its shredding
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin in the background."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="crypto-keeper")

    async def stop(self) -> None:
        """End."""
        task, self._task = self._task, None
        if task is None:
            return
        await cancel_and_wait(task)
        if self._shred_due:
            try:
                await self._store.shred()
            except Unavailable as busy:
                _log.warning("what was destroyed is shredded after the next start: %s", busy)

    def shred_soon(self) -> None:
        """Have what was destroyed removed from the files too, off the caller's path."""
        self._shred_due = True
        self._wake.set()

    async def destroy_due(self) -> int:
        """Destroy the keys whose time has come; return how many."""
        count = 0
        now_us = self._clock.now_us()
        while due := await self._store.due(now_us, _DUE_AT_ONCE):
            for stored in due:
                count += await self._destroy(stored, now_us)
        if count:
            self.shred_soon()
        return count

    async def _destroy(self, stored: StoredKey, now_us: int) -> bool:
        live = await self._chain.find(stored.tenant_id, stored.key_id)
        event = key_event(
            service_caller("crypto", stored.tenant_id),
            "crypto.key.destroyed",
            key_id=stored.key_id,
            at_us=now_us,
            purpose=stored.purpose,
        )
        try:
            await self._chain.change_life(live, lambda life: life.destroy(now_us=now_us), event)
        except (TransitionRefused, LegalHold):  # called off, or held, at the last moment
            await self._chain.refresh(live)
            return False
        return True

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._look()
            except Exception as error:
                _log.warning("looking after the keys failed and is tried again: %r", error)
                await asyncio.sleep(self._pause_s)
            with suppress(TimeoutError):  # not wait_for: in Python 3.11 it may swallow a cancellation
                async with asyncio.timeout(self._pause_s):
                    await self._wake.wait()

    async def _look(self) -> None:
        now_s = self._clock.monotonic()
        self._chain.sweep()
        if now_s >= self._next_look_s and self._holds_told():
            self._next_look_s = now_s + self._look_every_s
            await self.destroy_due()
        if now_s >= self._next_sum_s:
            self._next_sum_s = now_s + _SUM_UP_S
            self._journal.sum_up()
            await self._store.trim(self._clock.now_us() - _EVENTS_KEPT_US)
        if self._shred_due:
            self._shred_due = False
            try:
                await self._store.shred()
            except BaseException:
                self._shred_due = True
                raise
