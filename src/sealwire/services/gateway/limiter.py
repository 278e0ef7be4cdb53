"""Limits by address and by person: requests a minute, with the standard headers, and requests at once."""

from __future__ import annotations

import time

from limits import RateLimitItem, RateLimitItemPerMinute

from sealwire.kit.caller import Caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.forwarded import network_of
from sealwire.kit.operation import RateClass
from sealwire.kit.problem import RateLimited
from sealwire.services.gateway.config import GatewayConfig
from sealwire.services.gateway.minute_counts import WINDOW_S, MinuteCounts


class Limiter:
    """Counts requests per minute. With shared `counts` several gateways count together."""

    def __init__(self, *, config: GatewayConfig, counts: MinuteCounts) -> None:
        self.counts = counts
        self._per_ip = RateLimitItemPerMinute(config.per_ip_per_minute, namespace="ip")
        self._at_once = config.per_ip_in_flight
        self._in_work: dict[str, int] = {}
        self._items: dict[RateClass, RateLimitItem] = {
            RateClass.DEFAULT: RateLimitItemPerMinute(config.default_per_minute, namespace="default"),
            RateClass.WRITE: RateLimitItemPerMinute(config.write_per_minute, namespace="write"),
            RateClass.SEARCH: RateLimitItemPerMinute(config.search_per_minute, namespace="search"),
            RateClass.AUTH: RateLimitItemPerMinute(config.auth_per_minute, namespace="auth"),
        }

    def begin(self, exchange: Exchange) -> None:
        """Count a request of an address as in work, until `end`: bodies that never come must not take every place.

        Raises: RateLimited; `end` it all the same.
        """
        place = network_of(exchange.ip)
        in_work = self._in_work[place] = self._in_work.get(place, 0) + 1
        if in_work > self._at_once:
            raise RateLimited(f"More than {self._at_once} requests at once.", retry_after_s=1.0)
        self._hit(self._per_ip, place, exchange)

    def end(self, exchange: Exchange) -> None:
        """Count a request that began as answered."""
        place = network_of(exchange.ip)
        left = self._in_work[place] - 1
        if left:
            self._in_work[place] = left
        else:
            del self._in_work[place]

    def count_caller(self, exchange: Exchange, rate: RateClass, key: str) -> None:
        """Count a request of a person, or of an address for what needs no credential. Raises: RateLimited."""
        item = self._items.get(rate)
        if item is None:
            return
        count = self._hit(item, key, exchange)
        exchange.extra_headers += [
            (b"ratelimit-limit", b"%d" % item.amount),
            (b"ratelimit-remaining", b"%d" % (item.amount - count)),
            (b"ratelimit-reset", b"%d" % _left_s()),
        ]

    def _hit(self, item: RateLimitItem, key: str, exchange: Exchange) -> int:
        """Count one and return how many there are. Raises: RateLimited."""
        count = self.counts.incr(item.key_for(key), WINDOW_S)
        if count > item.amount:
            wait_s = _left_s()
            exchange.extra_headers += [
                (b"ratelimit-limit", b"%d" % item.amount),
                (b"ratelimit-remaining", b"0"),
                (b"ratelimit-reset", b"%d" % wait_s),
            ]
            raise RateLimited(f"More than {item.amount} requests in a minute.", retry_after_s=wait_s)
        return count


class CallMeter:
    """Limits of calls over sockets (`Meter` of the socket service): the writes of a person count with those by HTTP."""

    def __init__(self, *, counts: MinuteCounts, writes_per_minute: int, others_per_minute: int) -> None:
        self._counts = counts
        self._items = {
            RateClass.WRITE: RateLimitItemPerMinute(writes_per_minute, namespace="write"),
            RateClass.DEFAULT: RateLimitItemPerMinute(others_per_minute, namespace="call"),
        }
        # `key_for` is half of what a count costs, and a socket's call is the hottest path there is.
        self._prefixes = {rate: item.key_for("\0").partition("\0") for rate, item in self._items.items()}

    def count(self, caller: Caller, rate: RateClass) -> None:
        """Count one call. Raises: RateLimited."""
        item = self._items.get(rate)
        if item is None:
            return
        before, _, after = self._prefixes[rate]
        if self._counts.incr(before + caller.user_id + after, WINDOW_S) > item.amount:
            raise RateLimited(f"More than {item.amount} calls in a minute.", retry_after_s=_left_s())


def _left_s() -> int:
    """Whole seconds until the next minute begins, at least one."""
    return WINDOW_S - int(time.time()) % WINDOW_S
