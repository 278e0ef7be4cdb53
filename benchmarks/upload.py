"""How many files of 1 MiB a second come in by tus, at 1 and 4 connections? Beside writing and flushing 1 MiB bare."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import load
from benchmarks.harness.results import comparison, run
from benchmarks.harness.sealwire import API, Sealwire
from benchmarks.harness.window import Window, interleave

SIZE = 1024 * 1024
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return uploads/s, each one request (creation-with-upload): sealed, hashed, scanned, fsynced, recorded.

    The bound writes 1 MiB into a new file, flushes file and folder, and nothing else.
    """
    rounds, window_s = (1, 1.5) if quick else (5, 4.0)
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as name:
        folder = Path(name)
        server = Sealwire(folder / "data", env={"SEALWIRE_MEDIA__MAX_TENANT_BYTES": str(1 << 40)})
        try:
            request = upload_request(server.port, server.register("uploader").token)
            found = interleave(
                {
                    "bare write and flush": partial(bare, folder / "bare", window_s),
                    "uploads, 1 connection": partial(upload, server, request, 1, window_s),
                    "uploads, 4 connections": partial(upload, server, request, 4, window_s),
                },
                rounds=rounds,
                rate="per_s",
                retries=0 if quick else 1,
            )
        finally:
            server.stop()
    bound = found["bare write and flush"]["per_s"]
    return {
        "figures": found,
        "comparisons": [
            comparison("1 connection, beside bare", found["uploads, 1 connection"]["per_s"], bound, 0.5),
            comparison("4 connections, beside bare", found["uploads, 4 connections"]["per_s"], bound, 0.6),
        ],
        "skipped": ["the Fastify peer took 177/s and 220/s by 1 and 4 connections on such a machine, unflushed"],
    }


def upload_request(port: int, token: str) -> bytes:
    """Return a whole request that creates an upload and sends all of it."""
    head = (
        f"POST {API}/media/uploads HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Tus-Resumable: 1.0.0\r\nUpload-Length: {SIZE}\r\nContent-Length: {SIZE}\r\n"
        "Content-Type: application/offset+octet-stream\r\n\r\n"
    )
    return head.encode() + os.urandom(SIZE)


def upload(server: Sealwire, request: bytes, count: int, window_s: float) -> Figures:
    """Measure one window of `count` connections."""
    connections = [load.Connection(protocol=load.HTTP, templates=[request]) for _ in range(count)]
    plan = load.Plan(port=server.port, connections=connections)
    return load.run(plan, server_pids=server.pids, window_s=window_s)


def bare(folder: Path, window_s: float) -> Figures:
    """Write files one after another, each flushed with its folder."""
    folder.mkdir(exist_ok=True)
    data = os.urandom(SIZE)
    window = Window([])
    window.begin()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < window_s:
        fd = os.open(folder / f"{count}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        count += 1
    rate = count / (time.perf_counter() - start)
    for file in folder.iterdir():
        file.unlink()
    return {"per_s": round(rate, 1), **window.end()}


if __name__ == "__main__":
    sys.exit(run(main))
