"""Vigil: an answer that takes long is given only as long as its caller may have it (R6.7).

Whoever asked for an export, a download or a stream is authenticated and checked again while it runs, with the
credential that came with the request. So it ends with the session, the role, the token, whichever is first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from sealwire.kit.caller import Caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.operation import Policy
from sealwire.kit.problem import Problem, SessionUnconfirmed, Unavailable

_LOG = logging.getLogger("sealwire.http")


class Vigil:
    """Looks at answers under way."""

    def __init__(self, end: Callable[[Exchange, Problem], None]) -> None:
        """`end` breaks an answer off."""
        self._end = end
        self._task: asyncio.Task[None] | None = None

    def look(self, exchanges: Iterable[Exchange]) -> None:
        """Begin to look at those whose answer has begun, unless the look before is still under way."""
        begun = [exchange for exchange in exchanges if _is_bound(exchange)]
        if begun and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._look(begun), name="answers-under-way")

    async def _look(self, begun: list[Exchange]) -> None:
        for exchange in begun:
            try:
                route = exchange.route
                found = route.authenticate(exchange, route.policy)
                route.check(found if isinstance(found, Caller) else await found)
            except SessionUnconfirmed as problem:
                self._end(exchange, problem)
            except Unavailable:
                continue  # it can't be told for the moment, and the next look comes soon
            except Problem as problem:
                self._end(exchange, problem)
            except Exception:
                _LOG.exception("an answer under way could not be looked at")


def _is_bound(exchange: Exchange) -> bool:
    """Whether a person's credential bears the answer. What a service asks for, that service watches over."""
    caller: Caller | None = exchange.caller
    return (
        bool(exchange.status) and caller is not None and not caller.service and exchange.route.policy is Policy.CALLER
    )
