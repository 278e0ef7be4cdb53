"""How many messages a second does the index take, and how long does a query take? Beside SQLite FTS5 in the same run.

Not the same work: ours folds accents, tolerates a typo, finds prefixes and unspaced scripts, keeps tenants apart and
seals what goes to disk; FTS5 finds exact words (and is asked for nothing more), in process memory and in the clear.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import apsw

from benchmarks.harness.results import Figures, comparison, run
from sealwire.kit.clock import SystemClock
from sealwire.ports.index import Entry, Put, SearchIndex, Sought
from sealwire.testing.backends import open_index

DOCUMENTS = 10_000
BATCH = 100
WORDS = {10: "kingfisher", 100: "watermill", 1000: "saxophone"}
"""How many messages hold a word, and the word."""
LIMIT = 20
ROOM = "room"


def texts(count: int) -> list[str]:
    """Return messages of about 200 bytes of made-up words; the words of WORDS stand in as many as they say."""
    rng = random.Random(7)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(20_000)]
    made = [" ".join(words[min(int(rng.paretovariate(0.6)), 19_999)] for _ in range(30)) for _ in range(count)]
    for hits, word in WORDS.items():
        for number in rng.sample(range(count), min(hits, count)):
            made[number] += f" {word}"
    return made


def put(number: int, text: str) -> Put:
    """Return the change that indexes a message."""
    entry = Entry(
        message_id=f"0190b2a0-0000-7000-8000-{number:012}",
        conversation_id=ROOM,
        seq=number,
        sender_id=f"u{number % 7}",
        kind="message",
        at_us=number,
        version="",
        text=text,
    )
    return Put(tenant_id="t", position=number, message_id=entry.message_id, entries=(entry,), fresh=True)


def cpu_s() -> float:
    """Return the CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def fill(index: SearchIndex, made: list[str]) -> Figures:
    """Index all messages as the service does, in batches. Return rate and cost."""
    began_s, began_cpu_s = time.perf_counter(), cpu_s()
    for start in range(0, len(made), BATCH):
        batch = [put(number, text) for number, text in enumerate(made[start : start + BATCH], start + 1)]
        await index.apply(batch, upto=start + len(batch))
    await index.flush()
    took_s, took_cpu_s = time.perf_counter() - began_s, cpu_s() - began_cpu_s
    return {"per_s": round(len(made) / took_s), "cpu_us_per_op": round(took_cpu_s / len(made) * 1e6, 1)}


async def ask(index: SearchIndex, hits: int, rounds: int) -> tuple[float, int]:
    """Return the median time of a query in ms, and how many hits it gave."""
    sought = Sought(words=(WORDS[hits],), conversation_ids=frozenset({ROOM, *(f"other{i}" for i in range(50))}))
    times, found = [], 0
    for _ in range(rounds):
        began_s = time.perf_counter()
        page = await index.search("t", sought, limit=LIMIT)
        times.append(time.perf_counter() - began_s)
        found = len(page.hits)
    return median(times) * 1000, found


class Fts5:
    """The reference: an FTS5 table in process memory, with a snippet of every hit."""

    def __init__(self) -> None:
        self._db = apsw.Connection(":memory:")
        self._db.execute("CREATE VIRTUAL TABLE m USING fts5(text, room UNINDEXED, seq UNINDEXED)")

    def fill(self, made: list[str]) -> Figures:
        """Insert all messages, in transactions of the same size."""
        began_s, began_cpu_s = time.perf_counter(), cpu_s()
        for start in range(0, len(made), BATCH):
            rows = [(text, ROOM, number) for number, text in enumerate(made[start : start + BATCH], start + 1)]
            with self._db:
                self._db.executemany("INSERT INTO m VALUES (?, ?, ?)", rows)
        took_s, took_cpu_s = time.perf_counter() - began_s, cpu_s() - began_cpu_s
        return {"per_s": round(len(made) / took_s), "cpu_us_per_op": round(took_cpu_s / len(made) * 1e6, 1)}

    def ask(self, hits: int, rounds: int) -> tuple[float, int]:
        """Return the median time of a query in ms, and how many hits it gave."""
        query = "SELECT seq, rank, text FROM m WHERE m MATCH ? AND room = ? ORDER BY rank LIMIT ?"
        times, rows = [], []
        for _ in range(rounds):
            began_s = time.perf_counter()
            rows = self._db.execute(query, (WORDS[hits], ROOM, LIMIT)).fetchall()
            times.append(time.perf_counter() - began_s)
        return median(times) * 1000, len(rows)


async def measure_async(quick: bool) -> Figures:
    """Fill both, ask both in turns."""
    made, rounds = texts(2_000 if quick else DOCUMENTS), 30 if quick else 300
    figures: Figures = {}
    comparisons = []
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as name:
        async with open_index("embedded", Path(name), clock=SystemClock()) as index:
            reference = Fts5()
            figures["index, tantivy in memory"] = await fill(index, made)
            figures["index, FTS5 in memory"] = reference.fill(made)
            for hits in (h for h in WORDS if h <= len(made)):
                ours, found = await ask(index, hits, rounds)
                theirs, expected = reference.ask(hits, rounds)
                if found != expected:
                    raise RuntimeError(f"{hits} hits: we found {found}, FTS5 {expected}")
                figures[f"query, {hits} hits"] = {"p50_ms": round(ours, 3), "fts5_p50_ms": round(theirs, 3)}
                comparisons.append(comparison(f"query p50, {hits} hits, ms", round(ours, 3), round(theirs, 3), 0.5,
                                              less_is_better=True))  # fmt: skip
            began_s = time.perf_counter()
            await index.stop()
            figures["stop with snapshot"] = {"ms": round((time.perf_counter() - began_s) * 1000, 1)}
            size = sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())
            figures["sealed on disk"] = {"bytes_per_message": round(size / len(made))}
    return {"figures": figures, "comparisons": comparisons}


def measure(quick: bool) -> Figures:
    """Measure within one event loop."""
    return asyncio.run(measure_async(quick))


if __name__ == "__main__":
    sys.exit(run(measure))
