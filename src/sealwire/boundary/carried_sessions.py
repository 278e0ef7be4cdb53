"""Carried sessions: whom a service says it speaks for has to have the session it names, and is whom that one is of.

A service's word for who came in is as good as its key (clients/identity.py). Held against sessions, a stolen key speaks
for those alone whose live session its thief knows by its id, and with the role that their record has: it makes nobody
an owner. Nor does it do what people do for nobody, or in its own name. It costs a look into memory, on the ports of
services only.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Container
from typing import Final

from msgspec.structs import replace

from sealwire.boundary.authenticator import principal_of
from sealwire.boundary.model import Source, Status, VerifiedToken
from sealwire.boundary.session_validation_normalizer import SessionValidationNormalizer
from sealwire.contracts.admission import SessionRevoked
from sealwire.kit.caller import ANONYMOUS, Caller, service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.exchange import Exchange
from sealwire.kit.operation import Policy
from sealwire.kit.problem import Forbidden, SessionUnconfirmed, Unauthenticated

_FINGERPRINT: Final = re.compile("[0-9a-f]{64}")
"""What a legacy token has in place of a session's id (kit.jose.fingerprint), and no session or API key has."""


class CarriedSessions:
    """An `Authenticate` of kit.http around the one that knows the services."""

    def __init__(
        self,
        *,
        services: Callable[[Exchange, Policy], Caller],
        normalizer: SessionValidationNormalizer,
        clock: Clock,
        legacy_tenants: Container[str] = (),
    ) -> None:
        """`legacy_tenants` have a legacy issuer, whose tokens have no session: of nobody else is one believed."""
        self._legacy_tenants = legacy_tenants
        self._services = services
        self._normalizer = normalizer
        self._clock = clock

    def __call__(self, exchange: Exchange, policy: Policy) -> Caller | Awaitable[Caller]:
        """Raises: what `services` raises; Unauthenticated, Forbidden; SessionRevoked, and SessionUnconfirmed while
        nobody can be asked."""
        caller = self._services(exchange, policy)
        said = caller.principal
        if said.kind in ("user", "api_key"):
            return self._held(caller)
        if said.kind == "anonymous":
            if said != ANONYMOUS or policy is Policy.CALLER:
                raise Unauthenticated("Who has not said who they are is nobody.")
        elif said != service_caller(said.subject, said.tenant_id).principal:
            raise Unauthenticated("A service is a service.")
        elif policy is Policy.CALLER:
            route = exchange.route
            operation = route.operation if route is not None else None
            if operation is None or said.subject not in operation.callers:
                raise Forbidden(f"{said.subject} may ask for this for somebody only.")
        return caller

    async def _held(self, caller: Caller) -> Caller:
        said = caller.principal
        if said.legacy and said.tenant_id not in self._legacy_tenants:
            raise SessionRevoked
        if said.legacy is not (_FINGERPRINT.fullmatch(said.session_id) is not None):
            raise SessionRevoked
        token = VerifiedToken(
            tenant_id=said.tenant_id,
            subject=said.subject,
            session_id=said.session_id,
            token_id=said.token_id,
            role=said.role,
            email=said.email,
            kid="",
            epoch=said.epoch,
            issued_at_s=self._clock.now_us() // US_PER_S,  # its age is not told; whether the session lives decides
            expires_at_s=said.expires_at_s,
            auth_time_s=said.auth_time_s,
            amr=said.amr,
            legacy=said.legacy,
            kind="api_key" if said.kind == "api_key" else "user",
            scopes=said.scopes,
        )
        found = self._normalizer.cached(token) or await self._normalizer.validate(token)
        if found.source is Source.TOKEN:  # that is the service's word again
            raise SessionUnconfirmed("The session can't be confirmed for the moment; please try again.")
        return replace(
            caller, principal=principal_of(found), confirmed=caller.confirmed and found.status is Status.VALID
        )
