"""Guard: everything that stands between a caller and a dependency that can fail, in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

from sealwire.kit.clock import Clock
from sealwire.kit.operation import Repeat
from sealwire.kit.problem import DeadlineExceeded
from sealwire.resilience import deadline
from sealwire.resilience.breaker import Breaker, BreakerRules
from sealwire.resilience.budget import RetryBudget
from sealwire.resilience.bulkhead import Bulkhead
from sealwire.resilience.failure import TimedOut
from sealwire.resilience.registry import Registry
from sealwire.resilience.retry import Retrier, RetryRules, Series

T = TypeVar("T")


class Guard:
    """Retry around deadline, bulkhead, breaker and timeout, in this order.

    The bulkhead is outside the breaker, so that a probe's permit is never held by a call that waits in line; the retry
    is outside of all, so that each attempt is judged. `timeout_s` bounds one attempt and costs a timer; None is for
    calls within the process, where only the deadline is checked.
    """

    __slots__ = ("_clock", "breaker", "bulkhead", "name", "retrier", "timeout_s")

    def __init__(
        self,
        *,
        breaker: Breaker,
        bulkhead: Bulkhead,
        retrier: Retrier,
        clock: Clock,
        timeout_s: float | None = None,
    ) -> None:
        self.name = breaker.name
        self.breaker = breaker
        self.bulkhead = bulkhead
        self.retrier = retrier
        self.timeout_s = timeout_s
        self._clock = clock

    @classmethod
    def of(
        cls,
        name: str,
        *,
        registry: Registry,
        clock: Clock,
        rng: Random,
        timeout_s: float | None = None,
        breaker: BreakerRules | None = None,
        retry: RetryRules | None = None,
        max_concurrent: int = 256,
        max_waiting: int = 1024,
    ) -> Guard:
        """Make the guard of the dependency `name`, with its breaker in `registry`."""
        return cls(
            breaker=registry.breaker(name, breaker),
            bulkhead=Bulkhead(name=name, clock=clock, max_concurrent=max_concurrent, max_waiting=max_waiting),
            retrier=Retrier(clock=clock, rng=rng, budget=RetryBudget(clock=clock), rules=retry),
            clock=clock,
            timeout_s=timeout_s,
        )

    async def call(self, repeat: Repeat, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await `fn(*args)`; `repeat` says whether it may be asked again.

        Raises: CircuitOpen, Overloaded or DeadlineExceeded without calling; TimedOut after `timeout_s`; else what
        `fn` raises.
        """
        bulkhead, breaker, timeout_s = self.bulkhead, self.breaker, self.timeout_s
        self.retrier.budget.deposit()
        series: Series | None = None
        while True:
            try:
                deadline.check(self._clock)
                if not bulkhead.try_enter():
                    await bulkhead.enter()
                try:
                    permit = breaker.acquire()
                    try:
                        result = await (fn(*args) if timeout_s is None else self._timed(timeout_s, fn, *args))
                    except BaseException as error:
                        breaker.settle(permit, error)
                        raise
                    breaker.succeed(permit)
                    return result
                finally:
                    bulkhead.leave()
            except Exception as error:
                series = series or self.retrier.series(repeat)
                if not await series.pause(error):
                    raise

    async def _timed(self, timeout_s: float, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        bound_s = deadline.bounded_s(timeout_s, self._clock)
        try:
            async with asyncio.timeout(bound_s) as timer:
                return await fn(*args)
        except TimeoutError:
            if not timer.expired():
                raise  # a timeout from further in
            if bound_s < timeout_s:
                raise DeadlineExceeded from None
            raise TimedOut(f"{self.name} did not answer within {timeout_s:g} s.") from None
