"""One measured window: wall time, CPU of server and load, and what everybody else took meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.harness import processes

FOREIGN_LIMIT_CORES = 0.15
Figures = dict[str, Any]


class Window:
    """Counts between `begin` and `end`."""

    def __init__(self, server_pids: Sequence[int], load_pids: Sequence[int] = ()) -> None:
        self._server = list(server_pids)
        self._load = [os.getpid(), *load_pids]

    def begin(self) -> None:
        """Start counting."""
        self._at = self._look()

    def end(self) -> Figures:
        """Stop counting; return what the window saw."""
        wall, busy, server, load, written = (b - a for a, b in zip(self._at, self._look(), strict=True))
        foreign = max(0.0, (busy - server - load) / wall)
        return {
            "wall_s": round(wall, 3),
            "server_cpu_s": round(server, 3),
            "load_cores": round(load / wall, 3),
            "foreign_cores": round(foreign, 3),
            "noisy": foreign > FOREIGN_LIMIT_CORES,
            "disk_mib": round(written / processes.MIB, 2),
            **processes.memory_mib(self._server),
        }

    def _look(self) -> tuple[float, float, float, float, float]:
        return (
            time.perf_counter(),
            processes.busy_s(),
            processes.cpu_s(self._server),
            processes.cpu_s(self._load),
            float(processes.written_bytes(self._server)),
        )


def interleave(
    contestants: dict[str, Callable[[], Figures]], *, rounds: int, rate: str, retries: int = 1
) -> dict[str, Figures]:
    """Measure each contestant once a round, in turn, so that all see the same weather; return each one's summary.

    A window in which others took more than 0.15 cores is measured again up to `retries` times and the least disturbed
    one kept. The summary is the window with the median `rate`, with every window's rate beside it.
    """
    windows: dict[str, list[Figures]] = {name: [] for name in contestants}
    for turn in range(rounds):
        names = list(contestants)
        for name in names if turn % 2 == 0 else reversed(names):
            windows[name].append(_least_disturbed(contestants[name], retries))
    return {name: summary(found, rate) for name, found in windows.items()}


def _least_disturbed(measure: Callable[[], Figures], retries: int) -> Figures:
    best = measure()
    while best["noisy"] and retries > 0:
        retries -= 1
        again = measure()
        if again["foreign_cores"] < best["foreign_cores"]:
            best = again
    return best


def summary(windows: Sequence[Figures], rate: str) -> Figures:
    """Return the window with the median `rate` (the lower of the two in the middle) and all windows' rates."""
    ordered = sorted(windows, key=lambda w: w[rate])
    middle = dict(ordered[(len(ordered) - 1) // 2])
    middle["windows"] = [w[rate] for w in windows]
    for name in ("cpu_us_per_op", "cpu_us_per_delivery"):
        if name in middle:
            middle[name] = round(median(w[name] for w in windows), 1)
    return middle
