"""SIGKILL in the middle of one long request: every byte up to the last checkpoint is there, and the rest can follow."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sealwire.testing.installation import Installation, Person

pytestmark = pytest.mark.timeout(300)
CHECKPOINT = 1024 * 1024
SIZE = 24 * CHECKPOINT
KEPT = 3
TUS = {"tus-resumable": "1.0.0"}


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    env = {"SEALWIRE_MEDIA__CHECKPOINT_BYTES": str(CHECKPOINT), "SEALWIRE_MEDIA__ORPHAN_AGE_S": "60"}
    running = Installation(tmp_path / "data", env=env).start()
    yield running
    running.kill()


def test_a_long_request_is_kept_up_to_its_last_checkpoint(installation: Installation, tmp_path: Path) -> None:
    anna = Person(installation.url, "anna")
    content = os.urandom(SIZE)
    made = anna.http.post("/media/uploads", headers={**TUS, "upload-length": str(SIZE)})
    where = str(httpx.URL(str(anna.http.base_url)).join(made.headers["location"]))
    offset = 0
    for kill_at in (5 * CHECKPOINT + 77, 13 * CHECKPOINT + 1):
        sent = send_and_kill(installation, anna, where, content, offset, kill_at)
        installation.start()
        before, offset = offset, position(anna, where)
        assert before < offset <= sent
        assert offset - before >= KEPT * CHECKPOINT
    headers = {**TUS, "upload-offset": str(offset), "content-type": "application/offset+octet-stream"}
    assert anna.http.patch(where, content=content[offset:], headers=headers).status_code == 204
    got = anna.http.get(f"/media/{where.rpartition('/')[2]}")
    assert (got.status_code, got.content) == (200, content)


def send_and_kill(
    installation: Installation, person: Person, where: str, content: bytes, offset: int, kill_at: int
) -> int:
    """Send from `offset` in one request up to `kill_at`, and kill the server once it has stored some of that.

    Return what was sent: much of it may have been in the sockets' buffers only.
    """
    sent = offset
    reached, killed = threading.Event(), threading.Event()
    blobs = installation.data / "blobs"
    stored = len(whole(blobs))

    def body() -> Iterator[bytes]:
        nonlocal sent
        while sent < len(content):
            if sent >= kill_at:
                reached.set()
                killed.wait(100)
            yield content[sent : sent + 50_000]
            sent += 50_000

    def kill() -> None:
        reached.wait(100)
        deadline = time.monotonic() + 90
        while len(whole(blobs)) < stored + KEPT + 1:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        installation.kill()
        killed.set()

    killer = threading.Thread(target=kill)
    killer.start()
    headers = {
        **TUS,
        "upload-offset": str(offset),
        "content-type": "application/offset+octet-stream",
        "content-length": str(len(content) - offset),
    }
    with contextlib.suppress(httpx.HTTPError):
        person.http.patch(where, content=body(), headers=headers)
    killer.join()
    return sent


def whole(blobs: Path) -> list[Path]:
    """Return the blobs that were completed."""
    return [f for f in blobs.rglob("*") if f.is_file() and not f.suffix]


def position(person: Person, where: str) -> int:
    return int(person.http.head(where, headers=TUS).headers["upload-offset"])
