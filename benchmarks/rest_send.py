"""How many messages a second become durable by REST, at 1, 8 and 32 senders? Beside Fastify + better-sqlite3 FULL."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from benchmarks.harness import load
from benchmarks.harness.contest import Side, contest
from benchmarks.harness.results import comparison, run
from benchmarks.harness.window import interleave

SENDERS = (1, 8, 32)
PEOPLE = 8
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return the figures by number of senders: each is a member, all in one conversation, one request in flight each.

    200 bytes of text, stored and flushed before the answer on both sides. Ours also checks the session, seals the body,
    keeps the idempotency key, writes the outbox and two audit records, and indexes for search; the reference checks a
    signature, stores and indexes (FTS5).
    """
    rounds, window_s = (1, 1.5) if quick else (5, 4.0)
    figures: Figures = {}
    comparisons: list[Figures] = []
    with contest(PEOPLE) as found:
        for count in SENDERS:
            windows = interleave(
                {name: partial(send, side, count, window_s) for name, side in found.sides.items()},
                rounds=rounds,
                rate="per_s",
                retries=0 if quick else 1,
            )
            figures.update({f"{name}, {count} senders": figure for name, figure in windows.items()})
            if len(windows) == 2:
                comparisons += _compare(count, windows["sealwire"], windows["fastify"])
    return {"figures": figures, "comparisons": comparisons, "skipped": found.skipped}


def send(side: Side, count: int, window_s: float) -> Figures:
    """Measure one window of `count` senders."""
    senders = [side.server.sender(side.person(number), side.room) for number in range(count)]
    plan = load.Plan(port=side.server.port, connections=senders)
    return load.run(plan, server_pids=side.server.pids, window_s=window_s)


def _compare(count: int, ours: Figures, reference: Figures) -> list[Figures]:
    if count == 32:
        return [comparison("sends/s, 32 senders", ours["per_s"], reference["per_s"], 3.0)]
    if count == 1:
        p50 = [figure["ack_ms"].get("p50", 0.0) for figure in (ours, reference)]
        return [comparison("one sender, p50 in ms", *p50, 1.0, less_is_better=True)]
    return []


if __name__ == "__main__":
    sys.exit(run(main))
