"""Transfers under way: each is bound to a session and a membership, and ends within a second after either does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.problem import Problem, Unavailable
from sealwire.kit.tasks import cancel_and_wait

T = TypeVar("T")
_log = logging.getLogger("sealwire.media")


class Stalled(Problem):
    """Nothing moved for too long (RFC 9110 section 15.5.9)."""

    code, title, status = "transfer_stalled", "The transfer stood still for too long", 408


class Transfer:
    """One upload or download in the task that answers it. What ends it from outside is raised by `wait`."""

    def __init__(self, *, caller: Caller, conversation_id: str | None, monotonic: Callable[[], float]) -> None:
        self.caller = caller
        self.conversation_id = conversation_id
        self.ended = asyncio.Event()
        self.problem: Problem | None = None
        self._monotonic = monotonic
        self.moved_s = monotonic()
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._waiting = False

    def end(self, problem: Problem) -> None:
        """End it from outside: now if it waits for its client, else as soon as it would."""
        if self.problem is None:
            self.problem = problem
            if self._waiting and self._task is not None:
                self._task.cancel()

    async def wait(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await the client. Raises: the problem with which the transfer was ended."""
        self._raise_problem()
        self._waiting = True
        try:
            return await call(*args)
        except asyncio.CancelledError:
            if self._task is not None:
                self._raise_problem(uncancel=self._task)
            raise
        finally:
            self._waiting = False
            self.moved_s = self._monotonic()

    def _raise_problem(self, *, uncancel: asyncio.Task[Any] | None = None) -> None:
        if self.problem is not None:
            if uncancel is not None:
                uncancel.uncancel()
            raise self.problem from None


class Transfers:
    """All transfers of this process, and the task that watches over them."""

    def __init__(
        self, *, still: Callable[[Transfer], Awaitable[None]], clock: Clock, watch_s: float, stall_s: float
    ) -> None:
        """`still` raises a Problem when a transfer's caller may not go on."""
        self._still = still
        self._monotonic: Callable[[], float] = clock.monotonic
        self._watch_s = watch_s
        self._stall_s = stall_s
        self._open: set[Transfer] = set()
        self._uploads: dict[str, Transfer] = {}
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def track(
        self, caller: Caller, media_id: str, conversation_id: str | None, *, upload: bool = False
    ) -> Iterator[Transfer]:
        """Watch over the transfer that the current task does; of uploads there is one per file."""
        transfer = Transfer(caller=caller, conversation_id=conversation_id, monotonic=self._monotonic)
        self._open.add(transfer)
        if upload:
            self._uploads[media_id] = transfer
        try:
            yield transfer
        finally:
            self._open.discard(transfer)
            if self._uploads.get(media_id) is transfer:
                del self._uploads[media_id]
            transfer.ended.set()

    def upload(self, media_id: str) -> Transfer | None:
        """Return the upload that sends to a file, if there is one."""
        return self._uploads.get(media_id)

    def start(self) -> None:
        """Begin to watch."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="media-transfers")

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """End all transfers: what an upload got so far is kept, and its client resumes elsewhere."""
        task, self._task = self._task, None
        await cancel_and_wait(task)
        waiting = [transfer.ended.wait() for transfer in self._open]
        for transfer in list(self._open):
            transfer.end(Unavailable("This instance is stopping; resume in a moment."))
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await asyncio.gather(*waiting)

    async def look(self) -> None:
        """Check every transfer; end those that may not go on."""
        now_s = self._monotonic()
        for transfer in list(self._open):
            if now_s - transfer.moved_s > self._stall_s:
                transfer.end(Stalled(f"Nothing moved for {self._stall_s:g} s."))
                continue
            try:
                await self._still(transfer)
            except Unavailable:
                continue  # it can't be told for the moment, and the next look comes soon
            except Problem as problem:
                transfer.end(problem)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_s)
            try:
                await self.look()
            except Exception as error:
                _log.warning("watching over transfers failed and goes on: %r", error)
