"""`sealwire tenant` and `sealwire operator` on a data folder at rest and in use; a suspension as people see it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pyotp
import pytest

from sealwire.testing.held_up import HeldUp
from sealwire.testing.installation import PASSWORD, Installation, Person
from sealwire.testing.receipts import latest, slowest_s

DEADLINE_S = 40.0


def sealwire(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sealwire.cli.main", *words, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=data.parent)


def said(data: Path, *words: str) -> list[dict[str, Any]]:
    done = sealwire(data, *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Registered:
    """Somebody who came by an invitation."""

    def __init__(self, url: str, email: str, invitation: str, tenant: str) -> None:
        self.http = httpx.Client(base_url=url + "/api/v1", timeout=15)
        self.who = {"email": email, "password": PASSWORD, "tenant": tenant}
        body = {"email": email, "password": PASSWORD, "display_name": "Someone", "invitation": invitation}
        made = self.http.post("/auth/register", json=body)
        assert made.status_code == 201, made.text
        self.user: dict[str, Any] = made.json()["user"]
        self.log_in()

    def log_in(self) -> None:
        answer = self.http.post("/auth/login", json=self.who, headers={"authorization": ""})
        assert answer.status_code == 200, answer.text
        self.http.headers["authorization"] = f"Bearer {answer.json()['access_token']}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """An installation that was prepared before it ever ran: an operator invited, a tenant made with its owner."""
    data = tmp_path_factory.mktemp("tenants") / "data"
    (invited,) = said(data, "operator", "create", "op@example.org")
    made, owner = said(data, "tenant", "create", "clinic", "--name", "The Clinic", "--owner-email", "chief@example.org")
    running = Installation(data).start()
    running.operator = Registered(running.url, "op@example.org", invited["token"], "system")  # type: ignore[attr-defined]  # kept with it
    running.chief = Registered(running.url, "chief@example.org", owner["token"], "clinic")  # type: ignore[attr-defined]  # kept with it
    running.clinic = made["tenant_id"]  # type: ignore[attr-defined]  # kept with it
    yield running
    running.kill()


def test_what_was_made_at_rest_is_there(place):
    assert place.operator.user["role"] == "operator"
    assert (place.chief.user["role"], place.chief.user["tenant_id"]) == ("owner", place.clinic)
    answer = place.operator.http.get("/auth/tenants")
    assert {tenant["slug"] for tenant in answer.json()["items"]} >= {"default", "system", "clinic"}
    for content in ("/conversations", "/search?q=x", "/auth/users", "/crypto/keys"):
        assert place.operator.http.get(content).status_code == 403, content


def test_an_operator_reads_the_log_of_nobody_and_no_tenants(place):
    assert place.operator.http.get("/compliance/audit", params={"tenant_id": "anonymous"}).status_code == 200
    assert place.operator.http.get("/compliance/audit", params={"tenant_id": "system"}).status_code == 200
    for path in ("/compliance/audit/verify", "/compliance/audit/export"):
        assert place.operator.http.get(path, params={"tenant_id": "anonymous"}).status_code == 200
        assert place.operator.http.get(path).status_code == 200
        assert place.operator.http.get(path, params={"tenant_id": place.clinic}).status_code == 403
    for tenant in (place.clinic, "default"):
        assert place.operator.http.get("/compliance/audit", params={"tenant_id": tenant}).status_code == 403


def test_a_running_installation_carries_commands_out(place):
    (made,) = said(place.data, "tenant", "create", "ward")
    assert (made["slug"], made["owned"]) == ("ward", False)
    (shown,) = said(place.data, "tenant", "quota", "ward", "--users", "5", "--media-bytes", "1000")
    assert shown["quotas"] == {"users": 5, "messages": None, "media_bytes": 1000, "keys": None}
    (shown,) = said(place.data, "tenant", "quota", "ward", "--users", "none")
    assert shown["quotas"]["users"] is None
    assert "ward" in sealwire(place.data, "tenant", "list").stdout
    again = sealwire(place.data, "tenant", "create", "ward")
    assert again.returncode == 1
    assert "slug is taken" in again.stderr
    assert list((place.data / "errands").iterdir()) == [], "answers may hold tokens: none stays behind"


def test_a_wrong_command_says_what_is_wrong(place, tmp_path):
    for words, told in (
        (("tenant", "show", "nowhere"), "no such tenant"),
        (("tenant", "suspend", "system", "--yes"), "run the installation"),
        (("tenant", "quota", "clinic", "--users", "many"), "a number, or none"),
        (("operator", "create", "nobody"), "email"),
    ):
        done = sealwire(place.data, *words)
        assert done.returncode in (1, 2), words
        assert told in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_suspension_is_felt_within_a_second_and_the_log_in_says_nothing(place):
    person = Person(place.url, "bystander")
    assert place.chief.http.get("/auth/me").status_code == 200
    with HeldUp(place.pid, place.data.parent) as held:
        done = place.operator.http.patch(f"/auth/tenants/{place.clinic}", json={"status": "suspended"})
        assert done.status_code == 200, done.text
        began = time.monotonic()
        while place.chief.http.get("/auth/me").status_code != 401:
            assert time.monotonic() < began + DEADLINE_S
            time.sleep(0.01)
        took_s = slowest_s(latest(place.operator.http, "tenant"))
        assert took_s < 1.0 + held.up_s, "by the installation's own clock"
    refused = place.chief.http.post("/auth/login", json=place.chief.who, headers={"authorization": ""})
    unknown = {**place.chief.who, "tenant": "nowhere"}
    other = place.chief.http.post("/auth/login", json=unknown, headers={"authorization": ""})
    assert refused.status_code == other.status_code == 401
    assert {**refused.json(), "trace_id": ""} == {**other.json(), "trace_id": ""}
    assert person.http.get("/auth/me").status_code == 200
    (shown,) = said(place.data, "tenant", "resume", "clinic")
    assert shown["status"] == "active"
    assert place.chief.http.get("/auth/me").status_code == 401, "what was stays dead"
    second = int(time.time())
    while int(time.time()) == second:  # `iat` counts seconds: a token of the second of the cut is refused
        time.sleep(0.01)
    place.chief.log_in()
    deadline = time.monotonic() + DEADLINE_S
    while place.chief.http.get("/auth/me").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_operator_is_disabled_and_let_in_again_on_the_machine(place):
    (invited,) = said(place.data, "operator", "create", "second@example.org")
    second = Registered(place.url, "second@example.org", invited["token"], "system")
    (shown,) = said(place.data, "operator", "disable", second.user["user_id"])
    assert shown["status"] == "disabled"
    refused = second.http.post("/auth/login", json=second.who, headers={"authorization": ""})
    assert refused.status_code == 401
    done = sealwire(place.data, "operator", "enable", second.user["user_id"])
    assert (done.returncode, done.stdout) == (0, "second@example.org is active\n")
    second.log_in()


def test_who_nobody_outranks_is_let_in_again_on_the_machine(place):
    (invited,) = said(place.data, "operator", "create", "third@example.org")
    third = Registered(place.url, "third@example.org", invited["token"], "system")
    secret = third.http.post("/auth/mfa/totp/enroll").json()["secret"]
    code = pyotp.TOTP(secret).at(int(time.time()))
    assert third.http.post("/auth/mfa/totp/confirm", json={"code": code}).status_code == 200
    asked = third.http.post("/auth/login", json=third.who, headers={"authorization": ""}).json()
    assert asked["mfa_required"]
    done = sealwire(place.data, "operator", "reset-factors", "third@example.org", "--yes")
    assert done.returncode == 0, done.stderr
    third.log_in()
    wrong = sealwire(place.data, "tenant", "reset-factors", "clinic", "nobody@example.org", "--yes")
    assert wrong.returncode == 1
    assert "Nobody in this tenant has that address" in wrong.stderr
