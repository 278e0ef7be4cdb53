"""One thread for calls that block without the GIL (fsync, checkpoint), and the care that it isn't starved of it."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

GIVE_WAY_EVERY_S = 0.002
GIVE_WAY_FOR_S = 0.00005

Done = Callable[[Any, BaseException | None], None]


class Worker:
    """Runs calls one after another in one thread and brings each result back to the event loop.

    A busy uvloop gives the GIL away and takes it again many times per millisecond, too briefly for another thread to
    wake up in between; each of those wakes also restarts that thread's switch interval, so it may wait for hundreds of
    milliseconds (measured: 130-800 ms beside a loop that is never idle). While a call is out, the loop therefore
    sleeps for a moment every 2 ms.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, Callable[[], Any], Done] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._out = 0
        self._giving_way = False

    def run(self, loop: asyncio.AbstractEventLoop, call: Callable[[], Any], done: Done) -> None:
        """Run `call` in the thread, then `done(result, error)` on `loop`. To be called on that loop's thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._out += 1
        if not self._giving_way:
            self._giving_way = True
            loop.call_later(GIVE_WAY_EVERY_S, self._give_way, loop)
        self._calls.put((loop, call, done))

    def stop(self) -> None:
        """End the thread after the calls it was given, and wait for it."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None

    def _give_way(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._out:
            self._giving_way = False
            return
        time.sleep(GIVE_WAY_FOR_S)
        loop.call_later(GIVE_WAY_EVERY_S, self._give_way, loop)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            loop, call, done = item
            result, error = None, None
            try:
                result = call()
            except BaseException as e:  # handed to the loop: nothing is swallowed
                error = e
            try:
                loop.call_soon_threadsafe(self._finish, done, result, error)
            except RuntimeError:  # the loop was closed under us: nobody waits any more
                self._out -= 1

    def _finish(self, done: Done, result: Any, error: BaseException | None) -> None:
        self._out -= 1
        done(result, error)
