"""Redis and Valkey: a bounded pool of connections on which every call ends in time, with a result or CacheFault.

Nothing is tried again here: the breaker of whoever asks decides, so that an outage is never multiplied. A call that was
cancelled or timed out closes its connection, so that no later call reads its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

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
        ca: str = "",
    ) -> None:
        """`timeout_s` bounds a whole call: waiting for a connection, connecting, asking, and the answer.

        `patience_s` is added for calls that wait for news (`XREAD BLOCK`). `ca` is a file of the authorities trusted by
        `rediss` and `valkeys`, whose certificate and name are always checked. Raises: ValueError for an unknown scheme,
        for options in the address, which could take checks and time limits away, or for authorities of no use.
        """
        parts = urlsplit(url)
        scheme = parts.scheme
        if scheme not in ADDRESSES:
            raise ValueError(f"unknown scheme {scheme!r}; one of {', '.join(ADDRESSES)}")
        if set(parse_qs(parts.query, keep_blank_values=True)) - ({"db"} if scheme == "unix" else set()):
            raise ValueError("the cache's address takes no options")
        secure = ADDRESSES[scheme] == "rediss"
        if ca and not secure:
            raise ValueError("authorities are for rediss and valkeys: this address is spoken to in the clear")
        if ca and not Path(ca).is_file():
            raise ValueError(f"{ca}: no such file")
        tls = {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **({"ssl_ca_certs": ca} if ca else {})}
        self.prefix = prefix
        self._bound_s = timeout_s + patience_s
        pool = BlockingConnectionPool.from_url(
            ADDRESSES[scheme] + url[len(scheme) :],
            max_connections=connections,
            timeout=timeout_s,
            socket_timeout=self._bound_s,
            **({} if scheme == "unix" else {"socket_connect_timeout": timeout_s, "socket_keepalive": True}),
            **(tls if secure else {}),
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
