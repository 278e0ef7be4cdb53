"""A request that is refused before it is read is in the audit log all the same, with its path, time and client."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from sealwire.testing.installation import PASSWORD, Installation

ASKED = 240
DEADLINE_S = 60.0


@pytest.fixture
def installation(tmp_path: Path):
    """One that lets in a single request at a time, with an operator, who reads the log of nobody."""
    data = tmp_path / "data"
    command = [sys.executable, "-m", "sealwire.cli.main", "operator", "create", "op@example.org", "--data", str(data)]
    made = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    env = {"SEALWIRE_GATEWAY__MAX_IN_FLIGHT": "1", "SEALWIRE_GATEWAY__ALWAYS_ADMITTED": "1"}
    running = Installation(data, env=env).start()
    yield running, json.loads(made.stdout.splitlines()[0])["token"]
    running.kill()


def test_a_start_is_held_up_by_nobody_who_asks_meanwhile(tmp_path: Path) -> None:
    env = {"SEALWIRE_GATEWAY__MAX_IN_FLIGHT": "1", "SEALWIRE_GATEWAY__ALWAYS_ADMITTED": "1"}
    running = Installation(tmp_path / "data", env=env)
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=5) as client:
            while not over.is_set():
                with contextlib.suppress(httpx.HTTPError):
                    client.get(running.url + "/ready")

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    try:
        running.start()
        until_up = time.monotonic() + DEADLINE_S
        while '"event":"up"' not in running.log.read_text():
            assert time.monotonic() < until_up, running.log.read_text()[-500:]
            time.sleep(0.05)
    finally:
        over.set()
        for asker in askers:
            asker.join()
        running.kill()


def patiently(client: httpx.Client, verb: str, path: str, **options: object) -> httpx.Response:
    """Ask until let in."""
    deadline = time.monotonic() + DEADLINE_S
    while (answer := client.request(verb, path, **options)).status_code == 503:  # type: ignore[arg-type]  # as given
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


def log_of_nobody(client: httpx.Client, **query: str) -> list[dict[str, Any]]:
    """Return what is in the log of `anonymous`, all pages of it."""
    found: list[dict[str, Any]] = []
    asked = {"tenant_id": "anonymous", "limit": "200", **query}
    while True:
        page = patiently(client, "GET", "/compliance/audit", params=asked).json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        asked["cursor"] = page["next_cursor"]


def test_every_refused_request_is_found_in_the_log(installation):
    running, invitation = installation
    client = httpx.Client(base_url=running.url + "/api/v1", timeout=30)
    who = {"email": "op@example.org", "password": PASSWORD, "tenant": "system"}
    registered = patiently(
        client, "POST", "/auth/register", json={**who, "display_name": "Op", "invitation": invitation}
    )
    assert registered.status_code == 201, registered.text
    granted = patiently(client, "POST", "/auth/login", json=who).json()
    client.headers["authorization"] = f"Bearer {granted['access_token']}"

    def ask(number: int) -> int:
        """Log in, which takes long, with a path of its own: `probe-N` is no tenant and no secret."""
        return httpx.post(f"{running.url}/api/v1/auth/login/../probe-{number}", json=who, timeout=30).status_code

    def keep_busy(_: int) -> int:
        return httpx.post(f"{running.url}/api/v1/auth/login", json={**who, "password": "wrong"}, timeout=30).status_code

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        busy = [pool.submit(keep_busy, n) for n in range(ASKED // 4)]
        answers = {number: pool.submit(ask, number) for number in range(ASKED)}
        refused = {number for number, answer in answers.items() if answer.result() == 503}
        turned_away = len(refused) + sum(one.result() == 503 for one in busy)
    assert refused, "it was not busy at all"
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = log_of_nobody(client, action="requests_shed")
        lines = [line for record in found for line in record["metadata"]["refused"].split("\n")]
        clients = [line for record in found for line in record["metadata"]["clients"].split("\n")]
        # Under a heavy load some get past the door and are refused by the gate, which writes a record for each.
        gated = log_of_nobody(client, resource_type="api_request")
        late = [record["metadata"]["url"] for record in gated if record["metadata"]["status_code"] == 503]
        seen = {int(number) for number in re.findall(r"probe-(\d+)$", "\n".join(lines + late), re.MULTILINE)}
        if refused <= seen and len(lines) + len(late) >= turned_away:
            break
        assert time.monotonic() < deadline, (len(refused), len(seen))
        time.sleep(0.1)
    assert len(lines) == len(clients) == sum(record["metadata"]["requests"] for record in found)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z (GET|POST) /api/v1/[\w./-]+", line) for line in lines), lines[:3]
    assert all(line.startswith("127.0.0.1 python-httpx/") for line in clients)
