"""Patience: waiting for what has no event of its own, by looking again and again, for a bounded time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 40.0
LOOK_EVERY_S = 0.01


async def until(holds: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Return once something is so, letting others run meanwhile. Raises: AssertionError after `within_s`."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(LOOK_EVERY_S)


def until_seen(look: Callable[[], T], within_s: float = PATIENCE_S) -> T:
    """Return what is seen as soon as that is something. Raises: AssertionError after `within_s`."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(2 * LOOK_EVERY_S)
    return seen
