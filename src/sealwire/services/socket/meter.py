"""Rate limits of calls over sockets: so many a minute per person and class, on this instance."""

from __future__ import annotations

from collections.abc import Mapping

from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.operation import RateClass
from sealwire.kit.problem import RateLimited

WINDOW_S = 60.0


class MinuteMeter:
    """Fixed windows, all of the same minute: the table is dropped when a new one begins, so it can't grow for long."""

    def __init__(self, *, clock: Clock, per_minute: Mapping[RateClass, int]) -> None:
        self._clock = clock
        self._limits = dict(per_minute)
        self._counts: dict[tuple[str, RateClass], int] = {}
        self._until_s = 0.0

    def count(self, caller: Caller, rate: RateClass) -> None:
        """Count one call. Raises: RateLimited."""
        limit = self._limits.get(rate)
        if limit is None:
            return
        now_s = self._clock.monotonic()
        if now_s >= self._until_s:
            self._until_s = now_s + WINDOW_S
            self._counts.clear()
        key = (caller.user_id, rate)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count > limit:
            raise RateLimited(f"More than {limit} calls in a minute.", retry_after_s=self._until_s - now_s)
