"""Presence in Redis or Valkey (services/socket/ports.py): a hash per channel, kept up by whoever entered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Final

from sealwire.adapters.distributed.drivers.redis import RedisDriver, Word
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.cache import CacheFault
from sealwire.services.socket.hub import RoomKey

LIFE_S: Final = 60
RENEW_S: Final = 20
GATHER_S: Final = 0.05
BATCH: Final = 256
MAX_CHANGES: Final = 100_000
MAX_ENTRY_BYTES: Final = 1_024
"""Of a name or a value: ours are ids and a time."""
Entry = tuple[RoomKey, str]


class RedisPresence:
    """Knows its own entries for sure; tells the engine of them, and asks it for those of others."""

    def __init__(self, *, driver: RedisDriver, clock: Clock, rng: Random) -> None:
        self._driver = driver
        self._clock = clock
        self._rng = rng
        self._own: dict[RoomKey, dict[str, str]] = {}
        self._changes: dict[Entry, None] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to write what changes and to renew what stays."""
        self._tasks = [
            asyncio.create_task(self._write_on(), name="presence-write"),
            asyncio.create_task(self._renew_on(), name="presence-renew"),
        ]

    async def stop(self) -> None:
        """Stop; entries that are left go by their time. Safe to call twice."""
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)

    def enter(self, place: RoomKey, client_id: str, user_id: str) -> None:
        self._own.setdefault(place, {})[client_id] = user_id
        self._note(place, client_id)

    def leave(self, place: RoomKey, client_id: str) -> None:
        clients = self._own.get(place)
        if clients is None or clients.pop(client_id, None) is None:
            return
        if not clients:
            del self._own[place]
        self._note(place, client_id)

    async def who(self, place: RoomKey) -> Mapping[str, str]:
        own = self._own.get(place, {})
        try:
            stored = await self._driver.call("HGETALL", self._key(place))
        except CacheFault:
            return dict(own)
        found: dict[str, str] = {}
        now_s = self._clock.now_us() // US_PER_S
        if isinstance(stored, dict):
            for field, value in stored.items():
                client_id, user_id = _read(field, value, now_s)
                if user_id and not self._left(place, client_id):
                    found[client_id] = user_id
        return found | own

    def _left(self, place: RoomKey, client_id: str) -> bool:
        """Whether a client left here and the engine has not been told yet."""
        return (place, client_id) in self._changes and client_id not in self._own.get(place, ())

    def _note(self, place: RoomKey, client_id: str) -> None:
        if len(self._changes) < MAX_CHANGES:  # past that the engine is out for long: entries go by their time
            self._changes[place, client_id] = None
        self._changed.set()

    async def _write_on(self) -> None:
        pause_s = GATHER_S
        while True:
            await self._changed.wait()
            await asyncio.sleep(pause_s)
            self._changed.clear()
            try:
                while self._changes:
                    await self._write(list(self._changes)[:BATCH])
                pause_s = GATHER_S
            except CacheFault:
                pause_s = self._rng.uniform(0.5, 1.0)
                self._changed.set()

    async def _renew_on(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            for place, clients in list(self._own.items()):
                for client_id in clients:
                    self._note(place, client_id)

    async def _write(self, entries: list[Entry]) -> None:
        """Write the state that these entries have now. Raises: CacheFault; they are written again then."""
        until_s = self._clock.now_us() // US_PER_S + LIFE_S
        commands: list[tuple[Word, ...]] = []
        told: list[tuple[Entry, str | None]] = []
        for place, client_id in entries:
            user_id = self._own.get(place, {}).get(client_id)
            told.append(((place, client_id), user_id))
            if user_id is None:
                commands.append(("HDEL", self._key(place), client_id))
            else:
                commands.append(("HSET", self._key(place), client_id, f"{until_s} {user_id}"))
                commands.append(("EXPIRE", self._key(place), 2 * LIFE_S))
        await self._driver.pipeline(commands)
        for (place, client_id), user_id in told:
            if self._own.get(place, {}).get(client_id) == user_id:
                self._changes.pop((place, client_id), None)

    def _key(self, place: RoomKey) -> str:
        return self._driver.key(f"presence:{place[0]}:{place[1]}")


def _read(field: object, value: object, now_s: int) -> tuple[str, str]:
    """Return the client and the user of an entry that is not over; nobody for one that is, or is none of ours."""
    if not isinstance(field, bytes) or not isinstance(value, bytes) or max(len(field), len(value)) > MAX_ENTRY_BYTES:
        return "", ""
    until, _, user_id = value.partition(b" ")
    try:
        return (field.decode(), user_id.decode()) if int(until) > now_s else ("", "")
    except ValueError:
        return "", ""
