"""Integration health: shapes of the contract, states for all and figures for few, and a self-test that really tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sealwire.kit.http import App
from sealwire.kit.permission import Role
from sealwire.kit.problem import Unavailable
from sealwire.resilience.breaker import State
from sealwire.testing.boundary_room import BoundaryRoom, edge_of
from sealwire.testing.clock import ManualClock

COMPONENTS = [
    "jwt_token_adapter",
    "session_validation_normalizer",
    "fallback_session_provider",
    "websocket_auth_gateway",
    "service_boundary_coordinator",
]


class Room(BoundaryRoom):
    """A boundary with its health behind an app."""

    clock: ManualClock
    client: httpx.AsyncClient

    def headers(self, role: Role) -> dict[str, str]:
        user = self.authority.add_user(f"the-{role.value}", role=role)
        return {"authorization": f"Bearer {self.authority.token(self.authority.log_in(user.user_id))}"}

    async def get(self, name: str = "", role: Role | None = None) -> dict[str, Any]:
        answer = await self.client.get(f"/api/integration-health/{name}", headers=self.headers(role) if role else {})
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        return body

    async def test(self, role: Role | None) -> httpx.Response:
        return await self.client.post(
            "/api/integration-health/test-integration", headers=self.headers(role) if role else {}
        )


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path, clock=ManualClock())
    boundary = room.build()
    await boundary.fallback.start()
    await boundary.coordinator.ensure_fresh()
    await boundary.adapter.refresh_keys()
    app = App(boundary.health.routes(edge_of(boundary)), public=True)
    transport = httpx.ASGITransport(app=app, client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        room.client = client
        yield room
    await boundary.stop()


async def test_the_summary_has_the_contracts_shape(room: Room) -> None:
    seen = await room.get()
    assert seen["status"] == "healthy"
    assert list(seen["components"]) == COMPONENTS
    assert all(component == {"status": "healthy"} for component in seen["components"].values())
    assert seen["integration_summary"] == {
        "total_components": 5,
        "healthy_components": 5,
        "degraded_components": 0,
        "failed_components": 0,
    }
    assert (await room.client.get("/api/integration-health")).json()["status"] == "healthy"


async def test_breakers_have_the_contracts_shape(room: Room) -> None:
    seen = await room.get("circuit-breaker-status")
    assert seen["summary"] == {"total_breakers": 2, "active_breakers": 0, "degraded_mode": False}
    assert {breaker["name"] for breaker in seen["breakers"]} == {"auth", "session_cache"}
    assert all(breaker["state"] == "closed" for breaker in seen["breakers"])
    breaker = room.breakers.breaker("session_cache")
    while breaker.state is State.CLOSED:
        breaker.fail(breaker.acquire())
    seen = await room.get("circuit-breaker-status")
    assert seen["summary"] == {"total_breakers": 2, "active_breakers": 1, "degraded_mode": True}


@pytest.mark.parametrize("name", COMPONENTS)
async def test_each_component_answers_alone(room: Room, name: str) -> None:
    path = name.replace("_", "-")
    assert await room.get(path) == {"component": name, "status": "healthy"}
    detailed = await room.get(path, Role.ADMIN)
    assert (detailed["component"], detailed["status"]) == (name, "healthy")
    assert len(detailed) > 4
    assert await room.get(path, Role.MEMBER) == {"component": name, "status": "healthy"}


async def test_figures_are_for_those_who_run_it(room: Room) -> None:
    assert "counts" not in (await room.get("circuit-breaker-status", Role.AUDITOR))["breakers"][0]
    assert (await room.get("circuit-breaker-status", Role.OPERATOR))["breakers"][0]["counts"]["calls"] >= 0
    detailed = await room.get("", Role.OWNER)
    assert detailed["components"]["service_boundary_coordinator"]["staleness_bound_ms"] == 1000


async def test_an_outage_shows_and_the_answer_still_comes(room: Room) -> None:
    room.authority.outage = Unavailable()
    room.clock.advance(1.1)
    seen = await room.get()
    assert seen["status"] == "unhealthy"
    assert seen["components"]["service_boundary_coordinator"]["status"] == "unhealthy"
    assert seen["components"]["session_validation_normalizer"]["status"] == "degraded"
    summary = seen["integration_summary"]
    assert summary["healthy_components"] + summary["degraded_components"] + summary["failed_components"] == 5


async def test_the_self_test_is_for_those_who_run_it(room: Room) -> None:
    assert (await room.test(None)).status_code == 401
    assert (await room.test(Role.MEMBER)).status_code == 403
    answer = await room.test(Role.ADMIN)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["report"]["ok"]) == ("passed", True)
    assert {step["component"] for step in body["report"]["steps"]} == set(COMPONENTS)
    assert all(step["ok"] and step["took_ms"] >= 0 for step in body["report"]["steps"])
    assert body["summary"] == {"total": len(body["report"]["steps"]), "passed": len(body["report"]["steps"])}


async def test_the_self_test_tells_what_fails(room: Room) -> None:
    headers = room.headers(Role.OWNER)
    await room.client.get("/api/integration-health/", headers=headers)
    original = room.boundary.fallback.lookup
    room.boundary.fallback.lookup = lambda _: None  # type: ignore[method-assign]  # a component that broke
    answer = await room.client.post("/api/integration-health/test-integration", headers=headers)
    room.boundary.fallback.lookup = original  # type: ignore[method-assign]  # well again
    body = answer.json()
    assert (body["status"], body["report"]["ok"]) == ("failed", False)
    failed = [step for step in body["report"]["steps"] if not step["ok"]]
    assert [step["component"] for step in failed] == ["fallback_session_provider"]
    assert "was not kept" in failed[0]["fault"]


async def test_the_self_test_of_an_outage_is_refused_for_the_outage_and_not_for_the_credential(room: Room) -> None:
    headers = room.headers(Role.OWNER)
    url = "/api/integration-health/test-integration"
    assert (await room.client.post(url, headers=headers)).status_code == 200
    room.authority.outage = Unavailable()
    room.clock.advance(60)
    asked = await room.client.post(url, headers=headers)
    assert (asked.status_code, asked.json()["code"]) == (503, "session_unconfirmed"), "known, and not confirmed"
    seen = (await room.client.get("/api/integration-health/", headers=headers)).json()
    assert all(set(component) == {"status"} for component in seen["components"].values()), (
        "figures are for the confirmed"
    )
    fresh = {"authorization": f"Bearer {room.authority.token(room.authority.log_in('the-owner'))}"}
    room.boundary.adapter._keys_at_s = None  # none were fetched yet
    asked = await room.client.post(url, headers=fresh)
    assert (asked.status_code, asked.json()["code"]) == (503, "unavailable")
    assert (await room.client.post(url)).status_code == 401


async def test_one_self_test_at_a_time(room: Room) -> None:
    headers = room.headers(Role.OWNER)
    url = "/api/integration-health/test-integration"
    answers = await asyncio.gather(*(room.client.post(url, headers=headers) for _ in range(4)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes[0] == 200
    assert set(codes) <= {200, 409}
    assert (await room.client.post(url, headers=headers)).status_code == 200


async def test_the_scheduled_self_test_needs_no_credential(room: Room) -> None:
    report = await room.boundary.health._self_test.run()
    assert report.ok, report
    assert {step.component for step in report.steps} == set(COMPONENTS)


async def test_answers_are_quick(room: Room) -> None:
    for i in range(1200):
        room.authority.revoke("token", tenant_id="t", token_id=f"j{i}")
    room.clock.advance(1.1)
    await room.boundary.coordinator.ensure_fresh()
    health = room.boundary.health
    started_s = time.process_time()
    for _ in range(100):
        health.summary(detailed=True)
        health.breakers(detailed=True)
    spent_s = (time.process_time() - started_s) / 100
    assert spent_s < 0.002, "two answers of less than a millisecond each, in time of our own"
