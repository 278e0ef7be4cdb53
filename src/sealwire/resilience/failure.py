"""Verdicts: which outcomes speak against a dependency, and which calls may be sent again."""

from __future__ import annotations

from sealwire.kit.operation import Repeat
from sealwire.kit.problem import DeadlineExceeded, PartOut, Problem, Retry, SessionUnconfirmed, Unavailable


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

    Timeouts, broken connections and unavailability do. A problem below 500 is an answer of a healthy service; our own
    refusals (full queue, a breaker further in), a part that only some calls need, and a session that can't be confirmed
    say nothing about it. Nor does a bug (500, or any other exception): it speaks of one input, and whoever found that
    input could otherwise shut the part for everybody by sending it again and again.
    """
    if isinstance(error, Problem):
        return error.status > 500 and not isinstance(error, (CircuitOpen, Overloaded, PartOut, SessionUnconfirmed))
    return isinstance(error, OSError)


def may_repeat(error: Exception, repeat: Repeat) -> bool:
    """Whether the call may be sent again after this error (R7.2): nothing that could then happen twice.

    A breaker that is open and a full queue are refusals of ours: asking again at once would defeat them. A part that is
    out is being looked after by the one that was asked.
    """
    if isinstance(error, (CircuitOpen, Overloaded, PartOut)):
        return False
    if isinstance(error, Unreachable):
        return True
    if repeat is Repeat.NEVER:
        return False
    if isinstance(error, Problem):
        return error.retry is not Retry.NEVER
    return isinstance(error, (ConnectionError, TimeoutError))
