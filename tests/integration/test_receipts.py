"""Every change of who may do what leaves a receipt: where it came into force, and how long that took (R6.5)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from typing import Any

import httpx

from sealwire.testing.installation import PASSWORD, Person
from sealwire.testing.patience import until_seen
from sealwire.testing.wire import Wire

COORDINATOR = "/api/integration-health/service-boundary-coordinator"
BOUNDARIES = {
    "fallback_session_provider", "journal", "jwt_token_adapter", "session_validation_normalizer", "socket1", "socket2",
}  # fmt: skip
STALENESS_BOUND_MS = 1_000
SESSIONS = 12


def ask(installation, person: Person | None = None, **query: str) -> dict[str, Any]:
    headers = {} if person is None else {"authorization": f"Bearer {person.token}"}
    answer = httpx.get(installation.url + COORDINATOR, headers=headers, params=query)
    assert answer.status_code == 200
    return dict(answer.json())


def log_in(person: Person) -> str:
    who = {"email": person.email, "password": PASSWORD, **person.tenant}
    return str(httpx.post(f"{person.http.base_url}auth/login", json=who).json()["access_token"])


async def test_each_boundary_says_when_a_change_came_into_force_there(installation, stranger) -> None:
    owner = stranger("owner")
    tokens = [await asyncio.to_thread(log_in, owner) for _ in range(SESSIONS)]
    wires = []
    for number, token in enumerate(tokens):
        wires.append(await Wire(f"http://127.0.0.1:{installation.base + (0, 2, 3)[number % 3]}").__aenter__())
        assert "client" in await wires[-1].connect(token)
    for number, token in enumerate(tokens):
        left = await asyncio.to_thread(
            httpx.post, f"{installation.url}/api/v1/auth/logout", headers={"authorization": f"Bearer {token}"}
        )
        assert left.status_code == 204
        assert await wires[number].closed() == 4502
    deadline = time.monotonic() + 40
    while True:
        seen = await asyncio.to_thread(ask, installation, owner)
        spread = seen["propagation"]
        everywhere = spread.keys() >= BOUNDARIES and all(spread[name]["count"] >= SESSIONS for name in BOUNDARIES)
        if everywhere and seen["feed_age_ms"] < STALENESS_BOUND_MS:
            break
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.05)
    assert seen["staleness_bound_ms"] == STALENESS_BOUND_MS
    for name in BOUNDARIES:
        assert 0 <= spread[name]["p50_ms"] <= spread[name]["p99_ms"] <= spread[name]["max_ms"]
        assert spread[name]["p50_ms"] < STALENESS_BOUND_MS, name
    newest = next(change for change in seen["latest_changes"] if change["kind"] == "session")
    assert newest["applied"].keys() >= BOUNDARIES
    assert sum(applied["sockets"] for applied in newest["applied"].values()) == 1, "one socket of that session was open"
    found = await asyncio.to_thread(ask, installation, owner, change_id=newest["change_id"])
    assert found["receipt"]["number"] == newest["number"]
    unknown = await asyncio.to_thread(ask, installation, owner, change_id="nothing")
    assert unknown["receipt"] is None


def test_receipts_are_for_those_who_run_it(installation, person) -> None:
    assert ask(installation).keys() == {"component", "status"}
    assert ask(installation, person("anna"), change_id="x").keys() == {"component", "status"}


def test_the_self_test_passes_over_all_five_with_times_and_alone(installation, stranger) -> None:
    owner = stranger("owner")
    url, headers = installation.url + "/api/integration-health", {"authorization": f"Bearer {owner.token}"}

    def run() -> httpx.Response:
        return httpx.post(url + "/test-integration", headers=headers, timeout=30)

    def passed() -> dict[str, Any] | None:  # the scheduled one may be running; a busy machine may fail one
        answer = run()
        assert answer.status_code in (200, 409), answer.text
        return answer.json() if answer.status_code == 200 and answer.json()["status"] == "passed" else None

    told = until_seen(passed)
    steps = told["report"]["steps"]
    components = set(httpx.get(url + "/").json()["components"])
    assert {step["component"] for step in steps} == components
    assert len(components) == 5
    assert all(step["took_ms"] >= 0 and step["ok"] for step in steps)
    assert told["report"]["took_ms"] >= max(step["took_ms"] for step in steps)
    before = ask(installation, owner)["propagation"].get("jwt_token_adapter", {"count": 0})["count"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: run(), range(8)))
    assert {a.status_code for a in answers} <= {200, 409}
    assert all(a.json()["code"] == "self_test_running" for a in answers if a.status_code == 409)
    assert 200 in {a.status_code for a in answers}
    after = ask(installation, owner)["propagation"].get("jwt_token_adapter", {"count": 0})["count"]
    assert after == before, "the self-test's own change is no part of the distribution"
    until_seen(lambda: httpx.get(url + "/", headers=headers).json()["last_self_test"]["ok"] or (run() and None))
