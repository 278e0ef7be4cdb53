"""Authenticator: who asks, from an HTTP request (an `Authenticate` of kit.http).

The usual request costs one look-up: a bearer token seen before, of a session confirmed a moment ago, while the
revocation feed is young and nothing was revoked since the last look. Everything else goes the long way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Iterable
from random import Random
from typing import Final

import msgspec

from sealwire.boundary import credentials
from sealwire.boundary.jwt_token_adapter import JwtTokenAdapter
from sealwire.boundary.model import Status, Validation, VerifiedToken
from sealwire.boundary.proof_ages import ProofAges
from sealwire.boundary.revocation_book import RevocationBook
from sealwire.boundary.service_boundary_coordinator import ServiceBoundaryCoordinator
from sealwire.boundary.session_validation_normalizer import SessionValidationNormalizer
from sealwire.contracts.admission import SessionRevoked
from sealwire.contracts.auth import Auth
from sealwire.contracts.auth_terms import CSRF_HEADER
from sealwire.contracts.sessions import Seen, SeenSession
from sealwire.kit.caller import ANONYMOUS, SYSTEM_TENANT, Caller, Principal, service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import Authenticate
from sealwire.kit.operation import SAFE_VERBS, Policy
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden, Problem, SessionUnconfirmed, Unauthenticated, Unavailable
from sealwire.kit.tasks import cancel_and_wait
from sealwire.resilience.cache import TtlCache

_LOG = logging.getLogger("sealwire.boundary")
_CSRF: Final = CSRF_HEADER.lower().encode()
_LOOPBACK: Final = Policy.LOOPBACK  # an attribute of an enumeration costs more than a global
_OPEN: Final = frozenset({Policy.PUBLIC, Policy.LINK, Policy.FIRST_FRAME})
_SEEN_BATCH: Final = 1_000
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class CsrfNeeded(Forbidden):
    """A change asked for with the session cookie needs the header that only our own pages send."""

    code, title = "csrf_header_needed", f"Send the header {CSRF_HEADER} with requests that use the cookie"


class _Known:
    """What was resolved for an Authorization header, and at which state of the revocations."""

    __slots__ = ("principal", "token", "version")

    def __init__(self, principal: Principal, token: VerifiedToken, version: int) -> None:
        self.principal = principal
        self.token = token
        self.version = version


class Authenticator:
    """Resolves callers at the public edge."""

    def __init__(
        self,
        *,
        adapter: JwtTokenAdapter,
        normalizer: SessionValidationNormalizer,
        coordinator: ServiceBoundaryCoordinator,
        book: RevocationBook,
        auth: Auth,
        clock: Clock,
        rng: Random,
        cookie_name: str,
        service: str = "gateway",
        max_cached: int = 20_000,
        max_sessions: int = 100_000,
        memory_ttl_s: float = 30.0,
        leeway_s: int = 5,
        seen_every_s: float = 10.0,
        local_networks: Iterable[str] = (),
        services: Authenticate | None = None,
    ) -> None:
        """`local_networks`: addresses or networks that Policy.LOOPBACK lets in beside loopback.

        `services` knows service identities; only `optional` asks it.
        """
        self._adapter = adapter
        self._normalizer = normalizer
        self._feed = coordinator
        self._book = book
        self._auth = auth
        self._clock = clock
        self._monotonic = clock.monotonic
        self._cookie = cookie_name.encode()
        self._service = service
        self._leeway_s = leeway_s
        self._seen_every_s = seen_every_s
        self._services = services
        self._local: tuple[Network, ...] = tuple(
            ipaddress.ip_network(text) for text in ("127.0.0.0/8", "::1/128", *local_networks)
        )
        self._known: TtlCache[bytes, _Known] = TtlCache(
            max_entries=max_cached, ttl_s=memory_ttl_s, clock=clock, rng=rng
        )
        self._proofs = ProofAges(clock=clock, max_proofs=max_sessions, leeway_s=leeway_s)
        self._seen: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to report when sessions are used."""
        self._task = asyncio.create_task(self._report(), name="sessions-seen")

    def clock_was_at(self, newest_s: float) -> None:
        """Hear how far the wall clock had come before this start. What is known from there on only adds to it."""
        self._proofs.clock_was_at(newest_s)

    async def stop(self) -> None:
        """Report what is left. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)
            await self._report_now()

    def __call__(self, exchange: Exchange, policy: Policy) -> Caller | Awaitable[Caller]:
        """Return the caller, at once when nobody has to be asked.

        Raises: Unauthenticated, CredentialExpired, SessionRevoked, CsrfNeeded; SessionUnconfirmed, Unavailable.
        """
        if policy in _OPEN:
            return Caller(principal=ANONYMOUS, ip=exchange.ip, user_agent=_agent(exchange), trace_id=exchange.trace_id)
        if policy is _LOOPBACK:
            return self._local_or_operator(exchange)
        listed = exchange.scope["headers"]
        headers = exchange.named_headers()
        header = headers.get(b"authorization")
        if header is not None and b"cookie" not in headers and len(headers) == len(listed):
            known = self._known.get(header)
            if (
                known is not None
                and self._monotonic() < self._feed.fresh_until_s
                and (known.version == self._book.version or self._still_good(header, known))
            ):
                principal = known.principal
                self._seen[principal.session_id] = exchange.started_us
                agent = headers.get(b"user-agent")
                return Caller(
                    principal=principal,
                    ip=exchange.ip,
                    user_agent="" if agent is None else agent[:512].decode("latin-1"),
                    trace_id=exchange.trace_id,
                )
        return self._resolve(exchange, header)

    async def optional(self, exchange: Exchange, *, outages: bool = False) -> Caller:
        """Return who asks, a person or a service, when a good credential came along; else an anonymous caller.

        Raises: with `outages` Unavailable, SessionUnconfirmed: an outage keeps it from being known who asks.
        """
        outage: Unavailable | None = None
        try:
            return await self._resolve(exchange, exchange.header(b"authorization"))
        except Unavailable as problem:
            outage = problem
        except Problem:
            pass
        if self._services is not None:
            with contextlib.suppress(Problem):
                found = self._services(exchange, Policy.SERVICE)
                return found if isinstance(found, Caller) else await found
        if outage is not None and outages:
            raise outage
        return Caller(principal=ANONYMOUS, ip=exchange.ip, user_agent=_agent(exchange), trace_id=exchange.trace_id)

    @property
    def cookie_name(self) -> bytes:
        """The session cookie's name."""
        return self._cookie

    def clear_cache(self) -> None:
        """Forget what was resolved."""
        self._known.clear()

    async def _resolve(self, exchange: Exchange, header: bytes | None) -> Caller:
        credential = credentials.read(exchange.scope["headers"], cookie_name=self._cookie)
        if credential is None:
            raise Unauthenticated("Send an access token as `Authorization: Bearer <token>`.")
        if credential.ambient and exchange.method not in SAFE_VERBS and not exchange.header(_CSRF):
            raise CsrfNeeded
        token = await self._adapter.adapt(credential.token)
        version = self._book.version
        validation = self._normalizer.cached(token) or await self._normalizer.validate(token)
        principal = principal_of(validation)
        confirmed = validation.status is Status.VALID
        left_s = validation.good_until_s(token, self._leeway_s) - self._clock.now_us() / US_PER_S
        if principal.auth_time_s:
            if proof_left_s := self._proofs.left_s(principal.session_id, principal.auth_time_s):
                left_s = min(left_s, proof_left_s)
            else:  # for everybody down the line, whatever their clocks say
                principal = msgspec.structs.replace(principal, auth_time_s=0)
        if confirmed:
            self._seen[principal.session_id] = exchange.started_us
            if header is not None:
                self._known.put(header, _Known(principal, token, version), ttl_s=left_s)
        return Caller(
            principal=principal,
            confirmed=confirmed,
            ip=exchange.ip,
            user_agent=_agent(exchange),
            trace_id=exchange.trace_id,
        )

    def _still_good(self, header: bytes, known: _Known) -> bool:
        """Look again after something was revoked somewhere: nothing of this token, and nothing about this person."""
        if self._normalizer.holds(known.token, known.principal):
            known.version = self._book.version
            return True
        self._known.invalidate(header)
        return False

    def _local_or_operator(self, exchange: Exchange) -> Caller | Awaitable[Caller]:
        try:
            address = ipaddress.ip_address(exchange.ip)
        except ValueError:
            address = None
        if address is not None and any(address in network for network in self._local):
            return Caller(principal=ANONYMOUS, ip=exchange.ip, user_agent=_agent(exchange), trace_id=exchange.trace_id)
        return self._operator(exchange)

    async def _operator(self, exchange: Exchange) -> Caller:
        caller = await self._resolve(exchange, exchange.header(b"authorization"))
        if not caller.may(Permission.HEALTH_DETAILS):
            raise Forbidden("This is for this machine and for those who run it.")
        return caller

    # -- when sessions were used

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self._seen_every_s)
            await self._report_now()

    async def _report_now(self) -> None:
        """Tell auth; what can't be told is dropped: the next use says the same again."""
        seen, self._seen = self._seen, {}
        items = [SeenSession(session_id=session_id, at_us=at_us) for session_id, at_us in seen.items()]
        caller = service_caller(self._service, SYSTEM_TENANT)
        for start in range(0, len(items), _SEEN_BATCH):
            with contextlib.suppress(Problem, ConnectionError, TimeoutError):
                await self._auth.seen(caller, Seen(items=items[start : start + _SEEN_BATCH]))


def principal_of(validation: Validation) -> Principal:
    """Return whom an answer speaks of. Raises: SessionRevoked, SessionUnconfirmed."""
    if validation.principal is not None:
        return validation.principal
    if validation.status is Status.REVOKED:
        raise SessionRevoked
    raise SessionUnconfirmed("Your session can't be confirmed for the moment; please try again.")


def _agent(exchange: Exchange) -> str:
    return exchange.text_header(b"user-agent")
