"""How soon, and how often a second, do durable messages reach 1, 50 and 500 receivers? Beside Fastify + Socket.IO."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from benchmarks.harness import load
from benchmarks.harness.contest import Side, contest
from benchmarks.harness.results import comparison, run
from benchmarks.harness.window import interleave

RECEIVERS = (1, 50, 500)
SENDERS = 8
PEOPLE = 50
LATENCY_RATE_PER_S = {1: 50.0, 50: 50.0, 500: 10.0}
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return, by number of receivers, deliveries/s under full load and the latency at a fixed, low rate.

    Everybody is a member of the one room; with 500 receivers each of 50 people has ten connections, on both sides.
    """
    rounds, window_s = (1, 1.5) if quick else (3, 4.0)
    figures: Figures = {}
    comparisons: list[Figures] = []
    with contest(PEOPLE) as found:
        for count in RECEIVERS:
            for label, rate_per_s in (("full load", 0.0), ("latency", LATENCY_RATE_PER_S[count])):
                windows = interleave(
                    {name: partial(deliver, side, count, rate_per_s, window_s) for name, side in found.sides.items()},
                    rounds=rounds,
                    rate="deliveries_per_s",
                    retries=0 if quick else 1,
                )
                figures.update({f"{name}, {count} receivers, {label}": it for name, it in windows.items()})
                if (count, label) == (50, "full load") and len(windows) == 2:
                    comparisons.append(_compare(windows["sealwire"], windows["fastify"]))
    return {"figures": figures, "comparisons": comparisons, "skipped": found.skipped}


def deliver(side: Side, count: int, rate_per_s: float, window_s: float) -> Figures:
    """Measure one window: eight senders by REST, `count` connections that listen."""
    senders = [side.server.sender(side.person(number), side.room) for number in range(SENDERS)]
    receivers = [side.server.receiver(side.person(number), side.room) for number in range(count)]
    plan = load.Plan(port=side.server.port, connections=[*receivers, *senders])
    return load.run(plan, server_pids=side.server.pids, window_s=window_s, rate_per_s=rate_per_s)


def _compare(ours: Figures, reference: Figures) -> Figures:
    return comparison("deliveries/s, 50", ours["deliveries_per_s"], reference["deliveries_per_s"], 2.0)


if __name__ == "__main__":
    sys.exit(run(main))
