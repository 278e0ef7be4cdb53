"""What writers notice while retention disposes of 1,000,000 messages (`--rows N` for another number), and its rate."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import apsw
import uvloop

from benchmarks.harness import results
from sealwire.adapters.embedded.messaging_schema import id_bytes, key_of
from sealwire.contracts.compliance import NewRetentionPolicy
from sealwire.contracts.messaging import Conversation, Draft
from sealwire.contracts.retention import NewRetentionRun
from sealwire.kit.caller import Caller
from sealwire.kit.ids import new_id
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.testing.keeping_room import KeepingRoom

ROWS = 1_000_000
WRITERS = 8
PAUSE_S = 0.004
QUIET_S = 6.0
OLD_US = 40 * 86_400_000_000
SEALED_BYTES = 260
BODY = "a message as people write them, two hundred bytes or so; " * 3
AT_ONCE = 2_000


async def fill(room: KeepingRoom, who: Caller, groups: list[Conversation], rows: int) -> None:
    """Store old messages as they lie there after 40 days: their events are trimmed, their requests in the index."""
    db = room.messages.stores.db
    now_us = room.clock.now_us() - OLD_US
    each = rows // len(groups)
    for group in groups:
        num = db.read("SELECT num FROM conversation WHERE conversation_id = ?", (group.conversation_id,))[0][0]
        for start in range(1, each + 1, AT_ONCE):
            seqs = range(start, min(each + 1, start + AT_ONCE))

            def insert(conn: apsw.Connection, num: int = num, seqs: range = seqs) -> None:
                conn.executemany(
                    "INSERT INTO message (key, message_id, sender_id, client_message_id, request_key, request_hash,"
                    " sealed, created_at_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (key_of(num, seq), id_bytes(new_id()), who.user_id, f"k{seq}", os.urandom(32), os.urandom(32),
                         os.urandom(SEALED_BYTES), now_us + seq)
                        for seq in seqs
                    ],
                )  # fmt: skip
                conn.execute("UPDATE conversation SET last_seq = ? WHERE num = ?", (seqs[-1], num))

            await db.write(insert)


async def write(room: KeepingRoom, who: Caller, group: Conversation, stop: asyncio.Event, took_ms: list[float]) -> None:
    """Send one message after another; keep how long each took."""
    mine = new_id()
    number = 0
    while not stop.is_set():
        number += 1
        draft = Draft(body=BODY, client_message_id=f"{mine}-{number}")
        began = time.perf_counter()
        await room.messages.messaging.send(who, group.conversation_id, draft)
        took_ms.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(PAUSE_S)


async def beside(room: KeepingRoom, who: Caller, work: Any) -> tuple[list[float], float]:
    """Return the latencies of the writers while `work` is awaited, and how long that took."""
    group = await room.messages.group(who)
    stop, took_ms = asyncio.Event(), list[float]()
    writers = [asyncio.create_task(write(room, who, group, stop, took_ms)) for _ in range(WRITERS)]
    began = time.perf_counter()
    await work
    seconds = time.perf_counter() - began
    stop.set()
    await asyncio.gather(*writers)
    return took_ms, seconds


async def retain(folder: Path, rows: int, quiet_s: float) -> dict[str, dict[str, float]]:
    """Fill, let writers write alone, then beside a run."""
    room = KeepingRoom(folder, config=ComplianceConfig(retention_every_s=0))
    await room.open()
    try:
        who = await room.files.enter("agnes")
        groups = [await room.messages.group(who) for _ in range(20)]
        await fill(room, who, groups, rows)
        service = room.compliance.service
        await service.set_policy(who, "messages", NewRetentionPolicy(keep_days=30, action="tombstone"))
        path = room.messages.stores.db.path
        await room.messages.stores.db.compact()
        before = path.stat().st_size
        quiet, _ = await beside(room, who, asyncio.sleep(quiet_s))
        begun = await service.start_run(who, NewRetentionRun())
        cpu = time.process_time()
        busy, seconds = await beside(room, who, service.keeping.engine.settled(begun.run_id))
        cpu_s = time.process_time() - cpu
        run = await service.run(who, begun.run_id)
        if (run.status, run.parts[0].disposed) != ("done", rows // len(groups) * len(groups)):
            raise RuntimeError(f"the run is {run.status} and disposed of {run.parts[0].disposed}")
        await room.messages.stores.db.compact()
        after = path.stat().st_size
    finally:
        await room.close()
    quiet_p, busy_p = quantiles(quiet, n=100), quantiles(busy, n=100)
    return {
        "writers alone": {"per_s": len(quiet) / quiet_s, "p50_ms": quiet_p[49], "p99_ms": quiet_p[98]},
        "writers beside retention": {"per_s": len(busy) / seconds, "p50_ms": busy_p[49], "p99_ms": busy_p[98],
                                     "max_ms": max(busy)},
        f"retention of {rows:,} messages": {"per_s": rows / seconds, "seconds": seconds,
                                            "cpu_us_per_op": cpu_s / rows * 1e6},
        "file": {"mib_before": before / 2**20, "mib_after": after / 2**20,
                 "mib_reclaimed": run.reclaimed_bytes / 2**20},
    }  # fmt: skip


def measure(rows: int, quick: bool) -> dict[str, Any]:
    """Return every figure."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        figures = uvloop.run(retain(Path(name), min(rows, 5_000) if quick else rows, 2.0 if quick else QUIET_S))
    alone, busy = figures["writers alone"]["p99_ms"], figures["writers beside retention"]["p99_ms"]
    return {
        "figures": figures,
        "comparisons": [
            results.comparison(
                "p99 of writers beside retention, against twice that alone (ms)", busy, 2 * alone, 1.0,
                less_is_better=True,
            )
        ],
    }  # fmt: skip


def main() -> int:
    """Take the size, leave the rest to the harness."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--rows", type=int, default=ROWS)
    known, sys.argv[1:] = parser.parse_known_args()
    return results.run(partial(measure, known.rows))


if __name__ == "__main__":
    sys.exit(main())
