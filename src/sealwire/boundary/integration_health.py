"""Integration health: the boundary as seen from outside (contract.md, "Health"). States for all, figures for few."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from sealwire.boundary import credentials
from sealwire.boundary.authenticator import Authenticator
from sealwire.boundary.model import ComponentHealth, Health
from sealwire.boundary.receipts import Receipt
from sealwire.boundary.self_test import Report, SelfTest
from sealwire.boundary.session_validation_normalizer import SessionValidationNormalizer
from sealwire.kit.caller import Caller
from sealwire.kit.codec import encode
from sealwire.kit.exchange import JSON, Exchange
from sealwire.kit.http import Edge, Route, Run
from sealwire.kit.operation import Policy, RateClass
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden, SessionUnconfirmed, Unauthenticated
from sealwire.kit.tasks import cancel_and_wait
from sealwire.resilience.breaker import Breaker, State
from sealwire.resilience.registry import Registry

_LOG = logging.getLogger("sealwire.boundary")
PREFIX: Final = "/api/integration-health"
COORDINATOR: Final = "service_boundary_coordinator"
_NO_STORE: Final = (b"cache-control", b"no-store")


class IntegrationHealth:
    """Answers for the five components and every breaker, and runs the self-test on demand and on a schedule."""

    def __init__(
        self,
        *,
        components: Mapping[str, Callable[[], ComponentHealth]],
        normalizer: SessionValidationNormalizer,
        breakers: Registry,
        self_test: SelfTest,
        authenticator: Authenticator,
        receipt_of: Callable[[str], Receipt | None],
        self_test_every_s: float = 60.0,
    ) -> None:
        """`components` by their name in answers (underscores), each with what tells how it fares."""
        self._components = dict(components)
        self._normalizer = normalizer
        self._breakers = breakers
        self._self_test = self_test
        self._authenticator = authenticator
        self._receipt_of = receipt_of
        self._every_s = self_test_every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin the scheduled self-tests."""
        if self._every_s:
            self._task = asyncio.create_task(self._test_now_and_then(), name="boundary-self-test")

    async def stop(self) -> None:
        """Stop them. Safe to call twice."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    def routes(self, edge: Edge) -> list[Route]:
        """Return the routes, with full paths: they stand outside of /api/v1."""
        paths: dict[str, Run] = {PREFIX + "/": self._show_all, PREFIX: self._show_all}
        paths |= {f"{PREFIX}/{name.replace('_', '-')}": self._shower(name) for name in self._components}
        paths[f"{PREFIX}/circuit-breaker-status"] = self._show_breakers
        routes = [
            edge.stream(
                "GET", path, handler, policy=Policy.PUBLIC, rate=RateClass.NONE, audited=False,
                summary="Health of the session boundary",
            )
            for path, handler in paths.items()
        ]  # fmt: skip
        test = edge.stream(
            "POST", f"{PREFIX}/test-integration", self._test, policy=Policy.PUBLIC,
            summary="Run the session boundary's self-test",
        )  # fmt: skip
        return [*routes, test]

    @property
    def last_self_test(self) -> Report | None:
        """The newest report, whoever asked for it."""
        return self._self_test.last

    def summary(self, *, detailed: bool) -> dict[str, Any]:
        """Return how all components fare together."""
        seen = {name: health() for name, health in self._components.items()}
        states = [health.status for health in seen.values()]
        failed, degraded = states.count(Health.UNHEALTHY), states.count(Health.DEGRADED)
        status = Health.UNHEALTHY if failed else Health.DEGRADED if degraded else Health.HEALTHY
        answer: dict[str, Any] = {
            "status": status,
            "components": {name: _shown(health, detailed) for name, health in seen.items()},
            "integration_summary": {
                "total_components": len(states),
                "healthy_components": states.count(Health.HEALTHY),
                "degraded_components": degraded,
                "failed_components": failed,
            },
        }
        if detailed:
            answer["last_self_test"] = self._self_test.last
        return answer

    def breakers(self, *, detailed: bool) -> dict[str, Any]:
        """Return every breaker's state."""
        return {
            "summary": {
                "total_breakers": len(self._breakers),
                "active_breakers": self._breakers.active,
                "degraded_mode": self._normalizer.degraded,
            },
            "breakers": [_breaker(breaker, detailed) for breaker in self._breakers],
        }

    async def _show_all(self, exchange: Exchange, _: Caller) -> None:
        await self._answer(exchange, self.summary(detailed=await self._detailed(exchange)))

    async def _show_breakers(self, exchange: Exchange, _: Caller) -> None:
        await self._answer(exchange, self.breakers(detailed=await self._detailed(exchange)))

    def _shower(self, name: str) -> Run:
        async def show(exchange: Exchange, _: Caller) -> None:
            detailed = await self._detailed(exchange)
            answer = {"component": name} | _shown(self._components[name](), detailed)
            if detailed and name == COORDINATOR and (change_id := exchange.query.get("change_id")):
                answer["receipt"] = self._receipt_of(change_id)
            await self._answer(exchange, answer)

        return show

    async def _test(self, exchange: Exchange, _: Caller) -> None:
        """Run a pass for those who may.

        Raises: Unauthenticated, Forbidden, AlreadyRunning; SessionUnconfirmed, Unavailable.
        """
        caller = await self._authenticator.optional(exchange, outages=True)
        if caller.is_anonymous:
            raise Unauthenticated("Send a credential of an owner, admin or operator.")
        if not caller.confirmed:
            raise SessionUnconfirmed("Your session can't be confirmed for the moment; please try again.")
        if not self._may_see(caller):
            raise Forbidden("The self-test is for owners, admins and operators.")
        token = ""
        if caller.principal.kind == "user":
            found = credentials.read(exchange.scope["headers"], cookie_name=self._authenticator.cookie_name)
            token = found.token if found is not None and not found.ambient else ""
        report: Report = await self._self_test.run(token)
        steps = {"total": len(report.steps), "passed": sum(step.ok for step in report.steps)}
        answer = {"status": "passed" if report.ok else "failed", "summary": steps, "report": report}
        await exchange.answer(200, encode(answer), (JSON, _NO_STORE))

    async def _detailed(self, exchange: Exchange) -> bool:
        """Whether the caller may see more than states; who sends no credential is not asked further."""
        if exchange.header(b"authorization") is None and exchange.header(b"cookie") is None:
            return False
        return self._may_see(await self._authenticator.optional(exchange))

    @staticmethod
    def _may_see(caller: Caller) -> bool:
        return caller.confirmed and caller.may(Permission.HEALTH_DETAILS)

    @staticmethod
    async def _answer(exchange: Exchange, answer: dict[str, Any]) -> None:
        await exchange.answer(200, encode(answer), (JSON, _NO_STORE))

    async def _test_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            with contextlib.suppress(Exception):
                report = await self._self_test.run()
                if not report.ok:
                    failed = [f"{step.component}: {step.shows}: {step.fault}" for step in report.steps if not step.ok]
                    _LOG.error("the boundary's self-test failed: %s", "; ".join(failed))


def _shown(health: ComponentHealth, detailed: bool) -> dict[str, Any]:
    return {"status": health.status, **(health.details if detailed else {})}


def _breaker(breaker: Breaker, detailed: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": breaker.name, "state": breaker.state, "active": breaker.state is not State.CLOSED}
    if detailed:
        seen = breaker.snapshot()
        shown |= {
            "since_us": seen.since_us,
            "retry_after_s": round(seen.retry_after_s, 3),
            "counts": seen.counts,
            "transitions": seen.transitions,
        }
    return shown
