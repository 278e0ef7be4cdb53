"""Connections of the Redis client library that take no more of an answer than ours may have, and follow the primary."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio.connection import (
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ReadOnlyError

from sealwire.adapters.distributed.drivers.cache_address import Place

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""The longest answers of ours are a value of 1 MiB, 256 entries of the bus, and who is present in a large channel."""
PARTS_AT_ONCE: Final = 256
"""So many lines of an answer are read before others, and the time limits, have their turn."""
FindPrimary = Callable[[], Awaitable[Place]]


class AnswerTooLong(ConnectionError):
    """The server says more than it was asked for. The rest is not read: the connection is given up."""


class _BoundedReader:
    """The stream a connection reads, of which one answer may take `left` bytes more."""

    def __init__(self, stream: StreamReader) -> None:
        self._stream = stream
        self.left = MAX_ANSWER_BYTES
        self._lines = 0

    @property
    def _buffer(self) -> bytearray:
        """What arrived and was not read: the library looks into it before it uses a connection again."""
        return self._stream._buffer  # type: ignore[attr-defined,no-any-return]  # as the library does it

    def at_eof(self) -> bool:
        return self._stream.at_eof()

    async def readexactly(self, length: int) -> bytes:
        self._take(length)  # before it is waited for, and kept
        return await self._stream.readexactly(length)

    async def readline(self) -> bytes:
        line = await self._stream.readline()
        self._take(len(line))
        self._lines += 1
        if not self._lines % PARTS_AT_ONCE:  # what has arrived is read without a pause, which no time limit could end
            await asyncio.sleep(0)
        return line

    async def read(self, length: int) -> bytes:
        found = await self._stream.read(length)
        self._take(len(found))
        return found

    def _take(self, length: int) -> None:
        self.left -= length
        if self.left < 0:
            raise AnswerTooLong("the cache's answer is longer than any of ours")


class _Bounded:
    """Mixed into a connection, it reads answers of at most `MAX_ANSWER_BYTES`."""

    _reader: Any

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[misc]  # of the connection it is mixed into
        self._reader = _BoundedReader(self._reader)

    async def read_response(self, *arguments: Any, **named: Any) -> Any:
        if self._reader is not None:
            self._reader.left = MAX_ANSWER_BYTES
        return await super().read_response(*arguments, **named)  # type: ignore[misc]  # as above


class BoundedConnection(_Bounded, Connection):
    """Over TCP."""


class BoundedTlsConnection(_Bounded, SSLConnection):
    """Over TLS."""


class BoundedUnixConnection(_Bounded, UnixDomainSocketConnection):
    """Over a socket of this machine."""


class _Following(_Bounded):
    """Mixed into a connection, it connects to whichever server is the primary at that moment."""

    host: str
    port: int

    def __init__(self, *, primary: FindPrimary, **named: Any) -> None:
        self._primary = primary
        super().__init__(**named)

    async def _connect(self) -> None:
        self.host, self.port = await self._primary()
        await super()._connect()

    async def read_response(self, *arguments: Any, **named: Any) -> Any:
        try:
            return await super().read_response(*arguments, **named)
        except ReadOnlyError:
            # It was the primary once. The next call has another connection, and asks who is.
            await self.disconnect()  # type: ignore[attr-defined]  # of the connection it is mixed into
            raise


class FollowingConnection(_Following, Connection):
    """Over TCP, to the primary."""


class FollowingTlsConnection(_Following, SSLConnection):
    """Over TLS, to the primary."""
