"""Tasks in the background: how they are ended."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

_LOG = logging.getLogger("sealwire.tasks")


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until all have ended; None stands for one that was not begun.

    What one of them failed with is logged, since nobody else would hear of it, and keeps nothing from ending. Raises:
    CancelledError only when whoever waits here is cancelled.
    """
    begun = [task for task in tasks if task is not None]
    for task in begun:
        task.cancel()
    for task, result in zip(begun, await asyncio.gather(*begun, return_exceptions=True), strict=True):
        if isinstance(result, Exception):
            _LOG.error("the task %s had failed", task.get_name(), exc_info=result)
