"""The bare server of benchmarks/fanout.py: our transport, protocol and hub, with nothing stored and nobody checked."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec
import uvicorn
import uvloop

from sealwire.kit.ids import new_id
from sealwire.services.socket import protocol
from sealwire.services.socket.hub import Hub, RoomKey
from sealwire.services.socket.transport import EXTENSION, SocketProtocol, TransportLimits

ROOM: RoomKey = ("tenant", "room")


class Said(msgspec.Struct):
    """What a client wants told to everybody."""

    body: str


class Event(msgspec.Struct):
    """What everybody gets."""

    type: str
    message_id: str
    body: str
    at_ms: int


class Listener:
    """One client: the sink of its socket and a member of the room."""

    __slots__ = ("_server", "_wire", "live", "missed", "rooms", "write")

    def __init__(self, wire: SocketProtocol, server: BareServer) -> None:
        self._wire, self._server = wire, server
        self.live, self.missed = True, False
        self.rooms: set[RoomKey] = set()
        self.write = wire.transport.write

    def received(self, payload: bytes) -> None:
        for command in protocol.decode_commands(payload):
            if command.rpc is not None:
                self._server.tell(command.rpc.data)
                self._wire.reply(protocol.encode_rpc(command.id, b""))

    def stalled(self) -> None:
        self.live = False

    def drained(self) -> bool:
        self.live = True
        return not self.missed

    def lost(self, code: int) -> None:
        self._server.hub.unregister(self)


class BareServer:
    """Accepts everybody into one room."""

    def __init__(self) -> None:
        self.hub = Hub(soon=asyncio.get_running_loop().call_soon)
        self._decode = msgspec.json.Decoder(Said).decode
        self._encode = msgspec.json.Encoder().encode

    def tell(self, data: msgspec.Raw) -> None:
        """Publish an event made of what was said."""
        said = self._decode(data)
        event = Event("message.created", new_id(), said.body, time.time_ns() // 1_000_000)
        self.hub.publish(ROOM, protocol.publication_frame("room", protocol.encode_publication(self._encode(event))))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        await receive()
        await send({"type": "websocket.accept"})
        wire: SocketProtocol = scope["extensions"][EXTENSION]
        listener = Listener(wire, self)
        if wire.attach(listener, TransportLimits(backlog_bytes=8 * 1024 * 1024)) and scope["path"] == "/listen":
            self.hub.join(ROOM, listener)


async def main() -> None:
    """Serve on $PORT until stopped."""
    config = uvicorn.Config(
        BareServer(), port=int(os.environ["PORT"]), http="httptools", ws=SocketProtocol, lifespan="off",
        interface="asgi3", log_config=None, access_log=False,
    )  # fmt: skip
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(main())
