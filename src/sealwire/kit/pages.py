"""Health, readiness, metrics and documentation: the pages every service has."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from sealwire.kit import openapi
from sealwire.kit.caller import Caller
from sealwire.kit.codec import encode
from sealwire.kit.exchange import JSON, Exchange
from sealwire.kit.http import Edge, Route
from sealwire.kit.lifespan import Probe
from sealwire.kit.operation import Degraded, Policy, RateClass
from sealwire.kit.problem import NotFound

PROBE_TIMEOUT_S = 2.0
CACHE_FOR = 1.0
HTML = (b"content-type", b"text/html; charset=utf-8")
CSP = (
    b"content-security-policy",
    (
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        b"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
)
ASSETS = {
    "swagger-ui.css": b"text/css",
    "swagger-ui-bundle.js": b"text/javascript",
    "swagger-ui-standalone-preset.js": b"text/javascript",
    "favicon-32x32.png": b"image/png",
}
PAGE = b"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sealwire API</title>
<link rel="stylesheet" href="documentation/swagger-ui.css"><link rel="icon" href="documentation/favicon-32x32.png">
</head><body><div id="swagger-ui"></div><script src="documentation/swagger-ui-bundle.js"></script>
<script src="documentation/start.js"></script></body></html>"""
START_JS = b"""window.ui = SwaggerUIBundle({url: "documentation/openapi.json", dom_id: "#swagger-ui",
  deepLinking: true, validatorUrl: null, persistAuthorization: false});"""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one dependency is. `detail` says what is wrong, for people."""

    status: str
    latency_ms: float
    detail: str = ""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer of `/ready`."""

    status: str
    checks: dict[str, CheckResult]


class DegradedOnly(Exception):
    """A probe's way of saying: impaired, and the service works on without it."""


class NotReady(Exception):
    """A probe's way of saying: out, and what exactly. Of any other exception only its name is told."""


async def probe(checks: Mapping[str, Probe], clock: Callable[[], float] = time.perf_counter) -> Readiness:
    """Run all probes at once, each for at most two seconds."""

    async def one(check: Probe) -> CheckResult:
        started = clock()
        status, detail = "ok", ""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                detail = await check() or ""
        except DegradedOnly as degraded:
            status, detail = "degraded", str(degraded)
        except NotReady as out:
            status, detail = "unavailable", str(out)
        except TimeoutError:
            status, detail = "unavailable", f"no answer within {PROBE_TIMEOUT_S:g} s"
        except Exception as error:
            status, detail = "unavailable", type(error).__name__
        return CheckResult(status=status, latency_ms=round((clock() - started) * 1000, 3), detail=detail)

    results = await asyncio.gather(*(one(check) for check in checks.values()))
    found = dict(zip(checks, results, strict=True))
    states = {result.status for result in results}
    status = "unavailable" if "unavailable" in states else "degraded" if "degraded" in states else "ready"
    return Readiness(status=status, checks=found)


class Pages:
    """Makes the routes of the pages for one app."""

    def __init__(
        self,
        *,
        edge: Edge,
        service: str,
        version: str,
        checks: Callable[[], Mapping[str, Probe]],
        registry: CollectorRegistry,
        metrics_policy: Policy = Policy.LOOPBACK,
    ) -> None:
        self._edge = edge
        self._service = service
        self._version = version
        self._checks = checks
        self._registry = registry
        self._metrics_policy = metrics_policy
        self._health = encode({"status": "ok", "service": service, "version": version})
        self._document: bytes = b"{}"
        self._ready: tuple[float, Readiness] | None = None
        self._probing: asyncio.Task[Readiness] | None = None

    def describe(self, routes: Iterable[Route]) -> None:
        """Write the OpenAPI document of these routes."""
        self._document = encode(openapi.document(routes, title=f"Sealwire {self._service}", version=self._version))

    def routes(self) -> list[Route]:
        """Return the routes; none of them is rate limited by person or recorded in the audit log."""
        public: dict[str, Any] = {
            "policy": Policy.PUBLIC, "degraded": Degraded.ALLOW, "rate": RateClass.NONE, "audited": False,
        }  # fmt: skip
        metrics = {**public, "policy": self._metrics_policy}
        return [
            self._edge.stream("GET", "/health", self._answer_health, summary="Alive", **public),
            self._edge.stream("GET", "/ready", self._answer_ready, summary="Each dependency's state", **public),
            self._edge.stream("GET", "/metrics", self._answer_metrics, summary="Prometheus metrics", **metrics),
            self._edge.stream("GET", "/documentation", self._answer_page, summary="This API, for people", **public),
            self._edge.stream("GET", "/documentation/{asset}", self._answer_asset, summary="Its parts", **public),
        ]

    async def readiness(self) -> Readiness:
        """Return the state of the checks, at most a second old; callers at the same time share one look."""
        now = time.monotonic()
        if self._ready is not None and now - self._ready[0] < CACHE_FOR:
            return self._ready[1]
        if self._probing is None:
            self._probing = asyncio.create_task(probe(self._checks()), name=f"{self._service}-readiness")
        task = self._probing
        readiness = await asyncio.shield(task)
        if self._probing is task:
            self._probing = None
            self._ready = (time.monotonic(), readiness)
        return readiness

    async def _answer_health(self, exchange: Exchange, caller: Caller) -> None:
        await exchange.answer(200, self._health, (JSON, (b"cache-control", b"no-store")))

    async def _answer_ready(self, exchange: Exchange, caller: Caller) -> None:
        readiness = await self.readiness()
        status = 503 if readiness.status == "unavailable" else 200
        headers = [JSON, (b"cache-control", b"no-store")]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await exchange.answer(status, encode(readiness), headers)

    async def _answer_metrics(self, exchange: Exchange, caller: Caller) -> None:
        text = generate_latest(self._registry)
        await exchange.answer(200, text, ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),))

    async def _answer_page(self, exchange: Exchange, caller: Caller) -> None:
        await exchange.answer(200, PAGE, (HTML, CSP))

    async def _answer_asset(self, exchange: Exchange, caller: Caller) -> None:
        name = exchange.params["asset"]
        if name == "openapi.json":
            await exchange.answer(200, self._document, (JSON,))
            return
        if name == "start.js":
            await exchange.answer(200, START_JS, ((b"content-type", b"text/javascript"),))
            return
        kind = ASSETS.get(name)
        folder = assets_folder()
        if kind is None or folder is None:
            raise NotFound("There is no such part of the documentation.")
        content = await asyncio.to_thread((folder / name).read_bytes)
        await exchange.answer(200, content, ((b"content-type", kind), (b"cache-control", b"max-age=86400")))


def assets_folder() -> Path | None:
    """Return where Swagger UI's files were installed (the bundling package itself is never imported)."""
    spec = importlib.util.find_spec("flask_swagger_ui")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "dist"
