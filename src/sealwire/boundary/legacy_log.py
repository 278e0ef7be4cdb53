"""Legacy log: tells auth which legacy tokens are used, a few seconds late; on the path of a request it is one entry."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from sealwire.boundary.model import VerifiedToken
from sealwire.contracts.legacy import Legacy, LegacyUse, LegacyUses
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.problem import Problem
from sealwire.kit.tasks import cancel_and_wait

MAX_WAITING: Final = 10_000
_BATCH: Final = 1_000


class LegacyLog:
    """Notes uses of tokens that auth has resolved to a person. What can't be told stays for the next time."""

    def __init__(self, *, auth: Legacy, clock: Clock, service: str = "gateway", every_s: float = 10.0) -> None:
        self._auth = auth
        self._clock = clock
        self._caller = service_caller(service, SYSTEM_TENANT)
        self._every_s = every_s
        self._waiting: dict[str, LegacyUse] = {}
        self._task: asyncio.Task[None] | None = None
        self.noted = 0
        self.dropped = 0

    def note(self, token: VerifiedToken) -> None:
        """Note a use; past a bound new tokens are dropped and counted."""
        if token.session_id not in self._waiting and len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self.noted += 1
        self._waiting[token.session_id] = LegacyUse(
            tenant_id=token.tenant_id,
            session_id=token.session_id,
            user_id=token.subject,
            kid=token.kid,
            expires_at_s=token.expires_at_s,
            at_s=self._clock.now_us() // US_PER_S,
        )

    async def start(self) -> None:
        """Begin to tell."""
        self._task = asyncio.create_task(self._run(), name="legacy-log")

    async def stop(self) -> None:
        """Tell what is left. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)
            await self.flush()

    async def flush(self) -> None:
        """Tell auth now."""
        while self._waiting:
            batch = dict(list(self._waiting.items())[:_BATCH])
            try:
                await self._auth.note_legacy(self._caller, LegacyUses(items=list(batch.values())))
            except (Problem, ConnectionError, TimeoutError):
                return
            for session_id, use in batch.items():
                if self._waiting.get(session_id) is use:
                    del self._waiting[session_id]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            with contextlib.suppress(Exception):
                await self.flush()
