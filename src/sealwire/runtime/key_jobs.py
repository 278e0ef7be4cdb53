"""Long work on keys, asked for by who holds the data folder: done in the background, told as it goes, never lost.

A job is a file; where nothing runs it waits, or the command does it itself. A move to another provider is written into
the provider's record before the first key moves, and taken out after the last: killed in between, the next start opens
both and goes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from sealwire.kit.caller import SYSTEM_TENANT, Caller, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.files import write_whole
from sealwire.kit.ids import new_id
from sealwire.kit.tasks import cancel_and_wait
from sealwire.runtime.key_provider import Place, Record, open_place, record_of, write_record
from sealwire.runtime.local_keys import LocalKeys
from sealwire.runtime.settings import Settings
from sealwire.services.crypto.provider_set import ProviderSet
from sealwire.services.crypto.providers import KekUnusable, KeyProvider
from sealwire.services.crypto.rewrapping import Progress, Tell

_LOG: Final = logging.getLogger("sealwire.keys")
LOOK_EVERY_S: Final = 0.5
TELL_EVERY_S: Final = 0.1
RETRY_S: Final = 5.0
JOB: Final = "job.json"
STATE: Final = "job.state"


class KeyJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked for."""

    job_id: str
    kind: Literal["migrate-provider", "rewrap"]
    target: Place | None = None


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """How a job stands; `error` is empty unless it ended without being done. `left`: what does not open."""

    job_id: str
    step: str
    done: int = 0
    total: int = 0
    finished: bool = False
    error: str = ""
    left: list[str] = []


class MovesKeys(Protocol):
    """What of the crypto service is needed here."""

    async def move_to(self, provider: KeyProvider, tell: Tell) -> int: ...
    async def rewrap_all(self, caller: Caller, tell: Tell) -> int: ...


def ask(data: Path, kind: Literal["migrate-provider", "rewrap"], target: Place | None = None) -> KeyJob:
    """Leave a job in the data folder, durably. Raises: OSError; FileExistsError while another one is under way."""
    path = data / "keys" / JOB
    if path.exists():
        raise FileExistsError("other work on the keys is under way; wait for its end")
    job = KeyJob(job_id=new_id(), kind=kind, target=target)
    write_whole(path, msgspec.json.encode(job))
    return job


def state(data: Path, job: KeyJob) -> JobState | None:
    """Return how a job stands; None before somebody began it."""
    try:
        found = msgspec.json.decode((data / "keys" / STATE).read_bytes(), type=JobState)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.job_id == job.job_id else None


class KeyJobs:
    """Does the jobs of a data folder, one at a time."""

    def __init__(
        self, *, settings: Settings, providers: ProviderSet, crypto: MovesKeys, local_keys: LocalKeys, clock: Clock
    ) -> None:
        self._settings = settings
        self._data = settings.data
        self._providers = providers
        self._crypto = crypto
        self._local_keys = local_keys
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._told_s = 0.0

    async def start(self) -> None:
        """Look for jobs in the background; finish a move that was cut off."""
        self._task = asyncio.create_task(self._go_on(), name="key-jobs")

    async def stop(self) -> None:
        """Stop where it is: what is left goes on after the next start. Safe to call twice."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def look(self) -> None:
        """Do the job that waits. It is taken away after it ended, so a crash repeats it. Raises: OSError."""
        path = self._data / "keys" / JOB
        try:
            job = msgspec.json.decode(path.read_bytes(), type=KeyJob)
        except FileNotFoundError:
            return
        except msgspec.DecodeError as error:
            _LOG.warning("a job on the keys can't be read: %s", error)
            path.unlink(missing_ok=True)
            return
        self._say(JobState(job_id=job.job_id, step="begun"), durably=True)
        left: list[str] = []
        try:
            moved = await self._do(job, left)
            ended = JobState(job_id=job.job_id, step="done", done=moved, total=moved, finished=True, left=left)
        except Exception as error:
            _LOG.error("work on the keys failed: %s", error)
            ended = JobState(job_id=job.job_id, step="failed", finished=True, error=str(error) or type(error).__name__)
        self._say(ended, durably=True)
        path.unlink(missing_ok=True)

    async def _go_on(self) -> None:
        while True:
            try:
                await self.look()
                pause_s = LOOK_EVERY_S if await self._finish_move() else RETRY_S
            except OSError as error:
                _LOG.warning("work on the keys can't be seen to: %s", error)
                pause_s = RETRY_S
            await asyncio.sleep(pause_s)

    async def _do(self, job: KeyJob, left: list[str]) -> int:
        def tell(progress: Progress) -> None:
            if progress.left:
                left.append(progress.left)
            if self._clock.monotonic() - self._told_s >= TELL_EVERY_S or progress.done == progress.total:
                self._told_s = self._clock.monotonic()
                self._say(
                    JobState(job_id=job.job_id, step=progress.step, done=progress.done, total=progress.total),
                    durably=False,
                )

        if job.kind == "rewrap":
            return await self._crypto.rewrap_all(service_caller("crypto", SYSTEM_TENANT), tell)
        if job.target is None:
            raise ValueError("no destination is named")
        return await self._move(job.target, tell)

    async def _move(self, target: Place, tell: Tell) -> int:
        """Move everything under the key at `target`. Raises: KekUnusable before anything changed, and others."""
        record = record_of(self._settings)
        if target == record.current and record.target is None:
            return 0
        if record.target is not None and target not in (record.current, record.target):
            raise KekUnusable(f"the keys are on their way to {record.target}; finish that first, or go back")
        provider = await self._at_hand(target)
        came_from = record.target if target == record.current and record.target else record.current
        write_record(self._data, Record(current=came_from, target=target))
        moved = await self._crypto.move_to(provider, tell)
        moved += await self._local_keys.move()
        write_record(self._data, Record(current=target))
        self._providers.keep_only(provider.kek_id)
        return moved

    async def _finish_move(self) -> bool:
        """Go on with a move that was cut off. Returns False when it has to be tried later."""
        record = record_of(self._settings)
        if record.target is None:
            return True
        try:
            await self._move(record.target, lambda progress: None)
        except Exception as error:
            _LOG.warning("the move of the keys to %s goes on later: %s", record.target, error)
            return False
        return True

    async def _at_hand(self, place: Place) -> KeyProvider:
        """Return the provider at a place: one of those that are open, or opened, and made, now."""
        provider = await open_place(place, settings=self._settings, clock=self._clock, create=True)
        if (there := self._providers.find(provider.kek_id)) is None:
            return provider
        provider.close()
        return there

    def _say(self, told: JobState, *, durably: bool) -> None:
        path = self._data / "keys" / STATE
        if durably:
            write_whole(path, msgspec.json.encode(told))
            return
        draft = path.with_suffix(".next")
        draft.write_bytes(msgspec.json.encode(told))
        draft.replace(path)


def wait(data: Path, job: KeyJob, *, begun_within_s: float, show: Tell) -> JobState | None:
    """Watch a job until it ends; None when nobody began it in time, and it is taken back. For a command."""
    deadline_s = time.monotonic() + begun_within_s
    last: JobState | None = None
    while True:
        now = state(data, job)
        if now is None and time.monotonic() > deadline_s:
            (data / "keys" / JOB).unlink(missing_ok=True)
            return None
        if now is not None and now != last:
            last = now
            if now.finished:
                return now
            show(Progress(step=now.step, done=now.done, total=now.total))
        time.sleep(TELL_EVERY_S / 2)
