"""The session boundary of one process, put together: five components, the edge's authenticator, their health."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Final, Self

from sealwire.boundary.authenticator import Authenticator
from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.fallback_session_provider import FallbackSessionProvider
from sealwire.boundary.integration_health import IntegrationHealth
from sealwire.boundary.jwt_token_adapter import JwtTokenAdapter, LegacyRule
from sealwire.boundary.legacy_log import LegacyLog
from sealwire.boundary.login_feed import Tell
from sealwire.boundary.model import ComponentHealth, Health
from sealwire.boundary.ports import SessionJournal
from sealwire.boundary.self_test import SelfTest
from sealwire.boundary.service_boundary_coordinator import ServiceBoundaryCoordinator
from sealwire.boundary.session_validation_normalizer import CACHE_BREAKER, SessionValidationNormalizer
from sealwire.boundary.turnstile import SocketLimits, Turnstile
from sealwire.boundary.websocket_auth_gateway import WebSocketAuthGateway
from sealwire.contracts.api_keys import ApiKeyQuery
from sealwire.contracts.auth import Auth
from sealwire.contracts.identity import Identity
from sealwire.contracts.revocations import Revocation
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.http import Authenticate
from sealwire.kit.lifespan import Probe
from sealwire.kit.problem import Unavailable
from sealwire.ports.cache import SharedCache
from sealwire.resilience.breaker import BreakerRules
from sealwire.resilience.registry import Registry

_LOG = logging.getLogger("sealwire.boundary")
CACHE_RULES: Final = BreakerRules(consecutive_failures=3, slow_call_s=0.25, open_s=0.5, open_cap_s=4.0)
"""The session cache is probed every half a second, so its loss is known after two and its return after five seconds."""


class Boundary:
    """What stands between credentials and services (a Component of kit.lifespan)."""

    def __init__(
        self,
        *,
        adapter: JwtTokenAdapter,
        normalizer: SessionValidationNormalizer,
        fallback: FallbackSessionProvider,
        coordinator: ServiceBoundaryCoordinator,
        sockets: WebSocketAuthGateway,
        authenticator: Authenticator,
        health: IntegrationHealth,
        legacy_log: LegacyLog,
    ) -> None:
        self.adapter = adapter
        self.normalizer = normalizer
        self.fallback = fallback
        self.coordinator = coordinator
        self.sockets = sockets
        self.authenticator = authenticator
        self.health = health
        self.legacy_log = legacy_log

    @classmethod
    def build(
        cls,
        *,
        auth: Identity,
        feed: Auth | None = None,
        cache: SharedCache,
        journal: SessionJournal,
        key: SealingKey,
        breakers: Registry,
        clock: Clock,
        rng: Random,
        issuer: str,
        audience: str,
        cookie_name: str,
        config: BoundaryConfig | None = None,
        legacy: Iterable[LegacyRule] = (),
        local_networks: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
        services: Authenticate | None = None,
        service: str = "gateway",
        limits: bool = True,
    ) -> Self:
        """Put the components together.

        `auth` is the guarded client. `feed`, when given, is asked for revocations in its place: auth itself where it
        lives in this process, so that no breaker stands between a revocation and its effect. `key` seals the journal
        and what is put into the shared cache: the same in every process that shares the cache. Without `limits` sockets
        are counted and not limited.
        """
        config = config or BoundaryConfig()
        system = service_caller(service, SYSTEM_TENANT)
        fallback = FallbackSessionProvider(journal=journal, clock=clock, max_sessions=config.sessions_cached)
        adapter = JwtTokenAdapter(
            issuer=issuer,
            audience=audience,
            keys=lambda: auth.jwks(system),
            api_keys=lambda key: auth.api_key(system, ApiKeyQuery(key=key)),
            legacy=legacy,
            leeway_s=config.leeway_s,
            max_cached=config.tokens_cached,
            clock=clock,
            rng=rng,
        )
        coordinator = ServiceBoundaryCoordinator(
            auth=feed or auth,
            fallback=fallback,
            breakers=breakers,
            clock=clock,
            rng=rng,
            service=service,
            bound_s=config.feed_bound_s,
        )
        legacy_log = LegacyLog(auth=auth, clock=clock, service=service)
        normalizer = SessionValidationNormalizer(
            auth=auth,
            legacy_log=legacy_log,
            feed=coordinator,
            fallback=fallback,
            cache=cache,
            cache_breaker=breakers.breaker(CACHE_BREAKER, CACHE_RULES),
            key=key,
            clock=clock,
            rng=rng,
            service=service,
            memory_ttl_s=config.memory_ttl_s,
            cache_ttl_s=config.cache_ttl_s,
            unconfirmed_s=config.unconfirmed_s,
            max_sessions=config.sessions_cached,
        )
        sockets = WebSocketAuthGateway(
            adapter=adapter,
            normalizer=normalizer,
            coordinator=coordinator,
            book=fallback.book,
            clock=clock,
            cookie_name=cookie_name,
            turnstile=Turnstile(limits=_socket_limits(config) if limits else None, clock=clock),
            origins=config.origins,
            trusted_proxies=trusted_proxies,
            url_tokens=config.url_tokens,
            leeway_s=config.leeway_s,
            unconfirmed_s=config.unconfirmed_s,
        )
        authenticator = Authenticator(
            adapter=adapter,
            normalizer=normalizer,
            coordinator=coordinator,
            book=fallback.book,
            auth=auth,
            clock=clock,
            rng=rng,
            cookie_name=cookie_name,
            service=service,
            max_cached=config.tokens_cached,
            max_sessions=config.sessions_cached,
            memory_ttl_s=config.memory_ttl_s,
            leeway_s=config.leeway_s,
            seen_every_s=config.seen_every_s,
            local_networks=local_networks,
            services=services,
        )
        # The order is the order in force: memory, sockets, then what may have to wait.
        coordinator.subscribe("jwt_token_adapter", adapter.apply)
        coordinator.subscribe("websocket_auth_gateway", sockets.apply)
        coordinator.subscribe("session_validation_normalizer", normalizer.apply)
        health = IntegrationHealth(
            components={
                "jwt_token_adapter": adapter.health,
                "session_validation_normalizer": normalizer.health,
                "fallback_session_provider": fallback.health,
                "websocket_auth_gateway": sockets.health,
                "service_boundary_coordinator": coordinator.health,
            },
            normalizer=normalizer,
            breakers=breakers,
            self_test=SelfTest(
                adapter=adapter,
                normalizer=normalizer,
                fallback=fallback,
                gateway=sockets,
                coordinator=coordinator,
                clock=clock,
            ),
            authenticator=authenticator,
            receipt_of=coordinator.receipt_of,
            self_test_every_s=config.self_test_every_s,
        )
        return cls(
            adapter=adapter,
            normalizer=normalizer,
            fallback=fallback,
            coordinator=coordinator,
            sockets=sockets,
            authenticator=authenticator,
            health=health,
            legacy_log=legacy_log,
        )

    def serve_sockets(
        self, instance: str, tell: Callable[[Revocation], None] | None = None, opened: Tell | None = None
    ) -> None:
        """Have every change applied at a socket instance of this process, with a receipt of its own.

        `tell` is called after the sockets that a change ends are closed, for those that stay open; `opened` of a
        login, which ends nothing.
        """
        end = self.sockets.instance(instance)

        def apply(change: Revocation) -> int:
            touched = end(change)
            if tell is not None:
                try:
                    tell(change)
                except Exception:  # it is in force all the same
                    _LOG.exception("sockets can't be told of a change")
            return touched

        self.coordinator.subscribe(instance, apply)
        if opened is not None:
            self.coordinator.logins.subscribe(instance, opened)

    async def start(self) -> None:
        """Read the journal, then follow auth. An auth that does not answer yet is no reason not to start."""
        await self.fallback.start()
        self.authenticator.clock_was_at(self.fallback.newest_us / US_PER_S)
        with contextlib.suppress(Exception):
            await self.adapter.refresh_keys()
        await self.coordinator.start()
        await self.normalizer.start()
        await self.sockets.start()
        await self.authenticator.start()
        await self.health.start()
        await self.legacy_log.start()

    async def stop(self) -> None:
        """Stop in reverse and write what is left. Safe to call twice."""
        await self.legacy_log.stop()
        await self.health.stop()
        await self.authenticator.stop()
        await self.sockets.stop()
        await self.normalizer.stop()
        await self.coordinator.stop()
        await self.fallback.stop()

    def checks(self) -> Mapping[str, Probe]:
        """Return what readiness depends on; the shared cache is not among it."""
        return {"revocation_feed": self._check_feed, "session_journal": self._check_journal}

    async def _check_feed(self) -> None:
        if not await self.coordinator.ensure_fresh():
            raise Unavailable("The revocation feed is older than its bound.")

    async def _check_journal(self) -> None:
        seen: ComponentHealth = self.fallback.health()
        if seen.status is Health.UNHEALTHY:
            raise Unavailable(f"The session journal can't be written: {seen.details['journal_fault']}.")


def _socket_limits(config: BoundaryConfig) -> SocketLimits:
    return SocketLimits(
        per_user=config.sockets_per_user,
        per_address=config.sockets_per_ip,
        waiting_per_address=config.waiting_per_ip,
        handshakes_per_minute=config.handshakes_per_minute,
    )
