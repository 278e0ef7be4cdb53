"""The shared cache in Redis or Valkey. Its promises: ports/cache.py."""

from __future__ import annotations

import os
from typing import Any, Final

from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.ports.cache import MAX_KEY_CHARS, MAX_VALUE_BYTES, CacheFault

# One script, so that a counter never stays behind without an end (INCR and EXPIRE apart would, after a crash between).
_COUNT: Final = (
    "local n = redis.call('INCR', KEYS[1]) if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end return n"
)


class RedisCache:
    """Values with `SET … PX`; what is not an answer of the expected kind is a fault, never a value."""

    def __init__(self, *, driver: RedisDriver) -> None:
        self._driver = driver

    async def get(self, key: str) -> bytes | None:
        value = await self._driver.call("GET", self._driver.key(key))
        if value is not None and (type(value) is not bytes or len(value) > MAX_VALUE_BYTES):
            raise _strange(value)
        return value

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        answer = await self._driver.call("SET", self._checked(key, value, ttl_s), value, "PX", _ms(ttl_s))
        if answer is not True:
            raise _strange(answer)

    async def add(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        answer = await self._driver.call("SET", self._checked(key, value, ttl_s), value, "NX", "PX", _ms(ttl_s))
        if answer is not True and answer is not None:
            raise _strange(answer)
        return answer is True

    async def delete(self, key: str) -> None:
        answer = await self._driver.call("DEL", self._driver.key(key))
        if answer not in (0, 1):
            raise _strange(answer)

    async def increment(self, key: str, *, ttl_s: float) -> int:
        answer = await self._driver.call("EVAL", _COUNT, 1, self._checked(key, b"", ttl_s), _ms(ttl_s))
        if type(answer) is not int or answer < 1:
            raise _strange(answer)
        return answer

    async def check(self) -> None:
        """Have a fresh value echoed: a stale or mixed-up answer can't pass for a good one."""
        asked = os.urandom(8).hex().encode()
        answer = await self._driver.call("ECHO", asked)
        if answer != asked:
            raise _strange(answer)

    def _checked(self, key: str, value: bytes, ttl_s: float) -> str:
        if not 0 < len(key) <= MAX_KEY_CHARS or len(value) > MAX_VALUE_BYTES or not 0 < ttl_s <= 31_536_000:
            raise ValueError("a key has 1 to 512 characters, a value at most 1 MiB, a time lies in one year")
        return self._driver.key(key)


def _ms(ttl_s: float) -> int:
    return max(int(ttl_s * 1000), 1)


def _strange(answer: Any) -> CacheFault:
    return CacheFault(f"the cache gave an answer of the wrong kind: {type(answer).__name__}")
