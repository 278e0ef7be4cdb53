"""How many rows per second become durable through the group commit, beside what the disk alone can do."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import uvloop

from sealwire.adapters.embedded.drivers.sqlite import Database

SECONDS = 2.0
BODY = os.urandom(300)
SCHEMA = ["CREATE TABLE m (seq INTEGER PRIMARY KEY, id BLOB, at INTEGER, body BLOB); CREATE UNIQUE INDEX mi ON m (id)"]
INSERT = "INSERT INTO m (id, at, body) VALUES (?, ?, ?)"


def percentiles(times_s: list[float]) -> dict[str, float]:
    """Return the 50th and 99th percentile in milliseconds."""
    ordered = sorted(times_s)
    return {
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 3),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 3),
    }


def bare_fdatasync(folder: Path, seconds: float) -> dict[str, float]:
    """Overwrite 4 KiB and fdatasync, one after another: the bound for one writer."""
    fd = os.open(folder / "bare", os.O_RDWR | os.O_CREAT)
    block = os.urandom(4096)
    for i in range(256):
        os.pwrite(fd, block, i * 4096)
    os.fsync(fd)
    times, end, i = [], time.perf_counter() + seconds, 0
    while (began := time.perf_counter()) < end:
        os.pwrite(fd, block, i % 256 * 4096)
        os.fdatasync(fd)
        times.append(time.perf_counter() - began)
        i += 1
    os.close(fd)
    return {"per_s": round(len(times) / seconds), **percentiles(times)}


async def writers(folder: Path, count: int, seconds: float, *, batched: bool) -> dict[str, float]:
    """`count` tasks that each write one row, wait until it is durable, and go on."""
    db = Database.open(folder / f"w{count}{batched}.db", SCHEMA)
    batcher = db.batcher(_insert_many)
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def writer() -> None:
        while (began := time.perf_counter()) < end:
            row = (os.urandom(16), time.time_ns(), BODY)
            if batched:
                await batcher.submit(row)
            else:
                await db.write(partial(_insert, row))
            times.append(time.perf_counter() - began)

    cpu = time.process_time()
    await asyncio.gather(*[writer() for _ in range(count)])
    cpu = time.process_time() - cpu
    stats = db.stats
    await db.close()
    return {
        "per_s": round(len(times) / seconds),
        **percentiles(times),
        "rows_per_commit": round(stats.rows / stats.groups, 1),
        "commit_mean_ms": round(stats.commit_s_sum / stats.groups * 1000, 3),
        "cpu_us_per_row": round(cpu / len(times) * 1e6, 1),
    }


def _insert(row, conn):  # type: ignore[no-untyped-def]  # as short as it can be
    conn.execute(INSERT, row)


def _insert_many(conn, rows):  # type: ignore[no-untyped-def]  # the same
    conn.executemany(INSERT, rows)
    return [None] * len(rows)


def measure(seconds: float = SECONDS) -> dict[str, dict[str, float]]:
    """Return every figure by name; the bare disk is measured before and after, since it drifts."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        figures = {"bare fdatasync, before": bare_fdatasync(folder, seconds / 2)}
        for count in (1, 8, 32, 256):
            for batched in (False, True):
                label = f"{count} writers, {'batcher' if batched else 'write'}"
                figures[label] = uvloop.run(writers(folder, count, seconds, batched=batched))
        figures["bare fdatasync, after"] = bare_fdatasync(folder, seconds / 2)
    return figures


def main() -> None:
    """Print the figures, as a table or with --json."""
    figures = measure(0.4 if "--quick" in sys.argv else SECONDS)
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    for label, figure in figures.items():
        print(f"{label:24}", "  ".join(f"{k}={v}" for k, v in figure.items()))


if __name__ == "__main__":
    main()
