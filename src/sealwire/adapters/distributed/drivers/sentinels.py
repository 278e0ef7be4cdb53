"""Sentinels: who is the primary now, by the word of most of them.

All are asked at once, so one that hangs costs nothing, and one that was cut off and tells of yesterday's primary is
outvoted as long as most of the others can be heard.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from sealwire.adapters.distributed.drivers.cache_address import Place
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.cache import CacheFault

_LOG = logging.getLogger("sealwire.cache")
_WHO: Final = "SENTINEL GET-MASTER-ADDR-BY-NAME"


class Asked(Protocol):
    """A driver of one sentinel. It ends every call in time."""

    async def call(self, *words: str) -> Any: ...

    async def aclose(self) -> None: ...


class Sentinels:
    """Asks for the primary on behalf of many connections, once for all who want to know."""

    def __init__(self, *, drivers: Sequence[Asked], name: str) -> None:
        self._drivers = tuple(drivers)
        self._name = name
        self._asking: asyncio.Task[Place] | None = None
        self._known: Place | None = None

    async def primary(self) -> Place:
        """Return the address of the primary. Raises: CacheFault when no sentinel tells one."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="sentinels")
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    async def aclose(self) -> None:
        """Close every connection. Safe to call twice."""
        if self._asking is not None:
            await cancel_and_wait(self._asking)
        for driver in self._drivers:
            await driver.aclose()

    def _asked(self, task: asyncio.Task[Place]) -> None:
        self._asking = None
        if task.cancelled() or task.exception() is not None:
            return  # whoever waits hears of it
        found = task.result()
        if self._known is not None and found != self._known:
            _LOG.warning("the cache's primary is %s:%d now; it was %s:%d", *found, *self._known)
        self._known = found

    async def _ask(self) -> Place:
        """Return what more than half of all say, or what most say of those that answer."""
        votes: Counter[Place] = Counter()
        tasks = [asyncio.create_task(self._hear(driver.call)) for driver in self._drivers]
        try:
            for done in asyncio.as_completed(tasks):
                place = await done
                if place is not None:
                    votes[place] += 1
                    if votes[place] * 2 > len(tasks):
                        return place
        finally:
            for task in tasks:
                task.cancel()
        if not votes:
            raise CacheFault(f"no sentinel tells which server is {self._name!r}")
        return votes.most_common(1)[0][0]

    async def _hear(self, call: Callable[..., Awaitable[Any]]) -> Place | None:
        """Return what one sentinel says; None when it says nothing of use."""
        try:
            host, port = await call(_WHO, self._name)
            return (host.decode(), port) if isinstance(host, bytes) and type(port) is int else None
        except (CacheFault, TypeError, ValueError):
            return None
