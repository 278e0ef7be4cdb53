"""The typed HTTP edge: routes bound from operations, default-deny, problems for every fault."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from sealwire.kit.caller import STEP_UP_WINDOW_S, Caller, Proofs
from sealwire.kit.codec import convert_query, decode_body, encode
from sealwire.kit.exchange import (
    BODILESS,
    JSON,
    JSON_LINE,
    Disconnected,
    Exchange,
    FixedHeaders,
    Headers,
    Receive,
    Scope,
    Send,
    read_form,
)
from sealwire.kit.operation import BODY_LIMIT_BYTES, SAFE_VERBS, Degraded, Operation, Policy, RateClass
from sealwire.kit.permission import GRANTS, Permission
from sealwire.kit.problem import (
    DeadlineExceeded,
    EnrolmentRequired,
    Forbidden,
    Internal,
    MethodNotAllowed,
    NotFound,
    Problem,
    SessionUnconfirmed,
    StepUpRequired,
    UnsupportedMedia,
)
from sealwire.kit.router import Router
from sealwire.kit.telemetry import fields
from sealwire.kit.vigil import Vigil

_LOG = logging.getLogger("sealwire.http")

PASSWORD_METHODS = ["password"]
FACTOR_METHODS = ["totp", "recovery"]
"""Who logged in with a second factor has one, and the password alone does not do then."""
_STEP_UP = "Confirm your identity with POST /auth/step-up first."

Run = Callable[[Exchange, Caller], Awaitable[None]]
SocketHandler = Callable[[Scope, Receive, Send], Awaitable[None]]
Decorate = Callable[[Exchange, Any, Any], Headers]


class Authenticate(Protocol):
    """Resolves who asks. Raises: Unauthenticated, Unavailable; for a public route an anonymous caller."""

    def __call__(self, exchange: Exchange, policy: Policy) -> Caller | Awaitable[Caller]: ...


AskProofs = Callable[[Caller], Awaitable[Proofs]]
"""Tells how a caller can prove again who they are. Asked only where a recent proof is wanted. Raises: Unavailable."""


class Gate(Protocol):
    """What stands before and after every request of an app: limits, shedding, records, metrics."""

    def enter(self, exchange: Exchange) -> None:
        """Look at a request before anything is known of it. Raises: Problem to refuse it."""

    def admit(self, exchange: Exchange, caller: Caller) -> None:
        """Look again once the caller is known. May add to `exchange.extra_headers`. Raises: Problem."""

    def leave(self, exchange: Exchange) -> None:
        """See what came of it: `exchange.route`, `.caller` (None when it wasn't resolved), `.status`."""


class OpenGate:
    """Lets everything through and keeps nothing."""

    def enter(self, exchange: Exchange) -> None: ...
    def admit(self, exchange: Exchange, caller: Caller) -> None: ...
    def leave(self, exchange: Exchange) -> None: ...


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A way in. `run` answers an exchange for an authenticated, permitted caller."""

    verb: str
    path: str
    policy: Policy
    run: Run | None = None
    socket: SocketHandler | None = None
    authenticate: Authenticate | None = None
    operation: Operation | None = None
    needs: Permission | None = None
    degraded: Degraded = Degraded.DENY
    step_up: bool = False
    proofs: AskProofs | None = None
    rate: RateClass = RateClass.DEFAULT
    summary: str = ""
    audited: bool = True

    def check(self, caller: Caller) -> None:
        """Refuse a caller who may not use this route. Raises: Forbidden, SessionUnconfirmed, StepUpRequired."""
        principal = caller.principal
        if self.needs is not None and (
            self.needs not in GRANTS[principal.role]
            or (principal.scopes is not None and self.needs not in principal.scopes)
        ):
            if principal.kind == "user" and principal.scopes is not None:
                raise EnrolmentRequired("Set up a passkey or an authenticator app, then confirm your identity with it.")
            raise Forbidden(f"Your role does not grant {self.needs.value}.")
        if (
            (not caller.confirmed or principal.legacy)
            and self.degraded is not Degraded.ALLOW
            and (self.degraded is Degraded.DENY or self.verb not in SAFE_VERBS)
        ):
            if principal.legacy:
                raise Forbidden("A legacy token may be used for low-risk operations only.")
            raise SessionUnconfirmed("Your session can't be confirmed for the moment; please try again.")
        if self.step_up and principal.kind == "api_key":
            raise Forbidden("This needs a person: an API key can't confirm who it is.")
        if self.step_up and principal.kind == "user" and time.time() - principal.auth_time_s > STEP_UP_WINDOW_S:
            methods = FACTOR_METHODS if "mfa" in principal.amr else PASSWORD_METHODS
            raise StepUpRequired(_STEP_UP, methods=methods)

    async def check_proof(self, caller: Caller, proofs: AskProofs) -> None:
        """Refuse a recent proof that was made without the second factor which the person has by now.

        It is asked of auth each time: a factor enrolled in another session counts from its confirmation on.
        Raises: StepUpRequired, Unavailable.
        """
        if caller.principal.kind == "user" and "mfa" not in caller.principal.amr:
            known = await proofs(caller)
            if known.second_factor:
                raise StepUpRequired(_STEP_UP, methods=known.methods)


class Edge:
    """Binds operations and raw handlers into routes that share one way to authenticate.

    `proofs` makes a step-up exact: with it the second factor counts that the person has now, without it the way in
    which the caller logged in. Whoever serves people gives it.
    """

    def __init__(self, *, authenticate: Authenticate, proofs: AskProofs | None = None) -> None:
        self._authenticate = authenticate
        self._proofs = proofs

    def bind(
        self, operation: Operation, call: Callable[..., Awaitable[Any]], *, decorate: Decorate | None = None
    ) -> Route:
        """Return the route of an operation. `decorate(exchange, taken, given)` may add headers to the answer."""
        return Route(
            verb=operation.verb,
            path=operation.path,
            policy=operation.policy,
            run=_compile(operation, call, decorate),
            authenticate=self._authenticate,
            operation=operation,
            needs=operation.needs,
            degraded=operation.degraded,
            step_up=operation.step_up,
            proofs=self._proofs if operation.step_up else None,
            rate=operation.rate,
            summary=operation.summary,
        )

    def stream(
        self,
        verb: str,
        path: str,
        handler: Run,
        *,
        policy: Policy,
        needs: Permission | None = None,
        degraded: Degraded = Degraded.DENY,
        step_up: bool = False,
        rate: RateClass = RateClass.DEFAULT,
        summary: str = "",
        audited: bool = True,
    ) -> Route:
        """Return a route whose handler reads and answers the exchange itself."""
        return Route(
            verb=verb,
            path=path,
            policy=policy,
            run=handler,
            authenticate=self._authenticate,
            needs=needs,
            degraded=degraded,
            step_up=step_up,
            proofs=self._proofs if step_up else None,
            rate=rate,
            summary=summary,
            audited=audited,
        )

    def socket(self, path: str, handler: SocketHandler, *, policy: Policy = Policy.FIRST_FRAME) -> Route:
        """Return a WebSocket route. Its handler answers no application frame before it knows the caller."""
        return Route(verb="WEBSOCKET", path=path, policy=policy, socket=handler)


def _compile(operation: Operation, call: Callable[..., Awaitable[Any]], decorate: Decorate | None) -> Run:
    """Build the code of one operation once, so that a request only runs it."""
    takes, gives, status = operation.takes, operation.gives, operation.status
    decoder = msgspec.json.Decoder(takes) if takes is not None and not operation.takes_query else None
    limit_bytes = operation.body_limit_bytes
    once = limit_bytes <= BODY_LIMIT_BYTES  # of bulk (batches of crypto and audit) it would cost more than reading it
    fixed = status if isinstance(status, int) else 0
    status_of = None if isinstance(status, int) else status

    def at_once(exchange: Exchange) -> Any:
        """Take a JSON body that has arrived whole and is announced as our clients do; None: take the long way."""
        if decoder is None or operation.form or exchange.header(b"content-type") != b"application/json":
            return None
        body = exchange.body_at_hand(limit_bytes)
        return None if body is None else decode_body(decoder, body or b"{}", once=once)

    async def take(exchange: Exchange) -> Any:
        assert takes is not None
        if operation.takes_query:
            return convert_query(exchange.query, takes)
        body = exchange.body_at_hand(limit_bytes)
        if body is None:
            body = await exchange.body(limit_bytes)
        if operation.form:
            return convert_query(read_form(body), takes)
        content_type = exchange.header(b"content-type")
        if content_type is None or content_type != b"application/json":
            _require_json(content_type, body)
        assert decoder is not None
        return decode_body(decoder, body or b"{}", once=once)

    async def run(exchange: Exchange, caller: Caller) -> None:
        params = exchange.params
        if takes is None:
            taken = None
            given = await call(caller, *params.values())
        else:
            taken = at_once(exchange)
            if taken is None:
                taken = await take(exchange)
            given = await call(caller, *params.values(), taken)
        if decorate is not None:
            exchange.extra_headers += decorate(exchange, taken, given)
        if fixed in BODILESS:
            await exchange.answer(fixed)
            return
        body = b"{}" if gives is None else encode(given)
        status = fixed or status_of(given)  # type: ignore[misc]  # one of the two is set
        if not exchange.answer_at_once(status, body, JSON_LINE):
            await exchange.answer(status, body, (JSON,))

    return run


def _require_json(content_type: bytes | None, body: bytes) -> None:
    """Raises: UnsupportedMedia unless the body is empty or announced as JSON (in UTF-8)."""
    if content_type is None:
        if body:
            raise UnsupportedMedia("Send the body with Content-Type: application/json.")
        return
    media_type, _, parameters = content_type.decode("latin-1").lower().partition(";")
    charset = parameters.partition("charset=")[2].strip(' "')
    if (media_type.strip() != "application/json" and body) or charset not in ("", "utf-8"):
        raise UnsupportedMedia("Send the body as application/json in UTF-8.")


def mount(prefix: str, routes: Iterable[Route]) -> list[Route]:
    """Return the routes with `prefix` before their paths; `/.well-known/` stays at the root (RFC 8615)."""
    return [
        route if route.path.startswith("/.well-known/") else msgspec.structs.replace(route, path=prefix + route.path)
        for route in routes
    ]


class _Options(Exception):
    """Somebody asks which verbs a path has."""

    def __init__(self, verbs: tuple[str, ...]) -> None:
        self.verbs = verbs


class App:
    """An ASGI application of routes. What has no route is refused; what has one declared its policy."""

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        gate: Gate | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
        public: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        self.routes = tuple(routes)
        self._gate: Gate = gate or OpenGate()
        self._fixed = FixedHeaders(headers)
        self._http: Router[Route] = Router()
        self._sockets: dict[str, Route] = {}
        self._timeout_s = timeout_s
        self._in_flight: dict[Exchange, asyncio.Task[Any]] = {}
        self._watchdog: asyncio.Task[None] | None = None
        self._ended: dict[Exchange, Problem] = {}
        self._vigil = Vigil(self._end)
        for route in self.routes:
            if public and route.policy is Policy.SERVICE:
                raise ValueError(f"{route.verb} {route.path} is for services and can't be mounted on a public app")
            if route.socket is not None:
                self._sockets[route.path] = route
            else:
                self._http.add(route.verb, route.path, route)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now."""
        return len(self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self.answer(Exchange(scope, receive, send))
        elif kind == "websocket":
            route = self._sockets.get(scope["path"])
            if route is None or route.socket is None:
                await receive()
                await send({"type": "websocket.close", "code": 4404})
            else:
                await route.socket(scope, receive, send)
        else:
            raise RuntimeError(f"the app does not speak {kind!r}; start it through the supervisor")

    async def answer(self, exchange: Exchange) -> None:
        """Answer a request, whatever comes of it."""
        exchange.set_trace()
        exchange.fixed = self._fixed
        self._in_flight[exchange] = task = exchange.task
        if self._watchdog is None:
            self._watchdog = asyncio.create_task(self._watch(), name="request-deadlines")
        try:
            self._gate.enter(exchange)
            route = self._find(exchange)
            found = route.authenticate(exchange, route.policy)  # type: ignore[misc]  # a route of HTTP has both
            exchange.caller = caller = found if isinstance(found, Caller) else await found
            self._gate.admit(exchange, caller)
            try:
                route.check(caller)
            except StepUpRequired as wanted:
                if route.proofs is not None:
                    wanted.extra["methods"] = (await route.proofs(caller)).methods
                raise
            if route.proofs is not None:
                await route.check_proof(caller, route.proofs)
            await route.run(exchange, caller)  # type: ignore[misc]  # a route in this table has one
        except Problem as problem:
            await self._fail(exchange, problem)
        except _Options as options:
            await exchange.answer(204, headers=[(b"allow", ", ".join(options.verbs).encode())])
        except Disconnected:
            exchange.status = exchange.status or 499
        except asyncio.CancelledError:
            if exchange in self._in_flight:
                raise
            task.uncancel()
            await self._fail(exchange, self._ended[exchange])
        except Exception:
            told = fields(method=exchange.method, route=self._route_path(exchange), trace_id=exchange.trace_id)
            _LOG.exception("request failed", extra=told)
            await self._fail(exchange, Internal("It is on our side; the trace id names it in our log."))
        finally:
            self._in_flight.pop(exchange, None)
            self._ended.pop(exchange, None)
            self._gate.leave(exchange)

    def _find(self, exchange: Exchange) -> Route:
        """Return the route. Raises: NotFound, MethodNotAllowed; _Options for a question about a path that has some."""
        route, exchange.params, verbs = self._http.find(exchange.method, exchange.path)
        if route is not None:
            exchange.route = route
            return route
        if not verbs:
            raise NotFound("There is nothing at this path.")
        if exchange.method == "OPTIONS":
            raise _Options(verbs)
        raise MethodNotAllowed(f"This path answers {', '.join(verbs)}.", allow=list(verbs))

    @staticmethod
    def _route_path(exchange: Exchange) -> str:
        return exchange.route.path if exchange.route is not None else ""

    async def _fail(self, exchange: Exchange, problem: Problem) -> None:
        if exchange.status:  # the head is out: all that is left is to break the connection off visibly
            _LOG.warning("answer broken off", extra={"fields": {"code": problem.code, "trace_id": exchange.trace_id}})
            raise ConnectionAbortedError(problem.code)
        with contextlib.suppress(OSError):
            await exchange.answer_problem(problem)

    async def _watch(self) -> None:
        """End requests older than the timeout, long uploads excepted, and begun answers their caller may not have."""
        while self._in_flight:
            await asyncio.sleep(min(0.5, self._timeout_s / 4))
            oldest = time.perf_counter() - self._timeout_s
            for exchange in list(self._in_flight):
                if exchange.started < oldest and not exchange.status and not exchange.untimed:
                    self._end(exchange, DeadlineExceeded(f"No answer within {self._timeout_s:g} s.", retry_after_s=1))
            self._vigil.look(self._in_flight)
        self._watchdog = None

    def _end(self, exchange: Exchange, problem: Problem) -> None:
        """Have a request in flight answered with a problem, or broken off when its answer has begun."""
        task = self._in_flight.pop(exchange, None)
        if task is not None:
            self._ended[exchange] = problem
            task.cancel()


__all__ = ["App", "Authenticate", "Edge", "Gate", "OpenGate", "Route", "mount"]
