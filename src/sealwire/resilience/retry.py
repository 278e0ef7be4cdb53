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
        try:
            return await fn(*args)
        except Exception as error:
            if not may_repeat(error, repeat):
                raise
            failed = error
        return await self.again(failed, repeat, fn, *args)

    async def again(self, error: Exception, repeat: Repeat, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Go on after the first attempt failed with `error` (which the caller has deposited for)."""
        until_s = self._clock.monotonic() + self.rules.time_s
        for attempt in range(self.rules.attempts - 1):
            if not may_repeat(error, repeat):
                break
            pause_s = self._pause_s(attempt, error)
            limit_s = deadline.at_s()
            last_start_s = until_s if limit_s is None else min(until_s, limit_s)
            if self._clock.monotonic() + pause_s >= last_start_s or not self.budget.withdraw():
                break
            await self._sleep(pause_s)
            self.retries += 1
            try:
                return await fn(*args)
            except Exception as next_error:
                error = next_error
        raise error

    def _pause_s(self, attempt: int, error: Exception) -> float:
        """Draw the pause; `Retry-After` is a floor, with the jitter on top so that not all come back at once."""
        jitter_s = full_jitter(attempt, base_s=self.rules.base_s, cap_s=self.rules.cap_s, rng=self._rng)
        told_s = error.retry_after_s if isinstance(error, Problem) else None
        return jitter_s + max(told_s or 0.0, 0.0)
