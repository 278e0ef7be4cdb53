"""Which message a request made: the newest in memory, all others in an index that is written in bulk.

A request's key is a hash, so every insert into an index of them dirties a page of its own: that one page cost as much
as the rest of a message together (13 of 23 µs, and three quarters of the bytes synced). So keys are not indexed with
their message. They are held in memory, and carried into the index some thousand at a time, in its order. What was not
carried over when the process ended is found again by the events after `requests_position`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial

import apsw
import msgspec

from sealwire.adapters.embedded.drivers.pace import Pace
from sealwire.adapters.embedded.drivers.sqlite import Database, fetch, fetch_value
from sealwire.kit.ids import new_id
from sealwire.services.messaging.events import KIND_NUMBER

CARRY_AT = 4_096
CHUNK = 512
LOOKED_AT_ONCE = 5_000
_log = logging.getLogger("sealwire.messaging")
_LOAD = (
    "SELECT m.request_key, m.key FROM event e JOIN message m ON m.key = (e.stream >> 32 << 32 | e.seq)"
    f" WHERE e.position > ? AND e.kind = {KIND_NUMBER['message.created']}"
)
_BEGIN = f"{-(1 << 63)}:-1"
# The last of some marks above a place, and those up to it that lead nowhere, as one value: made without the GIL.
_UPTO = "SELECT mark, key FROM request WHERE (mark, key) > (?, ?) ORDER BY mark, key LIMIT 1 OFFSET ?"
_STALE = (
    "SELECT json_group_array(json_array(r.mark, r.key)) FROM request r LEFT JOIN message m ON m.key = r.key"
    " WHERE (r.mark, r.key) > (?, ?) AND (r.mark, r.key) <= (?, ?) AND (m.key IS NULL OR m.request_key = x'')"
)
_END = ((1 << 63) - 1, (1 << 63) - 1)
_SWEPT = "SELECT value FROM meta WHERE name = 'requests_swept'"
_read_marks = msgspec.json.Decoder(list[tuple[int, int]]).decode
_CANDIDATES = (
    "SELECT m.request_key, m.key FROM json_each(?) j JOIN request r ON r.mark = j.value JOIN message m ON m.key = r.key"
)


class RequestIndex:
    """From request keys to keys of messages."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._position = int(db.read("SELECT value FROM meta WHERE name = 'requests_position'")[0][0])
        self._newest = int(db.read("SELECT ifnull(max(position), 0) FROM event")[0][0])
        self._recent: dict[bytes, int] = dict(db.read(_LOAD, (self._position,)))
        self._carrying: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """The position of the event up to which all is in the index: later events are still needed."""
        return self._position

    def find(self, conn: apsw.Connection, request_keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return the messages (their keys) of those requests that were stored before. Inside a write."""
        recent = self._recent
        found = {key: recent[key] for key in request_keys if key in recent}
        marks = [mark_of(key) for key in request_keys if key not in found]
        if marks:
            wanted = set(request_keys)
            candidates = fetch(conn, _CANDIDATES, (str(marks),))
            # A mark is half of a key: another request may share it.
            found.update((key, message) for key, message in candidates if key in wanted)
        return found

    def stored(self, requests: Iterable[tuple[bytes, int]], position: int) -> None:
        """Hear, after the commit, which requests made which messages, and the position of the last one's event."""
        self._recent.update(requests)
        self._newest = position
        if len(self._recent) >= CARRY_AT:
            self._start()

    def forget(self, conn: apsw.Connection, messages: Sequence[tuple[bytes, int]]) -> None:
        """Take requests and their messages' keys out of the index. Inside a write."""
        gone = [key for key, message in messages if self._recent.get(key) == message]
        if gone:
            self._db.after_commit(partial(self._drop, gone))
        conn.executemany(
            "DELETE FROM request WHERE mark = ? AND key = ?", [(mark_of(key), message) for key, message in messages]
        )

    def forget_later(self, conn: apsw.Connection, messages: Sequence[tuple[bytes, int]]) -> None:
        """Hear that the `request_key` of these messages is emptied: nothing finds them by it then. Inside a write.

        Their marks lie all over the index: taken out one by one they would dirty a page each. `sweep` takes them out in
        the index's order, from its beginning, which has a name each time: a sweep that looked before moves nothing.
        """
        if not messages:
            return
        if gone := [key for key, message in messages if self._recent.get(key) == message]:
            self._db.after_commit(partial(self._drop, gone))
        conn.execute("REPLACE INTO meta VALUES ('requests_swept', ?)", (f"{_BEGIN}:{new_id()}",))

    async def sweep(self, pace: Pace) -> bool:
        """Take the next marks that lead nowhere out of the index; False once there are none.

        False, too, when more came meanwhile: whoever left them begins anew. So nobody sweeps without end behind others.
        They are looked for in a thread: what leads nowhere never leads anywhere again.
        """
        found = self._db.read(_SWEPT)
        if not found:
            return False
        place = str(found[0][0])
        upto, stale = await self._db.scan(partial(_look, place))
        at = 0
        while at < len(stale):
            some = stale[at : at + pace.size]
            await pace.write(partial(_delete, some))
            at += len(some)
        return await self._db.write_aside(partial(_move, place, upto))

    def _drop(self, request_keys: Sequence[bytes]) -> None:
        for key in request_keys:
            self._recent.pop(key, None)

    async def carry(self) -> None:
        """Carry what is in memory into the index now."""
        if self._recent:
            self._start()
        await self.settle()

    async def settle(self) -> None:
        """Wait for what is under way."""
        if self._carrying is not None:
            await asyncio.wait({self._carrying})

    def _start(self) -> None:
        if self._carrying is None:
            self._carrying = asyncio.get_running_loop().create_task(self._carry(), name="request-index")

    async def _carry(self) -> None:
        """Carry what is in memory into the index. Done again from the start if it fails: it changes nothing twice."""
        requests, position = list(self._recent.items()), self._newest
        rows = sorted((mark_of(key), message) for key, message in requests)
        try:
            for start in range(0, len(rows), CHUNK):
                last = position if start + CHUNK >= len(rows) else 0
                await self._db.write(partial(_insert, rows[start : start + CHUNK], last))
        except Exception as e:
            _log.warning("the index of requests will be written later: %r", e)
        else:
            self._position = position
            for key, message in requests:
                if self._recent.get(key) == message:  # else made anew meanwhile: carried the next time
                    del self._recent[key]
        finally:
            self._carrying = None


def mark_of(request_key: bytes) -> int:
    """Return the half of a request key that is indexed, as SQLite holds integers."""
    return int.from_bytes(request_key[:8], "big", signed=True)


def _look(place: str, conn: apsw.Connection) -> tuple[tuple[int, int] | None, list[tuple[int, int]]]:
    """Return up to where was looked, None for the end, and what leads nowhere. In a thread."""
    mark, key, *_ = place.split(":")
    after = (int(mark), int(key))
    upto = fetch(conn, _UPTO, (*after, LOOKED_AT_ONCE - 1))
    stale = _read_marks(fetch_value(conn, _STALE, (*after, *(upto[0] if upto else _END))))
    return (upto[0][0], upto[0][1]) if upto else None, stale


def _delete(marks: Sequence[tuple[int, int]], conn: apsw.Connection) -> None:
    conn.executemany("DELETE FROM request WHERE mark = ? AND key = ?", marks)


def _move(place: str, upto: tuple[int, int] | None, conn: apsw.Connection) -> bool:
    """Go on from there, unless `forget_later` asked for the beginning meanwhile; say whether there is more."""
    if upto is None:
        conn.execute("DELETE FROM meta WHERE name = 'requests_swept' AND value = ?", (place,))
        return False
    name = place.split(":")[2:]
    sql = "UPDATE meta SET value = ? WHERE name = 'requests_swept' AND value = ?"
    conn.execute(sql, (":".join((str(upto[0]), str(upto[1]), *name)), place))
    return conn.changes() > 0


def _insert(rows: Sequence[tuple[int, int]], position: int, conn: apsw.Connection) -> None:
    conn.executemany("INSERT OR IGNORE INTO request (mark, key) VALUES (?, ?)", rows)
    if position:
        conn.execute("UPDATE meta SET value = ? WHERE name = 'requests_position'", (str(position),))
