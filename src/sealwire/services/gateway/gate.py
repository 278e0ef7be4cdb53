"""What stands before and after every request: shedding, limits, CORS, the audit record, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from sealwire.contracts.audit import AuditUnavailable
from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.caller import ANONYMOUS, Caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.forwarded import forwarded_for, network_of
from sealwire.kit.ids import new_id
from sealwire.kit.operation import Policy, RateClass
from sealwire.kit.problem import Unavailable
from sealwire.services.gateway.config import GatewayConfig
from sealwire.services.gateway.limiter import Limiter
from sealwire.services.gateway.meter import RequestMeter

LAG_PROBE_S = 0.05
API: Final = "/api/v1/"
_WATCHED: Final = frozenset({"/health", "/ready", "/metrics"})
_LOOKS: Final = frozenset({"GET", "HEAD"})
_PUBLIC, _UNLIMITED = Policy.PUBLIC, RateClass.NONE  # read for every request
_URL_CHARACTERS = 512
CORS_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
CORS_HEADERS = (
    b"authorization, content-type, last-event-id, x-sealwire-csrf, traceparent, tus-resumable, upload-length, "
    b"upload-offset, upload-metadata, upload-concat, upload-checksum, upload-defer-length"
)
CORS_EXPOSED = (
    b"location, tus-resumable, upload-offset, upload-length, upload-expires, retry-after, etag, ratelimit-limit, "
    b"ratelimit-remaining, ratelimit-reset, x-request-id"
)


class RecordSink(Protocol):
    """Where records of API requests go: the spool. Never waits."""

    def put(self, entry: AuditEntry) -> None: ...


class Lag:
    """Measures how late the event loop runs, in seconds: the sign that more is asked than can be done."""

    def __init__(self) -> None:
        self.lag_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._task = asyncio.create_task(self._measure(), name="loop-lag")

    async def stop(self) -> None:
        """Stop measuring."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _measure(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_PROBE_S)
            late = time.monotonic() - before - LAG_PROBE_S
            self.lag_s += (late - self.lag_s) * 0.5


class GatewayGate:
    """The gateway's gate (kit.http.Gate)."""

    def __init__(
        self,
        *,
        config: GatewayConfig,
        limiter: Limiter | None,
        records: RecordSink,
        registry: CollectorRegistry,
        lag: Lag,
        full: Callable[[], bool] | None = None,
    ) -> None:
        """Without a `limiter` nobody is limited. While `full` says so, what can't be recorded is refused."""
        self._full = full
        self._records = records
        self._lag = lag
        self._max_in_flight = config.max_in_flight
        self._max_lag_s = config.shed_above_lag_ms / 1000
        self._limiter = limiter
        self._origins = frozenset(origin.rstrip("/").encode() for origin in config.cors_origins)
        self._proxies = frozenset(config.trusted_proxies)
        self._entered = 0
        self._meter = RequestMeter(registry)
        self._shed = Counter("sealwire_http_shed", "Requests refused to protect the others", registry=registry)
        Gauge("sealwire_http_in_flight", "Requests in work", registry=registry).set_function(lambda: self._entered)
        Gauge("sealwire_loop_lag_seconds", "Event loop lag", registry=registry).set_function(lambda: self._lag.lag_s)

    def enter(self, exchange: Exchange) -> None:
        """Shed, mark CORS, count the address. Raises: Unavailable, RateLimited.

        As at the door (admission.py) only the API is shed, and no limit stands before the pages by which people and
        load balancers see how the installation is: they are wanted most when too much is asked. What else is asked of
        those pages is refused and recorded, so it counts.
        """
        self._entered += 1
        if self._proxies and exchange.ip in self._proxies:
            address = forwarded_for(exchange.header_values(b"x-forwarded-for"), exchange.ip, self._proxies)
            exchange.scope["client"] = (address, 0)
        if self._origins and (origin := exchange.header(b"origin")) is not None:
            self._allow_origin(exchange, origin)
        if self._limiter is not None and not (exchange.path in _WATCHED and _is_a_look(exchange)):
            self._limiter.begin(exchange)
        if (self._entered > self._max_in_flight or self._lag.lag_s > self._max_lag_s) and exchange.path.startswith(API):
            self._shed.inc()
            raise Unavailable("More is asked than can be answered in time; please come back.", retry_after_s=1)

    def _allow_origin(self, exchange: Exchange, origin: bytes) -> None:
        exchange.extra_headers.append((b"vary", b"origin"))
        if origin not in self._origins:
            return
        exchange.extra_headers += [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", CORS_EXPOSED),
        ]
        if exchange.method == "OPTIONS":
            exchange.extra_headers += [
                (b"access-control-allow-methods", CORS_METHODS),
                (b"access-control-allow-headers", CORS_HEADERS),
                (b"access-control-max-age", b"600"),
            ]

    def admit(self, exchange: Exchange, caller: Caller) -> None:
        """Count the person. Raises: RateLimited, AuditUnavailable."""
        route = exchange.route
        if self._full is not None and route.audited and self._full():
            raise AuditUnavailable("The records of requests have no room left.", retry_after_s=5)
        if self._limiter is None or route.rate is _UNLIMITED:
            return
        principal = caller.principal
        by_address = principal.kind == "anonymous" or route.policy is _PUBLIC
        self._limiter.count_caller(exchange, route.rate, network_of(caller.ip) if by_address else principal.subject)

    def leave(self, exchange: Exchange) -> None:
        """Count, time and record the request. `response_time_ms` ends here; nothing waits for the disk."""
        self._entered -= 1
        if self._limiter is not None:
            self._limiter.end(exchange)
        route = exchange.route
        seconds = time.perf_counter() - exchange.started
        if route is None:
            template = "unmatched"
            self._meter.count("other", template, exchange.status, seconds)
        else:
            template = route.path
            self._meter.count(exchange.method, template, exchange.status, seconds)
        if route is None or route.audited:
            self._records.put(record_of(exchange, template, seconds))


