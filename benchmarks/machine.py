"""What can this machine do at most? Flushes alone and in groups, a signature, a seal, a bare echo: the bounds."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import load
from benchmarks.harness.results import run
from benchmarks.harness.servers import PythonServer

RECORD_BYTES = 512
PAGE_BYTES = 4096
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return the bounds: flushes by records each, primitives in µs, the echo's rate."""
    seconds = 0.3 if quick else 2.0
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as name:
        for records in (1, 32, 256):
            figures[f"flush of {records} records"] = flushes(Path(name) / f"f{records}", records, seconds)
        figures.update(primitives(3 if quick else 9))
        with PythonServer("benchmarks.harness.echo_app", Path(name)) as server:
            requests = [load.http_request(server.port, "/", '{"echo":"' + "x" * 180 + '"}')]
            connections = [load.Connection(protocol=load.HTTP, templates=requests) for _ in range(64)]
            plan = load.Plan(port=server.port, connections=connections)
            figures["bare echo over uvicorn"] = load.run(plan, server_pids=server.pids, window_s=seconds, warm_s=0.5)
    return {"figures": figures}


def flushes(path: Path, records: int, seconds: float) -> Figures:
    """Append `records` records and fdatasync, again and again: what a durable log can do with groups of that size."""
    block = os.urandom(max(PAGE_BYTES, records * RECORD_BYTES))
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 64 * len(block))
    os.fsync(fd)
    times: list[float] = []
    end, i = time.perf_counter() + seconds, 0
    while (began := time.perf_counter()) < end:
        os.pwrite(fd, block, i % 64 * len(block))
        os.fdatasync(fd)
        times.append(time.perf_counter() - began)
        i += 1
    os.close(fd)
    times.sort()
    return {
        "records_per_s": round(records * len(times) / seconds),
        "p50_ms": round(times[len(times) // 2] * 1000, 3),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 3),
    }


def primitives(windows: int) -> Figures:
    """Return the time of one operation of each kind, in µs: the median of several windows."""
    private = Ed25519PrivateKey.generate()
    public, message = private.public_key(), os.urandom(600)
    signature = private.sign(message)
    aead, body = AESGCM(os.urandom(32)), os.urandom(200)
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "Ed25519 verify": (400, lambda: public.verify(signature, message)),
        "AES-256-GCM seal of 200 B": (4000, lambda: aead.encrypt(os.urandom(12), body, b"context")),
        "SHA-256 of 600 B": (8000, lambda: sha256(message).digest()),
    }
    return {name: {"us": _time(count, call, windows)} for name, (count, call) in calls.items()}


def _time(count: int, call: Callable[[], Any], windows: int) -> float:
    found = []
    for _ in range(windows):
        began = time.process_time()
        for _ in range(count):
            call()
        found.append((time.process_time() - began) / count * 1e6)
    return round(median(found), 2)


if __name__ == "__main__":
    sys.exit(run(main))
