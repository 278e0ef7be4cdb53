"""Builds an installation: every service of the catalogue in this process, wired to the others through contracts.

The only place that knows which service is in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from sealwire import __version__
from sealwire.adapters.embedded.service_keys import ServiceKeys
from sealwire.adapters.embedded.session_journal import SealedSessionJournal
from sealwire.boundary.boundary import Boundary
from sealwire.boundary.carried_sessions import CarriedSessions
from sealwire.boundary.jwt_token_adapter import LegacyRule
from sealwire.boundary.metrics import BoundaryCollector
from sealwire.clients.compliance import send_records
from sealwire.clients.guarded import guarded
from sealwire.clients.identity import ServiceAuthenticator, ServiceVerifier
from sealwire.clients.step_up import proofs_by
from sealwire.contracts.audit_log import AuditEntry
from sealwire.contracts.auth_terms import COOKIE, COOKIE_LOOPBACK
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.codec import Page
from sealwire.kit.http import App, Edge, Route
from sealwire.kit.lifespan import Component, Probe
from sealwire.kit.operation import Operation
from sealwire.kit.pages import DegradedOnly, NotReady, Pages, Readiness, probe
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry
from sealwire.runtime import rooms
from sealwire.runtime.catalog import CATALOG
from sealwire.runtime.http_protocol import BoundedHttp, bounded
from sealwire.runtime.key_provider import open_providers
from sealwire.runtime.limits import Limits
from sealwire.runtime.local_keys import LocalKeys
from sealwire.runtime.server import Server, listen
from sealwire.runtime.settings import RUNNING, Settings, own_data, prepare_data
from sealwire.runtime.shared_state import SharedState
from sealwire.services.auth.config import LegacyIssuer
from sealwire.services.auth.model import DEFAULT_TENANT
from sealwire.services.compliance.metrics import AuditCollector
from sealwire.services.gateway.admission import Admission
from sealwire.services.gateway.gate import GatewayGate, Lag
from sealwire.services.gateway.routes import SECURITY_HEADERS, public_routes
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig
from sealwire.services.socket.metrics import SocketCollector
from sealwire.services.socket.transport import SocketProtocol

VERIFY_TIMEOUT_S = 10.0
BREAKERS = ("auth", "compliance", "crypto", "messaging", "media", "search")
Step = tuple[str, Callable[[], Awaitable[None]], str]


class Assembly:
    """One installation in one process: `steps()` bring it up, `stop()` takes it down."""

    def __init__(self, *, settings: Settings) -> None:
        self._settings = settings if settings.loopback else _with_owner_token(settings)
        self._clock = SystemClock()
        self._rng = random.SystemRandom()
        self._metrics = CollectorRegistry()
        self.breakers = Registry(clock=self._clock)
        self._guards = {name: self._guard(name) for name in BREAKERS}
        self._running: list[Component] = []
        self._rooms: dict[str, rooms.Room] = {}
        self._servers: list[Server] = []
        self._started: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self.notes: list[str] = []
        self.holds_told: Callable[[], bool] = lambda: False  # nor without compliance, as in an errand
        self.app: App | None = None
        self.service_apps: dict[str, App] = {}
        self.shared = SharedState.open(self._settings.cache, clock=self._clock, rng=self._rng)
        self._spool: RecordSpool | None = None
        self._limits = Limits(self._settings, self._clock)
        self.limiter = self._limits.limiter

    # ---- what it says of itself

    @property
    def url(self) -> str:
        """The address of the gateway."""
        server = self._settings.server
        host = f"[{server.host}]" if ":" in server.host else server.host
        return server.public_url or f"http://{host}:{server.port_base}"

    def steps(self) -> list[Step]:
        """Return the steps of the start, in order: name, what it does, what to do when it fails."""
        again = "Mend it and start again; nothing was lost."
        named: list[Step] = [
            ("data folder", self._prepare, "Choose a folder you may write to with --data."),
            ("key-encryption key", self._open_keys, "Nothing is read without it: mend its file, or token and PIN."),
        ]
        for entry in CATALOG:
            if entry.name in rooms.BUILDERS:
                named.append((f"service {entry.name}", self._starter(entry.name), again))
            if entry.name == "auth":
                named.append(("session boundary", self._start_boundary, again))
        named.append(("audit trail", self._start_relays, again))
        named.append(("ports", self._open_ports, "Stop what listens there, or choose another --port-base."))
        named.append(("gateway verified", self._verify, again))
        return named

    # ---- the steps

    async def _prepare(self) -> None:
        prepare_data(self._settings.data)
        self.data = self._settings.data.resolve()
        owned = own_data(self.data)
        self._started.append(("data folder", lambda: _close(owned)))

    async def _open_keys(self) -> None:
        self.provider = await open_providers(self._settings, self._clock)
        self.local_keys = LocalKeys(folder=self.data / "keys" / "local", provider=self.provider)
        self._service_keys = ServiceKeys(self.data / "keys" / "services")
        for entry in CATALOG:
            self._service_keys.private(entry.name.rstrip("12"))

    def _starter(self, name: str) -> Callable[[], Awaitable[None]]:
        async def start() -> None:
            room = await rooms.BUILDERS[name](self)
            self._rooms[name] = room
            self._started.append((name, room.stop))
            await room.start()

        return start

    async def _start_boundary(self) -> None:
        self._started.append(("shared state", self.shared.stop))
        await self.shared.start()
        self._started.append(("limits", self._limits.stop))
        await self._limits.share(self.shared.board, self.local_keys, self._rng)
        config = self._settings.auth
        secure = self._settings.server.public_url.startswith("https://")
        key = await self.local_keys.sealing_key("boundary")
        self.boundary = Boundary.build(
            auth=self.contract("auth"),
            feed=self._rooms["auth"].service,
            cache=self.shared.cache,
            journal=SealedSessionJournal(self.data / "fallback" / "sessions", key),
            key=key,
            breakers=self.breakers,
            clock=self._clock,
            rng=self._rng,
            issuer=config.issuer,
            audience=config.audience,
            cookie_name=COOKIE if secure else COOKIE_LOOPBACK,
            config=self._settings.boundary,
            legacy=[_legacy_rule(issuer) for issuer in config.legacy],
            local_networks=self._settings.gateway.metrics_allow,
            trusted_proxies=self._settings.gateway.trusted_proxies,
            services=ServiceAuthenticator(verifier=self._verifier("gateway"), clock=self._clock),
            limits=self._settings.gateway.rate_limits == "on",
        )
        self._started.append(("boundary", self.boundary.stop))
        self._metrics.register(BoundaryCollector(self.boundary, self.breakers))
        await self.boundary.start()

    async def _start_relays(self) -> None:
        self._started.append(("audit trail", self._stop_relays))
        for room in self._rooms.values():
            if room.relay is not None:
                room.relay.start()
        if not self._settings.loopback:
            known = await self.contract("auth").users(service_caller("gateway", DEFAULT_TENANT), Page(limit=1))
            if not known.items:
                token = self._settings.auth.owner_token
                self.notes.append(f'The first owner registers with "owner_token": "{token}"; it works once.')

    async def _stop_relays(self) -> None:
        """Bring the last records to compliance, while it is still there to take them: crypto's room outlives it."""
        relays = [room.relay for room in self._rooms.values() if room.relay is not None]
        await asyncio.gather(*(relay.stop(drain=True) for relay in relays))

    async def _open_ports(self) -> None:
        server = self._settings.server
        gateway = self._settings.gateway
        admission = Admission(
            target_s=gateway.late_target_ms / 1000,
            floor=gateway.always_admitted,
            ceiling=gateway.max_in_flight,
            proxies=gateway.trusted_proxies,
            registry=self._metrics,
            records=await self.records(),
        )

        def http(of: Admission | None) -> type[BoundedHttp]:
            return bounded(
                limit_bytes=gateway.header_limit_bytes,
                timeout_s=gateway.header_timeout_s,
                public_scheme=server.public_url.partition("://")[0],
                admission=of,
            )

        sockets = [room.service for name, room in self._rooms.items() if name.startswith("socket")]
        self._metrics.register(SocketCollector(sockets))
        if "compliance" in self._rooms:
            self._metrics.register(AuditCollector(self._rooms["compliance"].service))
        apps: dict[str, Any] = {"gateway": await self._gateway_app()}
        for entry in CATALOG:
            if entry.name in self._rooms and (entry.always_open or server.expose_services):
                apps[entry.name] = self.service_apps[entry.name] = self._service_app(entry.name)
        offsets = {entry.name: entry.offset for entry in CATALOG}
        opened = []
        for name, app in apps.items():
            spoken = http(admission if name == "gateway" else None)
            opened.append((app, spoken, listen(server.host, server.port_base + offsets[name])))
        for app, spoken, sock in opened:
            listener = Server(app=app, sock=sock, http=spoken, websocket=SocketProtocol, grace_s=server.stop_grace_s)
            self._servers.append(listener)
            await listener.start()
        running = {"url": f"http://{server.host}:{server.port_base}", "pid": os.getpid()}
        (self.data / RUNNING).write_bytes(msgspec.json.encode(running))

    async def _verify(self) -> None:
        """Ask the gateway through its own port whether every service is ready."""
        url = f"http://{self._settings.server.host}:{self._settings.server.port_base}/ready"
        deadline = self._clock.monotonic() + VERIFY_TIMEOUT_S
        while True:
            status, body = await asyncio.to_thread(_get, url)
            if status == 200:
                return
            checks = msgspec.json.decode(body).get("checks", {})
            bad = {name: check for name, check in checks.items() if check["status"] == "unavailable"}
            if status != 503 or self._clock.monotonic() > deadline:  # 503 may be load shedding: others came first
                raise RuntimeError(f"the gateway answers {status}: {bad}")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Take no new work, let sockets move on, finish what is in flight, flush, close. Safe to call twice."""
        for room in self._rooms.values():
            if room.drain is not None:
                await room.drain()
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.stop() for server in servers))
        while self._started:
            _, stop = self._started.pop()
            with contextlib.suppress(asyncio.CancelledError):
                await stop()
        if hasattr(self, "data"):
            (self.data / RUNNING).unlink(missing_ok=True)
        if hasattr(self, "provider"):
            self.provider.close()

    # ---- parts for the rooms

    async def records(self) -> RecordSpool:
        """Return the spool for records of requests and connections, started on first use."""
        if self._spool is None:
            key = await self.local_keys.sealing_key("spool")
            self._spool = RecordSpool(
                folder=self.data / "spool",
                key=key,
                deliver=self._deliver,
                clock=self._clock,
                rng=self._rng,
                config=SpoolConfig(
                    sync_every_s=self._settings.gateway.spool_window_ms / 1000,
                    batch=self._settings.gateway.audit_batch,
                    wait_s=self._settings.gateway.audit_wait_s,
                    limit_bytes=self._settings.gateway.spool_max_bytes,
                ),
            )
            self._started.append(("spool", self._spool.stop))
            await self._spool.start()
        return self._spool

    async def _deliver(self, records: Sequence[AuditEntry]) -> None:
        await send_records(self.contract("compliance"), service_caller("gateway", SYSTEM_TENANT), records)

    @property
    def settings(self) -> Settings:
        """All settings."""
        return self._settings

    @property
    def clock(self) -> SystemClock:
        """The machine's clocks."""
        return self._clock

    @property
    def rng(self) -> random.Random:
        """Chance, for jitter."""
        return self._rng

    @property
    def metrics(self) -> CollectorRegistry:
        """Where metrics are registered."""
        return self._metrics

    def contract(self, name: str) -> Any:
        """Return a service that runs already, behind its guard."""
        return self._rooms[name].contract

    def guard(self, implementation: Any, operations: Mapping[str, Operation], name: str) -> Any:
        """Put a service of this process behind its breaker, bulkhead and deadline."""
        return guarded(implementation, operations, self._guards[name])

    def _guard(self, name: str) -> Guard:
        return Guard.of(
            name, registry=self.breakers, clock=self._clock, rng=self._rng, max_concurrent=4096, max_waiting=16_384
        )

    # ---- apps

    async def _gateway_app(self) -> App:
        proofs = proofs_by(self.contract("auth"), service="gateway")
        edge = Edge(authenticate=self.boundary.authenticator, proofs=proofs)
        routes: list[Route] = []
        for name, room in self._rooms.items():
            if not name.startswith("socket"):
                routes += room.routes(edge)
                routes += (room.gateway_routes or _no_routes)(edge)
        pages = self._pages(edge, "gateway", self._gateway_checks)
        opened = [
            *public_routes(routes),
            *self.boundary.health.routes(edge),
            *(self._rooms["socket1"].people_routes or _no_routes)(edge),
            *pages.routes(),
        ]
        pages.describe(opened)
        lag = Lag()
        lag.start()
        self._started.append(("loop lag", lag.stop))
        spool = await self.records()
        refuses = self._settings.gateway.spool_full == "refuse"
        gate = GatewayGate(
            config=self._settings.gateway,
            limiter=self.limiter,
            records=spool,
            registry=self._metrics,
            lag=lag,
            full=(lambda: spool.is_full) if refuses else None,
        )
        self.app = App(
            opened,
            gate=gate,
            headers=SECURITY_HEADERS,
            public=True,
            timeout_s=self._settings.gateway.request_timeout_s,
        )
        return self.app

    def _service_app(self, name: str) -> App:
        """Return the app of a service's own port: for services with an identity only; sockets for people too."""
        room = self._rooms[name]
        service = name.rstrip("12")
        services = ServiceAuthenticator(verifier=self._verifier(service), clock=self._clock)
        held = CarriedSessions(
            services=services, normalizer=self.boundary.normalizer, clock=self._clock,
            legacy_tenants={issuer.tenant for issuer in self._settings.auth.legacy},
        )  # fmt: skip
        edge = Edge(authenticate=held, proofs=proofs_by(self.contract("auth"), service=service))
        pages = self._pages(edge, name, lambda: room.checks())
        routes = [*room.routes(edge), *pages.routes()]
        if room.people_routes is not None:
            routes += room.people_routes(edge)
        pages.describe(routes)
        return App(routes, headers=SECURITY_HEADERS, timeout_s=self._settings.gateway.request_timeout_s)

    def _verifier(self, audience: str) -> ServiceVerifier:
        """Return what checks the identities of services that call `audience`."""
        return ServiceVerifier(audience=audience, keys=self._service_keys.published(), clock=self._clock, rng=self._rng)

    def _pages(self, edge: Edge, name: str, checks: Callable[[], Mapping[str, Probe]]) -> Pages:
        return Pages(edge=edge, service=name, version=__version__, checks=checks, registry=self._metrics)

    def _gateway_checks(self) -> Mapping[str, Probe]:
        """Every service and socket instance by name, each with all it depends on."""
        found: dict[str, Probe] = {name: _all_of(room.checks) for name, room in self._rooms.items()}
        found["cache"] = self._probe_cache
        if self._spool is not None:
            found |= self._spool.checks()
        found |= self._limits.checks
        found["revocation_feed"] = self._probe_feed
        return found

    async def _probe_cache(self) -> None:
        if self.boundary.normalizer.degraded:
            raise DegradedOnly("sessions are validated without the cache")

    async def _probe_feed(self) -> None:
        if not await self.boundary.coordinator.ensure_fresh():
            raise DegradedOnly("the revocation feed is older than its bound")


