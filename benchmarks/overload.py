"""What do those who are let in get when twice as much is asked as can be done? Goodput and latency beside half load."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import load
from benchmarks.harness.results import run
from benchmarks.harness.sealwire import Person, Sealwire

PEOPLE = 8
CLOSED_SENDERS = 64
"""As many as are let in however late the loop is (`gateway.always_admitted`): with fewer, groups of writes are smaller
and what looks like the peak is half of it."""
OPEN_CONNECTIONS = 512
"""So many requests can be on their way at once: more than the server has room for, so that waiting is its own doing."""
TIMES = (0.5, 1.0, 2.0, 3.0)
GOODPUT_TARGET, LATENCY_TARGET = 0.9, 3.0
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return the peak (closed loop), then what is admitted at half, one, two and three times of it.

    Sends by REST. Open loop: requests are due at fixed times, and what is late counts as latency
    from when it was due. Goodput is what was stored; refusals are 503 with Retry-After and are not in the latency.
    Every round measures each in turn, offered loads being times of the peak of that round; medians are told.
    """
    rounds, window_s = (1, 2.0) if quick else (5, 4.0)
    windows: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as folder:
        server = Sealwire(Path(folder) / "data")
        try:
            people = [server.register(f"person{number}") for number in range(PEOPLE)]
            room = server.room(people[0], people[1:])
            for _ in range(rounds):
                found = _window(server, people, room, CLOSED_SENDERS, 0.0, window_s)
                windows.setdefault("peak, closed loop", []).append(found)
                for times in TIMES:
                    found_open = _window(server, people, room, OPEN_CONNECTIONS, found["per_s"] * times, window_s)
                    windows.setdefault(f"offered {times:g}x", []).append(found_open)
        finally:
            server.stop()
    figures = {name: _summary(found) for name, found in windows.items()}
    return {"figures": figures, "promise": _promise(windows)}


def _summary(windows: list[Figures]) -> Figures:
    """Return the window with the median rate, with every window's rate and p99 beside it."""
    middle = dict(sorted(windows, key=lambda one: one["per_s"])[len(windows) // 2])
    middle["windows"] = [one["per_s"] for one in windows]
    middle["p99_ms_windows"] = [one["ack_ms"]["p99"] for one in windows]
    return middle


def _window(server: Sealwire, people: list[Person], room: str, count: int, rate: float, window_s: float) -> Figures:
    senders = [server.sender(people[number % len(people)], room) for number in range(count)]
    plan = load.Plan(port=server.port, connections=senders)
    return load.run(plan, server_pids=server.pids, window_s=window_s, warm_s=1.5, rate_per_s=rate)


def _promise(windows: dict[str, list[Figures]]) -> Figures:
    """Hold twice the load against the peak and half the load of the same round; return the medians."""
    peak, half, twice = (windows[name] for name in ("peak, closed loop", "offered 0.5x", "offered 2x"))
    goodput = median(two["per_s"] / top["per_s"] for two, top in zip(twice, peak, strict=True))
    half_ms, twice_ms = (median(one["ack_ms"]["p99"] for one in found) for found in (half, twice))
    return {
        "peak_per_s": median(one["per_s"] for one in peak),
        "goodput_at_2x": round(goodput, 3),
        "p99_ms_half": half_ms,
        "p99_ms_admitted_at_2x": twice_ms,
        "p99_ratio": round(twice_ms / half_ms, 2),
        "kept": goodput >= GOODPUT_TARGET and twice_ms <= LATENCY_TARGET * half_ms,
    }


if __name__ == "__main__":
    sys.exit(run(main))
