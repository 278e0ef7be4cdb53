"""The bus over a Redis or Valkey stream. Its promises: ports/bus.py.

One bounded stream per installation. A process reads on from where it stopped, so a connection that breaks for a moment
loses nothing; what is older than `LATE_S` by then is passed over, for nobody wants to know who typed a minute ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.adapters.embedded.bus import InProcessBus
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.bus import Handler
from sealwire.ports.cache import CacheFault
from sealwire.resilience.backoff import full_jitter

_LOG = logging.getLogger("sealwire.bus")
LATE_S: Final = 5
WAIT_MS: Final = 1000
STREAM_LENGTH: Final = 8192
MAX_QUEUED: Final = 1024
BATCH: Final = 128
Position = tuple[int, int]


class RedisBus:
    """Delivers here at once, and to the other processes through the stream, at most once each."""

    def __init__(self, *, driver: RedisDriver, reader: RedisDriver, rng: Random) -> None:
        """`reader` has patience of at least a second: it waits for news."""
        self._driver = driver
        self._reader = reader
        self._rng = rng
        self._stream = driver.key("bus")
        self._origin = os.urandom(8)
        self._local = InProcessBus()
        self._queue: deque[tuple[str, bytes]] = deque(maxlen=MAX_QUEUED)
        self._waiting = asyncio.Event()
        self._position: Position | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.dropped = 0
        """What was said here and could not be passed on."""

    async def start(self) -> None:
        """Begin to pass on and to listen. An engine that is away is no reason not to start."""
        with contextlib.suppress(CacheFault):
            await self._settle()
        self._tasks = [
            asyncio.create_task(self._pass_on(), name="bus-pass-on"),
            asyncio.create_task(self._listen(), name="bus-listen"),
        ]

    async def stop(self) -> None:
        """Stop. Safe to call twice."""
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)

    def publish(self, topic: str, payload: bytes) -> None:
        self._local.publish(topic, payload)
        if len(self._queue) == MAX_QUEUED:
            self.dropped += 1
        self._queue.append((topic, payload))
        self._waiting.set()

    def subscribe(self, topic: str, handler: Handler) -> Callable[[], None]:
        return self._local.subscribe(topic, handler)

    # -- out

    async def _pass_on(self) -> None:
        failures = 0
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                try:
                    await self._driver.pipeline([self._entry(topic, payload) for topic, payload in batch])
                    failures = 0
                except CacheFault:
                    # Whether it arrived is unknown; saying it again could be twice.
                    self.dropped += len(batch)
                    await asyncio.sleep(self._pause_s(failures))
                    failures += 1

    def _entry(self, topic: str, payload: bytes) -> tuple[bytes | str | int, ...]:
        return ("XADD", self._stream, "MAXLEN", "~", STREAM_LENGTH, "*", "o", self._origin, "t", topic, "p", payload)

    # -- in

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                if failures or self._position is None:
                    await self._settle()
                await self._read()
                failures = 0
            except CacheFault:
                await asyncio.sleep(self._pause_s(failures))
                failures += 1
            except Exception:
                _LOG.exception("the bus can't be read")
                await asyncio.sleep(1)
                failures += 1

    async def _settle(self) -> None:
        """Find where to read on: from the newest entry at first; later from where it stopped, but nothing late."""
        time, newest = await self._driver.pipeline([("TIME",), ("XREVRANGE", self._stream, "+", "-", "COUNT", 1)])
        last = _position(newest[0][0]) if newest else (0, 0)
        if self._position is None or self._position > last:
            self._position = last  # also when the engine lost what it held, or its clock went back
        else:
            self._position = max(self._position, ((int(time[0]) - LATE_S) * 1000, 0))

    async def _read(self) -> None:
        assert self._position is not None
        after = f"{self._position[0]}-{self._position[1]}"
        found = await self._reader.call("XREAD", "COUNT", 256, "BLOCK", WAIT_MS, "STREAMS", self._stream, after)
        for _, entries in found or ():
            for entry_id, fields in entries:
                self._position = _position(entry_id)
                self._hear(fields)

    def _hear(self, fields: Any) -> None:
        """Deliver an entry of another process; what is not one of ours in shape is passed over."""
        if not isinstance(fields, dict) or fields.get(b"o") == self._origin:
            return
        topic, payload = fields.get(b"t"), fields.get(b"p")
        if isinstance(topic, bytes) and isinstance(payload, bytes):
            with contextlib.suppress(ValueError):
                self._local.publish(topic.decode(), payload)

    def _pause_s(self, failures: int) -> float:
        return full_jitter(min(failures, 10), base_s=0.05, cap_s=1.0, rng=self._rng)


def _position(entry_id: Any) -> Position:
    """Read an entry's id. Raises: CacheFault for what is none."""
    try:
        ms, _, number = entry_id.decode().partition("-")
        return int(ms), int(number)
    except (AttributeError, ValueError) as error:
        raise CacheFault("an entry of the bus has no id") from error
