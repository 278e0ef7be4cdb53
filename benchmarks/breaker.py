"""What does a closed breaker cost per call, and a whole guard? Beside a bare await, interleaved in one run."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from random import Random
from statistics import median

from sealwire.kit.clock import SystemClock
from sealwire.kit.operation import Repeat
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry

CALLS = 10_000
WINDOWS = 15


async def answer(value: int) -> int:
    """The dependency: as little as an await can be."""
    return value


async def measure() -> dict[str, float]:
    """Return the median cost of a call in µs, by kind of call."""
    clock = SystemClock()
    guard = Guard.of("bench", registry=Registry(clock=clock), clock=clock, rng=Random(1))
    breaker = guard.breaker
    seen: dict[str, list[float]] = {"bare": [], "breaker": [], "breaker_fast": [], "guard": []}
    for _ in range(WINDOWS):
        start = time.perf_counter()
        for i in range(CALLS):
            await answer(i)
        seen["bare"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(CALLS):
            await breaker.call(answer, i)
        seen["breaker"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(CALLS):
            permit = breaker.acquire()
            await answer(i)
            breaker.succeed(permit)
        seen["breaker_fast"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(CALLS):
            await guard.call(Repeat.SAFE, answer, i)
        seen["guard"].append(time.perf_counter() - start)
    return {name: median(times) / CALLS * 1e6 for name, times in seen.items()}


def main() -> int:
    """Print the figures; with `--json` as one JSON document."""
    us = asyncio.run(measure())
    figures = {
        "bare_await_us": round(us["bare"], 3),
        "breaker_closed_adds_us": round(us["breaker"] - us["bare"], 3),
        "breaker_closed_fast_functions_add_us": round(us["breaker_fast"] - us["bare"], 3),
        "guard_adds_us": round(us["guard"] - us["bare"], 3),
    }
    if "--json" in sys.argv:
        print(json.dumps({"benchmark": "breaker", "figures": figures}))
    else:
        print("one call, µs (median of windows); bound: breaker 2, aim 0.5")
        for name, value in figures.items():
            print(f"  {name:<40}{value:>8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
