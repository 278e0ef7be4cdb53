"""What messaging does by itself: messages whose time is over, conversations to forget, events to trim, keys to wipe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sealwire.kit.clock import US_PER_S, Clock
from sealwire.services.messaging.config import MessagingConfig
from sealwire.services.messaging.model import Actor
from sealwire.services.messaging.ports import ConversationEvents, ConversationStore, Keys, MessageStore

SELF = Actor("service", "messaging")
CHUNK = 200
_DAY_US = 86_400 * US_PER_S
_log = logging.getLogger("sealwire.messaging")


class Jobs:
    """Background work, each in chunks so that a backlog never blocks a send."""

    def __init__(
        self,
        *,
        conversations: ConversationStore,
        messages: MessageStore,
        events: ConversationEvents,
        keys: Keys,
        clock: Clock,
        config: MessagingConfig,
    ) -> None:
        self._conversations = conversations
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
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def purge(self) -> int:
        """Turn messages whose time is over into tombstones. Return how many."""
        purged = 0
        while due := await self._messages.expired(self._clock.now_us(), CHUNK):
            now_us = self._clock.now_us()
            for conversation_id, seq in due:
                purged += await self._messages.delete(conversation_id, seq, SELF, now_us, "expired")
        return purged

    async def tidy(self) -> None:
        """Forget removed conversations past their time, trim old events, wipe keys past theirs."""
        now_us = self._clock.now_us()
        before_us = now_us - self._config.removed_keep_days * _DAY_US
        while due := await self._conversations.forgettable(before_us, CHUNK):
            for tenant_id, conversation_id in due:
                # The keys first: from then on nobody reads it, whatever copy of the file there is.
                await self._keys.destroy(tenant_id, scope=conversation_id)
                while await self._conversations.forget(conversation_id, CHUNK):
                    pass
        while await self._events.trim(now_us - self._config.stream_keep_days * _DAY_US, CHUNK) == CHUNK:
            pass
        self._keys.sweep()

    async def _every(self, seconds: float, job: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await job()
            except Exception as e:
                _log.warning("%s will be tried again: %r", getattr(job, "__name__", "job"), e)
            await asyncio.sleep(seconds)
