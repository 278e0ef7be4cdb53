"""The socket service: one instance, its connections, rooms and tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from math import ceil
from random import Random
from typing import Any

from sealwire import __version__
from sealwire.contracts.admission import SocketGateway
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import Passing, Publication
from sealwire.contracts.opened import Opened
from sealwire.contracts.revocations import Revocation
from sealwire.contracts.socket import CONVERSATION_CHANNEL
from sealwire.kit.clock import Clock
from sealwire.kit.codec import encode
from sealwire.kit.exchange import Receive, Scope, Send, trace_of
from sealwire.kit.ids import new_id
from sealwire.kit.lifespan import Probe
from sealwire.kit.problem import Problem, RateLimited, Unavailable
from sealwire.ports.bus import Bus
from sealwire.services.socket import protocol
from sealwire.services.socket.audience import Audience
from sealwire.services.socket.calls import TYPING_TOPIC, Calls, typing_heard
from sealwire.services.socket.config import SocketConfig
from sealwire.services.socket.connection import Connection, Phase
from sealwire.services.socket.desk import FrontDesk, close_of
from sealwire.services.socket.feed import Feed
from sealwire.services.socket.hub import Hub, HubStats
from sealwire.services.socket.ports import Meter, PresenceBoard, Records
from sealwire.services.socket.refusals import Refusals
from sealwire.services.socket.session import Session
from sealwire.services.socket.streams import Streams
from sealwire.services.socket.transport import EXTENSION, SocketProtocol
from sealwire.services.socket.wheel import Wheel

_LOG = logging.getLogger("sealwire.socket")
CLOSE_SLICE = 200
"""Connections told to move on before others get their turn."""


class SocketService:
    """One instance (contracts.socket.Socket). Its listener's WebSocket protocol class is `SocketProtocol`."""

    def __init__(
        self,
        *,
        instance: str,
        gateway: SocketGateway,
        messaging: Messaging,
        bus: Bus,
        presence: PresenceBoard,
        clock: Clock,
        config: SocketConfig,
        meter: Meter | None = None,
        records: Records | None = None,
        rng: Random | None = None,
    ) -> None:
        """`meter` limits what a person asks (None: no limits), `records` takes the audit records of connections."""
        self.instance = instance
        self._gateway, self._messaging = gateway, messaging
        self._bus, self._presence = bus, presence
        self._clock, self._config = clock, config
        self._meter, self._records, self._rng = meter, records, rng
        self._transport_limits, self._limits = config.transport(), config.connection()
        self._connections: dict[Connection, None] = {}
        self._closed: dict[int, int] = {}
        self._wheel = Wheel()
        self._refusals = Refusals(instance=instance, records=records, clock=clock)
        self._turning: asyncio.Task[None] | None = None
        self._draining = True

    async def start(self) -> None:
        """Take connections from now on."""
        self._hub = Hub(soon=asyncio.get_running_loop().call_soon)
        self._streams = Streams(self._hub)
        self._audience = Audience(self._hub, most_conversations=self._config.unread_conversations)
        self._calls = Calls(
            messaging=self._messaging, presence=self._presence, bus=self._bus, clock=self._clock, meter=self._meter
        )
        self._feed = Feed(
            messaging=self._messaging,
            wanted=lambda: bool(self._hub),
            publication=self._published,
            passing=self._passed,
            went_back=self._went_back,
            rng=self._rng,
        )
        self._desk = FrontDesk(
            instance=self.instance,
            version=f"sealwire {__version__}",
            gateway=self._gateway,
            messaging=self._messaging,
            hub=self._hub,
            streams=self._streams,
            audience=self._audience,
            feed=self._feed,
            calls=self._calls,
            presence=self._presence,
            clock=self._clock,
            config=self._config,
            records=self._records,
            watch=self._watch,
            ended=self._ended,
        )
        self._unsubscribe = self._bus.subscribe(TYPING_TOPIC, self._typing)
        self._feed.start()
        self._turning = asyncio.create_task(self._wheel.run(self._clock.monotonic), name=f"{self.instance}-wheel")
        self._draining = False

    async def drain(self) -> None:
        """Take no new connections, let calls in work finish, then tell every client to come back elsewhere."""
        if self._draining:
            return
        self._draining = True
        await self._calls.stop(self._config.drain_s)
        for number, connection in enumerate(tuple(self._connections)):
            connection.close(protocol.SHUTDOWN)
            if number % CLOSE_SLICE == CLOSE_SLICE - 1:
                await asyncio.sleep(0)

    async def stop(self) -> None:
        """Drain, and end what runs in the background."""
        await self.drain()
        self._refusals.tell()
        if self._turning is not None:
            self._unsubscribe()
            self._turning.cancel()
            await asyncio.gather(self._turning, return_exceptions=True)
            self._turning = None
            await self._feed.stop()
            await self._calls.stop(0)

    def checks(self) -> Mapping[str, Probe]:
        """What this instance depends on."""
        return {"messaging_feed": self._feed.check}

    @property
    def stats(self) -> HubStats:
        """Counts of the hub."""
        return self._hub.stats()

    @property
    def closed_by_code(self) -> Mapping[int, int]:
        """How many connections ended with each close code."""
        return self._closed

    # -- handshakes

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an opening handshake (ASGI, policy `first_frame`), and give the socket a connection."""
        await receive()
        waiting = len(self._connections) - len(self._hub) if not self._draining else 0
        full = len(self._connections) >= self._config.max_connections or waiting >= self._config.max_unauthenticated
        wire = scope["extensions"].get(EXTENSION)
        if self._draining or full or wire is None:
            await self._refuse(scope, send, Unavailable("This instance takes no more connections for the moment."))
            return
        try:
            handshake = self._gateway.enter(scope, self.instance)
        except RateLimited as problem:
            await self._refuse(scope, send, problem)
            return
        except Problem as problem:  # told by a close code: a browser's script can't see an HTTP status
            close = close_of(problem)
            self._refusals.note(scope, self._gateway.address(scope), problem.code, close.code)
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": close.code, "reason": close.reason})
            return
        attached = False
        try:
            await send({"type": "websocket.accept", "subprotocol": handshake.subprotocol or None})
            attached = self._adopt(wire, Session(handshake))
        finally:
            if not attached and handshake.seat is not None:
                handshake.seat.leave()

    async def _refuse(self, scope: Scope, send: Send, problem: Problem) -> None:
        """Answer a handshake with a problem document: full, stopping, or an address over its limits."""
        self._refusals.note(scope, self._gateway.address(scope), problem.code, problem.status)
        body = encode(problem.document(instance=scope["path"], trace_id=trace_of(scope["headers"])))
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"retry-after", b"%d" % ceil(problem.retry_after_s or 1)),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})

    def _adopt(self, wire: SocketProtocol, session: Session) -> bool:
        """Give an accepted socket a connection; False when it is gone already."""
        now_s = self._clock.monotonic()
        connection = Connection(
            id_=new_id(),
            wire=wire,
            desk=self._desk,
            limits=self._limits,
            now_s=now_s,
            write=wire.transport.write,
        )
        connection.session = session
        if not wire.attach(connection, self._transport_limits, held_bytes=len(session.handshake.token)):
            return False
        self._connections[connection] = None
        self._watch(connection)
        return True

    def _watch(self, connection: Connection) -> None:
        self._wheel.add(connection, connection.due_s)

    def _ended(self, connection: Connection, code: int) -> None:
        self._connections.pop(connection, None)
        self._closed[code] = self._closed.get(code, 0) + 1

    # -- what the boundary, messaging and other instances tell

    def changed(self, change: Revocation) -> None:
        """Tell a person's sockets of a change to their sessions or role; those that it ended are closed by now."""
        if not self._draining:
            self._audience.changed(change)

    def opened(self, login: Opened) -> int:
        """Tell a person's other sessions that one was opened; return how many sockets heard it."""
        return 0 if self._draining else self._audience.opened(login)

    def _published(self, publication: Publication) -> None:
        kind = publication.kind
        if kind == "member.left":
            self._revoke(publication, self._hub.of_user(publication.tenant_id, publication.subject_id))
        if not self._streams.publish(publication):
            _LOG.error("the stream of a conversation has a hole at offset %d", publication.offset)
            self._resubscribe(publication)
        if kind == "message.created":
            self._audience.message(publication)
        elif kind.startswith("member."):
            self._audience.member(publication)
        elif kind == "conversation.removed":
            self._audience.removed(publication)
            channel = CONVERSATION_CHANNEL + publication.conversation_id
            self._revoke(publication, self._hub.room((publication.tenant_id, channel)))

    def _revoke(self, publication: Publication, members: tuple[Any, ...]) -> None:
        """End subscriptions of those who may not read the conversation any more."""
        channel = CONVERSATION_CHANNEL + publication.conversation_id
        for connection in members:
            if connection.listens(channel) and connection.session.tenant_id == publication.tenant_id:
                connection.revoke(channel, protocol.UNSUBSCRIBED_BY_SERVER, "no longer a member")

    def _resubscribe(self, publication: Publication) -> None:
        channel = CONVERSATION_CHANNEL + publication.conversation_id
        for connection in self._hub.room((publication.tenant_id, channel)):
            assert isinstance(connection, Connection)
            connection.revoke(channel, protocol.RESUBSCRIBE, "insufficient state")

    def _passed(self, receipt: Passing) -> None:
        key = (receipt.tenant_id, CONVERSATION_CHANNEL + receipt.conversation_id)
        self._streams.pass_by(key, bytes(receipt.data))

    def _went_back(self) -> None:
        """Messaging was restored from a backup: every client looks where its streams stand now."""
        for connection in tuple(self._connections):
            if connection.phase is Phase.OPEN:
                connection.close(protocol.INSUFFICIENT_STATE)

    def _typing(self, payload: bytes) -> None:
        key, data = typing_heard(payload)
        self._streams.pass_by(key, data)
