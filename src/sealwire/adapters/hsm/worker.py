"""A key provider's end of the worker: starts the process, asks it in turn, notices its death, ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from typing import Final

import msgspec

from sealwire.adapters.hsm.endings import END_S, Endings
from sealwire.adapters.hsm.wire import LENGTH, MOST_BYTES, Answer, Fault, Opening, Request, framed

MODULE: Final = "sealwire.adapters.hsm.drivers.pkcs11_worker"
START_S: Final = 10.0
"""What the start of the interpreter may take."""
OPEN_S: Final = 5.0
"""What loading the library and logging in may take, when answers have to come sooner."""
_decode = msgspec.msgpack.Decoder(Answer).decode


class WorkerLost(Exception):
    """The worker is gone, or said what is out (`fault`) and ended."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault: Fault = fault


class WorkerSilent(WorkerLost):
    """It gave no answer in time, and was ended for it: a fresh one would wait as long."""


class Worker:
    """A process that holds a token's session. For one event loop; `ask` may be called by many tasks at once."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        sock: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        endings: Endings,
    ) -> None:
        """Use `start`."""
        self._process = process
        self._endings = endings
        self._sock = sock
        self._reader = reader
        self._writer = writer
        self._waiting: deque[asyncio.Future[Answer]] = deque()
        self._lost: WorkerLost | None = None
        self._reading: asyncio.Task[None] | None = None
        self.fingerprint = b""

    @classmethod
    async def start(cls, opening: Opening, *, timeout_s: float, endings: Endings) -> Worker:
        """Start the process and let it log in; `endings` see it off. Raises: WorkerLost, which says what is out."""
        ours, theirs = socket.socketpair()
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("SEALWIRE_") and value != opening.pin
        }
        with theirs:
            process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own module; a fork takes milliseconds
                [sys.executable, "-m", MODULE, str(theirs.fileno())],
                env=env, stdin=subprocess.DEVNULL, stdout=sys.__stderr__, pass_fds=(theirs.fileno(),),
            )  # fmt: skip
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            endings.see_off(process)
            raise
        worker = cls(process, ours, reader, writer, endings)
        worker._reading = asyncio.get_running_loop().create_task(worker._read(), name="pkcs11-worker")
        try:
            await worker._answer(START_S)  # it is there; what follows is the library's and the token's time
            worker.fingerprint = (await worker._ask(opening, max(timeout_s, OPEN_S))).data
        except BaseException:
            worker._lose(WorkerLost("session", "the start was given up"))
            raise
        return worker

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it may be asked."""
        return self._lost is None

    async def ask(self, request: Request, *, timeout_s: float) -> Answer:
        """Return its answer. Raises: WorkerLost when it ended; WorkerSilent, it is ended then, after `timeout_s`."""
        return await self._ask(request, timeout_s)

    async def _ask(self, message: msgspec.Struct, timeout_s: float) -> Answer:
        if self._lost is not None:
            raise WorkerLost(self._lost.fault, str(self._lost))
        self._writer.write(framed(message))
        return await self._answer(timeout_s)

    async def _answer(self, timeout_s: float) -> Answer:
        """Await the next answer that nobody waits for yet. Raises: WorkerLost, WorkerSilent."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(answer)
        except TimeoutError:
            silent = WorkerSilent("session", f"the token did not answer within {timeout_s:g} s")
            self._lose(silent)
            raise silent from None

    def close(self) -> None:
        """Let it log out and end; it is killed when it doesn't within a second. Returns at once. Safe to call twice."""
        self._lose(WorkerLost("session", "the key provider has been closed"), grace_s=END_S)

    async def _read(self) -> None:
        """Hand each answer to who waits for it, until the worker is gone."""
        lost = WorkerLost("session", "the process that holds the token's session died")
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, msgspec.DecodeError):
            while True:
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                if length > MOST_BYTES:
                    break
                answer = _decode(await self._reader.readexactly(length))
                if answer.fault is not None:
                    lost = WorkerLost(answer.fault, answer.detail)
                    break
                waiting = self._waiting.popleft()
                if not waiting.done():
                    waiting.set_result(answer)
        self._lose(lost)

    def _lose(self, lost: WorkerLost, *, grace_s: float = 0.0) -> None:
        """Tell all who wait; nobody is answered by this worker any more, and it ends."""
        if self._lost is not None:
            return
        self._lost = lost
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # at once; closing the stream takes a turn of the loop
        self._writer.close()
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(WorkerLost(lost.fault, str(lost)))
                waiting.exception()  # seen, also when nobody waits any more
        self._waiting.clear()
        self._endings.see_off(self._process, grace_s=grace_s)
