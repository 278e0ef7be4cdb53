"""What messaging does by itself: messages whose time is over, conversations to forget, events to trim, keys to wipe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sealwire.contracts.holds import LegalHold
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.tasks import cancel_and_wait
from sealwire.services.messaging.config import MessagingConfig
from sealwire.services.messaging.keeping_ports import Keeping
from sealwire.services.messaging.model import Actor
from sealwire.services.messaging.ports import ConversationEvents, ConversationStore, Keys, MessageStore

SELF = Actor("service", "messaging")
CHUNK = 200
HOLDS_LOOK_S = 0.05
_DAY_US = 86_400 * US_PER_S
_HUSKS_KEPT_US = 90 * _DAY_US
"""How long a forgotten conversation is told of, and its bare row kept."""
_log = logging.getLogger("sealwire.messaging")


class Jobs:
    """Background work, each in chunks so that a backlog never blocks a send."""

    def __init__(
        self,
        *,
        conversations: ConversationStore,
        messages: MessageStore,
        events: ConversationEvents,
        keeping: Keeping,
        released: Callable[[], Awaitable[None]],
        keys: Keys,
        clock: Clock,
        config: MessagingConfig,
        holds_told: Callable[[], bool],
    ) -> None:
        """`released` purges what holds kept that are released; `holds_told`: nothing is deleted before it says so, as
        holds that are in force may not be known here yet."""
        self._holds_told = holds_told
        self._conversations = conversations
        self._keeping = keeping
        self._released = released
        self._messages = messages
        self._events = events
        self._keys = keys
        self._clock = clock
        self._config = config
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._every(self._config.purge_every_s, self.purge), name="messaging-purge"),
            loop.create_task(self._every(self._config.trim_every_s, self.tidy), name="messaging-tidy"),
        ]

    async def stop(self) -> None:
        """End."""
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)

    async def purge(self) -> int:
        """Turn messages whose time is over into tombstones, and purge what a released hold kept. Return how many."""
        purged = 0
        await self._released()
        while due := await self._messages.expired(self._clock.now_us(), CHUNK):
            now_us = self._clock.now_us()
            for conversation_id, seq in due:
                purged += await self._messages.delete(conversation_id, seq, SELF, now_us, "expired")
        return purged

    async def tidy(self) -> None:
        """Forget removed conversations past their time, trim old events, wipe keys past theirs."""
        now_us = self._clock.now_us()
        before_us = now_us - self._config.removed_keep_days * _DAY_US
        held = 0
        while due := await self._conversations.forgettable(before_us, CHUNK, held):
            for tenant_id, conversation_id in due:
                try:
                    await self._forget(tenant_id, conversation_id)
                except LegalHold:
                    held += 1
        place = 0
        while place := await self._keeping.sweep_purged(place, CHUNK):
            pass
        while await self._keeping.drop_husks(now_us - _HUSKS_KEPT_US, CHUNK) == CHUNK:
            pass
        while await self._events.trim(now_us - self._config.stream_keep_days * _DAY_US, CHUNK) == CHUNK:
            pass
        self._keys.sweep()

    async def _forget(self, tenant_id: str, conversation_id: str) -> None:
        """Raises: LegalHold; what a hold covers stays."""
        # The rows first, each look at the holds with what it deletes: crypto knows no hold on who is only mentioned, or
        # only sat there, and would destroy what a hold that came a moment ago keeps. The mark last: until then a crash,
        # or a hold, leaves the rest to the next time.
        while await self._conversations.forget(conversation_id, CHUNK):
            pass
        await self._keys.destroy(tenant_id, scope=conversation_id)
        await self._conversations.mark_forgotten(conversation_id)

    async def _every(self, seconds: float, job: Callable[[], Awaitable[object]]) -> None:
        while not self._holds_told():  # noqa: ASYNC110 - for a moment of each start
            await asyncio.sleep(HOLDS_LOOK_S)
        while True:
            try:
                await job()
            except Exception as e:
                _log.warning("%s will be tried again: %r", getattr(job, "__name__", "job"), e)
            await asyncio.sleep(seconds)
