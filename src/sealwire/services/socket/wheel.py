"""One timer for ten thousand connections: who is due is looked up in buckets, not held in a timer each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Protocol


class Ticking(Protocol):
    """What has deadlines. `slot` is the wheel's: where the entry counts, 0 for nowhere."""

    slot: int

    def tick(self, now_s: float) -> float:
        """Do what is due; return when to be called again at the latest (infinity: never)."""


class Wheel:
    """Calls `tick` of each entry within a `step_s` after it is due. Entries that ended go at their next turn."""

    def __init__(self, *, step_s: float = 0.25) -> None:
        self._step_s = step_s
        self._buckets: dict[int, list[Ticking]] = {}
        self._turned = 0

    def add(self, entry: Ticking, due_s: float) -> None:
        """Call the entry at `due_s` (monotonic), unless it is due earlier already."""
        if due_s == inf:
            return
        slot = max(int(due_s / self._step_s) + 1, self._turned + 1)
        if not entry.slot or slot < entry.slot:
            entry.slot = slot
            self._buckets.setdefault(slot, []).append(entry)

    def turn(self, now_s: float) -> int:
        """Call everybody who is due; return how many were."""
        first, self._turned = self._turned + 1, int(now_s / self._step_s)
        sparse = self._turned - first > len(self._buckets)
        called = 0
        for slot in sorted(self._buckets) if sparse else range(first, self._turned + 1):
            if slot > self._turned:
                break
            for entry in self._buckets.pop(slot, ()):
                if entry.slot == slot:  # else it was moved to an earlier slot
                    entry.slot = 0
                    called += 1
                    self.add(entry, entry.tick(now_s))
        return called

    async def run(self, monotonic: Callable[[], float]) -> None:
        """Turn until cancelled."""
        while True:
            await asyncio.sleep(self._step_s)
            self.turn(monotonic())
