"""A tenant's quotas, set by a command, hold in every service that counts: users, messages, bytes of files, keys."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from sealwire.testing.installation import Installation, Person

DEADLINE_S = 40.0


def quota(data: Path, *flags: str) -> None:
    command = [sys.executable, "-m", "sealwire.cli.main", "tenant", "quota", "default", "--data", str(data), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=data.parent)
    assert done.returncode == 0, done.stderr


def until_allowed(ask: Callable[[], httpx.Response]) -> None:
    """A change of quotas is in force some seconds later."""
    deadline = time.monotonic() + DEADLINE_S
    while (answer := ask()).status_code == 409:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.3)
    assert answer.status_code in (200, 201), answer.text


def refused(answer: httpx.Response, what: str) -> None:
    assert answer.status_code == 409, answer.text
    assert answer.json()["code"] == "quota_exceeded"
    assert what in answer.json()["detail"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    running = Installation(tmp_path_factory.mktemp("quotas") / "data").start()
    assert running.stop() == 0
    quota(running.data, "--users", "2", "--messages", "5", "--media-bytes", "100", "--keys", "1")
    running.start()
    yield running
    running.kill()


def test_quotas_hold_under_concurrency_after_a_restart_and_can_be_raised(place):
    anna, ben = Person(place.url, "anna"), Person(place.url, "ben")
    third = {"email": "carl@example.org", "password": "seven tidy lighthouses", "display_name": "Carl"}
    refused(anna.http.post("/auth/register", json=third, headers={"authorization": ""}), "2 users")

    room = anna.converse(ben)

    def say(number: int) -> httpx.Response:
        body = {"body": f"message {number}", "client_message_id": f"m{number}"}
        return anna.http.post(f"/conversations/{room}/messages", json=body)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(say, range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [409] * 3
    refused(say(100), "sent 5 messages")
    first = next(number for number, answer in enumerate(answers) if answer.status_code == 201)
    again = say(first)
    assert (again.status_code, again.json()["duplicate"]) == (200, True), "the same request takes no room"
    assert again.json()["message_id"] == answers[first].json()["message_id"]
    other = {"body": "another text", "client_message_id": f"m{first}"}
    answer = anna.http.post(f"/conversations/{room}/messages", json=other)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    twice = {"email": anna.email, "password": "seven tidy lighthouses", "display_name": "Anna"}
    answer = anna.http.post("/auth/register", json=twice, headers={"authorization": ""})
    assert (answer.status_code, answer.json()["code"]) == (409, "email_taken")

    assert anna.http.post("/crypto/keys", json={"key_type": "aes-256-gcm"}).status_code == 201
    refused(anna.http.post("/crypto/keys", json={"key_type": "aes-256-gcm"}), "1 keys")

    def upload(length: int) -> httpx.Response:
        head = {"tus-resumable": "1.0.0", "upload-length": str(length), "upload-metadata": "filename YQ=="}
        return anna.http.post("/media/uploads", headers=head)

    assert upload(60).status_code == 201
    refused(upload(60), "100 bytes")

    place.kill()
    place.start()
    anna.http.base_url = httpx.URL(place.url + "/api/v1")
    anna.log_in()
    refused(say(101), "sent 5 messages")
    refused(upload(60), "100 bytes")

    quota(place.data, "--messages", "6", "--keys", "none", "--media-bytes", "500")
    until_allowed(lambda: say(102))
    refused(say(103), "sent 6 messages")
    until_allowed(lambda: anna.http.post("/crypto/keys", json={"key_type": "aes-256-gcm"}))
    until_allowed(lambda: upload(60))
    quota(place.data, "--messages", "none")
    until_allowed(lambda: say(104))
