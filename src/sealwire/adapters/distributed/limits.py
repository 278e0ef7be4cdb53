"""Counters that gateways share, in Redis or Valkey. Its promises: services/gateway/ports.py."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

from sealwire.adapters.distributed.drivers.redis import RedisDriver, Word
from sealwire.ports.cache import CacheFault

# ARGV: now and the oldest time that counts (ms), the member, its set's time to live, the counters' time to live, then
# an amount per counter. The server's own clock would make the script one that replicas can't repeat on older servers.
_ADD: Final = """
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local answer = {redis.call('ZCARD', KEYS[1])}
for i = 2, #KEYS do
  local total = redis.call('INCRBY', KEYS[i], ARGV[i + 4])
  if total == tonumber(ARGV[i + 4]) then redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
  answer[i] = total
end
return answer
"""
MEMBERS: Final = "limit:members"


class RedisCountBoard:
    """One script per exchange."""

    def __init__(self, *, driver: RedisDriver) -> None:
        self._driver = driver

    async def add(
        self, counts: Mapping[str, int], *, ttl_s: float, member: str, member_ttl_s: float
    ) -> tuple[Sequence[int], int]:
        keys = [self._driver.key(MEMBERS), *map(self._driver.key, counts)]
        now_ms, member_ttl_ms = time.time_ns() // 1_000_000, int(member_ttl_s * 1000)
        first: tuple[Word, ...] = (now_ms, now_ms - member_ttl_ms, member, member_ttl_ms, int(ttl_s * 1000))
        answer = await self._driver.call("EVAL", _ADD, len(keys), *keys, *first, *counts.values())
        if (
            type(answer) is not list
            or len(answer) != len(keys)
            or any(type(total) is not int or total < 1 for total in answer)
            or any(total < told for total, told in zip(answer[1:], counts.values(), strict=True))
        ):
            raise CacheFault("the cache gave an answer of the wrong kind to an exchange of counters")
        return answer[1:], answer[0]
