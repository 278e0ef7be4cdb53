"""The boundary's self-test: one pass over the five components, each step with its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from sealwire.boundary.fallback_session_provider import FallbackSessionProvider
from sealwire.boundary.jwt_token_adapter import JwtTokenAdapter
from sealwire.boundary.model import Status, VerifiedToken
from sealwire.boundary.service_boundary_coordinator import ServiceBoundaryCoordinator
from sealwire.boundary.session_validation_normalizer import SessionValidationNormalizer
from sealwire.boundary.websocket_auth_gateway import WebSocketAuthGateway
from sealwire.contracts.revocations import Revocation
from sealwire.contracts.sessions import SessionState
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Role
from sealwire.kit.problem import Conflict, Problem, Unauthenticated

STEP_TIMEOUT_S: Final = 5.0
PROBE_TENANT: Final = "selftest"
PROBE_LIFE_S: Final = 60


class AlreadyRunning(Conflict):
    """A self-test of the boundary is running."""

    code, title = "self_test_running", "A self-test is running already"


class ShownFault(Exception):
    """A component did not do what the step shows."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step: which component, what it showed, in how many milliseconds. `fault` is empty when it passed."""

    component: str
    shows: str
    ok: bool
    took_ms: float
    fault: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A pass. `at_us` is when it began."""

    ok: bool
    at_us: int
    took_ms: float
    steps: list[Step]


class SelfTest:
    """Runs the pass, one at a time. `token` is the caller's own credential: the genuine one to test with."""

    def __init__(
        self,
        *,
        adapter: JwtTokenAdapter,
        normalizer: SessionValidationNormalizer,
        fallback: FallbackSessionProvider,
        gateway: WebSocketAuthGateway,
        coordinator: ServiceBoundaryCoordinator,
        clock: Clock,
    ) -> None:
        self._adapter = adapter
        self._normalizer = normalizer
        self._fallback = fallback
        self._gateway = gateway
        self._coordinator = coordinator
        self._clock = clock
        self._running = False
        self.last: Report | None = None

    async def run(self, token: str = "") -> Report:
        """Run the pass; without a token the steps that need a genuine one are left out. Raises: AlreadyRunning."""
        if self._running:
            raise AlreadyRunning
        self._running = True
        try:
            at_us, started_s = self._clock.now_us(), time.perf_counter()
            steps = [await self._step(*step) for step in self._steps(token)]
            took_ms = (time.perf_counter() - started_s) * 1000
            self.last = Report(ok=all(step.ok for step in steps), at_us=at_us, took_ms=round(took_ms, 3), steps=steps)
            return self.last
        finally:
            self._running = False

    def _steps(self, token: str) -> list[tuple[str, str, Callable[[], Awaitable[None]]]]:
        adapter, normalizer, gateway = "jwt_token_adapter", "session_validation_normalizer", "websocket_auth_gateway"
        steps: list[tuple[str, str, Callable[[], Awaitable[None]]]] = []
        if token:
            steps += [
                (adapter, "a genuine token is read", lambda: self._reads(token)),
                (adapter, "the same token with a forged signature is refused", lambda: self._refuses(token)),
                (normalizer, "the session is confirmed", lambda: self._confirms(token)),
            ]
        else:
            steps.append((adapter, "the keys of auth can be had", self._adapter.refresh_keys))
        steps += [
            (normalizer, "a session that auth does not know is refused", self._refuses_unknown),
            ("fallback_session_provider", "a session is kept and found, a revoked one is not", self._falls_back),
            ("fallback_session_provider", "the journal is written", self._fallback.persist),
            (gateway, "a socket without a credential is refused", self._refuses_socket),
        ]
        if token:
            steps.append((gateway, "a socket with the token is let in and ended", lambda: self._admits(token)))
        steps += [
            ("service_boundary_coordinator", "the revocation feed answers", self._feed_answers),
            ("service_boundary_coordinator", "a change reaches every boundary", self._change_arrives),
        ]
        return steps

    async def _step(self, component: str, shows: str, run: Callable[[], Awaitable[None]]) -> Step:
        started_s = time.perf_counter()
        fault = ""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await run()
        except Exception as error:
            fault = error.code if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
        took_ms = round((time.perf_counter() - started_s) * 1000, 3)
        return Step(component=component, shows=shows, ok=not fault, took_ms=took_ms, fault=fault)

    async def _reads(self, token: str) -> None:
        self._adapter.forget_one(token)
        await self._adapter.adapt(token)

    async def _refuses(self, token: str) -> None:
        head, _, signature = token.rpartition(".")
        forged = f"{head}.{signature[:8]}{'B' if signature[8] == 'A' else 'A'}{signature[9:]}"
        try:
            await self._adapter.adapt(forged)
        except Unauthenticated:
            return
        raise ShownFault("a forged signature was accepted")

    async def _confirms(self, token: str) -> None:
        answer = await self._normalizer.validate(await self._adapter.adapt(token))
        _require(answer.status is Status.VALID, f"{answer.status.value}: {answer.reason}")

    async def _refuses_unknown(self) -> None:
        answer = await self._normalizer.validate(self._probe_token(new_id()))
        _require(answer.status is Status.REVOKED, f"{answer.status.value}: {answer.reason}")

    async def _falls_back(self) -> None:
        session_id = f"{PROBE_TENANT}-{new_id()}"
        state = self._probe_state(session_id)
        self._fallback.remember(state, self._fallback.position)
        _require(self._fallback.lookup(session_id) is not None, "the session was not kept")
        self._fallback.take([self._probe_change(session_id=session_id)], 0)
        _require(self._fallback.lookup(session_id) is None, "a revoked session was found")

    async def _refuses_socket(self) -> None:
        handshake = self._gateway.read({"type": "websocket", "headers": [], "query_string": b"", "client": None})
        try:
            await self._gateway.admit(handshake, "", ended=lambda _: None)
        except Unauthenticated:
            return
        raise ShownFault("a socket without a credential was let in")

    async def _admits(self, token: str) -> None:
        headers = [(b"sec-websocket-protocol", b"sealwire.v1, bearer." + token.encode())]
        handshake = self._gateway.read({"type": "websocket", "headers": headers, "query_string": b"", "client": None})
        admission = await self._gateway.admit(handshake, "", ended=lambda _: None)
        _require(admission.caller.confirmed, "the socket's session is not confirmed")
        self._gateway.release(admission)

    async def _feed_answers(self) -> None:
        _require(await self._coordinator.ensure_fresh(), "the feed is older than its bound")

    async def _change_arrives(self) -> None:
        change = self._probe_change(token_id=f"{PROBE_TENANT}-{new_id()}")
        self._coordinator.inject(change)
        token = self._probe_token(change.token_id)
        answer = await self._normalizer.validate(token)
        _require(answer.status is Status.REVOKED, "a revoked token was not refused")
        receipt = self._coordinator.receipts.of(change.change_id)
        _require(receipt is not None, "the change has no receipt")

    def _probe_state(self, session_id: str) -> SessionState:
        return SessionState(
            session_id=session_id,
            tenant_id=PROBE_TENANT,
            user_id=PROBE_TENANT,
            role=Role.GUEST,
            email="",
            epoch=1,
            active=True,
            expires_at_s=self._clock.now_us() // US_PER_S + PROBE_LIFE_S,
        )

    def _probe_change(self, *, session_id: str = "", token_id: str = "") -> Revocation:
        now_us = self._clock.now_us()
        return Revocation(
            number=0,
            change_id=new_id(),
            kind="session" if session_id else "token",
            tenant_id=PROBE_TENANT,
            session_id=session_id,
            token_id=token_id,
            at_us=now_us,
            expires_at_s=now_us // US_PER_S + PROBE_LIFE_S,
            reason="self_test",
        )

    def _probe_token(self, token_id: str) -> VerifiedToken:
        now_s = self._clock.now_us() // US_PER_S
        return VerifiedToken(
            tenant_id=PROBE_TENANT,
            subject=PROBE_TENANT,
            session_id=f"{PROBE_TENANT}-{token_id}",
            token_id=token_id,
            role=Role.GUEST,
            email="",
            kid="",
            epoch=1,
            issued_at_s=now_s,
            expires_at_s=now_s + PROBE_LIFE_S,
            auth_time_s=now_s,
        )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ShownFault(otherwise)
