"""The bus: what every process hears now and nobody keeps.

For what is worthless a second later (somebody types). What must not be lost goes through a feed (ports/events.py).

- At most once: a process that is away, slow or new hears nothing of what was said meanwhile.
- Order: what one process says on one topic is heard in that order.
- The process that says it hears it too, later in the same loop iteration at the earliest.
- `publish` never waits and never fails; a payload holds ids and flags, no content, and is at most 4 KiB.

Embedded: a list of handlers in the process; under the split form the supervisor passes payloads on over a Unix socket.
Redis, Valkey: delivered here at once, and `XADD`ed to one bounded stream from a bounded queue that drops its oldest
entry while the engine is out. Each process reads the stream on from where it stopped, so a connection that breaks for a
moment loses nothing, passing over its own entries and what is older than 5 s by then; keys carry the installation's
prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

MAX_PAYLOAD_BYTES = 4096

Handler = Callable[[bytes], None]


class Bus(Protocol):
    """Says things to all processes of an installation. The module's text states the promises."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Say it. Raises: ValueError for a payload that is too long."""

    def subscribe(self, topic: str, handler: Handler) -> Callable[[], None]:
        """Call `handler` on the loop for each payload from now on; the function returned ends that."""
