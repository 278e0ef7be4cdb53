"""A file that can't be read any more is refused with a reason, or its answer broken off: no wrong byte is ever sent."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sealwire.kit.segments import CHUNK_BYTES
from sealwire.services.media.events import audit_entry
from sealwire.testing.media_room import MediaRoom, flip
from sealwire.testing.wirings import WIRINGS

SIZE = 20 * CHUNK_BYTES + 5


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[MediaRoom]:
    opened = MediaRoom(tmp_path, wiring=request.param)
    await opened.open()
    await opened.enter("anna")
    yield opened
    await opened.close()


async def told(room: MediaRoom) -> list[tuple[str, str, str]]:
    entries = [audit_entry(event) for event in await room.store.feed.read(0, 100)]
    return [(e.action, e.outcome, str(e.metadata["detail"])) for e in entries if e.action == "media.damaged"]


@pytest.mark.parametrize("asked", ["", "bytes=5-90", "bytes=5-90,200-300"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: flip(path, 1_000), "bytes_refused"),
        (Path.unlink, "bytes_missing"),
        (lambda path: os.truncate(path, 1_000), "bytes_missing"),
    ],
)
async def test_a_file_damaged_at_its_beginning_is_refused_with_a_reason(
    room: MediaRoom, damage: Callable[[Path], None], reason: str, asked: str
) -> None:
    media_id = await room.upload("anna", os.urandom(SIZE))
    damage(await room.blob_of(media_id))
    answer = await room.ask("anna", "GET", f"/media/{media_id}", headers={"range": asked} if asked else {})
    assert answer.status == 409
    assert (answer.json()["code"], answer.json()["reason"]) == ("media_damaged", reason)
    assert await told(room) == [("media.damaged", "failure", reason)]


@pytest.mark.parametrize("ranges", ["", f"bytes=0-{SIZE - 1}", f"bytes=0-9,100-{SIZE - 1}"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: flip(path, SIZE - 1_000), "bytes_refused"),
        (lambda path: os.truncate(path, SIZE - 1_000), "bytes_missing"),
    ],
)
async def test_an_answer_that_meets_damage_is_broken_off(
    room: MediaRoom, damage: Callable[[Path], None], reason: str, ranges: str
) -> None:
    content = os.urandom(SIZE)
    media_id = await room.upload("anna", content)
    damage(await room.blob_of(media_id))
    answer = await room.ask("anna", "GET", f"/media/{media_id}", headers={"range": ranges} if ranges else {})
    assert (answer.status, answer.complete) == (206 if ranges else 200, False)
    assert len(answer.body) < int(answer.headers["content-length"])
    if "," not in ranges:
        assert content.startswith(answer.body), "every byte that went is as it was stored"
    assert await told(room) == [("media.damaged", "failure", reason)]
