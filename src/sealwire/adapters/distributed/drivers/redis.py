"""Redis and Valkey: a bounded pool of connections on which every call ends in time, with a result or CacheFault.

Nothing is tried again here: the breaker of whoever asks decides, so that an outage is never multiplied. A call that was
cancelled or timed out closes its connection, so that no later call reads its answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterCrossSlotError, ClusterDownError, MovedError

from sealwire.adapters.distributed.drivers.cache_address import CacheAddress
from sealwire.adapters.distributed.drivers.redis_connections import (
    MAX_ANSWER_BYTES,
    BoundedConnection,
    BoundedTlsConnection,
    BoundedUnixConnection,
    FollowingConnection,
    FollowingTlsConnection,
)
from sealwire.adapters.distributed.drivers.sentinels import Sentinels
from sealwire.ports.cache import CacheFault

__all__ = ["MAX_ANSWER_BYTES", "RedisDriver", "Word"]

T = TypeVar("T")
Word = bytes | str | int
_LOG = logging.getLogger("sealwire.cache")
SENTINEL_PART: Final = 0.4
"""Which part of a call's time the sentinels have to say who the primary is."""
_CLUSTER: Final = (MovedError, ClusterDownError, ClusterCrossSlotError)


class RedisDriver:
    """One address, one pool. Connects on first use: an engine that is away is no reason not to start."""

    def __init__(
        self,
        *,
        url: str | CacheAddress,
        prefix: str = "sealwire",
        timeout_s: float = 0.25,
        connections: int = 16,
        patience_s: float = 0.0,
        ca: str = "",
        sentinel_user: str = "",
        sentinel_password: str = "",
    ) -> None:
        """`url` is an address as cache_address.py reads it, or one that was read.

        `timeout_s` bounds a whole call: waiting for a connection, connecting, asking, and the answer.

        `patience_s` is added for calls that wait for news (`XREAD BLOCK`). `ca` is a file of the authorities trusted
        where the address is secured by TLS, whose certificates and names are always checked. `sentinel_user` and
        `sentinel_password` are for the sentinels, where it names some. Raises: ValueError for an address of no use.
        """
        self._address = url if isinstance(url, CacheAddress) else CacheAddress.read(url, ca=ca)
        self.prefix = prefix
        self._bound_s = timeout_s + patience_s
        self._sentinels = self._open_sentinels(timeout_s * SENTINEL_PART, sentinel_user, sentinel_password)
        pool = BlockingConnectionPool(
            max_connections=connections,
            timeout=timeout_s,
            socket_timeout=self._bound_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **self._where(timeout_s),
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._execute: Callable[..., Awaitable[Any]] = self._redis.execute_command
        self._told_of_cluster = False

    def key(self, name: str) -> str:
        """Return a key of this installation."""
        return f"{self.prefix}:{name}"

    async def call(self, *words: Word) -> Any:
        """Send one command and return its answer. Raises: CacheFault."""
        return await self._bounded(lambda: self._execute(*words))

    async def pipeline(self, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
        """Send several commands at once and return their answers; not a transaction. Raises: CacheFault."""

        async def run() -> list[Any]:
            async with self._redis.pipeline(transaction=False) as pipe:
                for words in commands:
                    pipe.execute_command(*words)
                return list(await pipe.execute())

        return await self._bounded(run)

    async def aclose(self) -> None:
        """Close every connection. Safe to call twice."""
        await self._redis.aclose(close_connection_pool=True)
        if self._sentinels is not None:
            await self._sentinels.aclose()

    def _open_sentinels(self, timeout_s: float, user: str, password: str) -> Sentinels | None:
        where = self._address
        if not where.sentinels:
            return None
        drivers = [
            RedisDriver(
                url=CacheAddress(host=host, port=port, user=user, password=password, tls=where.tls, ca=where.ca),
                timeout_s=timeout_s,
                connections=1,
            )
            for host, port in where.sentinels
        ]
        return Sentinels(drivers=drivers, name=where.name)

    def _where(self, timeout_s: float) -> dict[str, Any]:
        """Return what the client library is told of the address."""
        where = self._address
        found: dict[str, Any] = {"db": where.db, "username": where.user or None, "password": where.password or None}
        if where.path:
            return found | {"connection_class": BoundedUnixConnection, "path": where.path}
        found |= {"socket_connect_timeout": timeout_s, "socket_keepalive": True}
        if where.tls:
            found |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
            found |= {"ssl_ca_certs": where.ca} if where.ca else {}
        if self._sentinels is not None:
            following = FollowingTlsConnection if where.tls else FollowingConnection
            return found | {"connection_class": following, "primary": self._sentinels.primary}
        direct = BoundedTlsConnection if where.tls else BoundedConnection
        return found | {"connection_class": direct, "host": where.host, "port": where.port}

    async def _bounded(self, ask: Callable[[], Awaitable[T]]) -> T:
        task = asyncio.current_task()
        assert task is not None
        asked_to_stop = task.cancelling()
        try:
            async with asyncio.timeout(self._bound_s):
                answer = await ask()
        except Exception as error:  # an engine, or what poses as one, can make the client library raise anything
            if task.cancelling() > asked_to_stop:
                # While it connects, the library takes a cancellation for a fault; whoever cancelled would wait forever.
                raise asyncio.CancelledError from error
            if isinstance(error, _CLUSTER) and not self._told_of_cluster:
                self._told_of_cluster = True
                _LOG.error("the cache is a node of a Redis Cluster, which is not supported (docs/life/outage.md)")
            raise CacheFault(f"the cache did not answer as it should: {type(error).__name__}") from error
        if task.cancelling() > asked_to_stop:
            raise asyncio.CancelledError
        return answer
