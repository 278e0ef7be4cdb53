"""Upkeep: what auth does on its own, now and then: note last uses and what ends soon, delete what is over, let signing
keys advance."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sealwire.contracts.sessions import Seen
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.tasks import cancel_and_wait
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.reminders import Reminders
from sealwire.services.auth.signing import SigningKeys
from sealwire.services.auth.tenants import Tenants

_LOG = logging.getLogger("sealwire.auth")

SEEN_EVERY_S = 10.0
SWEEP_EVERY_S = 60.0
MAX_SEEN = 10_000
EVENTS_KEPT_S = 7 * 86_400


class Upkeep:
    """One background task. Nothing of it is on the path of a request, and a failure is tried again next time."""

    def __init__(
        self, *, stores: AuthStores, signing: SigningKeys, tenants: Tenants, journal: Journal, clock: Clock,
        config: AuthConfig, holds_told: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Nothing that a hold may cover goes before `holds_told`: holds in force may not be known here yet."""
        self._holds_told = holds_told
        self._stores = stores
        self._signing = signing
        self._tenants = tenants
        self._reminders = Reminders(stores=stores, journal=journal, clock=clock, config=config)
        self._journal = journal
        self._clock = clock
        self._config = config
        self._seen: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="auth-upkeep")

    async def stop(self) -> None:
        """End, and store the last uses noted."""
        task, self._task = self._task, None
        await cancel_and_wait(task)
        await self.flush_seen()

    def note(self, seen: Seen) -> None:
        """Take uses of sessions, the newest per session; past a bound the rest is dropped (it is only a display)."""
        for item in seen.items:
            if item.session_id in self._seen or len(self._seen) < MAX_SEEN:
                self._seen[item.session_id] = max(item.at_us, self._seen.get(item.session_id, 0))

    async def flush_seen(self) -> None:
        """Store what was noted, in one write. A use in the future (another host's clock) counts as now."""
        noted, self._seen = self._seen, {}
        if noted:
            now_us = self._clock.now_us()
            await self._stores.sessions.touch([(session_id, min(at, now_us)) for session_id, at in noted.items()])

    async def sweep(self) -> None:
        """Delete what is over, in chunks, and let keys advance."""
        now_us = self._clock.now_us()
        origin = await self._journal.origin(service_caller("auth", SYSTEM_TENANT))
        await self._signing.end_sessions()
        await self._signing.advance(origin)
        await self._signing.forget(origin)
        if told := self._holds_told():
            await self._tenants.sweep()
        await self._reminders.note()
        if not told:
            return
        attempts_kept_s = max(self._config.lockout_forget_s, self._config.lockout_forget_account_s)
        while await self._stores.upkeep.sweep(
            now_us=now_us,
            over_before_us=now_us - self._config.session_record_days * 86_400 * US_PER_S,
            attempts_before_us=now_us - attempts_kept_s * US_PER_S,
        ):
            pass
        await self._stores.upkeep.trim(now_us - EVENTS_KEPT_S * US_PER_S)

    async def _run(self) -> None:
        next_sweep = self._clock.monotonic()
        while True:
            try:
                if self._clock.monotonic() >= next_sweep:
                    next_sweep = self._clock.monotonic() + SWEEP_EVERY_S
                    await self.sweep()
                await self.flush_seen()
            except Exception as error:
                _LOG.warning("upkeep failed, will try again: %r", error)
            await asyncio.sleep(SEEN_EVERY_S)
