"""One listening port: an ASGI app behind uvicorn, started and stopped by us rather than by signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import uvicorn

from sealwire.runtime.http_protocol import BoundedHttp, sweep_all

BACKLOG = 2048
ACCEPTED_AT_ONCE = 16
"""Connections taken in one turn of the loop. libuv accepts one a turn and listener (since 1.45, libuv issue 3696):
with turns of 30 ms under load, of a thousand people who come back at once the last would wait for half a minute."""
TICK_S = 0.5
KEEP_ALIVE_S = 75


class PortTaken(Exception):
    """The port can't be listened on; the text says which and what to do."""


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises: PortTaken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise PortTaken(f"{host}:{port} can't be opened ({error.strerror})") from None
    sock.setblocking(False)
    return sock


class Server:
    """Serves one app on one socket."""

    def __init__(
        self,
        *,
        app: Any,
        sock: socket.socket,
        http: type[BoundedHttp],
        websocket: type[asyncio.Protocol] | None,
        grace_s: float = 5.0,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=http,
            ws=websocket if websocket is not None else "none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(grace_s),
            ws_max_size=1024 * 1024,
            ws_per_message_deflate=False,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._sock = sock
        self._listeners: list[socket.socket] = []
        self._ticker: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        name = self._sock.getsockname()
        return int(name[1])

    async def start(self) -> None:
        """Accept connections from now on."""
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.on_tick(0)
        self._listeners = [self._sock, *(self._sock.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]
        await self._server.startup(sockets=self._listeners)
        self._ticker = asyncio.create_task(self._tick(), name=f"http-date-{self.port}")

    async def stop(self) -> None:
        """Accept no more, let requests in flight finish within the grace, then close what is left."""
        if self._ticker is None:
            self._sock.close()
            return
        self._ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticker
        self._ticker = None
        await self._server.shutdown(sockets=self._listeners)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self._server.on_tick(0)
            sweep_all(self._server.server_state.connections)
