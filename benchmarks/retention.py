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
from sealwire.adapters.embedded.messaging_requests import mark_of
from sealwire.adapters.embedded.messaging_schema import id_bytes, key_of
from sealwire.contracts.conversations import Conversation
from sealwire.contracts.messages import Draft
from sealwire.contracts.retention import NewRetentionRun
from sealwire.contracts.retention_policies import NewRetentionPolicy
from sealwire.kit.caller import Caller
from sealwire.kit.ids import new_id
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.testing.keeping_room import KeepingRoom

ROWS = 1_000_000
LONGEST_S = 120.0
"""What a run of so many may take while writers' p99 at most doubles. Both hold on a machine with nothing else on it: a
sweep goes by what writers take, so what slows these slows it some times as much."""
WRITERS = 8
PAUSE_S = 0.004
QUIET_S = 15.0
"""Writers are measured alone before the run and after it: so a machine that gets slower is no figure of ours."""
OLD_US = 40 * 86_400_000_000
SEALED_BYTES = 260
BODY = "a message as people write them, two hundred bytes or so; " * 3
AT_ONCE = 2_000
IN_ORDER_AT_ONCE = 20_000


async def fill(room: KeepingRoom, who: Caller, groups: list[Conversation], rows: int) -> None:
    """Store old messages as they lie there after 40 days: their events are trimmed, their requests in the index."""
    db = room.messages.stores.db
    now_us = room.clock.now_us() - OLD_US
    each = rows // len(groups)
    marks: list[tuple[int, int]] = []
    for group in groups:
        num = db.read("SELECT num FROM conversation WHERE conversation_id = ?", (group.conversation_id,))[0][0]
        for start in range(1, each + 1, AT_ONCE):
            seqs = range(start, min(each + 1, start + AT_ONCE))
            messages = [message(key_of(num, seq), who.user_id, now_us + seq) for seq in seqs]
            marks += [(mark_of(row[4]), row[0]) for row in messages]
            await db.write(partial(store, num, seqs[-1], messages))
    marks.sort()
    for start in range(0, len(marks), IN_ORDER_AT_ONCE):
        await db.write(partial(store_marks, marks[start : start + IN_ORDER_AT_ONCE]))


def message(key: int, sender_id: str, at_us: int) -> tuple[Any, ...]:
    """Return a row of `message`."""
    request = os.urandom(32)
    return key, id_bytes(new_id()), sender_id, f"k{key}", request, request, os.urandom(SEALED_BYTES), at_us


def store(num: int, last_seq: int, messages: list[tuple[Any, ...]], conn: apsw.Connection) -> None:
    """Insert messages of a conversation."""
    conn.executemany(
        "INSERT INTO message (key, message_id, sender_id, client_message_id, request_key, request_hash, sealed,"
        " created_at_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        messages,
    )
    conn.execute("UPDATE conversation SET last_seq = ? WHERE num = ?", (last_seq, num))


def store_marks(marks: list[tuple[int, int]], conn: apsw.Connection) -> None:
    """Insert what finds messages by their requests."""
    conn.executemany("INSERT INTO request (mark, key) VALUES (?, ?)", marks)


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
    """Fill, let writers write alone, then beside a run, then alone again."""
    room = KeepingRoom(folder, config=ComplianceConfig(retention_every_s=0))
    await room.open()
    try:
        who = await room.files.enter("agnes")
        groups = [await room.messages.group(who) for _ in range(20)]
        began = time.perf_counter()
        await fill(room, who, groups, rows)
        fill_s = time.perf_counter() - began
        service = room.compliance.service
        await service.set_policy(who, "messages", NewRetentionPolicy(keep_days=30, action="tombstone"))
        db = room.messages.stores.db
        await db.compact()
        before = db.path.stat().st_size
        quiet, _ = await beside(room, who, asyncio.sleep(quiet_s))
        begun = await service.start_run(who, NewRetentionRun())
        cpu = time.process_time()
        busy, seconds = await beside(room, who, service.keeping.engine.settled(begun.run_id))
        cpu_s = time.process_time() - cpu
        run = await service.run(who, begun.run_id)
        if (run.status, run.parts[0].disposed) != ("done", rows // len(groups) * len(groups)):
            raise RuntimeError(f"the run is {run.status} and disposed of {run.parts[0].disposed}")
        later, _ = await beside(room, who, asyncio.sleep(quiet_s))
        await db.compact()
        after = db.path.stat().st_size
    finally:
        await room.close()
    alone = figure([*quiet, *later], 2 * quiet_s)
    return {
        "writers alone": alone,
        "writers alone, before": figure(quiet, quiet_s),
        "writers alone, after": figure(later, quiet_s),
        "writers beside retention": figure(busy, seconds),
        f"retention of {rows:,} messages": {"per_s": rows / seconds, "seconds": seconds, "fill_s": fill_s,
                                            "cpu_us_per_op_with_writers": cpu_s / rows * 1e6},
        "file": {"mib_before": before / 2**20, "mib_after": after / 2**20,
                 "mib_reclaimed": run.reclaimed_bytes / 2**20},
    }  # fmt: skip


def figure(took_ms: list[float], seconds: float) -> dict[str, float]:
    """Return rate and latencies of writers."""
    cuts = quantiles(took_ms, n=1000)
    return {
        "per_s": round(len(took_ms) / seconds, 1), "p50_ms": cuts[499], "p95_ms": cuts[949], "p99_ms": cuts[989],
        "p999_ms": cuts[998], "max_ms": max(took_ms),
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
                "p99 of writers beside retention against alone (ms); may double", busy, alone, 0.5,
                less_is_better=True,
            ),
            *([_in_time(figures)] if rows == ROWS and not quick else []),
        ],
    }  # fmt: skip


def _in_time(figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    seconds = figures[f"retention of {ROWS:,} messages"]["seconds"]
    return results.comparison("seconds for 1,000,000 messages", seconds, LONGEST_S, 1.0, less_is_better=True)


def main() -> int:
    """Take the size, leave the rest to the harness."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--rows", type=int, default=ROWS)
    known, sys.argv[1:] = parser.parse_known_args()
    return results.run(partial(measure, known.rows))


if __name__ == "__main__":
    sys.exit(main())
