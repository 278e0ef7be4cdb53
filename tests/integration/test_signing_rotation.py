"""`sealwire keys rotate-signing` on an installation in use: tokens in flight go on; a compromised key ends all."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from sealwire.runtime import errands
from sealwire.testing.held_up import HeldUp
from sealwire.testing.installation import Installation, Person
from sealwire.testing.receipts import latest, slowest_s

DEADLINE_S = 40.0


def rotate(data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sealwire.cli.main", "keys", "rotate-signing", "--data", str(data), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=data.parent)


def kids(url: str) -> list[str]:
    return [key["kid"] for key in httpx.get(f"{url}/.well-known/jwks.json").json()["keys"]]


def accepted(person: Person) -> bool:
    """Wait until a fresh token is known everywhere: verifiers ask for an unknown key at most every two seconds."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if person.http.get("/auth/me").status_code == 200:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    running = Installation(
        tmp_path_factory.mktemp("rotation") / "data", env={"SEALWIRE_AUTH__KEY_PUBLISH_S": "0"}
    ).start()
    yield running
    running.kill()


def test_tokens_in_flight_stay_good_while_the_key_changes(place):
    anna = Person(place.url, "anna")
    before = kids(place.url)
    answers: list[int] = []
    stop = threading.Event()

    def use() -> None:
        with httpx.Client(base_url=place.url, headers={"authorization": f"Bearer {anna.token}"}) as client:
            while not stop.is_set():
                answers.append(client.get("/api/v1/auth/me").status_code)

    user = threading.Thread(target=use)
    user.start()
    done = rotate(place.data, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    asked = len(answers)
    deadline = time.monotonic() + DEADLINE_S
    while len(answers) < asked + 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    user.join()
    assert set(answers) == {200}, "nobody noticed"
    assert len(answers) >= 50
    report = json.loads(done.stdout)
    after = kids(place.url)
    assert report["key_ids"] == after
    assert set(before) < set(after), "the old key is still published: it verifies what it signed"
    old_token, new = anna.token, anna.http.post(
        "/auth/refresh", json={"refresh_token": anna.grant["refresh_token"]}, headers={"authorization": ""}
    )  # fmt: skip
    assert new.status_code == 200
    head = json.loads(base64.urlsafe_b64decode(new.json()["access_token"].split(".")[0] + "=="))
    assert head["kid"] in set(after) - set(before), "the new key signs"
    anna.http.headers["authorization"] = f"Bearer {new.json()['access_token']}"
    assert accepted(anna)
    anna.http.headers["authorization"] = f"Bearer {old_token}"
    assert anna.http.get("/auth/me").status_code == 200


def test_a_compromised_key_ends_every_session_at_once(place):
    anna = Person(place.url, "bert", f"selftest-{secrets.token_hex(6)}")  # who owns a tenant sees receipts
    assert accepted(anna)
    before = kids(place.url)
    with HeldUp(place.pid, place.data.parent) as held:
        done = rotate(place.data, "--compromised", "--yes")
        assert done.returncode == 0, done.stderr
        assert "every session has ended" in done.stdout
        deadline = time.monotonic() + DEADLINE_S
        while anna.http.get("/auth/me").status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not set(before) & set(kids(place.url))
        again = anna.http.post("/auth/refresh", json={"refresh_token": anna.grant["refresh_token"]})
        assert again.status_code == 401
        anna.log_in()  # in that very second, most often
        assert accepted(anna)
        took_s = slowest_s(latest(anna.http, "tenant"))
        assert took_s < 1.0 + held.up_s, "dead everywhere within a second, by its own clock"


def test_while_nothing_runs_it_waits_for_the_next_start(place):
    before = kids(place.url)
    place.kill()
    errand = errands.ask(place.data, "rotate-signing", compromised=False)
    with pytest.raises(FileExistsError):
        errands.ask(place.data, "rotate-signing", compromised=False)
    assert errands.wait(place.data, errand, timeout_s=0.1) is None
    place.start()
    report = errands.wait(place.data, errand, timeout_s=DEADLINE_S)
    assert report is not None
    assert report.error == ""
    assert set(before) < set(kids(place.url)) == set(report.key_ids)


def test_a_stolen_key_opens_nothing_while_the_next_start_is_under_way(place):
    anna = Person(place.url, "anna")
    assert accepted(anna)
    place.kill()
    errand = errands.ask(place.data, "rotate-signing", compromised=True)
    seen: set[int] = set()
    up = threading.Event()

    def knock() -> None:
        with httpx.Client(headers={"authorization": f"Bearer {anna.token}"}) as http:
            while not up.is_set() or not seen & {200, 401}:
                with contextlib.suppress(httpx.TransportError):
                    seen.add(http.get(f"{place.url}/api/v1/auth/me").status_code)

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        place.start()
        assert errands.wait(place.data, errand, timeout_s=DEADLINE_S) is not None
    finally:
        up.set()
        knocking.join(DEADLINE_S)
    assert 401 in seen
    assert 200 not in seen


def test_a_folder_of_nothing_is_refused(tmp_path):
    done = rotate(tmp_path)
    assert done.returncode == 2
    assert "is not the data folder" in done.stderr
