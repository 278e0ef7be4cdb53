"""Which core serves and which one loads, so that neither takes time from the other."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

SPIN = """
import time
began, cpu = time.monotonic(), time.process_time()
while time.monotonic() < began + 0.4: pass
print((time.process_time() - cpu) / (time.monotonic() - began))
"""


def assigned() -> tuple[int | None, int | None]:
    """Return (server core, load core): the first two this process may use; None twice when there is only one."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2:
        return None, None
    return allowed[0], allowed[1]


SERVER_CORE, LOAD_CORE = assigned()
"""Taken at import, before anything is pinned."""


def pin(core: int | None) -> None:
    """Bind this process (and what it starts from now on) to a core; nothing happens without one."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def pinning() -> str:
    """Say in words who runs where."""
    if SERVER_CORE is None:
        return "one core for server and load: rates hold the cost of both"
    return f"server on core {SERVER_CORE}, load on core {LOAD_CORE}"


def usable() -> float:
    """Return how many cores' worth of time the two get when both are busy: a host may lend out less than it shows."""
    cores = [core for core in (SERVER_CORE, LOAD_CORE) if core is not None]
    spinning = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", SPIN],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=partial(pin, core),
        )
        for core in cores
    ]
    return round(sum(float(one.communicate()[0]) for one in spinning), 2) or 1.0
