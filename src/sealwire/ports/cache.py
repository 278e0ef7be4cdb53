"""The shared cache: what several processes remember together and may lose at any time.

Nothing here is an authority. Whoever reads a value checks what it says against what it knows for sure (known
revocations, for sessions), and a value that protects something is sealed by its writer.

May not differ between families:
- `get` returns what the last `put` of that key stored, or None; never a value past its time to live.
- A write is seen by all processes once it returned. Writes of one caller to one key keep their order.
- Losing values (a restart, memory pressure) is allowed; inventing or resurrecting them by itself is not. A cache that
  comes back from a snapshot may hold old values: readers must expect them.
- Every call ends within the adapter's timeout, with a result or `CacheFault`.

Embedded: a dictionary in the process; under the split form the supervisor serves it over a Unix socket.
Redis, Valkey: `GET`, `SET key value PX ttl`, `DEL`, `SET … NX PX`, and a Lua script of `INCR` + `PEXPIRE` for
`increment`, through a `BlockingConnectionPool` with connect and read timeouts; keys carry the installation's prefix.
"""

from __future__ import annotations

from typing import Protocol

MAX_KEY_CHARS = 512
MAX_VALUE_BYTES = 1024 * 1024


class CacheFault(ConnectionError):
    """The cache did not answer, or not in time. Nothing is known of what became of a write."""


class SharedCache(Protocol):
    """Values by key, each with a time to live in seconds. The module's text states the promises."""

    async def get(self, key: str) -> bytes | None:
        """Return the value. Raises: CacheFault."""

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Store the value for `ttl_s`. Raises: CacheFault; ValueError for a key, value or time out of bounds."""

    async def add(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        """Store the value unless there is one; True for exactly one of several callers. Raises: as `put`."""

    async def delete(self, key: str) -> None:
        """Remove the value; one that is not there is no fault. Raises: CacheFault."""

    async def increment(self, key: str, *, ttl_s: float) -> int:
        """Add one to a counter and return it; the first increment starts its time to live. Raises: as `put`."""

    async def check(self) -> None:
        """Raises: CacheFault when the cache does not work."""
