"""Socket instances on ports of their own, the messaging they need, and a door that the test holds the key of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from sealwire.adapters.embedded.bus import InProcessBus
from sealwire.adapters.embedded.socket import InProcessPresence
from sealwire.contracts.admission import SUBPROTOCOL, CredentialExpired, Handshake, SessionRevoked
from sealwire.contracts.audit_log import AuditEntry
from sealwire.contracts.messaging import Messaging
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock, SystemClock
from sealwire.kit.exchange import Scope
from sealwire.kit.http import App, Edge
from sealwire.kit.problem import Problem, Unauthenticated
from sealwire.services.socket.config import SocketConfig
from sealwire.services.socket.ports import Meter
from sealwire.services.socket.routes import socket_routes
from sealwire.services.socket.service import SocketService
from sealwire.services.socket.transport import SocketProtocol
from sealwire.testing.messaging_room import MessagingRoom

ADDRESS = "192.0.2.7"


class Pass:
    """An admission (contracts.admission.Admission) that the test ends or extends."""

    def __init__(self, door: Door, caller: Caller, expires_at_s: int, ended: Callable[[Problem], None]) -> None:
        self._door, self._caller, self.ended = door, caller, ended
        self.expires_at_s = expires_at_s
        self.problem: Problem | None = None

    @property
    def caller(self) -> Caller:
        """Who is on the socket. Raises: what the test said."""
        if self.problem is not None:
            raise self.problem
        if self._door.clock.monotonic() >= self.until_s:
            raise CredentialExpired
        return self._caller

    @property
    def until_s(self) -> float:
        """When the socket is closed, in monotonic time."""
        left_s = self.expires_at_s + self._door.leeway_s - self._door.clock.now_us() / US_PER_S
        return self._door.clock.monotonic() + left_s


class Door:
    """A SocketGateway (contracts.admission) that lets in whoever holds a token of `token`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._tokens: dict[str, tuple[Caller, int]] = {}
        self.inside: list[Pass] = []
        self.leeway_s = 0.0
        self.outage: Problem | None = None

    def token(self, caller: Caller, *, expires_in_s: float = 900.0) -> str:
        """Make a token of a caller."""
        name = f"token-{len(self._tokens)}"
        self._tokens[name] = (caller, int(self.clock.now_us() / US_PER_S + expires_in_s))
        return name

    def end(self, caller: Caller, problem: Problem | None = None) -> None:
        """End every socket of the caller's session, as the boundary does."""
        for admission in list(self.inside):
            if admission._caller.principal.session_id == caller.principal.session_id:
                admission.problem = problem or SessionRevoked()
                admission.ended(admission.problem)

    def read(self, scope: Scope) -> Handshake:
        headers = dict(scope["headers"])
        offered = [offer.strip() for offer in headers.get(b"sec-websocket-protocol", b"").decode().split(",")]
        found = [offer.removeprefix("bearer.") for offer in offered if offer.startswith("bearer.")]
        if authorization := headers.get(b"authorization"):
            found.append(authorization.decode().removeprefix("Bearer "))
        if len(set(found)) > 1:
            raise Unauthenticated
        return Handshake(
            token=found[0] if found else "",
            subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else "",
            ip=ADDRESS,
            user_agent="test/1.0",
            trace_id="",
        )

    def enter(self, scope: Scope, instance: str) -> Handshake:
        return self.read(scope)

    def address(self, scope: Scope) -> str:
        return ADDRESS

    async def admit(self, handshake: Handshake, token: str, *, ended: Callable[[Problem], None]) -> Pass:
        caller, expires_at_s = self._judge(handshake.token or token)
        self.inside.append(Pass(self, caller, expires_at_s, ended))
        return self.inside[-1]

    async def renew(self, admission: Any, token: str) -> None:
        caller, expires_at_s = self._judge(token)
        if caller.principal.session_id != admission._caller.principal.session_id:
            raise Unauthenticated
        admission.expires_at_s = expires_at_s

    def release(self, admission: Any) -> None:
        if admission in self.inside:
            self.inside.remove(admission)

    def _judge(self, token: str) -> tuple[Caller, int]:
        if self.outage is not None:
            raise self.outage
        if token not in self._tokens:
            raise Unauthenticated
        if self._tokens[token][1] * US_PER_S <= self.clock.now_us():
            raise CredentialExpired
        return self._tokens[token]


class RecordList:
    """Keeps audit records for the test to read."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    def put(self, entry: AuditEntry) -> None:
        """Keep one."""
        self.entries.append(entry)


class SocketRoom:
    """Two socket instances over one messaging service, each listening on `urls[i]`."""

    def __init__(
        self,
        folder: Path,
        *,
        config: SocketConfig | None = None,
        meter: Meter | None = None,
        wiring: str = "direct",
        instances: int = 2,
    ) -> None:
        self.clock = SystemClock()
        self.config = config or SocketConfig(drain_s=0.5, close_timeout_s=0.5)
        self.door = Door(self.clock)
        self.records = RecordList()
        self.people = MessagingRoom(folder, clock=self.clock, wiring=wiring)
        self.services: list[SocketService] = []
        self.urls: list[str] = []
        self._instances, self._meter = instances, meter
        self._servers: list[uvicorn.Server] = []

    async def open(self) -> Messaging:
        """Start everything and return messaging."""
        self.messaging = await self.people.open()
        bus, presence = InProcessBus(), InProcessPresence()
        for number in range(1, self._instances + 1):
            service = SocketService(
                instance=f"socket{number}",
                gateway=self.door,
                messaging=self.messaging,
                bus=bus,
                presence=presence,
                clock=self.clock,
                config=self.config,
                meter=self._meter,
                records=self.records,
            )
            await service.start()
            self.services.append(service)
            await self._listen(App(socket_routes(service, Edge(authenticate=_nobody))))
        return self.messaging

    async def _listen(self, app: App) -> None:
        config = uvicorn.Config(
            app, port=0, http="httptools", ws=SocketProtocol, lifespan="off", interface="asgi3", log_config=None
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        self._servers.append(server)
        self.urls.append(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")

    async def close(self) -> None:
        """Stop everything in order."""
        for service in self.services:
            await service.drain()
        for server in self._servers:
            await server.shutdown()
        for service in self.services:
            await service.stop()
        await self.people.close()

    async def enter(self, name: str, *, tenant: str | None = None) -> tuple[Caller, str]:
        """Register a person; return the caller they are and a token for the door."""
        caller = await self.people.enter(name, tenant=tenant)
        return caller, self.door.token(caller)


def _nobody(exchange: Any, policy: Any) -> Caller:
    raise Unauthenticated


@asynccontextmanager
async def socket_room(folder: Path, **options: Any) -> AsyncIterator[SocketRoom]:
    """Open a room for a test."""
    room = SocketRoom(folder, **options)
    await room.open()
    try:
        yield room
    finally:
        await room.close()
