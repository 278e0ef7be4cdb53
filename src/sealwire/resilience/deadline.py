"""Deadline: the time by which the work for one request must be done, ambient for all it calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from sealwire.kit.clock import Clock
from sealwire.kit.problem import DeadlineExceeded

_AT_S: ContextVar[float | None] = ContextVar("sealwire_deadline_s", default=None)


def begin(timeout_s: float, clock: Clock) -> Token[float | None]:
    """Set the deadline `timeout_s` from now, or leave an earlier one standing. End it with `end`.

    The pair is for edges that handle many requests; elsewhere `within` reads better.
    """
    at_s = clock.monotonic() + timeout_s
    outer = _AT_S.get()
    return _AT_S.set(at_s if outer is None or at_s < outer else outer)


def end(token: Token[float | None]) -> None:
    """Restore the deadline that stood before `begin`."""
    _AT_S.reset(token)


@contextmanager
def within(timeout_s: float, clock: Clock) -> Iterator[None]:
    """Do the block's work by `timeout_s` from now, or by the deadline around it, whichever is sooner."""
    token = begin(timeout_s, clock)
    try:
        yield
    finally:
        _AT_S.reset(token)


@contextmanager
def without() -> Iterator[None]:
    """Do the block's work on its own time: for what several callers share."""
    token = _AT_S.set(None)
    try:
        yield
    finally:
        _AT_S.reset(token)


def at_s() -> float | None:
    """Return the deadline on the monotonic clock, or None."""
    return _AT_S.get()


def remaining_s(clock: Clock) -> float | None:
    """Return the seconds left (negative when it is past), or None without a deadline."""
    at = _AT_S.get()
    return None if at is None else at - clock.monotonic()


def check(clock: Clock) -> None:
    """Raises: DeadlineExceeded when the deadline is past."""
    at = _AT_S.get()
    if at is not None and clock.monotonic() >= at:
        raise DeadlineExceeded


def bounded_s(timeout_s: float, clock: Clock) -> float:
    """Return `timeout_s` or what is left of the deadline, whichever is less. Raises: DeadlineExceeded."""
    at = _AT_S.get()
    if at is None:
        return timeout_s
    left_s = at - clock.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded
    return left_s if left_s < timeout_s else timeout_s
