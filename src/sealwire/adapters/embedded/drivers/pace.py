"""Pace: how much a sweep does at once and how long it rests, by how long the writers of its file take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import apsw

if TYPE_CHECKING:
    from sealwire.adapters.embedded.drivers.sqlite import Database

T = TypeVar("T")
START: Final = 32
LEAST: Final = 4
MOST: Final = 500
LEAST_STEP_S: Final = 0.001
MOST_STEP_S: Final = 0.003
RESTS: Final = 6.0
"""How many times as long as a step, or as a group of writers, a rest is while others write."""
MOST_REST_S: Final = 1.0


class Pace:
    """For one sweep over a file: `await pace.write(lambda conn: some(conn, pace.size))`, again and again.

    A step is done when no writer waits, or in one transaction with those that do. Its statements take about half as
    long as a group of writers with its commit: who comes in the middle of it waits less than for other writers. Then
    the sweep rests for some times as long, or as long as the writers take: the slower they get, on a busy machine or a
    slow disk, the rarer its steps. With nobody writing it hardly rests.
    """

    def __init__(self, db: Database, *, start: int = START, most: int = MOST) -> None:
        self._db = db
        self._most = most
        self._groups = 0
        self.size = start
        """How many things to do in the next step."""

    async def write(self, step: Callable[[apsw.Connection], T]) -> T:
        """Do a step, durable on return, learn from how long it took, and rest."""
        stats = self._db.stats
        done = await self._db.write_aside(step)
        took_s, target_s = stats.aside_s, min(max(stats.group_s / 2, LEAST_STEP_S), MOST_STEP_S)
        if took_s > target_s:  # once may be chance, so it is never less than half
            self.size = max(LEAST, int(self.size * max(target_s / took_s, 0.5)))
        else:
            self.size = min(self._most, self.size + self.size // 4)
        await self._rest(took_s)
        return done

    async def _rest(self, took_s: float) -> None:
        stats = self._db.stats
        others, self._groups = stats.writer_groups - self._groups, stats.writer_groups
        rest_s = RESTS * max(took_s, stats.group_s) if others > 1 else took_s
        await asyncio.sleep(min(rest_s, MOST_REST_S))
