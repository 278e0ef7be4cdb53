"""Runs jobs to their end: each in a task of its own, a few at a time, taken up again after a start or a failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Final

from msgspec.structs import replace

from sealwire.contracts.custody import OwnersOnly
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.users import EmailTaken, LastOwner
from sealwire.kit.clock import Clock
from sealwire.kit.problem import Invalid, NotFound, Problem
from sealwire.kit.tasks import cancel_and_wait
from sealwire.resilience.backoff import full_jitter
from sealwire.services.compliance.events import job_event
from sealwire.services.compliance.job_ports import RightsStore, StoredJob

Run = Callable[[StoredJob], Awaitable[StoredJob]]
HOPELESS: Final = (LastOwner, OwnersOnly, EmailTaken, Invalid, NotFound)
"""What no repetition changes."""
_log = logging.getLogger("sealwire.compliance")


class JobRunner:
    """One task per unfinished job; `at_once` of them work, the others wait for their turn."""

    def __init__(
        self, *, store: RightsStore, clock: Clock, rng: Random, at_once: int, retry_base_s: float, retry_cap_s: float
    ) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        self._turn = asyncio.Semaphore(at_once)
        self._base_s = retry_base_s
        self._cap_s = retry_cap_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, Run] = {}
        self._open = False

    def register(self, kind: str, run: Run) -> None:
        """Say how jobs of a kind are done."""
        self._runs[kind] = run

    async def start(self) -> None:
        """Take up every job that is unfinished."""
        self._open = True
        for job in await self._store.unfinished():
            self.begin(job)

    async def stop(self) -> None:
        """Stop working; what is unfinished goes on with the next start."""
        self._open = False
        tasks = list(self._tasks.values())
        await cancel_and_wait(*tasks)

    def begin(self, job: StoredJob) -> None:
        """Work on a job, unless it is worked on."""
        if self._open and not job.finished and job.job_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._work(job), name=f"gdpr-{job.kind}")
            self._tasks[job.job_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(job.job_id, None))

    async def end(self, job_id: str) -> None:
        """Stop working on a job, if it is worked on."""
        await cancel_and_wait(self._tasks.get(job_id))

    async def settled(self, job_id: str) -> None:
        """Wait until nothing is done about a job any more."""
        while (task := self._tasks.get(job_id)) is not None:
            await asyncio.wait({task})

    async def _work(self, job: StoredJob) -> None:
        attempt = 0
        while True:
            async with self._turn:
                stored = await self._current(job)
                if stored is None or stored.finished:
                    return
                try:
                    await self._runs[job.kind](replace(stored, status="running", problem=None))
                    return
                except HOPELESS as error:
                    await self._fail(stored, error)
                    return
                except Exception as error:
                    await self._note(job, error)
            await asyncio.sleep(full_jitter(attempt, base_s=self._base_s, cap_s=self._cap_s, rng=self._rng))
            attempt = min(attempt + 1, 16)

    async def _current(self, job: StoredJob) -> StoredJob | None:
        """Return the job as stored; the one at hand while the store doesn't answer."""
        try:
            return await self._store.job(job.tenant_id, job.job_id)
        except Problem:
            return job

    async def _note(self, job: StoredJob, error: Exception) -> None:
        """Say what a job waits for; it is tried again."""
        held = isinstance(error, LegalHold)
        if not isinstance(error, Problem):
            _log.exception("a job met what it should not")
        with suppress(Problem):
            stored = await self._store.job(job.tenant_id, job.job_id)
            if stored is not None:
                told = error.code if isinstance(error, Problem) else "internal"
                await self._store.save(replace(stored, status="blocked" if held else "running", problem=told))

    async def _fail(self, job: StoredJob, error: Problem) -> None:
        now_us = self._clock.now_us()
        stored = await self._store.job(job.tenant_id, job.job_id) or job
        failed = replace(stored, status="failed", problem=error.code, finished_us=now_us, box=None)
        event = job_event(f"gdpr.{job.kind}.failed", failed, at_us=now_us, actor="", problem=error.code)
        await self._store.save(failed, [event])
