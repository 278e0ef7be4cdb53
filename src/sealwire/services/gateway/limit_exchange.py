"""Tells other gateways what was counted here, and hears what they counted: on the side, never in a request's way."""

from __future__ import annotations

import asyncio
import logging
from hashlib import blake2b
from random import Random
from typing import Final

from sealwire.kit.ids import new_id
from sealwire.kit.pages import DegradedOnly
from sealwire.kit.tasks import cancel_and_wait
from sealwire.resilience.backoff import full_jitter
from sealwire.services.gateway.minute_counts import WINDOW_S, MinuteCounts
from sealwire.services.gateway.ports import CountBoard

_LOG = logging.getLogger("sealwire.gateway")
EVERY_S: Final = 0.1
MOST_KEYS: Final = 500
MEMBER_TTL_S: Final = 5.0
BACKOFF_S: Final = 0.1
BACKOFF_CAP_S: Final = 1.0
_NAME_BYTES: Final = 16


class LimitExchange:
    """One at a time, every `every_s`; after a failure later, with jitter. Keys leave the process hashed: they hold
    addresses."""

    def __init__(
        self, *, counts: MinuteCounts, board: CountBoard, secret: bytes, rng: Random, every_s: float = EVERY_S
    ) -> None:
        """`secret` is the same in every process that shares the board."""
        self._counts = counts
        self._board = board
        self._secret = blake2b(secret, person=b"sealwire limits").digest()
        self._rng = rng
        self._every_s = every_s
        self._member = new_id()
        self._task: asyncio.Task[None] | None = None
        self.failures = 0

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._exchange_on(), name="limit-exchange")

    async def stop(self) -> None:
        """End. Safe to call twice."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def check(self) -> str:
        """Tell how many count together. Raises: DegradedOnly while the others are not heard."""
        if not self._counts.fresh:
            raise DegradedOnly("limits are not shared with other gateways: the strict local floor holds")
        return f"{self._counts.members} gateways count together"

    async def exchange(self) -> None:
        """Tell and hear once. Raises: ConnectionError, and then everything counts as told to nobody."""
        minute, told = self._counts.take(MOST_KEYS)
        names = {self._name(minute, key): amount for key, amount in told.items()}
        try:
            totals, members = await self._board.add(
                names, ttl_s=2 * WINDOW_S, member=self._member, member_ttl_s=MEMBER_TTL_S
            )
        except BaseException:
            self._counts.give_up()
            raise
        self._counts.hear(minute, totals, members)

    def _name(self, minute: int, key: str) -> str:
        digest = blake2b(key.encode(), key=self._secret, digest_size=_NAME_BYTES).hexdigest()
        return f"limit:{minute}:{digest}"

    async def _exchange_on(self) -> None:
        while True:
            try:
                await self.exchange()
                self.failures = 0
                await asyncio.sleep(self._every_s)
            except (ConnectionError, TimeoutError):
                if not self.failures:
                    _LOG.warning("rate limits are not shared for the moment: the strict local floor holds")
                self.failures += 1
                await asyncio.sleep(
                    self._every_s + full_jitter(self.failures, base_s=BACKOFF_S, cap_s=BACKOFF_CAP_S, rng=self._rng)
                )
