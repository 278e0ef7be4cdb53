"""One timer for ten thousand connections: who is due is looked up in buckets, not held in a timer each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Protocol


class Ticking(Protocol):
    """What has deadlines."""

    def tick(self, now_s: float) -> float:
        """Do what is due; return when to be called again at the latest (infinity: never)."""


class Wheel:
    """Calls `tick` of each entry within a `step_s` after it is due. Entries that ended go at their next turn."""

    def __init__(self, *, step_s: float = 0.25) -> None:
        self._step_s = step_s
        self._buckets: dict[int, list[Ticking]] = {}
        self._turned: int | None = None

    def add(self, entry: Ticking, due_s: float) -> None:
        """Call the entry at `due_s` (monotonic); adding it again for an earlier time is fine."""
        if due_s < inf:
            slot = int(due_s / self._step_s) + 1
            if self._turned is not None and slot <= self._turned:
                slot = self._turned + 1
            self._buckets.setdefault(slot, []).append(entry)

    def turn(self, now_s: float) -> int:
        """Call everybody who is due; return how many were."""
        slot = int(now_s / self._step_s)
        first = min(self._buckets, default=slot + 1) if self._turned is None else self._turned + 1
        self._turned = slot
        called = 0
        due = range(first, slot + 1) if slot - first < len(self._buckets) else sorted(self._buckets)
        for number in due:
            if number > slot:
                break
            for entry in self._buckets.pop(number, ()):
                called += 1
                self.add(entry, entry.tick(now_s))
        return called

    async def run(self, monotonic: Callable[[], float]) -> None:
        """Turn until cancelled."""
        while True:
            await asyncio.sleep(self._step_s)
            self.turn(monotonic())
