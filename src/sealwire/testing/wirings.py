"""Opens a contract by wiring, so that one suite runs over all of them: a direct call, or through the service's app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from sealwire.clients.guarded import guarded
from sealwire.clients.http import Transport, remote
from sealwire.clients.identity import ServiceAuthenticator, ServiceIdentity, ServiceVerifier
from sealwire.clients.problems import read_problem
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, SystemClock
from sealwire.kit.http import App, Edge, Route
from sealwire.kit.jose import Algorithm, Key, KeySet
from sealwire.kit.operation import Operation
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry

T = TypeVar("T")

WIRINGS = ("direct", "loopback")
"""Suites take them as parameters; `network` is the same app behind a socket, and is tested with the clients."""
SERVICES = ("gateway", "socket", "messaging", "media", "search", "auth", "compliance", "crypto")


def open_wiring(
    wiring: str,
    service: T,
    operations: Mapping[str, Operation],
    routes: Callable[[T, Edge], Iterable[Route]],
    *,
    clock: Clock | None = None,
) -> T:
    """Return `service` as a caller of another service sees it. Raises: ValueError for a wiring that isn't there."""
    clock = clock or SystemClock()
    rng = Random(1)  # noqa: S311 - jitter, not a secret
    name = next(iter(operations.values())).service
    if wiring == "direct":
        guard = Guard.of(name, registry=Registry(clock=clock), clock=clock, rng=rng)
        return guarded(service, operations, guard)
    if wiring != "loopback":
        raise ValueError(f"no wiring {wiring!r}")
    guard = Guard.of(name, registry=Registry(clock=clock), clock=clock, rng=rng, timeout_s=10)
    return cast(T, remote(operations, open_loopback(service, operations, routes, clock=clock), guard))


def open_loopback(
    service: T,
    operations: Mapping[str, Operation],
    routes: Callable[[T, Edge], Iterable[Route]],
    *,
    clock: Clock | None = None,
) -> Loopback:
    """Return what carries calls to `service` through its app, for a client that takes a transport."""
    clock = clock or SystemClock()
    rng = Random(1)  # noqa: S311 - jitter, not a secret
    name = next(iter(operations.values())).service
    keys = {caller: Key.generate(Algorithm.EDDSA, kid=f"{caller}.1") for caller in SERVICES}
    verifier = ServiceVerifier(
        audience=name,
        keys={caller: KeySet([Key.from_public_jwk(key.public_jwk())]) for caller, key in keys.items()},
        clock=clock,
        rng=rng,
    )
    app = App(routes(service, Edge(authenticate=ServiceAuthenticator(verifier=verifier, clock=clock))))
    identities = {
        caller: ServiceIdentity(service=caller, key=key, clock=clock, rng=rng) for caller, key in keys.items()
    }
    return Loopback(service=name, app=app, identities=identities, clock=clock)


class Loopback(Transport):
    """Requests handed to an ASGI app in this process; a caller without a service comes through the gateway, to what is
    internal through another that carries callers there."""

    def __init__(self, *, service: str, app: App, identities: Mapping[str, ServiceIdentity], clock: Clock) -> None:
        super().__init__(service=service, base_url="http://loopback", identity=identities["gateway"], clock=clock)
        self._app = app
        self._identities = identities

    async def send(
        self, operation: Operation, caller: Caller, url: str, body: bytes | None, content_type: str
    ) -> tuple[int, bytes]:
        """See `Transport.send`."""
        identity = self._identities[caller.service or _carrier(operation)]
        token = identity.token(caller, audience=self.service, operation=operation.name)
        headers = [(b"authorization", f"Bearer {token}".encode()), (b"accept", b"application/json")]
        if body is not None:
            headers += [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        if len(caller.trace_id) == 32:
            headers.append((b"traceparent", f"00-{caller.trace_id}-{'1' * 16}-01".encode()))
        path, _, query = url.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "method": operation.verb,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": headers,
            "client": ("127.0.0.1", 1),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body or b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        status = sent[0]["status"]
        content = b"".join(message.get("body", b"") for message in sent[1:])
        if 200 <= status < 300:
            return status, content
        retry_after = dict(sent[0]["headers"]).get(b"retry-after")
        raise read_problem(status, content, float(retry_after) if retry_after is not None else None)


def _carrier(operation: Operation) -> str:
    carriers = operation.carried_by
    return "gateway" if "gateway" in carriers or not carriers else min(carriers)
