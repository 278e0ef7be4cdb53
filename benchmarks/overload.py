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
PEAK = 0.0
ROUND = (PEAK, 0.5, 1.0, PEAK, 2.0, PEAK, 3.0)
"""What is offered, in times of the peak that was taken last; the peak itself is taken in a closed loop."""
GOODPUT_TARGET, LATENCY_TARGET = 0.9, 3.0
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return the peak (closed loop), then what is admitted at half, one, two and three times of it.

    Sends by REST. Open loop: requests are due at fixed times, and what is late counts as latency
    from when it was due. Goodput is what was stored; refusals are 503 with Retry-After and are not in the latency.
    Every round measures each in turn, offered loads being times of the peak of that round; medians are told. A machine
    changes its pace between one window and the next: so the peak is taken before and after twice the load, and that is
    held against the mean of both.
    """
    rounds, window_s = (1, 2.0) if quick else (5, 4.0)
    windows: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as folder:
        server = Sealwire(Path(folder) / "data")
        try:
            people = [server.register(f"person{number}") for number in range(PEOPLE)]
            room = server.room(people[0], people[1:])
            for _ in range(rounds):
                for times in ROUND:
                    peak = windows["peak, closed loop"][-1]["per_s"] if times else 0.0
                    count = OPEN_CONNECTIONS if times else CLOSED_SENDERS
                    found = _window(server, people, room, count, peak * times, window_s)
                    name = f"offered {times:g}x" if times else "peak, closed loop"
                    windows.setdefault(name, []).append(found)
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
    per_round = ROUND.count(PEAK)
    around = [(peak[place + 1]["per_s"] + peak[place + 2]["per_s"]) / 2 for place in range(0, len(peak), per_round)]
    goodput = median(two["per_s"] / top for two, top in zip(twice, around, strict=True))
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
