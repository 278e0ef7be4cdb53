"""Follows messaging's publications for one instance: from the newest on, while anybody is connected.

The position is ephemeral: what happened before somebody subscribed is recovered from the stored stream, not from here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import FROM_NOW, Passing, Publication, PublicationQuery
from sealwire.contracts.socket import SERVICE
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.problem import Unavailable
from sealwire.kit.tasks import cancel_and_wait

_LOG = logging.getLogger("sealwire.socket")
BATCH = 500
WAIT_MS = 1_000
"""Shorter than what a circuit breaker calls slow."""
BACKOFF_S, BACKOFF_CAP_S = 0.05, 2.0


class Feed:
    """The background task that hands every publication on, in order, once."""

    def __init__(
        self,
        *,
        messaging: Messaging,
        wanted: Callable[[], bool],
        publication: Callable[[Publication], None],
        passing: Callable[[Passing], None],
        went_back: Callable[[], None],
        rng: Random | None = None,
    ) -> None:
        """`wanted` tells whether anybody is connected; `went_back` hears that the stream was restored from a backup."""
        self._messaging = messaging
        self._wanted = wanted
        self._publication = publication
        self._passing = passing
        self._went_back = went_back
        self._rng = rng or Random()  # noqa: S311 - jitter, not a secret
        self._caller = service_caller(SERVICE, SYSTEM_TENANT)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._following = asyncio.Event()
        self._passed = 0
        self._last = ""
        self.position = 0
        self.failures = 0

    def start(self) -> None:
        """Begin in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="socket-feed")

    async def stop(self) -> None:
        """End."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    def wake(self) -> None:
        """Hear that somebody connected."""
        self._wake.set()

    async def following(self) -> None:
        """Return once every event from now on will be handed on, be it late. Raises: Unavailable."""
        if self._following.is_set():
            return
        self._wake.set()
        try:
            async with asyncio.timeout(3.0):
                await self._following.wait()
        except TimeoutError:
            raise Unavailable("The stream of messages can't be followed for the moment.") from None

    async def check(self) -> None:
        """Raises: Unavailable while the feed can't be followed."""
        if self.failures or self._task is None or self._task.done():
            raise Unavailable(f"The stream of messages can't be followed ({self.failures} failures in a row).")

    async def _run(self) -> None:
        while True:
            if not self._wanted():
                self._following.clear()
                self._wake.clear()
                self.failures = 0
                await self._wake.wait()
            try:
                await (self._step() if self._following.is_set() else self._begin())
                self.failures = 0
            except Exception as error:
                self.failures += 1
                _LOG.warning("following messaging failed %d times in a row: %r", self.failures, error)
                most_s = min(BACKOFF_CAP_S, BACKOFF_S * 2.0 ** min(self.failures, 10))
                await asyncio.sleep(self._rng.uniform(0, most_s))

    async def _begin(self) -> None:
        """Take the newest position: everything after it will be handed on."""
        query = PublicationQuery(after=FROM_NOW, passing_after=0, limit=1)
        page = await self._messaging.publications(self._caller, query)
        self.position, self._passed, self._last = page.newest, page.passing_newest, page.last
        self._following.set()

    async def _step(self) -> None:
        query = PublicationQuery(
            after=self.position, last=self._last, passing_after=self._passed, limit=BATCH, wait_ms=WAIT_MS
        )
        page = await self._messaging.publications(self._caller, query)
        if page.broken:
            self.position, self._passed, self._last = page.newest, page.passing_newest, page.last
            self._went_back()
            return
        for item in page.items:
            self.position = item.position
            try:
                self._publication(item)
            except Exception:
                _LOG.exception("a publication could not be handed on")
        self._passed, self._last = page.passing_newest, page.last
        for receipt in page.passing:
            self._passing(receipt)
