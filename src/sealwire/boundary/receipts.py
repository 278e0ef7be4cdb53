"""Receipts: when each authentication change was applied where, and how long that took."""

from __future__ import annotations

from collections import OrderedDict, deque

import msgspec

from sealwire.contracts.opened import Opened
from sealwire.contracts.revocations import Revocation
from sealwire.kit.clock import Clock

Change = Revocation | Opened


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A change came into force at one boundary. `took_us`: since it was stored in auth. `fault`: empty when it did.

    `sockets` is how many open ones it ended or authorised anew there; of a login, how many were told of it.
    """

    at_us: int
    took_us: int
    sockets: int = 0
    fault: str = ""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one change, by boundary. `caught_up`: it was made before this process was there to apply it."""

    change_id: str
    number: int
    kind: str
    at_us: int
    applied: dict[str, Applied]
    caught_up: bool = False


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How long changes took to come into force at one boundary, in milliseconds, of the last ones."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Receipts:
    """The last receipts, and the distribution of the times in them."""

    def __init__(self, *, clock: Clock, kept: int = 1_000) -> None:
        self._clock = clock
        self._kept = kept
        self._receipts: OrderedDict[str, Receipt] = OrderedDict()
        self._times_us: dict[str, deque[int]] = {}
        self._began_us = clock.now_us()

    def open(self, change: Change) -> None:
        """Begin the receipt of a change; one that is known goes on."""
        if change.change_id not in self._receipts:
            self._receipts[change.change_id] = Receipt(
                change_id=change.change_id,
                number=change.number,
                kind=change.kind,
                at_us=change.at_us,
                applied={},
                caught_up=change.at_us < self._began_us,
            )
            if len(self._receipts) > self._kept:
                self._receipts.popitem(last=False)

    def note(self, change: Change, where: str, fault: str = "", *, sockets: int = 0) -> None:
        """Note that a change came into force at `where`, or why it did not.

        Two kinds have no part in the distribution: the self-test's, which have no number, and those that a process
        catches up on after its start: it served nobody while they were on their way.
        """
        now_us = self._clock.now_us()
        took_us = max(now_us - change.at_us, 0)
        receipt = self._receipts.get(change.change_id)
        if receipt is not None:
            receipt.applied[where] = Applied(at_us=now_us, took_us=took_us, sockets=sockets, fault=fault)
        if change.number and not fault and change.at_us >= self._began_us:
            self._times_us.setdefault(where, deque(maxlen=self._kept)).append(took_us)

    def of(self, change_id: str) -> Receipt | None:
        """Return the receipt of a change, if it is among the last ones."""
        return self._receipts.get(change_id)

    def latest(self, limit: int) -> list[Receipt]:
        """Return the newest receipts, newest first."""
        return [receipt for _, receipt in zip(range(limit), reversed(self._receipts.values()), strict=False)]

    def spread(self) -> dict[str, Spread]:
        """Return the distribution by boundary."""
        return {where: _spread(sorted(times)) for where, times in self._times_us.items() if times}


def _spread(times_us: list[int]) -> Spread:
    last = len(times_us) - 1
    return Spread(
        count=len(times_us),
        p50_ms=times_us[last // 2] / 1000,
        p99_ms=times_us[last * 99 // 100] / 1000,
        max_ms=times_us[last] / 1000,
    )
