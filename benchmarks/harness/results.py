"""Results: the machine's facts, the table on the screen, the JSON in results/, and the command of a benchmark."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness.cores import LOAD_CORE, pin, pinning, usable

RESULTS = Path(__file__).resolve().parents[1] / "results"
REPOSITORY = Path(__file__).resolve().parents[2]
SHOWN = ("per_s", "deliveries_per_s", "complete", "cpu_us_per_op", "cpu_us_per_delivery", "rss_mib", "foreign_cores")
Figures = dict[str, Any]


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable(),
        "memory_mib": int(memory) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def commit() -> str:
    """Return the commit that is measured, marked when the tree differs from it; empty outside a repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def comparison(figure: str, ours: float, reference: float, target: float, *, less_is_better: bool = False) -> Figures:
    """Return ours beside the reference: the ratio is how many times better we are."""
    ratio = 0.0
    if ours and reference:
        ratio = reference / ours if less_is_better else ours / reference
    return {
        "figure": figure,
        "ours": ours,
        "reference": reference,
        "ratio": round(ratio, 2),
        "target": target,
        "reached": ratio >= target,
    }


def save(name: str, question: str, command: str, figures: Figures) -> Path:
    """Write the result of one benchmark; return where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        "benchmark": name,
        "question": question,
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "machine": machine(),
        **figures,
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return path


def show(figures: Figures) -> None:
    """Print the figures as lines, what is compared at the end."""
    for label, figure in figures.get("figures", {}).items():
        print(f"  {label:<45} {_line(figure) if isinstance(figure, dict) else figure}")
    for item in figures.get("comparisons", ()):
        mark = "reached" if item["reached"] else "MISSED"
        print(
            f"  {item['figure']:<45} ours {item['ours']:g}  reference {item['reference']:g}  "
            f"ratio {item['ratio']:g}  target {item['target']:g}  {mark}"
        )
    for reason in figures.get("skipped", ()):
        print(f"  skipped: {reason}")


def _line(figure: Figures) -> str:
    if "per_s" not in figure:
        return "  ".join(f"{name}={value}" for name, value in figure.items())
    parts = [f"{name}={figure[name]:g}" for name in SHOWN if isinstance(figure.get(name), int | float)]
    for name in ("ack_ms", "delivery_ms"):
        if figure.get(name):
            parts.append(f"{name} p50={figure[name]['p50']:g} p99={figure[name]['p99']:g}")
    if figure.get("refused"):
        parts.append(f"REFUSED={figure['refused']}")
    return "  ".join(parts)


def run(measure: Callable[[bool], Figures]) -> int:
    """Be a benchmark's command: `--quick` for a short look, `--json` for one JSON document instead of the table.

    This process keeps to the load's core. Only here: a process that is started with one core knows of no second one.
    """
    pin(LOAD_CORE)
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="short windows, one round: a look, not a measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    figures = measure(arguments.quick)
    if "figures" in figures:
        figures["placement"] = pinning()
    if arguments.json:
        print(json.dumps(figures))
    else:
        show(figures)
    return 0


def command_line(arguments: list[str]) -> str:
    """Return the command as it would be typed."""
    return shlex.join(arguments)
