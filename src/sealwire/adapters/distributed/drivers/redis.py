"""Redis and Valkey: a bounded pool of connections on which every call ends in time, with a result or CacheFault.

Nothing is tried again here: the breaker of whoever asks decides, so that an outage is never multiplied. A call that was
cancelled or timed out closes its connection, so that no later call reads its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sealwire.ports.cache import CacheFault

T = TypeVar("T")
Word = bytes | str | int
ADDRESSES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
"""The schemes of addresses, and what the client library calls them."""


class RedisDriver:
    """One address, one pool. Connects on first use: an engine that is away is no reason not to start."""

    def __init__(
        self,
        *,
        url: str,
        prefix: str = "sealwire",
        timeout_s: float = 0.25,
        connections: int = 16,
        patience_s: float = 0.0,
    ) -> None:
        """`timeout_s` bounds a whole call: waiting for a connection, connecting, asking, and the answer.

        `patience_s` is added for calls that wait for news (`XREAD BLOCK`). Raises: ValueError for an unknown scheme.
        """
        scheme = urlsplit(url).scheme
        if scheme not in ADDRESSES:
            raise ValueError(f"unknown scheme {scheme!r}; one of {', '.join(ADDRESSES)}")
        self.prefix = prefix
        self._bound_s = timeout_s + patience_s
        pool = BlockingConnectionPool.from_url(
            ADDRESSES[scheme] + url[len(scheme) :],
            max_connections=connections,
            timeout=timeout_s,
            socket_timeout=self._bound_s,
            **({} if scheme == "unix" else {"socket_connect_timeout": timeout_s, "socket_keepalive": True}),
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._execute: Callable[..., Awaitable[Any]] = self._redis.execute_command

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
            raise CacheFault(f"the cache did not answer as it should: {type(error).__name__}") from error
        if task.cancelling() > asked_to_stop:
            raise asyncio.CancelledError
        return answer