def _all_of(checks: Callable[[], Mapping[str, Probe]]) -> Probe:
    """Return one probe that fails, or is degraded, as the worst of several is."""

    async def run() -> None:
        readiness: Readiness = await probe(checks())
        if readiness.status == "ready":
            return
        told = ", ".join(
            f"{name} {c.status}" + (f" ({c.detail})" if c.detail else "")
            for name, c in readiness.checks.items()
            if c.status != "ok"
        )
        raise DegradedOnly(told) if readiness.status == "degraded" else NotReady(told)

    return run


def _get(url: str) -> tuple[int, bytes]:
    """Read a page of our own. Waits; for a thread."""
    try:
        with urllib.request.urlopen(url, timeout=VERIFY_TIMEOUT_S) as answer:  # noqa: S310 - our own http address
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _legacy_rule(issuer: LegacyIssuer) -> LegacyRule:
    return LegacyRule.read(
        key=issuer.key,
        alg=issuer.alg,
        tenant_id=issuer.tenant,
        kid=issuer.kid,
        iss=issuer.iss,
        max_age_s=issuer.max_age_s,
        sunset=issuer.sunset,
    )


def _with_owner_token(settings: Settings) -> Settings:
    """Off loopback whoever comes first must show a token that only the terminal told."""
    if settings.auth.owner_token:
        return settings
    auth = msgspec.structs.replace(settings.auth, owner_token=secrets.token_urlsafe(24))
    return msgspec.structs.replace(settings, auth=auth)


async def _close(handle: int) -> None:
    os.close(handle)


def _no_routes(edge: Edge) -> list[Route]:
    return []
