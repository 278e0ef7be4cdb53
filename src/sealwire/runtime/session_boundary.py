"""Puts the five components of the session boundary together for one process."""

from __future__ import annotations

from pathlib import Path
from random import Random

from sealwire.adapters.embedded.cache import ProcessCache
from sealwire.adapters.embedded.session_journal import SealedSessionJournal
from sealwire.boundary.authenticator import Authenticator
from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.fallback_session_provider import FallbackSessionProvider
from sealwire.boundary.integration_health import IntegrationHealth
from sealwire.boundary.jwt_token_adapter import JwtTokenAdapter, LegacyRule
from sealwire.boundary.self_test import SelfTest
from sealwire.boundary.service_boundary_coordinator import ServiceBoundaryCoordinator
from sealwire.boundary.session_validation_normalizer import SessionValidationNormalizer
from sealwire.boundary.websocket_auth_gateway import WebSocketAuthGateway
from sealwire.contracts.auth import COOKIE, COOKIE_LOOPBACK, Auth
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import SealingKey
from sealwire.resilience.registry import Registry
from sealwire.services.auth.config import AuthConfig, LegacyIssuer

SESSION_CACHE = "session_cache"


class SessionBoundary:
    """The components, started in the order they need each other and stopped in reverse."""

    def __init__(
        self,
        *,
        auth: Auth,
        auth_config: AuthConfig,
        config: BoundaryConfig,
        key: SealingKey,
        journal: Path,
        breakers: Registry,
        secure: bool,
        metrics_allow: list[str],
        clock: Clock,
        rng: Random,
    ) -> None:
        """`secure` says whether people come by https, and so which name the session cookie has."""
        cookie = COOKIE if secure else COOKIE_LOOPBACK
        caller = service_caller("gateway", SYSTEM_TENANT)
        self.adapter = JwtTokenAdapter(
            issuer=auth_config.issuer,
            audience=auth_config.audience,
            keys=lambda: auth.jwks(caller),
            legacy=[_legacy_rule(issuer) for issuer in auth_config.legacy],
            leeway_s=config.leeway_s,
            max_cached=config.tokens_cached,
            clock=clock,
            rng=rng,
        )
        self.fallback = FallbackSessionProvider(
            journal=SealedSessionJournal(journal, key), clock=clock, max_sessions=config.sessions_cached
        )
        self.coordinator = ServiceBoundaryCoordinator(
            auth=auth, fallback=self.fallback, breakers=breakers, clock=clock, rng=rng, bound_s=config.feed_bound_s
        )
        self.normalizer = SessionValidationNormalizer(
            auth=auth,
            feed=self.coordinator,
            fallback=self.fallback,
            cache=ProcessCache(clock=clock),
            cache_breaker=breakers.breaker(SESSION_CACHE),
            key=key,
            clock=clock,
            rng=rng,
            memory_ttl_s=config.memory_ttl_s,
            cache_ttl_s=config.cache_ttl_s,
            unconfirmed_s=config.unconfirmed_s,
            max_sessions=config.sessions_cached,
        )
        self.sockets = WebSocketAuthGateway(
            adapter=self.adapter,
            normalizer=self.normalizer,
            coordinator=self.coordinator,
            book=self.fallback.book,
            clock=clock,
            cookie_name=cookie,
            origins=config.origins,
            url_tokens=config.url_tokens,
            leeway_s=config.leeway_s,
            unconfirmed_s=config.unconfirmed_s,
        )
        self.authenticator = Authenticator(
            adapter=self.adapter,
            normalizer=self.normalizer,
            coordinator=self.coordinator,
            book=self.fallback.book,
            auth=auth,
            clock=clock,
            rng=rng,
            cookie_name=cookie,
            max_cached=config.tokens_cached,
            memory_ttl_s=config.memory_ttl_s,
            leeway_s=config.leeway_s,
            seen_every_s=config.seen_every_s,
            local_networks=metrics_allow,
        )
        self_test = SelfTest(
            adapter=self.adapter,
            normalizer=self.normalizer,
            fallback=self.fallback,
            gateway=self.sockets,
            coordinator=self.coordinator,
            clock=clock,
        )
        self.health = IntegrationHealth(
            components={
                "jwt_token_adapter": self.adapter.health,
                "session_validation_normalizer": self.normalizer.health,
                "fallback_session_provider": self.fallback.health,
                "websocket_auth_gateway": self.sockets.health,
                "service_boundary_coordinator": self.coordinator.health,
            },
            normalizer=self.normalizer,
            breakers=breakers,
            self_test=self_test,
            authenticator=self.authenticator,
            self_test_every_s=config.self_test_every_s,
        )
        self.coordinator.subscribe("session_cache", self.normalizer.apply)
        self.coordinator.subscribe("sockets", self.sockets.apply)

    async def start(self) -> None:
        """Load what was known, read the feed, then let people in."""
        await self.fallback.start()
        await self.adapter.refresh_keys()
        await self.coordinator.start()
        await self.sockets.start()
        await self.authenticator.start()
        await self.health.start()

    async def stop(self) -> None:
        """Stop in reverse. Safe to call twice."""
        await self.health.stop()
        await self.authenticator.stop()
        await self.sockets.stop()
        await self.coordinator.stop()
        await self.fallback.stop()


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
