"""Limits by address and by person: requests a minute, with the standard headers, and requests at once."""

from __future__ import annotations

from functools import lru_cache
from time import time

from limits import RateLimitItem, RateLimitItemPerMinute

from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S
from sealwire.kit.exchange import Exchange
from sealwire.kit.forwarded import network_of
from sealwire.kit.operation import RateClass
from sealwire.kit.problem import RateLimited
from sealwire.services.gateway.config import GatewayConfig
from sealwire.services.gateway.minute_counts import WINDOW_S, MinuteCounts

_REMAINING = b"ratelimit-remaining"
_REMEMBERED = 4096
_RESETS = [(b"ratelimit-reset", b"%d" % left_s) for left_s in range(WINDOW_S + 1)]


class _Allowance:
    """How many of something are allowed a minute, ready to be counted: writing a key anew costs more than counting."""

    __slots__ = ("after", "amount", "before", "header")

    def __init__(self, item: RateLimitItem) -> None:
        self.amount = item.amount
        self.before, _, self.after = item.key_for("\0").partition("\0")
        self.header = (b"ratelimit-limit", b"%d" % item.amount)


class Limiter:
    """Counts requests per minute. With shared `counts` several gateways count together."""

    def __init__(self, *, config: GatewayConfig, counts: MinuteCounts) -> None:
        self.counts = counts
        self._count = counts.count
        self._per_ip = _Allowance(RateLimitItemPerMinute(config.per_ip_per_minute, namespace="ip"))
        self._at_once = config.per_ip_in_flight
        self._in_work: dict[str, int] = {}
        self._allowed = {
            rate: _Allowance(RateLimitItemPerMinute(amount, namespace=rate.value))
            for rate, amount in (
                (RateClass.DEFAULT, config.default_per_minute),
                (RateClass.WRITE, config.write_per_minute),
                (RateClass.SEARCH, config.search_per_minute),
                (RateClass.AUTH, config.auth_per_minute),
            )
        }

    def begin(self, exchange: Exchange) -> None:
        """Count a request of an address as in work, until `end`: bodies that never come must not take every place.

        Raises: RateLimited; `end` it all the same.
        """
        ip = exchange.ip
        place = exchange.place = network_of(ip) if ":" in ip else ip
        in_work = self._in_work[place] = self._in_work.get(place, 0) + 1
        if in_work > self._at_once:
            raise RateLimited(f"More than {self._at_once} requests at once.", retry_after_s=1.0)
        allowed = self._per_ip
        if self._count(f"{allowed.before}{place}{allowed.after}") > allowed.amount:
            raise _refusal(allowed, exchange)

    def end(self, exchange: Exchange) -> None:
        """Count a request as answered, if it began."""
        place = exchange.place
        if place is None:
            return
        left = self._in_work[place] - 1
        if left:
            self._in_work[place] = left
        else:
            del self._in_work[place]

    def count_caller(self, exchange: Exchange, rate: RateClass, key: str) -> None:
        """Count a request of a person, or of an address for what needs no credential. Raises: RateLimited."""
        allowed = self._allowed.get(rate)
        if allowed is None:
            return
        left = allowed.amount - self._count(f"{allowed.before}{key}{allowed.after}")
        if left < 0:
            raise _refusal(allowed, exchange)
        remaining = _remaining(left) if left < _REMEMBERED else (_REMAINING, b"%d" % left)
        exchange.extra_headers += (
            allowed.header,
            remaining,
            _RESETS[WINDOW_S - exchange.started_us // US_PER_S % WINDOW_S],
        )


def _refusal(allowed: _Allowance, exchange: Exchange) -> RateLimited:
    """Return what is raised for a request too many, and put the headers that say so on its answer."""
    wait_s = _left_s()
    exchange.extra_headers += (allowed.header, _remaining(0), _RESETS[wait_s])
    return RateLimited(f"More than {allowed.amount} requests in a minute.", retry_after_s=wait_s)


@lru_cache(maxsize=_REMEMBERED)
def _remaining(left: int) -> tuple[bytes, bytes]:
    return (_REMAINING, b"%d" % left)


class CallMeter:
    """Limits of calls over sockets (`Meter` of the socket service): the writes of a person count with those by HTTP."""

    def __init__(self, *, counts: MinuteCounts, writes_per_minute: int, others_per_minute: int) -> None:
        self._count = counts.count
        self._allowed = {
            RateClass.WRITE: _Allowance(RateLimitItemPerMinute(writes_per_minute, namespace="write")),
            RateClass.DEFAULT: _Allowance(RateLimitItemPerMinute(others_per_minute, namespace="call")),
        }

    def count(self, caller: Caller, rate: RateClass) -> None:
        """Count one call. Raises: RateLimited."""
        allowed = self._allowed.get(rate)
        if allowed is None:
            return
        if self._count(f"{allowed.before}{caller.user_id}{allowed.after}") > allowed.amount:
            raise RateLimited(f"More than {allowed.amount} calls in a minute.", retry_after_s=_left_s())


def _left_s() -> int:
    """Whole seconds until the next minute begins, at least one."""
    return WINDOW_S - int(time()) % WINDOW_S
