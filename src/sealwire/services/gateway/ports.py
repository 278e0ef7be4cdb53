"""What the gateway asks of storage: a place where records of requests wait until compliance has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from sealwire.contracts.compliance import AuditEntry


class Place(msgspec.Struct, frozen=True, order=True):
    """Where in the spool reading goes on: a segment's number, and the byte and frame in it."""

    segment: int
    offset: int = 0
    frame: int = 0


class SpoolFiles(Protocol):
    """A queue of records on this machine's own disk, on every family: it must outlast everything behind a network.

    Durable: what `append` returned for is there after a crash. Ordered. Sealed: no readable byte of a record on disk.
    Authenticated: a frame that was changed, moved or taken out of the middle is found; what follows it in its segment
    is set aside and counted as lost. A torn end (a crash while writing) loses only what was not acknowledged.
    `append` waits for the disk and is called from one thread at a time.
    """

    def open(self) -> Place:
        """Open what is there, begin a new segment, and return where reading starts."""

    def append(self, entries: Sequence[AuditEntry]) -> None:
        """Store entries at the end; durable on return. Raises: OSError, after which nothing of them is stored."""

    def read(self, place: Place) -> tuple[Sequence[AuditEntry], Place] | None:
        """Return the frame at `place` and where the next one is; None at the end of what is stored.

        A damaged segment ends early; `lost` then counts it.
        """

    def forget(self, before: Place) -> None:
        """Delete every segment that ends before this place."""

    def rotate(self) -> None:
        """Begin a new segment, so that the one before can be forgotten once it was read."""

    @property
    def size_bytes(self) -> int:
        """How much is stored."""

    @property
    def lost(self) -> int:
        """How many segments were found damaged."""

    def close(self) -> None:
        """Let go of the files."""
