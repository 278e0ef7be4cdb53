"""A WebSocket client of the Centrifugo protocol for tests: small, blunt, and patient only up to a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

PATIENCE_S = 40.0


class Wire:
    """One connection. Replies are matched by id; everything pushed is kept in `pushes`, in order."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url.replace("http://", "ws://") + "/ws"
        self._options = options
        self._next_id = 0
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._changed = asyncio.Event()
        self.pushes: list[dict[str, Any]] = []
        self.close_code: int | None = None

    async def __aenter__(self) -> Wire:
        self._socket: ClientConnection = await connect(self._url, max_size=None, **self._options)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._reader

    async def _read(self) -> None:
        try:
            async for text in self._socket:
                for line in str(text if isinstance(text, str) else text.decode()).split("\n"):
                    if line.strip():
                        await self._take(msgspec.json.decode(line))
        except ConnectionClosed:
            pass
        self.close_code = self._socket.close_code
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError(f"closed with {self.close_code}"))
        self._changed.set()

    async def _take(self, frame: dict[str, Any]) -> None:
        if not frame:
            await self._socket.send("{}")
        elif "id" in frame:
            waiting = self._replies.pop(frame["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(frame)
        else:
            self.pushes.append(frame["push"])
            self._changed.set()

    def post(self, **command: Any) -> asyncio.Future[dict[str, Any]]:
        """Send a command without waiting. Returns the future of its whole reply."""
        self._next_id += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[self._next_id] = future
        text = msgspec.json.encode({"id": self._next_id, **command}).decode()
        self._sending = asyncio.ensure_future(self._socket.send(text))
        return future

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its whole reply."""
        return await asyncio.wait_for(self.post(**command), PATIENCE_S)

    async def connect(self, token: str) -> dict[str, Any]:
        """Authenticate by first frame. Returns the reply's `connect` (or `error`)."""
        reply = await self.ask(connect={"token": token})
        return dict(reply.get("connect") or reply)

    async def subscribe(self, conversation_id: str, **position: Any) -> dict[str, Any]:
        """Subscribe to a conversation. Returns the reply's `subscribe` (or the whole reply with its `error`)."""
        reply = await self.ask(subscribe={"channel": f"conversation:{conversation_id}", **position})
        return dict(reply.get("subscribe") or reply)

    async def rpc(self, method: str, **data: Any) -> dict[str, Any]:
        """Call a method. Returns its data, or the whole reply with its `error`."""
        reply = await self.ask(rpc={"method": method, "data": data})
        return dict(reply["rpc"]["data"]) if "rpc" in reply else reply

    def publications(self, conversation_id: str) -> list[dict[str, Any]]:
        """Return what was published there so far: `{offset, data}`."""
        channel = f"conversation:{conversation_id}"
        return [push["pub"] for push in self.pushes if push.get("channel") == channel and "pub" in push]

    async def until(self, seen: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
        """Wait until it is so. Raises: TimeoutError with what was pushed so far."""
        async with asyncio.timeout(within_s):
            while not seen():
                self._changed.clear()
                await self._changed.wait()

    async def closed(self, within_s: float = PATIENCE_S) -> int | None:
        """Wait until the server closed the connection. Returns the close code."""
        await asyncio.wait_for(asyncio.shield(self._reader), within_s)
        return self.close_code
