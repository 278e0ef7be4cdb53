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
MOST: Final = 1_000
LEAST_STEP_S: Final = 0.001
MOST_STEP_S: Final = 0.003
SHARE: Final = 0.75
"""How long the statements of a step take, as a share of a group of writers with its commit."""
RESTS: Final = 6.0
"""How many times as long as a step, or as a group of writers, a rest is while others write."""
LONE_RESTS: Final = 1.5
"""The same while nobody writes; who only reads wants the loop too."""
MOST_REST_S: Final = 1.0


class Pace:
    """For one sweep over a file: `await pace.write(lambda conn: some(conn, pace.size))`, again and again.

    A step is done when no writer waits, or in one transaction with those that do. Its statements take three quarters
    as long as a group of writers with its commit: who comes in the middle of it waits as for other writers. Then the
    sweep rests for six times as long, or as the writers take: the slower they get, on a busy machine or a slow disk,
    the rarer its steps. With nobody writing a step is as long as one may be, and the rest half as long again.
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
        others, self._groups = stats.writer_groups - self._groups, stats.writer_groups
        busy, took_s = others > 1, stats.aside_s
        target_s = min(max(SHARE * stats.group_s, LEAST_STEP_S), MOST_STEP_S) if busy else MOST_STEP_S
        if took_s > target_s:  # once may be chance, so it is never less than half
            self.size = max(LEAST, int(self.size * max(target_s / took_s, 0.5)))
        else:
            self.size = min(self._most, self.size + self.size // 4)
        rest_s = RESTS * max(took_s, stats.group_s) if busy else LONE_RESTS * took_s
        await asyncio.sleep(min(rest_s, MOST_REST_S))
        return done
