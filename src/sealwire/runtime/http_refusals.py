"""What a connection answers by itself: problem documents about requests of which nothing else was made."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable
from typing import Final

import httptools

from sealwire.kit.codec import encode
from sealwire.kit.exchange import trace_of
from sealwire.kit.problem import Problem

Headers = Iterable[tuple[bytes, bytes]]
_INSTANCE: Final = b'"instance":"'
_TRACE: Final = b'"trace_id":"'


class HeadTooLarge(Problem):
    """The request's headers are larger or more than allowed."""

    code, title, status = "headers_too_large", "The headers are too large", 431


class HeadTooSlow(Problem):
    """The request's headers did not arrive in time."""

    code, title, status = "headers_too_slow", "The request came too slowly", 408


class QuickProblem:
    """A problem document written beforehand, but for the request it is about."""

    __slots__ = ("after", "before", "between", "length")

    def __init__(self, document: bytes) -> None:
        """`document` names no instance and no trace. Raises: ValueError when it has no place for them."""
        before, place, rest = document.partition(_INSTANCE + b'"')
        between, other, after = rest.partition(_TRACE + b'"')
        if not place or not other:
            raise ValueError("not a problem document")
        self.before = before + _INSTANCE[:-1]
        self.between = between + _TRACE
        self.after = b'"' + after
        self.length = len(self.before) + len(self.between) + 32 + len(self.after)
        """Bytes of the document without its instance."""

    def about(self, path: str, headers: Headers) -> bytes:
        """Return the document about a request of this path, with the trace id it came with or a new one."""
        return b"%b%b%b%b%b" % (self.before, encode(path), self.between, trace_of(headers).encode(), self.after)


def document_about(kind: type[Problem], path: str, headers: Headers) -> bytes:
    """Return a problem's document about a request, as `QuickProblem` does, for those that are rare."""
    return QuickProblem(encode(kind().document())).about(path, headers)


def path_of(target: bytes) -> str:
    """Return a target's path, unquoted; empty where it has none that can be read."""
    try:
        return urllib.parse.unquote((httptools.parse_url(target).path or b"").decode("ascii"))
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        return ""
