"""A clock that stands still until it is told to move."""

from __future__ import annotations

import asyncio

from sealwire.kit.clock import US_PER_S


class ManualClock:
    """Both clocks of a test. `advance` moves time; `step_wall` moves the wall clock alone, as an operator would."""

    def __init__(self, *, now_us: int = 1_767_225_600 * US_PER_S, monotonic_s: float = 1_000.0) -> None:
        self._now_us = now_us
        self._monotonic_s = monotonic_s

    def now_us(self) -> int:
        """Return the wall clock in microseconds since the epoch."""
        return self._now_us

    def monotonic(self) -> float:
        """Return the seconds of the clock that never steps."""
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        if seconds < 0:
            raise ValueError("time does not run backwards; see step_wall")
        self._monotonic_s += seconds
        self._now_us += round(seconds * US_PER_S)

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock, forwards or backwards."""
        self._now_us += round(seconds * US_PER_S)

    async def sleep(self, seconds: float) -> None:
        """Stand in for `asyncio.sleep`: time passes at once, others get their turn."""
        self.advance(seconds)
        await asyncio.sleep(0)
