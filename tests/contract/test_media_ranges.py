"""A range of a sealed file costs the chunks that hold it, and no more."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
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


async def test_pieces_that_change_places_open_nowhere(room: MediaRoom) -> None:
    """Two pieces of one file, or of two files of one person under the same key: who writes the disk can do that."""
    piece = 2 * CHUNK_BYTES

    async def in_pieces(content: bytes) -> str:
        where = await room.begin("anna", len(content))
        for offset in range(0, len(content), piece):
            assert (await room.send("anna", where, offset, [content[offset : offset + piece]])).status == 204
        return where.rpartition("/")[2]

    contents = [os.urandom(3 * piece) for _ in range(2)]
    first, second = [await in_pieces(content) for content in contents]
    assert room.db.read("SELECT count(*), count(DISTINCT blob_key) FROM segments") == [(6, 6)]

    async def swap(one: tuple[str, int], other: tuple[str, int]) -> None:
        """Exchange bytes and header of two pieces; what the rows say of their places stays."""

        def exchange(conn: apsw.Connection) -> None:
            sql = "SELECT blob_key, header FROM segments WHERE media_id = ? AND start = ?"
            (a,), (b,) = (conn.execute(sql, place).fetchall() for place in (one, other))
            for place, new in ((one, ("moving", b"")), (other, a), (one, b)):
                conn.execute(
                    "UPDATE segments SET blob_key = ?, header = ? WHERE media_id = ? AND start = ?", (*new, *place)
                )

        await room.db.write(exchange)

    for one, other in (((first, 0), (first, piece)), ((first, 0), (second, 0))):
        await swap(one, other)
        answer = await room.ask("anna", "GET", f"/media/{first}", headers={"range": "bytes=0-9"})
        assert answer.status >= 400, "it is there, but not what was stored"
        await swap(one, other)
        answer = await room.ask("anna", "GET", f"/media/{first}", headers={"range": "bytes=0-9"})
        assert (answer.status, answer.body) == (206, contents[0][:10])
