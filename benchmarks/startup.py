"""How long from nothing to ready, and how much memory at rest, all services? Beside Python itself and Fastify."""

from __future__ import annotations

import compileall
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import processes
from benchmarks.harness.cores import SERVER_CORE, pin
from benchmarks.harness.fastify import Fastify, Unavailable
from benchmarks.harness.results import comparison, run
from benchmarks.harness.sealwire import Sealwire

ROOT = Path(__file__).resolve().parent.parent
REST_S = 5.0
MAX_START_S = 1.5
MAX_RSS_MIB = 120.0
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return seconds to ready and MiB after five seconds at rest: on an empty data folder, on one in use, and beside.

    Ready: the gateway's `/ready` answers 200, every service and store included, looked at every 5 ms from the moment
    the process is started. The files of the program are compiled, as `make setup` leaves them, and in the page cache.
    """
    compileall.compile_dir(ROOT / "src", quiet=1)
    rounds = 1 if quick else 5
    found: dict[str, list[Figures]] = {}
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as name:
        folder = Path(name)
        for turn in range(rounds):
            contestants: dict[str, Callable[[], Any]] = {
                "first start": lambda turn=turn: Sealwire(folder / f"data{turn}"),
                "start again": lambda turn=turn: Sealwire(folder / f"data{turn}"),
                "fastify": lambda turn=turn: Fastify(folder / f"fastify{turn}"),
            }
            for label, start in contestants.items():
                try:
                    found.setdefault(label, []).append(measure(start, rest_s=1.0 if quick else REST_S))
                except (Unavailable, RuntimeError) as error:
                    skipped.append(f"{label}: {error}")
            found.setdefault("python -c pass", []).append({"ready_s": bare_python()})
    figures = {label: _median(values) for label, values in found.items() if values}
    comparisons = []
    if first := figures.get("first start"):
        comparisons = [
            comparison("start to ready, s", first["ready_s"], MAX_START_S, 1.0, less_is_better=True),
            comparison("memory at rest, MiB RSS", first["rss_mib"], MAX_RSS_MIB, 1.0, less_is_better=True),
        ]
    return {"figures": figures, "comparisons": comparisons, "skipped": sorted(set(skipped))}


def measure(start: Callable[[], Any], *, rest_s: float) -> Figures:
    """Start a server, let it rest, weigh it, stop it."""
    server = start()
    try:
        pids = server.pids
        ready_cpu_s = processes.cpu_s(pids)
        time.sleep(rest_s)
        idle_cpu_s = processes.cpu_s(pids) - ready_cpu_s
        memory = processes.memory_mib(pids)
    finally:
        began = time.perf_counter()
        server.stop()
    return {
        "ready_s": round(server.ready_s, 3),
        "cpu_s": round(ready_cpu_s, 3),
        "idle_cpu_ms_per_s": round(idle_cpu_s / rest_s * 1000, 1),
        **memory,
        "stop_s": round(time.perf_counter() - began, 3),
    }


def bare_python() -> float:
    """Return how long Python itself takes to start and end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True, preexec_fn=lambda: pin(SERVER_CORE))
    return round(time.perf_counter() - began, 3)


def _median(values: list[Figures]) -> Figures:
    return {name: round(median(value[name] for value in values), 3) for name in values[0]}


if __name__ == "__main__":
    sys.exit(run(main))
