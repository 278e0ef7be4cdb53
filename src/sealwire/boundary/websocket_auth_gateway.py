"""WebSocket authentication gateway: nobody gets past it, and nobody stays longer than the session (R6.4).

Credentials: the Authorization header, the subprotocols `sealwire.v1, bearer.<jwt>`, the session cookie of our own
pages (Origin checked), or the first frame; two different ones are refused. Tokens in the URL are off by default.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from sealwire.boundary import credentials
from sealwire.boundary.authenticator import principal_of
from sealwire.boundary.jwt_token_adapter import JwtTokenAdapter
from sealwire.boundary.model import ComponentHealth, Health, Status, VerifiedToken
from sealwire.boundary.revocation_book import UNSETTLED, RevocationBook
from sealwire.boundary.service_boundary_coordinator import ServiceBoundaryCoordinator
from sealwire.boundary.session_validation_normalizer import SessionValidationNormalizer
from sealwire.boundary.turnstile import Turnstile
from sealwire.contracts.admission import SUBPROTOCOL, Admission, CredentialExpired, Handshake, SessionRevoked
from sealwire.contracts.revocations import Revocation
from sealwire.contracts.socket import SERVICE
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.exchange import Scope
from sealwire.kit.forwarded import forwarded_for
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden, Problem, SessionUnconfirmed, Unauthenticated
from sealwire.kit.tasks import cancel_and_wait

_LOG = logging.getLogger("sealwire.boundary")
_BEARER: Final = b"bearer."
_SWEEP_EVERY_S: Final = 1.0
_URL_PARAMETERS: Final = ("token", "access_token")
Ended = Callable[[Problem], None]


class AdmittedSocket:
    """One authenticated socket (contracts.admission.Admission)."""

    __slots__ = ("_caller", "_gateway", "_unconfirmed", "checked", "confirmed", "ended", "instance", "token", "until_s")

    def __init__(self, *, gateway: WebSocketAuthGateway, instance: str, ended: Ended) -> None:
        self._gateway = gateway
        self.instance = instance
        self.ended: Ended | None = ended

    def admit(self, token: VerifiedToken, caller: Caller, *, checked: int, until_s: float) -> None:
        """Take over who is on the socket, checked at this version of the revocations, until this monotonic time."""
        self.token = token
        self._caller = caller
        self._unconfirmed: Caller | None = None
        self.confirmed = caller.confirmed
        self.checked = checked
        self.until_s = until_s

    @property
    def caller(self) -> Caller:
        """Who is on the socket now. Raises: SessionRevoked, CredentialExpired, SessionUnconfirmed."""
        return self._caller if self._gateway.confirmed_now(self) else self._as_unconfirmed()

    @property
    def expires_at_s(self) -> int:
        """When the token ends, in Unix seconds."""
        return self.token.expires_at_s

    @property
    def session_caller(self) -> Caller:
        """The caller as last confirmed, without a look at the present."""
        return self._caller

    def _as_unconfirmed(self) -> Caller:
        if self._unconfirmed is None:
            caller = self._caller
            self._unconfirmed = Caller(
                principal=caller.principal,
                confirmed=False,
                service=SERVICE,
                ip=caller.ip,
                user_agent=caller.user_agent,
                trace_id=caller.trace_id,
            )
        return self._unconfirmed


class WebSocketAuthGateway:
    """Lets sockets in, knows who is on each, ends them when their session ends (contracts.admission.SocketGateway)."""

    def __init__(
        self,
        *,
        adapter: JwtTokenAdapter,
        normalizer: SessionValidationNormalizer,
        coordinator: ServiceBoundaryCoordinator,
        book: RevocationBook,
        clock: Clock,
        cookie_name: str,
        turnstile: Turnstile,
        origins: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
        url_tokens: bool = False,
        leeway_s: int = 5,
        unconfirmed_s: int = 900,
    ) -> None:
        self._adapter = adapter
        self._normalizer = normalizer
        self._feed = coordinator
        self._book = book
        self._clock = clock
        self._monotonic = clock.monotonic
        self._cookie = cookie_name.encode()
        self.turnstile = turnstile
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._proxies = frozenset(trusted_proxies)
        self._url_tokens = url_tokens
        self._leeway_s = leeway_s
        self._unconfirmed_s = unconfirmed_s
        self._sockets: dict[AdmittedSocket, None] = {}
        self._by_session: dict[str, set[AdmittedSocket]] = {}
        self._by_subject: dict[tuple[str, str], set[AdmittedSocket]] = {}
        self._instances: set[str] = set()
        self._renewals: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.admitted = self.refused = self.ended_by_us = 0

    async def start(self) -> None:
        """Begin to watch for sockets that went unconfirmed for too long."""
        self._task = asyncio.create_task(self._sweep_on(), name="socket-sweep")

    async def stop(self) -> None:
        """Stop watching; sockets stay as they are. Safe to call twice."""
        tasks = [*self._renewals]
        if self._task is not None:
            tasks.append(self._task)
            self._task = None
        await cancel_and_wait(*tasks)

    # -- in

    def read(self, scope: Scope) -> Handshake:
        """Read an opening request. Raises: Unauthenticated for two credentials or a foreign page's cookie."""
        return self._read(scope, self.address(scope))

    def enter(self, scope: Scope, instance: str) -> Handshake:
        """Count an opening request, then read it (see contracts.admission)."""
        ip = self.address(scope)
        place = self.turnstile.knock(ip)
        handshake = self._read(scope, ip)
        return msgspec.structs.replace(handshake, instance=instance, seat=self.turnstile.enter(place))

    def address(self, scope: Scope) -> str:
        """Return where an opening request comes from, by what a trusted proxy says of it."""
        client = scope.get("client")
        values = (value for name, value in scope["headers"] if name == b"x-forwarded-for")
        return forwarded_for(values, client[0] if client else "", self._proxies)

    def _read(self, scope: Scope, ip: str) -> Handshake:
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        offered = [
            offer.strip(b" \t")
            for name, value in headers
            if name == b"sec-websocket-protocol"
            for offer in value.split(b",")
        ]
        try:
            tokens = self._tokens(scope, headers, offered)
        except Problem:
            self.refused += 1
            raise
        return Handshake(
            token=tokens.pop() if tokens else "",
            subprotocol=SUBPROTOCOL if SUBPROTOCOL.encode() in offered else "",
            ip=ip,
            user_agent=dict(headers).get(b"user-agent", b"")[:512].decode("latin-1"),
            trace_id=os.urandom(16).hex(),
        )

    def _tokens(self, scope: Scope, headers: list[tuple[bytes, bytes]], offered: list[bytes]) -> set[str]:
        """Return the handshake's credential, if it brought one. Raises: Unauthenticated."""
        found = credentials.read(headers, cookie_name=self._cookie)
        tokens = set() if found is None else {found.token}
        if found is not None and found.ambient and not self._own_origin(headers):
            raise Unauthenticated("The session cookie works on our own pages only.")
        tokens.update(credentials.as_text(offer[len(_BEARER) :]) for offer in offered if offer.startswith(_BEARER))
        if self._url_tokens:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            tokens.update(text for name in _URL_PARAMETERS for text in query.get(name, ()))
        if len(tokens) > 1:
            raise credentials.TwoCredentials
        return tokens

    async def admit(self, handshake: Handshake, token: str, *, ended: Ended) -> AdmittedSocket:
        """Authenticate a socket (see contracts.admission)."""
        try:
            text = _one_of(handshake.token, token)
            socket = AdmittedSocket(gateway=self, instance=handshake.instance, ended=ended)
            await self._judge(socket, text, handshake.ip, handshake.user_agent, handshake.trace_id)
            principal = socket.session_caller.principal
            if handshake.seat is not None:
                person = self._by_subject.get((principal.tenant_id, principal.subject), ())
                self.turnstile.check_person(len(person))
                handshake.seat.take()
        except Problem:
            self.refused += 1
            raise
        self._sockets[socket] = None
        self._by_session.setdefault(principal.session_id, set()).add(socket)
        self._by_subject.setdefault((principal.tenant_id, principal.subject), set()).add(socket)
        self.admitted += 1
        return socket

    async def renew(self, admission: Admission, token: str) -> None:
        """Take a fresh token for a live socket (see contracts.admission)."""
        socket = self._known(admission)
        verified = await self._adapter.adapt(_one_of(token, ""))
        before = socket.token
        if (verified.tenant_id, verified.subject, verified.session_id) != (
            before.tenant_id,
            before.subject,
            before.session_id,
        ):
            raise Unauthenticated("The fresh token is of another session.")
        caller = socket.session_caller
        await self._judge(socket, token, caller.ip, caller.user_agent, caller.trace_id)

    def release(self, admission: Admission) -> None:
        """Forget a socket that is gone."""
        if isinstance(admission, AdmittedSocket):
            admission.ended = None
            self._drop(admission)

    # -- now

    def confirmed_now(self, socket: AdmittedSocket) -> bool:
        """Whether the socket's session is confirmed at this moment; False lets low-risk operations go on.

        Raises: SessionRevoked, CredentialExpired, SessionUnconfirmed.
        """
        now_s = self._monotonic()
        if now_s >= socket.until_s:
            raise CredentialExpired
        if socket.ended is None:
            raise SessionRevoked
        version = self._book.version
        if socket.checked != version:
            if self._book.against(socket.token) not in ("", UNSETTLED):
                self._end(socket, SessionRevoked())
                raise SessionRevoked
            socket.checked = version
        if now_s < self._feed.fresh_until_s:
            return socket.confirmed
        if now_s - self._feed.fresh_until_s > self._unconfirmed_s:
            raise SessionUnconfirmed
        return False

    def instance(self, name: str) -> Callable[[Revocation], int]:
        """Return what ends or re-authorises the sockets of one instance (a boundary of the coordinator)."""
        self._instances.add(name)
        return lambda change: self._apply(change, {name})

    def apply(self, change: Revocation) -> int:
        """The same for sockets of no instance that is a boundary of its own. Returns how many were touched."""
        return self._apply(change, {socket.instance for socket in self._touched(change)} - self._instances)

    def _apply(self, change: Revocation, instances: set[str]) -> int:
        touched = [socket for socket in self._touched(change) if socket.instance in instances]
        for socket in touched:
            reason = self._book.against(socket.token)
            if reason not in ("", UNSETTLED):
                self._end(socket, SessionRevoked())
            elif reason or change.kind in ("role", "subject"):
                socket.confirmed = False
                self._reauthorise(socket)
        return len(touched)

    async def sweep(self) -> None:
        """End what was unconfirmed for too long; ask again for the others as soon as that is possible."""
        if self._feed.fresh:
            for socket in [socket for socket in self._sockets if not socket.confirmed]:
                await self._ask_again(socket)
        elif self._feed.fresh_until_s and self._monotonic() - self._feed.fresh_until_s > self._unconfirmed_s:
            for socket in list(self._sockets):
                self._end(socket, SessionUnconfirmed())

    def health(self) -> ComponentHealth:
        """Healthy while sockets are let in by confirmed sessions."""
        details: dict[str, Any] = {
            "sockets": len(self._sockets),
            "sessions": len(self._by_session),
            "admitted": self.admitted,
            "refused": self.refused,
            "ended": self.ended_by_us,
            "url_tokens": self._url_tokens,
            "connections": self.turnstile.details(),
        }
        return ComponentHealth(status=Health.HEALTHY if self._feed.fresh else Health.DEGRADED, details=details)

    # -- inside

    async def _judge(self, socket: AdmittedSocket, text: str, ip: str, user_agent: str, trace_id: str) -> None:
        token = await self._adapter.adapt(text)
        validation = await self._normalizer.validate(token)
        principal: Principal = principal_of(validation)
        if principal.scopes is not None and Permission.READ not in principal.scopes:
            raise Forbidden("What comes over a socket is not for this credential to read.")
        caller = Caller(
            principal=principal,
            confirmed=validation.status is Status.VALID,
            service=SERVICE,
            ip=ip,
            user_agent=user_agent,
            trace_id=trace_id,
        )
        left_s = validation.good_until_s(token, self._leeway_s) - self._clock.now_us() / US_PER_S
        socket.admit(token, caller, checked=self._book.version, until_s=self._monotonic() + left_s)

    def _touched(self, change: Revocation) -> list[AdmittedSocket]:
        if change.kind == "session":
            return list(self._by_session.get(change.session_id, ()))
        if change.kind in ("subject", "role"):
            return list(self._by_subject.get((change.tenant_id, change.subject), ()))
        if change.kind == "token":
            return [socket for socket in self._sockets if socket.token.token_id == change.token_id]
        return [socket for socket in self._sockets if socket.token.tenant_id == change.tenant_id]

    def _reauthorise(self, socket: AdmittedSocket) -> None:
        task = asyncio.create_task(self._ask_again(socket), name="socket-reauthorise")
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    async def _ask_again(self, socket: AdmittedSocket) -> None:
        """Confirm a socket's session anew, with the role the person has now."""
        caller = socket.session_caller
        validation = await self._normalizer.validate(socket.token)
        if socket.ended is None:
            return
        if validation.principal is None:
            self._end(socket, SessionRevoked() if validation.status is Status.REVOKED else SessionUnconfirmed())
            return
        fresh = Caller(
            principal=validation.principal,
            confirmed=validation.status is Status.VALID,
            service=SERVICE,
            ip=caller.ip,
            user_agent=caller.user_agent,
            trace_id=caller.trace_id,
        )
        socket.admit(socket.token, fresh, checked=self._book.version, until_s=socket.until_s)

    def _end(self, socket: AdmittedSocket, why: Problem) -> None:
        ended, socket.ended = socket.ended, None
        self._drop(socket)
        if ended is not None:
            self.ended_by_us += 1
            try:
                ended(why)
            except Exception:
                _LOG.exception("a socket could not be closed")

    def _drop(self, socket: AdmittedSocket) -> None:
        if socket not in self._sockets:
            return
        del self._sockets[socket]
        principal = socket.session_caller.principal
        _discard(self._by_session, principal.session_id, socket)
        _discard(self._by_subject, (principal.tenant_id, principal.subject), socket)

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            await self.sweep()

    def _own_origin(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether the page that opens the socket is ours: its origin's host is the one asked, or it is listed."""
        origins = {value for name, value in headers if name == b"origin"}
        hosts = {value for name, value in headers if name == b"host"}
        if len(origins) != 1 or len(hosts) != 1:
            return False
        origin, host = origins.pop().decode("latin-1").lower(), hosts.pop().decode("latin-1").lower()
        scheme, separator, authority = origin.partition("://")
        if not separator or scheme not in ("http", "https"):
            return False
        default = ":443" if scheme == "https" else ":80"
        return authority.removesuffix(default) == host.removesuffix(default) or origin in self._origins

    @staticmethod
    def _known(admission: Admission) -> AdmittedSocket:
        if not isinstance(admission, AdmittedSocket) or admission.ended is None:
            raise SessionRevoked
        return admission


def _one_of(one: str, other: str) -> str:
    """Return the credential of two places. Raises: Unauthenticated for none or two that differ."""
    if one and other and one != other:
        raise credentials.TwoCredentials
    text = one or other
    if not text:
        raise Unauthenticated("Send an access token.")
    return text


def _discard(index: dict[Any, set[AdmittedSocket]], key: object, socket: AdmittedSocket) -> None:
    sockets = index.get(key)
    if sockets is not None:
        sockets.discard(socket)
        if not sockets:
            del index[key]
