"""Passkeys against a running installation: by HTTP alone, raced, in the audit log, and after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from sealwire.contracts.webauthn import CreationOptions, RequestOptions
from sealwire.testing.authenticator import SoftAuthenticator
from sealwire.testing.installation import PASSWORD, Installation, Person

FIND_TIMEOUT_S = 60.0


def browser(installation: Installation) -> SoftAuthenticator:
    """Return the browser of somebody at this machine: the number 127.0.0.1 is no domain, `localhost` is."""
    return SoftAuthenticator(f"http://localhost:{installation.base}")


def make(person: Person, device: SoftAuthenticator) -> dict[str, Any]:
    begun = person.http.post("/auth/passkeys/register/options")
    assert begun.status_code == 200, begun.text
    made = device.create(msgspec.convert(begun.json(), CreationOptions))
    answer = person.http.post("/auth/passkeys/register", json=msgspec.to_builtins(made))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def proof(http: httpx.Client, device: SoftAuthenticator, path: str, **start: Any) -> dict[str, Any]:
    asked = http.post(path, json=start or None)
    assert asked.status_code == 200, asked.text
    return dict(msgspec.to_builtins(device.get(msgspec.convert(asked.json(), RequestOptions))))


@pytest.fixture
def stranger_http(installation: Installation) -> httpx.Client:
    return httpx.Client(base_url=installation.url + "/api/v1", timeout=15)


def test_made_used_and_removed_as_the_audit_log_tells_it(
    installation: Installation, owner: Person, person: Callable[[str], Person], stranger_http: httpx.Client
) -> None:
    anna, device = person("anna"), browser(installation)
    added = make(anna, device)
    granted = stranger_http.post(
        "/auth/passkeys/login", json=proof(stranger_http, device, "/auth/passkeys/login/options")
    )
    assert granted.status_code == 200, granted.text
    anna.http.headers["authorization"] = f"Bearer {granted.json()['access_token']}"
    assert anna.http.get("/auth/me").json()["mfa"] is True

    wanted = stranger_http.post("/auth/login", json={"email": anna.email, "password": PASSWORD}).json()
    assert wanted["methods"] == ["passkey", "recovery"]
    code = proof(stranger_http, device, "/auth/passkeys/login/options", mfa_token=wanted["mfa_token"])
    second = stranger_http.post(
        "/auth/mfa/verify", json={"mfa_token": wanted["mfa_token"], "method": "passkey", "code": code}
    )
    assert second.status_code == 200, second.text
    again = proof(anna.http, device, "/auth/passkeys/step-up/options")
    assert anna.http.post("/auth/step-up", json={"method": "passkey", "code": again}).status_code == 200

    own = f"/auth/passkeys/{added['passkey']['passkey_id']}"
    assert anna.http.patch(own, json={"name": "Blue"}).json()["name"] == "Blue"
    assert anna.http.delete(own).status_code == 200
    refused = stranger_http.post("/auth/passkeys/login", json=again)
    assert (refused.status_code, refused.json()["code"]) == (401, "passkey_refused")

    for action in ("added", "renamed", "removed"):
        (record,) = records(owner, f"auth.passkey.{action}", added["passkey"]["passkey_id"])
        assert record["actor"] == {"type": "user", "id": anna.user_id}
        assert record["resource_type"] == "passkey"
        assert "Blue" not in str(record)


def records(owner: Person, action: str, resource_id: str) -> list[dict[str, Any]]:
    """Return the records of an action, which the relay brings within moments."""
    deadline = time.monotonic() + FIND_TIMEOUT_S
    while True:
        found = owner.http.get("/compliance/audit", params={"action": action, "resource_id": resource_id})
        assert found.status_code == 200, found.text
        if found.json()["items"] or time.monotonic() > deadline:
            return list(found.json()["items"])
        time.sleep(0.05)


def test_one_answer_sent_from_many_connections_lets_one_in(
    installation: Installation, person: Callable[[str], Person], stranger_http: httpx.Client
) -> None:
    ben, device = person("ben"), browser(installation)
    make(ben, device)
    answer = proof(stranger_http, device, "/auth/passkeys/login/options", email=ben.email)
    url = installation.url + "/api/v1/auth/passkeys/login"
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda _: httpx.post(url, json=answer, timeout=15).status_code, range(12)))
    assert sorted(statuses) == [200] + [401] * 11


def test_hostile_bodies_are_refused_and_never_our_fault(
    installation: Installation, stranger_http: httpx.Client
) -> None:
    device = browser(installation)
    carol = Person(installation.url, "carol")
    make(carol, device)
    good = proof(stranger_http, device, "/auth/passkeys/login/options")
    response = good["response"]
    for body, status in (
        ({}, 422),
        ({**good, "id": "x" * 2_000}, 422),
        ({**good, "type": "password"}, 422),
        ({**good, "response": {**response, "clientDataJSON": ""}}, 422),
        ({**good, "response": {**response, "signature": "=" * 10}}, 422),
        ({**good, "response": {**response, "signature": "A" * 40_000}}, 422),
        ({**good, "response": {**response, "clientDataJSON": "A" * 200_000}}, 413),
        ({**good, "response": {**response, "clientDataJSON": "W1tbW1tb"}}, 401),
        ({**good, "response": {**response, "authenticatorData": "AAAA"}}, 401),
    ):
        answer = stranger_http.post("/auth/passkeys/login", json=body)
        assert answer.status_code == status, answer.text
        assert answer.json()["code"] != "internal"


def test_a_challenge_outlives_a_kill_and_stays_spent_after_one(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "data").start()
    try:
        anna, device = Person(installation.url, "anna"), browser(installation)
        make(anna, device)
        with httpx.Client(base_url=installation.url + "/api/v1", timeout=15) as http:
            answer = proof(http, device, "/auth/passkeys/login/options")
            installation.kill()
            installation.start()
            granted = http.post("/auth/passkeys/login", json=answer)
            assert granted.status_code == 200, granted.text
            assert granted.json()["user"]["user_id"] == anna.user_id
            installation.kill()
            installation.start()
            assert http.post("/auth/passkeys/login", json=answer).status_code == 401
            assert len(anna.http.get("/auth/passkeys").json()["items"]) == 1
    finally:
        installation.kill()
