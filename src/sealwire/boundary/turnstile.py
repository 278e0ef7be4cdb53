"""Turnstile: how many sockets come in, wait and stay, per address and per person (R6.4).

It stands before the boundary's WebSocket gateway, so it counts what reaches any socket instance of this process, by any
port. Who is over a limit is refused; nobody who is inside is put out for somebody new: an attacker with a stolen token
could else lock its owner out, and a client that comes back in a loop would throw out the good one.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sealwire.contracts.admission import ConnectionLimit
from sealwire.kit.clock import Clock
from sealwire.kit.forwarded import network_of
from sealwire.kit.problem import RateLimited

WINDOW_S: Final = 60.0
COME_BACK_S: Final = 5.0
"""What waits unauthenticated is gone after this time, so a place is free by then."""


class SocketLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one process (boundary/config.py says what each means)."""

    per_user: int
    per_address: int
    waiting_per_address: int
    handshakes_per_minute: int


class Seat:
    """One socket's place: waiting for its credential, then taken, then left (contracts.admission.Seat)."""

    __slots__ = ("_place", "_turnstile", "_waiting")

    def __init__(self, turnstile: Turnstile, place: str) -> None:
        self._turnstile: Turnstile | None = turnstile
        self._place = place
        self._waiting = True

    def take(self) -> None:
        """The socket is authenticated."""
        if self._waiting and self._turnstile is not None:
            self._waiting = False
            self._turnstile.count(self._place, waiting=-1)

    def leave(self) -> None:
        """The socket is gone. Safe to call twice."""
        turnstile, self._turnstile = self._turnstile, None
        if turnstile is not None:
            turnstile.count(self._place, inside=-1, waiting=-1 if self._waiting else 0)


class _Address:
    """What one address has."""

    __slots__ = ("inside", "waiting")

    def __init__(self) -> None:
        self.inside = self.waiting = 0


class Turnstile:
    """Counts by address; `limits` None counts only."""

    def __init__(self, *, limits: SocketLimits | None, clock: Clock) -> None:
        self._limits = limits
        self._monotonic = clock.monotonic
        self._addresses: dict[str, _Address] = {}
        self._knocks: dict[str, int] = {}
        self._until_s = 0.0
        self.waiting = self.inside = 0
        self.refused: dict[str, int] = {"handshakes": 0, "waiting": 0, "address": 0, "user": 0}

    def knock(self, ip: str) -> str:
        """Count a handshake of an address and return its place. Raises: RateLimited, ConnectionLimit."""
        place = network_of(ip)
        limits = self._limits
        if limits is None:
            return place
        now_s = self._monotonic()
        if now_s >= self._until_s:
            self._until_s = now_s + WINDOW_S
            self._knocks.clear()
        knocks = self._knocks[place] = self._knocks.get(place, 0) + 1
        if knocks > limits.handshakes_per_minute:
            self.refused["handshakes"] += 1
            raise RateLimited(
                f"More than {limits.handshakes_per_minute} handshakes in a minute.",
                retry_after_s=max(self._until_s - now_s, 1.0),
            )
        found = self._addresses.get(place)
        if found is not None:
            if found.waiting >= limits.waiting_per_address:
                self.refused["waiting"] += 1
                raise RateLimited(
                    f"{found.waiting} sockets of this address have not authenticated yet.", retry_after_s=COME_BACK_S
                )
            if found.inside >= limits.per_address:
                self.refused["address"] += 1
                raise ConnectionLimit(f"This address has {found.inside} sockets open.", retry_after_s=COME_BACK_S)
        return place

    def enter(self, place: str) -> Seat:
        """Give a socket that was let through its place."""
        self.count(place, inside=1, waiting=1)
        return Seat(self, place)

    def check_person(self, sockets: int) -> None:
        """Raises: ConnectionLimit when somebody with so many sockets may have no other."""
        if self._limits is not None and sockets >= self._limits.per_user:
            self.refused["user"] += 1
            raise ConnectionLimit(f"You have {sockets} sockets open.")

    def count(self, place: str, *, inside: int = 0, waiting: int = 0) -> None:
        """Add to what an address has."""
        found = self._addresses.get(place)
        if found is None:
            found = self._addresses[place] = _Address()
        found.inside += inside
        found.waiting += waiting
        self.inside += inside
        self.waiting += waiting
        if not found.inside:
            del self._addresses[place]

    def details(self) -> dict[str, Any]:
        """Return figures for health answers."""
        return {
            "open": self.inside,
            "unauthenticated": self.waiting,
            "addresses": len(self._addresses),
            "refused_by_limit": dict(self.refused),
            "limits": None if self._limits is None else msgspec.structs.asdict(self._limits),
        }
