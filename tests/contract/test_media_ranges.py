"""A range of a sealed file costs the chunks that hold it, and no more."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.kit.segments import CHUNK_BYTES, SegmentOpener
from sealwire.services.media.config import MediaConfig
from sealwire.testing.media_room import MediaRoom


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[MediaRoom]:
    room = MediaRoom(tmp_path, config=MediaConfig(checkpoint_bytes=2 * CHUNK_BYTES))
    await room.open()
    await room.enter("anna")
    yield room
    await room.close()


async def test_a_range_opens_only_the_chunks_it_needs(room: MediaRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where chunks are opened: the first and last byte of a range say which."""
    size = 9 * CHUNK_BYTES + 17  # five pieces (checkpoints) of two chunks each, the last one short
    content = os.urandom(size)
    media_id = await room.upload("anna", content)
    opened: list[int] = []
    honest = SegmentOpener.chunk

    def counting(self: SegmentOpener, index: int, sealed: bytes | memoryview) -> bytes:
        opened.append(index)
        return honest(self, index, sealed)

    monkeypatch.setattr(SegmentOpener, "chunk", counting)
    for start, end, chunks in (
        (0, 0, 1),
        (CHUNK_BYTES - 1, CHUNK_BYTES - 1, 1),
        (CHUNK_BYTES - 1, CHUNK_BYTES, 2),
        (3 * CHUNK_BYTES, 4 * CHUNK_BYTES - 1, 1),
        (2 * CHUNK_BYTES + 5, 6 * CHUNK_BYTES + 5, 5),
        (size - 1, size - 1, 1),
        (0, size - 1, 10),
    ):
        opened.clear()
        answer = await room.ask("anna", "GET", f"/media/{media_id}", headers={"range": f"bytes={start}-{end}"})
        assert (answer.status, answer.body == content[start : end + 1]) == (206, True)
        assert len(opened) == chunks, (start, end)
