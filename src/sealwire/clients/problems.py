"""Problem documents back into problems, so that a remote refusal is the same exception as a local one."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sealwire.kit.problem import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    Internal,
    Invalid,
    Malformed,
    NotFound,
    Problem,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

_BY_STATUS: dict[int, type[Problem]] = {
    400: Malformed,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMedia,
    422: Invalid,
    429: RateLimited,
    503: Unavailable,
    504: DeadlineExceeded,
}
_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code", "retry", "trace_id"})
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class BadAnswer(Unavailable):
    """A part answered what its contract does not allow."""

    code, title = "bad_answer", "A part this needs answers wrongly"


def read_problem(status: int, body: bytes, retry_after_s: float | None) -> Problem:
    """Return the problem a service answered with: by its `code`, else by the status."""
    try:
        members = _decode(body)
        code, detail = _text(members["code"]), _text(members["detail"])
        extra = {name: msgspec.json.decode(raw) for name, raw in members.items() if name not in _MEMBERS}
    except (msgspec.MsgspecError, KeyError, RecursionError):
        code, detail, extra = "", "", {}
    kind = _known(code, status) or _BY_STATUS.get(status)
    if kind is None:
        kind = Internal if status == 500 else BadAnswer
    # Not through the class's own __init__, whose arguments may differ.
    problem = kind.__new__(kind)
    Problem.__init__(problem, detail, retry_after_s=retry_after_s, **extra)
    return problem


def _known(code: str, status: int) -> type[Problem] | None:
    """Find the class that stands for the code: those of the kit and of every contract that is loaded."""
    for kind in _kinds(Problem):
        if kind.__dict__.get("code") == code and kind.status == status:
            return kind
    return None


def _kinds(root: type[Problem]) -> Iterator[type[Problem]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)
