"""SIGKILL while many clients write: every acknowledged message, record and upload byte is there once, in order."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sealwire.testing.installation import Installation, Person
from sealwire.testing.patience import until_seen

pytestmark = pytest.mark.timeout(300)  # it starts an installation several times
WRITERS = 6
ROUNDS = 2
ENOUGH = 120
"""So many messages are acknowledged before a kill."""


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    running = Installation(tmp_path / "data").start()
    yield running
    running.kill()


class Writer(threading.Thread):
    """Sends until the server is gone. Knows what was acknowledged, and what was left hanging."""

    def __init__(self, person: Person, room: str, name: str) -> None:
        super().__init__(daemon=True)
        self.person, self.room, self.label = person, room, name
        self.acknowledged: dict[str, dict] = {}
        self.hanging: list[str] = []

    def run(self) -> None:
        for i in range(100_000):
            key = f"{self.label}-{i}"
            try:
                answer = self.person.http.post(
                    f"/conversations/{self.room}/messages", json={"body": f"body {key}", "client_message_id": key}
                )
            except httpx.HTTPError:
                self.hanging.append(key)
                return
            if answer.status_code == 201:
                self.acknowledged[key] = answer.json()
            else:
                self.hanging.append(key)
                return


class Uploader(threading.Thread):
    """Appends chunks to a tus upload until the server is gone. Knows the offset last acknowledged."""

    CHUNK = 64 * 1024

    def __init__(self, person: Person) -> None:
        super().__init__(daemon=True)
        self.person = person
        self.content = bytes(range(256)) * (self.CHUNK // 256) * 400
        self.offset = 0
        metadata = f"filename {base64.b64encode(b'big.bin').decode()}"
        made = person.http.post(
            "/media/uploads",
            headers={"tus-resumable": "1.0.0", "upload-length": str(len(self.content)), "upload-metadata": metadata},
        )
        assert made.status_code == 201, made.text
        self.url = str(httpx.URL(str(person.http.base_url)).join(made.headers["location"]))

    def patch(self) -> None:
        chunk = self.content[self.offset : self.offset + self.CHUNK]
        answer = self.person.http.patch(
            self.url,
            content=chunk,
            headers={
                "tus-resumable": "1.0.0",
                "upload-offset": str(self.offset),
                "content-type": "application/offset+octet-stream",
            },
        )
        if answer.status_code == 409:  # what was stored before a kill, its answer lost
            answer = self.person.http.head(self.url, headers={"tus-resumable": "1.0.0"})
        assert answer.status_code in (200, 204), answer.text
        self.offset = int(answer.headers["upload-offset"])

    def run(self) -> None:
        try:
            while self.offset < len(self.content):
                self.patch()
        except httpx.HTTPError:
            return


def history(person: Person, room: str) -> list[dict]:
    """Return all messages of the room."""
    found: list[dict] = []
    while True:
        after = found[-1]["seq"] if found else 0
        page = person.http.get(f"/conversations/{room}/messages", params={"after_seq": after, "limit": 200}).json()
        if not page["items"]:
            return found
        found += page["items"]


def audited(person: Person, action: str) -> list[dict]:
    """Return all records of an action."""
    found: list[dict] = []
    params = {"action": action, "limit": "1000"}
    while True:
        page = person.http.get("/compliance/audit", params=params).json()
        found += page["items"]
        if not page["next_cursor"]:
            return found
        params["cursor"] = page["next_cursor"]


def test_what_was_acknowledged_survives_sigkill_once_and_in_order(installation):
    owner = Person(installation.url, "owner")
    people = [Person(installation.url, f"p{i}") for i in range(WRITERS - 1)]
    room = owner.converse(*people)
    acknowledged: dict[str, dict] = {}
    hanging: list[tuple[Person, str]] = []
    uploader = Uploader(owner)
    for round_number in range(ROUNDS):
        writers = [Writer(p, room, f"r{round_number}-w{i}") for i, p in enumerate([owner, *people])]
        feeder = threading.Thread(target=uploader.run, daemon=True)
        for thread in [*writers, feeder]:
            thread.start()
        until_seen(lambda w=writers: sum(len(writer.acknowledged) for writer in w) >= ENOUGH)
        until_seen(lambda r=round_number: uploader.offset > r * Uploader.CHUNK)
        installation.kill()
        for thread in [*writers, feeder]:
            thread.join(60)
            assert not thread.is_alive()
        for writer in writers:
            acknowledged |= writer.acknowledged
            hanging += [(writer.person, key) for key in writer.hanging]
        installation.start()
        for person in [owner, *people]:
            person.log_in()
    assert len(acknowledged) >= ENOUGH * ROUNDS

    for person, key in hanging:  # whoever got no answer asks again with the same key
        again = person.send(room, f"body {key}", key)
        acknowledged[key] = again
    stored = history(owner, room)
    assert [m["seq"] for m in stored] == list(range(1, len(stored) + 1))
    by_key = {m["client_message_id"]: m for m in stored}
    assert len(by_key) == len(stored), "a key is stored twice"
    for key, message in acknowledged.items():
        assert (by_key[key]["seq"], by_key[key]["message_id"]) == (message["seq"], message["message_id"])
        assert by_key[key]["body"] == f"body {key}"

    head = owner.http.head(uploader.url, headers={"tus-resumable": "1.0.0"})
    assert int(head.headers["upload-offset"]) >= uploader.offset
    uploader.offset = int(head.headers["upload-offset"])
    while uploader.offset < len(uploader.content):
        uploader.patch()
    media_id = uploader.url.rstrip("/").rsplit("/", 1)[-1]
    assert owner.http.get(f"/media/{media_id}").content == uploader.content

    deadline = time.monotonic() + 60
    while len(records := audited(owner, "message.created")) < len(stored):
        assert time.monotonic() < deadline, f"{len(records)} records for {len(stored)} messages"
        time.sleep(0.2)
    assert sorted(r["resource_id"] for r in records) == sorted(m["message_id"] for m in stored)
    verdict = owner.http.get("/compliance/audit/verify").json()
    assert verdict["ok"], verdict


def test_a_revocation_survives_sigkill(installation):
    owner = Person(installation.url, "owner")
    token = owner.token
    assert owner.http.post("/auth/logout").status_code == 204
    installation.kill()
    installation.start()
    answer = httpx.get(f"{installation.url}/api/v1/auth/me", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 401


def test_it_stops_when_asked_and_starts_again_with_everything(installation):
    owner = Person(installation.url, "owner")
    room = owner.converse()
    owner.send(room, "before")
    assert installation.stop() == 0
    installation.start()
    assert owner.http.get("/auth/me").status_code == 200, "a restart logs nobody out"
    assert [m["body"] for m in history(owner, room)] == ["before"]
    assert owner.http.get("/search", params={"q": "before"}).status_code == 200
