"""`sealwire drill proxy`: stands between an installation and its cache, and misbehaves while a drill asks it to.

Nothing that breaks things is in the installation itself: whoever means to drill it names the proxy as `[cache] url`. It
is told what to do over a Unix socket that only the user who started it can open, and goes back to passing everything on
as soon as that connection ends: a drill that is killed leaves nothing broken behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from sealwire.cli.terminal import why
from sealwire.testing.faults import Fault, FaultProxy

DEFAULT_PORT: Final = 6379
ANSWER_TIMEOUT_S: Final = 10.0
MOST_LINE_BYTES: Final = 4_096


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy is asked to do, until told otherwise or the connection ends."""

    fault: Fault
    latency_s: float = 0.0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an order. `target` is where the cache is, as `host:port`."""

    target: str
    fault: Fault


class NoAddress(ValueError):
    """What was given is no address of a cache."""


class RemoteProxy:
    """The drill's end of the control connection: behaves as the proxy itself (`FaultProxy.set`)."""

    def __init__(self, control: Path) -> None:
        """Raises: OSError when there is no proxy, or it is another user's."""
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            self._connection.connect(os.fspath(control))
        except OSError as error:
            self._connection.close()
            raise OSError(f"--control {control}: no `sealwire drill proxy` answers there: {why(error)}") from None
        self._lines = self._connection.makefile("rb")
        self.target = self._ask(Order(fault=Fault.NONE)).target

    def set(self, fault: Fault, *, latency_s: float = 0.0) -> None:
        """Misbehave like this from now on. Raises: OSError."""
        self._ask(Order(fault=fault, latency_s=latency_s))

    def close(self) -> None:
        """Go, and leave the proxy passing everything on."""
        self._lines.close()
        self._connection.close()

    def _ask(self, order: Order) -> Told:
        self._connection.sendall(msgspec.json.encode(order) + b"\n")
        line = self._lines.readline(MOST_LINE_BYTES)
        try:
            return msgspec.json.decode(line, type=Told)
        except msgspec.DecodeError as error:
            raise ConnectionError("the proxy did not answer as it should") from error


class ControlledProxy:
    """The proxy and its control socket. One drill at a time: a second one is told nothing and turned away."""

    def __init__(self, *, target: str, listen_port: int, control: Path) -> None:
        """`target` is the cache's address. Raises: NoAddress for one without a host; it doesn't repeat it."""
        try:
            parts = urlsplit(target)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host:
            raise NoAddress("no address of a cache (redis://host:port)")
        self._host, self._port = host, port or DEFAULT_PORT
        self._proxy = FaultProxy(self._port, host=self._host, listen_port=listen_port)
        self._control = control
        self._busy = False

    async def serve(self, ready: Callable[[int], None], stop: asyncio.Event) -> None:
        """Run until `stop`; `ready` is told the port. Raises: OSError when a port or the socket can't be opened."""
        if self._control.is_socket():  # of one that was killed
            self._control.unlink()
        elif self._control.is_symlink() or self._control.exists():
            raise OSError(f"--control {self._control}: is there already, and is no socket")
        before = os.umask(0o177)  # the socket is its owner's alone from the moment it exists
        try:
            server = await asyncio.start_unix_server(self._obey, str(self._control), limit=MOST_LINE_BYTES)
        except OSError as error:
            raise OSError(f"--control {self._control}: can't be made: {why(error)}") from None
        finally:
            os.umask(before)
        try:
            with self._proxy:
                ready(self._proxy.port)
                await stop.wait()
        finally:
            server.close()
            self._control.unlink(missing_ok=True)

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._busy:
            writer.close()
            return
        self._busy = True
        try:
            while line := await reader.readline():
                order = msgspec.json.decode(line, type=Order)
                await asyncio.to_thread(self._proxy.set, order.fault, latency_s=order.latency_s)
                told = Told(target=f"{self._host}:{self._port}", fault=order.fault)
                writer.write(msgspec.json.encode(told) + b"\n")
                await writer.drain()
        except (OSError, ValueError, msgspec.DecodeError):
            pass  # it went, or said what nobody understands: the end of its order either way
        finally:
            self._busy = False
            await asyncio.to_thread(self._proxy.set, Fault.NONE)
            writer.close()


async def run_proxy(target: str, listen_port: int, control: Path, ready: Callable[[int], None]) -> None:
    """Run the proxy until the process is asked to end. Raises: ValueError, OSError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await ControlledProxy(target=target, listen_port=listen_port, control=control).serve(ready, stop)
