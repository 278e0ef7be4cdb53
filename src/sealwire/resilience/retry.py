"""Retry: ask again where that is safe, with growing random pauses, within budgets of attempts, time and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import msgspec

from sealwire.kit.clock import Clock
from sealwire.kit.operation import Repeat
from sealwire.kit.problem import Problem
from sealwire.resilience import deadline
from sealwire.resilience.backoff import full_jitter
from sealwire.resilience.budget import RetryBudget
from sealwire.resilience.failure import may_repeat

T = TypeVar("T")


class RetryRules(msgspec.Struct, frozen=True, kw_only=True):
    """At most `attempts` in all; no retry starts later than `time_s` after the first failure or past the deadline."""

    attempts: int = 3
    base_s: float = 0.05
    cap_s: float = 1.0
    time_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 < self.base_s <= self.cap_s or self.time_s <= 0:
            raise ValueError("attempts >= 1, 0 < base_s <= cap_s, time_s > 0")


class Retrier:
    """Retries for one dependency; all its callers share the budget."""

    __slots__ = ("_clock", "_rng", "_sleep", "budget", "retries", "rules")

    def __init__(
        self,
        *,
        clock: Clock,
        rng: Random,
        budget: RetryBudget,
        rules: RetryRules | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self.rules = rules or RetryRules()
        self.budget = budget
        self.retries = 0
        self._clock = clock
        self._rng = rng
        self._sleep = sleep

    async def call(self, repeat: Repeat, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await `fn(*args)`, again where the error and `repeat` allow. Raises: the last error."""
        self.budget.deposit()
        series: Series | None = None
        while True:
            try:
                return await fn(*args)
            except Exception as error:
                series = series or self.series(repeat)
                if not await series.pause(error):
                    raise

    def series(self, repeat: Repeat) -> Series:
        """Begin to retry one call, whose first attempt just failed."""
        return Series(self, repeat, self._clock.monotonic() + self.rules.time_s)

    async def pause(self, attempt: int, until_s: float, error: Exception) -> bool:
        """Sleep before retry number `attempt`; False at once when it would be too late or the budget is empty."""
        pause_s = self._pause_s(attempt, error)
        limit_s = deadline.at_s()
        last_start_s = until_s if limit_s is None else min(until_s, limit_s)
        if self._clock.monotonic() + pause_s >= last_start_s or not self.budget.withdraw():
            return False
        await self._sleep(pause_s)
        self.retries += 1
        return True

    def _pause_s(self, attempt: int, error: Exception) -> float:
        """Draw the pause; `Retry-After` is a floor, with the jitter on top so that not all come back at once."""
        jitter_s = full_jitter(attempt, base_s=self.rules.base_s, cap_s=self.rules.cap_s, rng=self._rng)
        told_s = error.retry_after_s if isinstance(error, Problem) else None
        return jitter_s + max(told_s or 0.0, 0.0)


class Series:
    """The retries of one call: how many there were and how long they may go on."""

    __slots__ = ("_attempt", "_repeat", "_retrier", "_until_s")

    def __init__(self, retrier: Retrier, repeat: Repeat, until_s: float) -> None:
        self._retrier = retrier
        self._repeat = repeat
        self._until_s = until_s
        self._attempt = 0

    async def pause(self, error: Exception) -> bool:
        """Wait until the call may be tried again after `error`; False when it may not."""
        if self._attempt + 1 >= self._retrier.rules.attempts or not may_repeat(error, self._repeat):
            return False
        self._attempt += 1
        return await self._retrier.pause(self._attempt - 1, self._until_s, error)
