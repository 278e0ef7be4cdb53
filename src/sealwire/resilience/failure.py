"""Verdicts: which outcomes speak against a dependency, and which calls may be sent again."""

from __future__ import annotations

from sealwire.kit.operation import Repeat
from sealwire.kit.problem import DeadlineExceeded, Problem, Retry, SessionUnconfirmed, Unavailable


class CircuitOpen(Unavailable):
    """A part this needs failed too often and is being left alone until `Retry-After`."""

    code, title = "circuit_open", "A part this needs is out for the moment"


class Overloaded(Unavailable):
    """Too many calls wait for one part already; this one was not sent."""

    code, title = "overloaded", "Too many calls at once"


class Unreachable(Unavailable):
    """No connection to the part came about; nothing was sent."""

    code, title = "unreachable", "A part this needs can't be reached"


class TimedOut(DeadlineExceeded):
    """The part did not answer in the time that is normal for it (the request's own deadline had time left)."""


def is_failure(error: Exception) -> bool:
    """Whether the outcome speaks against the dependency.

    A problem below 500 is an answer of a healthy service. Our own refusals (full queue, a breaker further in) and a
    session that can't be confirmed say nothing about it. All else (5xx, timeouts, broken connections, bugs) does.
    """
    if isinstance(error, Problem):
        return error.status >= 500 and not isinstance(error, (CircuitOpen, Overloaded, SessionUnconfirmed))
    return True


def may_repeat(error: Exception, repeat: Repeat) -> bool:
    """Whether the call may be sent again after this error (R7.2): nothing that could then happen twice.

    A breaker that is open and a full queue are refusals of ours: asking again at once would defeat them.
    """
    if isinstance(error, (CircuitOpen, Overloaded)):
        return False
    if isinstance(error, Unreachable):
        return True
    if repeat is Repeat.NEVER:
        return False
    if isinstance(error, Problem):
        return error.retry is not Retry.NEVER
    return isinstance(error, (ConnectionError, TimeoutError))
