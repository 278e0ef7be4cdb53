"""Limits of requests: this process's limiter, and the exchange by which gateways count together."""

from __future__ import annotations

from random import Random

from sealwire.kit.clock import Clock
from sealwire.kit.lifespan import Probe
from sealwire.runtime.local_keys import LocalKeys
from sealwire.runtime.settings import Settings
from sealwire.services.gateway.limit_exchange import LimitExchange
from sealwire.services.gateway.limiter import Limiter
from sealwire.services.gateway.minute_counts import MinuteCounts
from sealwire.services.gateway.ports import CountBoard


class Limits:
    """`limiter` is None where the settings ask for no limits."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """With a shared cache there may be other gateways, so one that was never heard counts too."""
        self.limiter: Limiter | None = None
        self.checks: dict[str, Probe] = {}
        self._exchange: LimitExchange | None = None
        if settings.gateway.rate_limits == "on":
            counts = MinuteCounts(clock=clock, members=2 if settings.cache.url else 1)
            self.limiter = Limiter(config=settings.gateway, counts=counts)

    async def share(self, board: CountBoard | None, keys: LocalKeys, rng: Random) -> None:
        """Count together with other gateways from now on, where there is a board to do so."""
        if self.limiter is None or board is None:
            return
        _, secret = await keys.secret("limits")
        self._exchange = LimitExchange(counts=self.limiter.counts, board=board, secret=bytes(secret), rng=rng)
        self.checks["rate_limits"] = self._exchange.check
        await self._exchange.start()

    async def stop(self) -> None:
        """Stop counting together. Safe to call twice."""
        if self._exchange is not None:
            await self._exchange.stop()
