"""What does a closed breaker cost per call, and a whole guard? Beside a bare await; the bound is 2 µs."""

from __future__ import annotations

import asyncio
import sys
import time
from random import Random
from statistics import median

from benchmarks.harness.results import Figures, comparison, run
from sealwire.kit.clock import SystemClock
from sealwire.kit.operation import Repeat
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry

CALLS = 10_000
WINDOWS = 15
BOUND_US = 2.0


async def answer(value: int) -> int:
    """The dependency: as little as an await can be."""
    return value


async def measure(calls: int) -> dict[str, float]:
    """Return the median cost of a call in µs, by kind of call."""
    clock = SystemClock()
    guard = Guard.of("bench", registry=Registry(clock=clock), clock=clock, rng=Random(1))
    breaker = guard.breaker
    seen: dict[str, list[float]] = {"bare": [], "breaker": [], "breaker_fast": [], "guard": []}
    for _ in range(WINDOWS):
        start = time.perf_counter()
        for i in range(calls):
            await answer(i)
        seen["bare"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(calls):
            await breaker.call(answer, i)
        seen["breaker"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(calls):
            permit = breaker.acquire()
            await answer(i)
            breaker.succeed(permit)
        seen["breaker_fast"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(calls):
            await guard.call(Repeat.SAFE, answer, i)
        seen["guard"].append(time.perf_counter() - start)
    return {name: median(times) / calls * 1e6 for name, times in seen.items()}


def main(quick: bool = False) -> Figures:
    """Return the cost of a call, and of a closed breaker beside its bound."""
    us = asyncio.run(measure(CALLS // 10 if quick else CALLS))
    figures = {
        "bare_await_us": round(us["bare"], 3),
        "breaker_closed_adds_us": round(us["breaker"] - us["bare"], 3),
        "breaker_closed_fast_functions_add_us": round(us["breaker_fast"] - us["bare"], 3),
        "guard_adds_us": round(us["guard"] - us["bare"], 3),
    }
    held = [
        comparison(name, figures[name], BOUND_US, 1.0, less_is_better=True)
        for name in ("breaker_closed_adds_us", "breaker_closed_fast_functions_add_us")
    ]
    return {"figures": figures, "comparisons": held}


if __name__ == "__main__":
    sys.exit(run(main))
