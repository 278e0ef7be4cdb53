"""Limits by address and by person: requests a minute, with the standard headers, and requests at once."""

from __future__ import annotations

import time

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from sealwire.kit.exchange import Exchange
from sealwire.kit.operation import RateClass
from sealwire.kit.problem import RateLimited
from sealwire.services.gateway.config import GatewayConfig


class Limiter:
    """Counts requests per minute. State is this process's own: with several gateways each counts for itself."""

    def __init__(self, *, config: GatewayConfig) -> None:
        self._window = FixedWindowRateLimiter(MemoryStorage())
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
        ip = exchange.ip
        in_work = self._in_work[ip] = self._in_work.get(ip, 0) + 1
        if in_work > self._at_once:
            raise RateLimited(f"More than {self._at_once} requests at once.", retry_after_s=1.0)
        self._hit(self._per_ip, ip, exchange)

    def end(self, exchange: Exchange) -> None:
        """Count a request that began as answered."""
        ip = exchange.ip
        left = self._in_work[ip] - 1
        if left:
            self._in_work[ip] = left
        else:
            del self._in_work[ip]

    def count_caller(self, exchange: Exchange, rate: RateClass, key: str) -> None:
        """Count a request of a person, or of an address for what needs no credential. Raises: RateLimited."""
        item = self._items.get(rate)
        if item is None:
            return
        self._hit(item, key, exchange)
        reset_s, remaining = self._window.get_window_stats(item, key)
        exchange.extra_headers += [
            (b"ratelimit-limit", b"%d" % item.amount),
            (b"ratelimit-remaining", b"%d" % max(0, remaining)),
            (b"ratelimit-reset", b"%d" % max(0, round(reset_s - time.time()))),
        ]

    def _hit(self, item: RateLimitItem, key: str, exchange: Exchange) -> None:
        if not self._window.hit(item, key):
            reset_s, _ = self._window.get_window_stats(item, key)
            wait_s = max(1.0, reset_s - time.time())
            exchange.extra_headers += [
                (b"ratelimit-limit", b"%d" % item.amount),
                (b"ratelimit-remaining", b"0"),
                (b"ratelimit-reset", b"%d" % round(wait_s)),
            ]
            raise RateLimited(f"More than {item.amount} requests in a minute.", retry_after_s=wait_s)
