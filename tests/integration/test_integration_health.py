"""The eight endpoints of integration health and the boundary's metrics, on an installation that gets killed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from random import Random
from typing import Any

import httpx
import pytest

from sealwire.adapters.embedded.service_keys import ServiceKeys
from sealwire.clients.identity import ServiceIdentity
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.clock import SystemClock
from sealwire.testing.installation import Installation, Person
from sealwire.testing.patience import until_seen
from sealwire.testing.wire import Wire

PREFIX = "/api/integration-health"
COMPONENTS = [
    "jwt_token_adapter", "session_validation_normalizer", "fallback_session_provider", "websocket_auth_gateway",
    "service_boundary_coordinator",
]  # fmt: skip
BREAKERS = {"auth", "compliance", "crypto", "messaging", "media", "search", "session_cache"}
BOUNDARIES = {
    "fallback_session_provider", "journal", "jwt_token_adapter", "websocket_auth_gateway",
    "session_validation_normalizer", "socket1", "socket2",
}  # fmt: skip
STATES = {"healthy", "degraded", "unhealthy"}
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    env = {"SEALWIRE_BOUNDARY__SELF_TEST_EVERY_S": "0.3"}
    running = Installation(tmp_path_factory.mktemp("health") / "data", env=env).start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def owner(running: Installation) -> Person:
    return Person(running.url, "owner")


def ask(running: Installation, path: str, token: str = "") -> dict[str, Any]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(running.url + PREFIX + path, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return dict(answer.json())


@pytest.mark.parametrize("path", ["", "/"])
def test_the_first_sums_up_as_the_contract_says(running: Installation, path: str) -> None:
    seen = ask(running, path)
    assert set(seen) == {"status", "components", "integration_summary"}
    assert seen["status"] in STATES
    assert list(seen["components"]) == COMPONENTS
    assert all(set(shown) == {"status"} and shown["status"] in STATES for shown in seen["components"].values())
    summary = seen["integration_summary"]
    assert set(summary) == {"total_components", "healthy_components", "degraded_components", "failed_components"}
    assert summary["total_components"] == 5 == sum(summary.values()) - 5


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_answers_states_to_all_and_figures_to_few(
    running: Installation, owner: Person, name: str
) -> None:
    path = "/" + name.replace("_", "-")
    assert set(ask(running, path)) == {"component", "status"}
    assert len(ask(running, path, owner.token)) > 4


def test_there_is_a_breaker_for_each_client_and_one_for_the_cache(running: Installation, owner: Person) -> None:
    def quiet() -> dict[str, Any] | None:  # on a busy machine one may be open for a while
        seen = ask(running, "/circuit-breaker-status")
        return seen if seen["summary"]["active_breakers"] == 0 and not seen["summary"]["degraded_mode"] else None

    seen = until_seen(quiet)
    assert seen["summary"] == {"total_breakers": 7, "active_breakers": 0, "degraded_mode": False}
    assert {breaker["name"] for breaker in seen["breakers"]} == BREAKERS
    assert all(set(b) == {"name", "state", "active"} and b["state"] == "closed" for b in seen["breakers"])
    detailed = ask(running, "/circuit-breaker-status", owner.token)["breakers"]
    assert all(b["counts"]["all_calls"] >= 0 and "transitions" in b for b in detailed)


def test_a_service_sees_the_figures_and_may_test(running: Installation) -> None:
    key = ServiceKeys(running.data / "keys" / "services").private("messaging")
    messaging = ServiceIdentity(service="messaging", key=key, clock=SystemClock(), rng=Random(7))

    def token(operation: str) -> str:
        return messaging.token(service_caller("messaging", SYSTEM_TENANT), audience="gateway", operation=operation)

    coordinator = token(f"GET {PREFIX}/service-boundary-coordinator")
    assert "propagation" in ask(running, "/service-boundary-coordinator", coordinator)
    assert "propagation" not in ask(running, "/service-boundary-coordinator", token(f"GET {PREFIX}/")), "another call"

    def tested() -> bool:  # the scheduled one may be running
        mine = {"authorization": f"Bearer {token(f'POST {PREFIX}/test-integration')}"}
        answer = httpx.post(running.url + PREFIX + "/test-integration", headers=mine, timeout=30)
        assert answer.status_code in (200, 409), answer.text
        return answer.status_code == 200 and answer.json()["status"] == "passed"

    until_seen(tested)


def test_the_scheduled_self_test_is_seen_and_goes_on(running: Installation, owner: Person) -> None:
    def passed() -> dict[str, Any] | None:
        last = ask(running, "/", owner.token)["last_self_test"]
        return last if last and last["ok"] else None

    first = until_seen(passed)
    assert {step["component"] for step in first["steps"]} == set(COMPONENTS)
    until_seen(lambda: ask(running, "/", owner.token)["last_self_test"]["at_us"] > first["at_us"])


def test_metrics_tell_of_validations_changes_and_breakers(running: Installation, owner: Person) -> None:
    assert owner.http.get("/auth/me").status_code == 200
    lines = (
        'sealwire_session_validations_total{source="auth",status="valid"}',
        'sealwire_tokens_total{outcome="enhanced"}',
        "sealwire_session_degraded 0.0",
        "sealwire_revocation_feed_age_seconds ",
        'sealwire_breaker{name="session_cache",state="closed"} 1.0',
        'sealwire_breaker_calls_total{name="auth",outcome="answered"}',
        'sealwire_socket_admissions_total{what="admitted"}',
        "sealwire_fallback_sessions ",
        "sealwire_self_test_ok 1.0",
    )
    missing: list[str] = []

    def told() -> bool:
        text = httpx.get(running.url + "/metrics").text
        missing[:] = [line for line in lines if line not in text]
        return not missing

    with contextlib.suppress(AssertionError):
        until_seen(told)
    assert missing == []


async def end_one(running: Installation, person: Person) -> dict[str, Any]:
    """Log in, open a socket on each instance, log out; return the receipt once it is whole."""
    await asyncio.to_thread(person.log_in)
    token, session_id = person.token, person.grant["session_id"]
    wires = [await Wire(f"http://127.0.0.1:{running.base + port}").__aenter__() for port in (2, 3)]
    for wire in wires:
        assert "client" in await wire.connect(token)
    await asyncio.to_thread(person.log_in)
    assert (await asyncio.to_thread(person.http.delete, f"/auth/sessions/{session_id}")).status_code == 204
    assert [await wire.closed() for wire in wires] == [4502, 4502]

    def whole() -> dict[str, Any] | None:
        seen = ask(running, "/service-boundary-coordinator", person.token)
        receipts = [r for r in seen["latest_changes"] if r["kind"] == "session"]
        return receipts[0] if receipts and receipts[0]["applied"].keys() >= BOUNDARIES else None

    return dict(await asyncio.to_thread(until_seen, whole))


@pytest.mark.parametrize("journal", ["kept", "lost"])
async def test_after_a_restart_receipts_tell_of_what_was_done_since(
    running: Installation, owner: Person, journal: str
) -> None:
    """Runs last: the installation is killed. What it catches up on is told, and is no part of the distribution."""
    before = await end_one(running, owner)
    assert (before["applied"]["socket1"]["sockets"], before["applied"]["socket2"]["sockets"]) == (1, 1)
    running.kill()
    if journal == "lost":
        shutil.rmtree(running.data / "fallback")
    await asyncio.sleep(1.1)  # the changes are older than the staleness bound by now
    await asyncio.to_thread(running.start)
    seen = await asyncio.to_thread(ask, running, "/service-boundary-coordinator", owner.token)
    assert seen["propagation"] == {}
    found = await asyncio.to_thread(ask, running, f"/service-boundary-coordinator?change_id={before['change_id']}",
                                    owner.token)  # fmt: skip
    assert found["receipt"] is None if journal == "kept" else found["receipt"]["caught_up"]
    after = await end_one(running, owner)
    assert after["number"] > before["number"]
    assert not after["caught_up"]
    assert (after["applied"]["socket1"]["sockets"], after["applied"]["socket2"]["sockets"]) == (1, 1)
    spread = (await asyncio.to_thread(ask, running, "/service-boundary-coordinator", owner.token))["propagation"]
    assert all(spread[name]["count"] >= 1 and spread[name]["p50_ms"] < 1_000 for name in BOUNDARIES), spread
