"""Where does the CPU time of one durable send go, part by part? Sampled while 32 senders send by REST."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.harness import processes
from benchmarks.harness.contest import Side
from benchmarks.harness.results import run
from benchmarks.harness.sampled import LOOP
from benchmarks.harness.sealwire import Sealwire
from benchmarks.rest_send import PEOPLE, send

SENDERS = 32
SAMPLER = Path(__file__).parent / "harness" / "sampled.py"
PARTS = (
    (LOOP, rf"^{LOOP}$"),
    ("HTTP: parse, route, bind, answer", r"sealwire/kit/(http|exchange|router|codec)|runtime/(http_|server)|^uvicorn"),
    ("authentication", r"sealwire/boundary"),
    ("guard: breaker, bulkhead, deadline", r"sealwire/(resilience|clients/guarded)"),
    ("gate: limits, metrics, request record", r"sealwire/services/gateway/(gate|limiter)|prometheus_client"),
    ("spool of request records", r"spool|runtime/records"),
    ("send: membership, key, seal, marks", r"sealwire/services/messaging|kit/(envelopes|ids|clock)|clients/key_ring"),
    ("store: rows of message and event", r"embedded/messaging"),
    ("commit", r"GroupWriter\._commit$"),
    ("group writer", r"embedded/drivers/(sqlite|worker)"),
    ("audit: chain, tree, rows", r"sealwire/services/compliance|embedded/(audit|compliance)|contracts/audit"),
    ("audit relay", r"sealwire/ports/events|embedded/outbox|runtime/rooms"),
    ("search indexing", r"sealwire/services/search|embedded/(index|drivers/tantivy)"),
    ("sockets and fan-out", r"sealwire/services/socket"),
    ("auth service", r"sealwire/services/auth|embedded/auth"),
    ("crypto service", r"sealwire/services/crypto|embedded/crypto"),
)
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return µs of CPU per send by part: each sample counts for the innermost function of ours that was running."""
    window_s = 3.0 if quick else 15.0
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as name:
        out = Path(name) / "stacks"
        command = (sys.executable, str(SAMPLER), str(out))
        server = Sealwire(Path(name) / "data", command=command)
        try:
            people = [server.register(f"person{number}") for number in range(PEOPLE)]
            side = Side(server=server, people=people, room=server.room(people[0], people[1:]))
            send(side, SENDERS, 1.0)
            threads = thread_cpu_s(server.process.pid)
            os.kill(server.process.pid, signal.SIGUSR1)
            window = send(side, SENDERS, window_s)
            os.kill(server.process.pid, signal.SIGUSR1)
            spent = {k: v - threads.get(k, 0.0) for k, v in thread_cpu_s(server.process.pid).items()}
            _wait_for(out)
            stacks = read(out)
        finally:
            server.stop()
    other_s = sum(seconds for thread, seconds in spent.items() if thread != server.process.pid)
    main_share = spent[server.process.pid] / (spent[server.process.pid] + other_s)
    return {"figures": figures(stacks, window, main_share), "hottest": hottest(stacks)}


def figures(stacks: Counter[tuple[str, ...]], window: Figures, main_share: float) -> Figures:
    """Return µs per send and percent by part; threads beside the main one are one part."""
    us = window["cpu_us_per_op"]
    total = sum(stacks.values())
    parts: Counter[str] = Counter()
    for stack, count in stacks.items():
        parts[part_of(stack)] += count
    found: Figures = {"all": {"us": us, "sends_per_s": window["per_s"], "samples": total}}
    for part, count in parts.most_common():
        found[part] = _share(us, main_share * count / total)
    found["other threads: commits, flushes, indexing"] = _share(us, 1 - main_share)
    return found


def _share(us: float, share: float) -> Figures:
    return {"us": round(us * share, 1), "percent": round(share * 100, 1)}


def part_of(stack: tuple[str, ...]) -> str:
    """Return the part of the innermost function that belongs to one."""
    for function in reversed(stack):
        for part, pattern in PARTS:
            if re.search(pattern, function):
                return part
    return "other"


def hottest(stacks: Counter[tuple[str, ...]], most: int = 40) -> dict[str, float]:
    """Return the functions with the largest share of samples of their own, in percent."""
    own: Counter[str] = Counter()
    for stack, count in stacks.items():
        own[stack[-1]] += count
    total = sum(own.values())
    return {function: round(count / total * 100, 1) for function, count in own.most_common(most)}


def read(out: Path) -> Counter[tuple[str, ...]]:
    """Read what the sampler wrote."""
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in out.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        stacks[tuple(stack.split(";"))] += int(count)
    return stacks


def thread_cpu_s(pid: int) -> dict[int, float]:
    """Return the CPU time of each thread by its id; the main thread's id is the process's."""
    found = {}
    for entry in Path(f"/proc/{pid}/task").iterdir():
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
        found[int(entry.name)] = (int(fields[11]) + int(fields[12])) / processes.TICKS_PER_S
    return found


def _wait_for(out: Path) -> None:
    deadline = time.monotonic() + 10
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(run(main))