def _is_a_look(exchange: Exchange) -> bool:
    """Whether nobody wants to change anything, or to be known, which may cost more than an answer without."""
    return (
        exchange.method in _LOOKS and exchange.header(b"authorization") is None and exchange.header(b"cookie") is None
    )


def record_of(exchange: Exchange, template: str, seconds: float) -> AuditEntry:
    """Return the audit record of an answered request (contract.md, "An audit record of an API request").

    The url is the path without its query; address and user agent go where personal data goes.
    """
    caller: Caller | None = exchange.caller
    if caller is None:
        principal, ip, subject_id = ANONYMOUS, exchange.ip, ""
    else:
        principal, ip = caller.principal, caller.ip
        subject_id = principal.subject if principal.kind == "user" else ""
    kind = principal.kind
    status, method, url = exchange.status, exchange.method, exchange.path
    action, secret = _action_of(method, template)
    if secret:
        url = template
    elif len(url) > _URL_CHARACTERS or "\0" in url:  # NUL no record may hold
        url = url[:_URL_CHARACTERS].replace("\0", "\ufffd")
    return AuditEntry(
        audit_id=new_id(),
        tenant_id=principal.tenant_id,
        actor=_actor(kind, principal.session_id if kind == "api_key" else principal.subject),  # `actor_id`
        action=action,
        resource_type="api_request",
        outcome="success" if status < 400 else "denied" if status in (401, 403) else "failure",
        metadata={
            "method": method,
            "url": url,
            "status_code": status,
            "response_time_ms": int(seconds * 1e6 + 0.5) / 1000,
            "trace_id": exchange.trace_id,
        },
        personal={"ip_address": ip, "user_agent": exchange.text_header(b"user-agent", 256)},
        subject_id=subject_id,
        created_at_us=exchange.started_us,
    )


@lru_cache(maxsize=1024)
def _action_of(method: str, template: str) -> tuple[str, bool]:
    """Return the action of a route's records, and whether its path holds a link token, which no record may."""
    return f"{method}_{template}"[:256], "{token}" in template


@lru_cache(maxsize=4096)
def _actor(kind: Literal["user", "api_key", "service", "anonymous"], actor_id: str) -> Actor:
    """Return who did it; who did something just now often does something again."""
    return Actor(type=kind, id=actor_id)
