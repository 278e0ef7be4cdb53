"""A TCP proxy on loopback that misbehaves on demand: what a network, or a sick server, does to a connection.

It runs on a loop and thread of its own, so that the faults go on whatever the code under test does to its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any, Final

CHUNK_BYTES: Final = 64 * 1024


class Fault(StrEnum):
    """What the proxy does."""

    NONE = "none"
    """Passes everything on."""
    REFUSE = "refuse"
    """Resets open connections and every new one, as when the server is gone."""
    BLACK_HOLE = "black_hole"
    """Half-open: connections stand, new ones are accepted, not a byte comes back."""
    LATENCY = "latency"
    """Answers come `latency_s` late."""
    WRONG = "wrong"
    """Answers are not the protocol's."""
    SWAPPED = "swapped"
    """Answers are well-formed and not the ones asked for."""


_GARBAGE: Final = {
    Fault.WRONG: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\x00\xff\r\n",
    Fault.SWAPPED: b"$9\r\nsomething\r\n",
}


class FaultProxy:
    """Stands on 127.0.0.1 between a client and `target_port` of `host`. Use as a context manager."""

    def __init__(self, target_port: int, *, host: str = "127.0.0.1", listen_port: int = 0) -> None:
        """`listen_port` 0: any."""
        self._target_port = target_port
        self._host = host
        self._listen_port = listen_port
        self._fault = Fault.NONE
        self._latency_s = 0.0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self.port = 0
        self.connections = 0
        """Connections accepted so far."""

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._server: asyncio.Server = self._run(asyncio.start_server(self._serve, "127.0.0.1", self._listen_port))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def set(self, fault: Fault, *, latency_s: float = 0.0) -> None:
        """Misbehave like this from now on; connections that stood through a fault end with it."""
        self._run(self._set(fault, latency_s))

    async def _set(self, fault: Fault, latency_s: float) -> None:
        before, self._fault, self._latency_s = self._fault, fault, latency_s
        if fault is Fault.REFUSE or before in (Fault.BLACK_HOLE, *_GARBAGE):
            self._reset_all()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _reset_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        self._reset_all()
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        there: asyncio.StreamWriter | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            if self._fault is Fault.REFUSE:
                return
            if self._fault is Fault.NONE or self._fault is Fault.LATENCY:
                back, there = await asyncio.open_connection(self._host, self._target_port)
                self._open.add(there)
                pumps = [asyncio.create_task(self._answers(back, writer))]
            pumps.append(asyncio.create_task(self._questions(reader, there, writer)))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            return  # the proxy closes, or the server is gone: so is this connection
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, there):
                if end is not None:
                    self._open.discard(end)
                    end.transport.abort()

    async def _questions(
        self, reader: asyncio.StreamReader, there: asyncio.StreamWriter | None, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while asked := await reader.read(CHUNK_BYTES):
                if (garbage := _GARBAGE.get(self._fault)) is not None:
                    writer.write(garbage)
                elif there is not None and self._fault is not Fault.BLACK_HOLE:
                    there.write(asked)
                    await there.drain()

    async def _answers(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while answer := await back.read(CHUNK_BYTES):
                if self._fault is Fault.LATENCY:
                    await asyncio.sleep(self._latency_s)
                if self._fault is Fault.NONE or self._fault is Fault.LATENCY:
                    writer.write(answer)
                    await writer.drain()
