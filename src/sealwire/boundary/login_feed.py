"""Login feed: tells the sockets of this process of every session that was opened (R6.5).

It stands apart from the revocations, in a task and with receipts of its own: whatever happens to it (auth out, hanging,
or of a version that does not know the question, a storm of logins), no revocation waits for it and nothing counts as
less fresh. Caches aren't told: nothing is kept anywhere of a session that did not exist.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from sealwire.boundary.receipts import Receipts
from sealwire.contracts.auth import Auth
from sealwire.contracts.opened import Opened, OpenedQuery
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.problem import Problem
from sealwire.kit.tasks import cancel_and_wait
from sealwire.resilience.backoff import full_jitter

_LOG = logging.getLogger("sealwire.boundary")
EVERY_S: Final = 0.5
"""So late at most is a login told of while auth answers: to ask now and then costs the same however many log in."""
SELDOM_S: Final = 10.0
TIMEOUT_S: Final = 2.0
UNKNOWN: Final = -1

Tell = Callable[[Opened], int | None]
"""Tells of a login; may answer how many open sockets heard it."""


class LoginFeed:
    """Tells each login at least once, and one that comes again no second time; from when it is started on.

    A process that was not there, or did not reach auth since its start, had no sockets that could have heard of it.
    """

    def __init__(self, *, auth: Auth, clock: Clock, rng: Random, service: str) -> None:
        self._auth = auth
        self._rng = rng
        self._caller = service_caller(service, SYSTEM_TENANT)
        self._listeners: dict[str, Tell] = {}
        self._task: asyncio.Task[None] | None = None
        self._fault = "not started"
        self.position = UNKNOWN
        self.receipts = Receipts(clock=clock)
        self.logins = 0

    def subscribe(self, name: str, tell: Tell) -> None:
        """Have every login told by `tell`, called on the loop in the order of logins."""
        self._listeners[name] = tell

    def start(self) -> None:
        """Follow auth from now on."""
        self._task = asyncio.create_task(self._follow(), name="login-feed")

    async def stop(self) -> None:
        """Stop following. Safe to call twice."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    def details(self) -> dict[str, Any]:
        """Return how it fares, with figures of its own: those of the revocations hold none of a login."""
        return {
            "position": self.position,
            "fault": self._fault,
            "told": self.logins,
            "propagation": self.receipts.spread(),
            "latest": self.receipts.latest(5),
        }

    async def _follow(self) -> None:
        failures = 0
        while True:
            pause_s = EVERY_S
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._read()
                self._fault, failures = "", 0
            except Exception as error:
                if not isinstance(error, (Problem, TimeoutError, ConnectionError)):
                    _LOG.exception("the feed of logins can't be followed")
                self._fault = error.code if isinstance(error, Problem) else type(error).__name__
                pause_s += full_jitter(failures, base_s=EVERY_S, cap_s=SELDOM_S, rng=self._rng)
                failures += 1
            await asyncio.sleep(pause_s)

    async def _read(self) -> None:
        """Read and tell of logins until the newest."""
        while True:
            answer = await self._auth.opened(self._caller, OpenedQuery(after=self.position))
            self._tell(answer.items)
            self.position = answer.upto
            if answer.upto >= answer.newest:
                return
            await asyncio.sleep(0)  # auth in this process never lets others run

    def _tell(self, logins: Sequence[Opened]) -> None:
        for login in logins:
            if self.receipts.of(login.change_id) is not None:
                continue
            self.logins += 1
            self.receipts.open(login)
            for name, tell in self._listeners.items():
                try:
                    heard = tell(login)
                except Exception as error:
                    _LOG.exception("%s can't be told of a login", name)
                    self.receipts.note(login, name, type(error).__name__)
                else:
                    self.receipts.note(login, name, sockets=heard or 0)
