"""How many messages a second become durable by WebSocket, several in flight per connection? Beside our own REST."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from benchmarks.harness import load
from benchmarks.harness.contest import Side, contest
from benchmarks.harness.results import comparison, run
from benchmarks.harness.window import interleave
from benchmarks.rest_send import PEOPLE, send

SENDERS = (1, 8, 32)
IN_FLIGHT = 8
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return the figures by number of senders: WebSocket with one and with eight calls in flight, REST beside it."""
    rounds, window_s = (1, 1.5) if quick else (5, 4.0)
    figures: Figures = {}
    comparisons: list[Figures] = []
    with contest(PEOPLE, reference=False) as found:
        for count in SENDERS if found.sides else ():
            side = found.sides["sealwire"]
            contestants = {
                "rest": partial(send, side, count, window_s),
                "websocket, 1 in flight": partial(rpc, side, count, 1, window_s),
                f"websocket, {IN_FLIGHT} in flight": partial(rpc, side, count, IN_FLIGHT, window_s),
            }
            windows = interleave(contestants, rounds=rounds, rate="per_s", retries=0 if quick else 1)
            figures.update({f"{count} senders, {name}": figure for name, figure in windows.items()})
            if count == 32:
                best = windows[f"websocket, {IN_FLIGHT} in flight"]["per_s"]
                comparisons.append(comparison("sends/s by WebSocket, 32", best, windows["rest"]["per_s"], 1.5))
    return {"figures": figures, "comparisons": comparisons, "skipped": found.skipped}


def rpc(side: Side, count: int, in_flight: int, window_s: float) -> Figures:
    """Measure one window of `count` connections that send by rpc."""
    senders = [side.server.socket_sender(side.person(n), side.room, in_flight) for n in range(count)]
    plan = load.Plan(port=side.server.port, connections=senders)
    return load.run(plan, server_pids=side.server.pids, window_s=window_s)


if __name__ == "__main__":
    sys.exit(run(main))
