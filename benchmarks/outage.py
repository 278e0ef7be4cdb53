"""How long until a lost session cache is noticed, and until it is in use again? Beside bounds of 2.5 and 5 seconds.

A real server is taken away by a proxy, in the two ways that differ most: connections refused, and no answer at all.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.harness.results import Figures, comparison, run
from sealwire.adapters.distributed.cache import RedisCache
from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.session_validation_normalizer import CACHE_BREAKER
from sealwire.kit.clock import SystemClock
from sealwire.resilience.breaker import State
from sealwire.testing.boundary_room import BoundaryRoom
from sealwire.testing.engines import RedisServer, binary
from sealwire.testing.faults import Fault, FaultProxy

OPEN_BOUND_S, CLOSE_BOUND_S = 2.5, 5.0
AWAY_S = 3.0
FAULTS = (Fault.REFUSE, Fault.BLACK_HOLE)
LOOK_S = 0.002
PATIENCE_S = 30.0


async def until(room: BoundaryRoom, closed: bool) -> float:
    """Return how long it took until the breaker was closed, or not, in seconds."""
    breaker = room.breakers.breaker(CACHE_BREAKER)
    began = time.perf_counter()
    while (breaker.state is State.CLOSED) is not closed:
        assert time.perf_counter() - began < PATIENCE_S
        await asyncio.sleep(LOOK_S)
    return time.perf_counter() - began


async def measure(folder: Path, proxy: FaultProxy, rounds: int) -> Figures:
    """Return median and worst by fault, in seconds."""
    room = BoundaryRoom(folder, clock=SystemClock(), config=BoundaryConfig(self_test_every_s=0))
    driver = RedisDriver(url=f"redis://127.0.0.1:{proxy.port}/0")
    room.cache = RedisCache(driver=driver)  # type: ignore[assignment]  # a real one in the place of the losable one
    await room.open()
    figures: Figures = {}
    try:
        for fault in FAULTS:
            opened, closed = [], []
            for _ in range(rounds):
                await until(room, closed=True)
                proxy.set(fault)
                opened.append(await until(room, closed=False))
                await asyncio.sleep(AWAY_S)
                proxy.set(Fault.NONE)
                closed.append(await until(room, closed=True))
            for what, times in (("noticed", opened), ("in use again", closed)):
                label = f"{fault.value}: {what}"
                figures[label] = {"median_s": round(median(times), 2), "max_s": round(max(times), 2)}
    finally:
        await room.close()
        await driver.aclose()
    return figures


def main(quick: bool = False) -> Figures:
    """Return how long an outage goes unnoticed, and how long it lasts past its end."""
    if binary("valkey") is None:
        return {"figures": {}, "skipped": ["no valkey server on this machine (requirements/dev.txt)"]}
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as name:
        folder = Path(name)
        with RedisServer(folder / "engine") as server, FaultProxy(server.port) as proxy:
            figures = asyncio.run(measure(folder / "room", proxy, 1 if quick else 5))
    held = [
        comparison(
            f"{label}, worst s",
            figure["max_s"],
            OPEN_BOUND_S if label.endswith("noticed") else CLOSE_BOUND_S,
            1.0,
            less_is_better=True,
        )
        for label, figure in figures.items()
    ]
    return {"figures": figures, "comparisons": held}


if __name__ == "__main__":
    sys.exit(run(main))
