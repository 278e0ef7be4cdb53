"""Asks a running installation for erasures, through its public API, patiently where it is busy."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from time import sleep
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from sealwire.cli.audit_live import OPENER, REMEDIES, TIMEOUT_S, Refused, broken_off, refusal
from sealwire.cli.terminal import why
from sealwire.contracts.gdpr import GdprJob, NewErasure
from sealwire.contracts.holds import Hold, Holds
from sealwire.contracts.users import User
from sealwire.kit.codec import encode

T = TypeVar("T")
PREFIX = "/api/v1"
ATTEMPTS = 10
BUSY_WAIT_S = 1.0
MOST_WAIT_S = 60.0
_BUSY = (0, 429, 502, 503, 504)
"""Statuses after which the same may be asked again; 0: there was no answer."""
_PAGE = 200


class LiveRights:
    """People's rights behind a gateway."""

    def __init__(self, url: str, token: str, *, pause: Callable[[float], None] = sleep) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._pause = pause

    def me(self) -> User:
        """Return whose token this is. Raises: Refused."""
        return self._ask("/auth/me", User)

    def holds(self) -> list[Hold]:
        """Return the legal holds of the tenant. Raises: Refused."""
        found: list[Hold] = []
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": _PAGE, **({"cursor": cursor} if cursor else {})}
            page = self._ask(f"/compliance/holds?{urlencode(query)}", Holds)
            found += page.items
            cursor = page.next_cursor
        return found

    def erase(self, erasure: NewErasure) -> GdprJob:
        """Have a person erased. Asked for twice, what is under way is answered. Raises: Refused."""
        return self._ask("/compliance/gdpr/erasures", GdprJob, encode(erasure))

    def erasure(self, job_id: str) -> GdprJob:
        """Return how far an erasure is. Raises: Refused."""
        return self._ask(f"/compliance/gdpr/erasures/{quote(job_id, safe='')}", GdprJob)

    def _ask(self, path: str, kind: type[T], content: bytes | None = None) -> T:
        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                return self._once(path, kind, content)
            except Refused as error:
                if error.status not in _BUSY or not left:
                    raise
                self._pause(min(MOST_WAIT_S, max(BUSY_WAIT_S, error.retry_after_s)))
        raise AssertionError  # the last attempt returns or raises

    def _once(self, path: str, kind: type[T], content: bytes | None) -> T:
        headers = {"authorization": f"Bearer {self._token}", "accept": "application/json"}
        if content is not None:
            headers["content-type"] = "application/json"
        name = self._url + PREFIX + path.partition("?")[0]
        request = urllib.request.Request(  # noqa: S310 - the address is the operator's own, checked before
            self._url + PREFIX + path, data=content, headers=headers
        )
        try:
            with OPENER.open(request, timeout=TIMEOUT_S) as answer:
                document: Any = answer.read()
        except urllib.error.HTTPError as error:
            raise refusal(name, error) from None
        except urllib.error.URLError as error:
            raise Refused(f"{self._url} can't be reached: {why(error)}") from None
        except (OSError, HTTPException) as error:
            raise broken_off(name, error) from None
        try:
            return msgspec.json.decode(document, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Refused(f"{name} gives something else than it should: {REMEDIES[404]}", 200) from None
