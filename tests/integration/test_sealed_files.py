"""Sealed at rest on a real installation: rows that change places open nowhere; memory is flat in a file's size."""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import httpx
import pytest

from sealwire.testing.installation import Installation, Person

MIB = 1 << 20
FILE_BYTES = 80 * MIB
PIECE_BYTES = 256 * 1024
MOST_GROWTH_BYTES = 40 * MIB
"""What serving a file may cost in memory, whatever its size: buffers of sockets and threads, far below the file."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path / "data").start()
    yield installation
    installation.kill()


def change(path: Path, *statements: str) -> None:
    """Change a database as somebody with the disk would."""
    with apsw.Connection(str(path)) as conn:
        for statement in statements:
            conn.execute(statement)
    conn.close()


SWAP = (
    "CREATE TEMP TABLE held AS SELECT key, sealed FROM {table} ORDER BY key LIMIT 2",
    (
        "UPDATE {table} SET sealed = (SELECT sealed FROM held WHERE held.key != {table}.key)"
        " WHERE key IN (SELECT key FROM held)"
    ),
)


def test_bodies_that_change_places_open_nowhere(running: Installation) -> None:
    anna, bert = Person(running.url, "anna"), Person(running.url, "bert")
    room = anna.converse(bert)
    for body in ("one thing", "another", "a third"):
        anna.send(room, body)  # the same author and conversation: one data key seals all three
    running.kill()
    change(running.data / "messaging.db", *(line.format(table="message") for line in SWAP))
    running.start()
    bert.http.base_url = f"{running.url}/api/v1"
    answer = bert.http.get(f"/conversations/{room}/messages")
    assert answer.status_code == 200
    assert [item.get("body") for item in answer.json()["items"]] == [None, None, "a third"]
    assert "one thing" not in answer.text


def test_a_body_of_the_past_does_not_stand_in_for_the_present(running: Installation) -> None:
    anna, bert = Person(running.url, "anna"), Person(running.url, "bert")
    room = anna.converse(bert)
    anna.send(room, "I agree to nothing")
    assert anna.http.patch(f"/conversations/{room}/messages/1", json={"body": "I agree"}).status_code == 200
    running.kill()
    change(running.data / "messaging.db", "UPDATE message SET sealed = (SELECT sealed FROM message_version)")
    running.start()
    bert.http.base_url = f"{running.url}/api/v1"
    (item,) = bert.http.get(f"/conversations/{room}/messages").json()["items"]
    assert item.get("body") is None


def pieces(seed: int, total: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    for _ in range(total // PIECE_BYTES):
        yield chance.randbytes(PIECE_BYTES)


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak(pid: int) -> int:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_bytes(pid)


def test_memory_is_flat_in_the_size_of_a_file(running: Installation) -> None:
    anna = Person(running.url, "anna")
    anna.http.timeout = httpx.Timeout(120)
    tus = {"tus-resumable": "1.0.0", "upload-metadata": f"filename {base64.b64encode(b'tide.bin').decode()}"}
    small = anna.http.post("/media/uploads", headers={**tus, "upload-length": "0"})
    assert small.status_code == 201, small.text
    before = forget_peak(running.pid)
    made = anna.http.post("/media/uploads", headers={**tus, "upload-length": str(FILE_BYTES)})
    where = made.headers["location"]
    told = hashlib.sha256()

    def content() -> Iterator[bytes]:
        for piece in pieces(7, FILE_BYTES):
            told.update(piece)
            yield piece

    sent = anna.http.patch(
        httpx.URL(running.url).join(where),
        content=content(),
        headers={**tus, "upload-offset": "0", "content-type": "application/offset+octet-stream"},
    )
    assert sent.status_code == 204, sent.text
    assert peak_bytes(running.pid) - before < MOST_GROWTH_BYTES, "while it was sealed"
    media_id = where.rsplit("/", 1)[1]
    ready(anna, media_id)
    before = forget_peak(running.pid)
    got = hashlib.sha256()
    with anna.http.stream("GET", f"/media/{media_id}") as answer:
        assert answer.status_code == 200
        for piece in answer.iter_bytes():
            got.update(piece)
    assert got.digest() == told.digest()
    assert peak_bytes(running.pid) - before < MOST_GROWTH_BYTES, "while it was opened"


def ready(person: Person, media_id: str) -> None:
    deadline = time.monotonic() + 60
    while person.http.get(f"/media/{media_id}/info").json()["status"] != "clean":
        assert time.monotonic() < deadline
        time.sleep(0.05)
