"""What processes share and may lose: session cache, presence, bus; in this process or in an engine."""

from __future__ import annotations

from random import Random
from typing import Any, Protocol

from sealwire.adapters.embedded.bus import InProcessBus
from sealwire.adapters.embedded.cache import ProcessCache
from sealwire.adapters.embedded.socket import InProcessPresence
from sealwire.kit.clock import Clock
from sealwire.ports.bus import Bus
from sealwire.ports.cache import SharedCache
from sealwire.runtime.settings import CacheConfig
from sealwire.services.gateway.ports import CountBoard
from sealwire.services.socket.ports import PresenceBoard


class _Part(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class SharedState:
    """The three parts, and what has to be started and stopped for them. `open` chooses the family."""

    def __init__(
        self,
        *,
        cache: SharedCache,
        bus: Bus,
        presence: PresenceBoard,
        board: CountBoard | None = None,
        parts: tuple[_Part, ...] = (),
        drivers: tuple[Any, ...] = (),
    ) -> None:
        self.cache = cache
        self.bus = bus
        self.presence = presence
        self.board = board
        """Where gateways count together; None: there is nobody to count with."""
        self._parts = parts
        self._drivers = drivers

    @classmethod
    def open(cls, config: CacheConfig, *, clock: Clock, rng: Random) -> SharedState:
        """Return what the settings ask for, not started. The client library is loaded only when it is wanted."""
        if not config.url:
            return cls(cache=ProcessCache(clock=clock), bus=InProcessBus(), presence=InProcessPresence())
        from sealwire.adapters.distributed.bus import WAIT_MS, RedisBus
        from sealwire.adapters.distributed.cache import RedisCache
        from sealwire.adapters.distributed.drivers.redis import RedisDriver
        from sealwire.adapters.distributed.limits import RedisCountBoard
        from sealwire.adapters.distributed.socket import RedisPresence

        timeout_s = config.timeout_ms / 1000
        common: dict[str, Any] = {
            "url": config.url, "ca": config.ca, "prefix": config.prefix, "timeout_s": timeout_s,
            "sentinel_user": config.sentinel_user, "sentinel_password": config.sentinel_password,
        }  # fmt: skip
        driver = RedisDriver(**common, connections=config.connections)
        reader = RedisDriver(**common, connections=1, patience_s=WAIT_MS / 1000)
        bus = RedisBus(driver=driver, reader=reader, rng=rng)
        presence = RedisPresence(driver=driver, clock=clock, rng=rng)
        return cls(
            cache=RedisCache(driver=driver),
            bus=bus,
            presence=presence,
            board=RedisCountBoard(driver=driver),
            parts=(bus, presence),
            drivers=(driver, reader),
        )

    async def start(self) -> None:
        """Start; an engine that is away is no reason to fail."""
        for part in self._parts:
            await part.start()

    async def stop(self) -> None:
        """Stop and close every connection. Safe to call twice."""
        for part in reversed(self._parts):
            await part.stop()
        for driver in self._drivers:
            await driver.aclose()
