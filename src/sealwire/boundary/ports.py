"""What the boundary asks of storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from sealwire.contracts.revocations import Revocation
from sealwire.contracts.sessions import SessionState


class KnownSession(msgspec.Struct, frozen=True, tag="s", array_like=True):
    """A session as auth confirmed it. `number`: up to which entry of the revocation feed that was known, as `run` of
    auth counted them (contracts.revocations.Revocations).

    `confirmed_at_us` is wall clock time.
    """

    state: SessionState
    number: int
    confirmed_at_us: int
    run: str = ""


class KnownRevocation(msgspec.Struct, frozen=True, tag="r", array_like=True):
    """An entry of the feed."""

    revocation: Revocation


class FeedPosition(msgspec.Struct, frozen=True, tag="p", array_like=True):
    """Up to which entry the feed was applied: its number and `change_id`, and the runs of auth that counted so."""

    number: int
    last: str = ""
    runs: tuple[str, ...] = ()


class Moment(msgspec.Struct, frozen=True, tag="t", array_like=True):
    """Where the wall clock was when this was written."""

    at_us: int


JournalEntry = KnownSession | KnownRevocation | FeedPosition | Moment


class SessionJournal(Protocol):
    """What this process knew of sessions and revocations, for after a restart while nobody else can be asked.

    Durable: what `append` returned for is there after a crash. Ordered. Sealed: no readable byte of an entry on disk.
    Whole: an entry that was changed, removed from the middle or put elsewhere is never given out, nor is anything after
    it; a torn end (a crash while writing) loses only what was not acknowledged. A local file on every family: it must
    outlast the loss of everything that is reached over a network. Calls come from one thread at a time.
    """

    damaged: bool
    """Whether `load` found more than a torn end."""

    def load(self) -> Sequence[JournalEntry]:
        """Return all entries in order, and go on after the last good one."""

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Store entries at the end; durable on return. Raises: OSError."""

    def replace(self, entries: Sequence[JournalEntry]) -> None:
        """Put these entries in place of all: either the old ones or the new ones are there after a crash."""

    def close(self) -> None:
        """Let go of the file."""

    def __len__(self) -> int:
        """Return how many entries are stored."""
