"""Counters of the running minute: our own, and what other processes counted, as last heard of them.

A storage of the library `limits`. Minutes are the wall clock's, so that processes mean the same one; the table is
dropped when a new one begins, so it can't grow for long. Nothing here waits: what is shared is exchanged on the side
(`limit_exchange`). While nothing is heard, each own request counts for every process that was last known: all of them
together stay within the limit, whatever the others do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from limits.storage import Storage

from sealwire.kit.clock import US_PER_S, Clock

WINDOW_S: Final = 60
FRESH_S: Final = 1.0
"""What was heard longer ago than this is a floor only."""


class MinuteCounts(Storage):
    """One event loop's. `members` is how many processes share the counters, itself included."""

    STORAGE_SCHEME = None

    def __init__(self, *, clock: Clock, members: int = 1) -> None:
        """`members` stands until something is heard: 1 for a process that shares with nobody."""
        super().__init__()
        self._clock = clock
        self._monotonic = clock.monotonic
        self.members = members
        self.shared = False
        self.minute = 0
        self._heard: dict[str, int] = {}
        self._unsent: dict[str, int] = {}
        self._sending: dict[str, int] = {}
        self._ends_s = 0.0
        self._fresh_until_s = 0.0

    # -- what `limits` asks

    @property
    def base_exceptions(self) -> type[Exception]:
        return RuntimeError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self.count(key, amount)

    def count(self, key: str, amount: int = 1) -> int:
        """Count and return how many there are: `incr` without what the library puts around it, for every request."""
        now_s = self._monotonic()
        if now_s >= self._ends_s:
            self._turn(now_s)
        own = self._unsent[key] = self._unsent.get(key, 0) + amount
        return own if not self.shared else self._total(key, own, now_s)

    def get(self, key: str) -> int:
        now_s = self._monotonic()
        if now_s >= self._ends_s:
            self._turn(now_s)
        own = self._unsent.get(key, 0)
        return own if not self.shared else self._total(key, own, now_s)

    def get_expiry(self, key: str) -> float:
        return float((self._clock.now_us() // US_PER_S // WINDOW_S + 1) * WINDOW_S)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        self._ends_s = 0.0
        return None

    def clear(self, key: str) -> None:
        self._unsent.pop(key, None)
        self._heard.pop(key, None)

    # -- what the exchange asks

    @property
    def fresh(self) -> bool:
        """Whether the others were heard of a moment ago."""
        return self._monotonic() < self._fresh_until_s

    def take(self, most: int) -> tuple[int, Mapping[str, int]]:
        """Return the minute and what was counted in it since the last time, to be told to the others."""
        now_s = self._monotonic()
        if now_s >= self._ends_s:
            self._turn(now_s)
        if not self._sending:
            unsent = self._unsent
            if len(unsent) <= most:
                self._sending, self._unsent = unsent, {}
            else:
                self._sending = {key: unsent.pop(key) for key in list(unsent)[:most]}
        return self.minute, self._sending

    def hear(self, minute: int, totals: Sequence[int], members: int) -> None:
        """Take the answer to what was told: everybody's totals of these keys.

        Of a key nobody asks for here, nothing is heard: its next request brings it up to date.
        """
        self.shared = True
        self.members = max(members, 1)
        self._fresh_until_s = self._monotonic() + FRESH_S
        if minute == self.minute:
            self._heard.update(zip(self._sending, totals, strict=True))
        self._sending = {}

    def give_up(self) -> None:
        """What was told was not answered; it counts as ours until it is told again.

        Whether it was counted is not known; it is told again, so a limit may be met early and never late.
        """
        self.shared = True
        for key, amount in self._sending.items():
            self._unsent[key] = self._unsent.get(key, 0) + amount
        self._sending = {}

    # -- inside

    def _total(self, key: str, own: int, now_s: float) -> int:
        own += self._sending.get(key, 0)
        if now_s >= self._fresh_until_s:
            own *= self.members
        return own + self._heard.get(key, 0)

    def _turn(self, now_s: float) -> None:
        now_us = self._clock.now_us()
        self.minute = now_us // (WINDOW_S * US_PER_S)
        self._ends_s = now_s + (WINDOW_S - now_us / US_PER_S % WINDOW_S)
        self._unsent = {}
        self._heard.clear()
        self._sending = {}
