"""The promises of `BlobStore`, for every family of storage."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.adapters.embedded.blobs import FileBlobStore
from sealwire.kit.problem import Unavailable
from sealwire.ports.blobs import BlobMissing, BlobStore

KEY = "0123456789abcdef0123456789abcdef"
OTHER = "ff" * 16


@pytest.fixture(params=["embedded"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    store = FileBlobStore(tmp_path / "blobs")
    yield store
    store.close()


def files(tmp_path: Path) -> list[str]:
    return sorted(f.name for f in tmp_path.rglob("*") if f.is_file())


def make_older(folder: Path, *, seconds: float) -> None:
    for name in folder.rglob("*"):
        if name.is_file():
            os.utime(name, (time.time() - seconds, time.time() - seconds))


async def test_what_is_put_is_read_whole_and_in_ranges(blobs: BlobStore) -> None:
    data = os.urandom(100_000)
    await blobs.put(KEY, data)
    assert await blobs.read(KEY, 0, len(data)) == data
    assert await blobs.read(KEY, 5, 6) == data[5:6]
    assert await blobs.read(KEY, 99_999, 100_000) == data[-1:]
    for start, end in ((0, 100_001), (99_999, 100_002), (200_000, 200_001)):
        with pytest.raises(BlobMissing):
            await blobs.read(KEY, start, end)
    with pytest.raises(BlobMissing):
        await blobs.read(OTHER, 0, 1)


async def test_a_blob_is_there_whole_or_not_at_all(blobs: BlobStore, tmp_path: Path) -> None:
    writer = await blobs.create(KEY)
    await writer.write(b"abc")
    with pytest.raises(BlobMissing):
        await blobs.read(KEY, 0, 1)
    await writer.write(b"de")
    await writer.commit(b"f")
    assert await blobs.read(KEY, 0, 6) == b"abcdef"
    await writer.abort()
    assert await blobs.read(KEY, 0, 6) == b"abcdef"
    await (await blobs.create("12" * 16)).abort()
    dropped = await blobs.create(OTHER)
    await dropped.write(b"x")
    await dropped.abort()
    await dropped.abort()
    with pytest.raises(BlobMissing):
        await blobs.read(OTHER, 0, 1)
    assert files(tmp_path) == [KEY]


async def test_deleting_is_for_good_and_may_be_repeated(blobs: BlobStore, tmp_path: Path) -> None:
    await blobs.put(KEY, b"x")
    begun = await blobs.create(OTHER)
    await begun.write(b"y")
    for key in (KEY, KEY, OTHER, "ab" * 16):
        await blobs.delete(key)
    with pytest.raises(BlobMissing):
        await blobs.read(KEY, 0, 1)
    assert files(tmp_path) == []
    await begun.abort()


async def test_leftovers_are_listed_by_age(blobs: BlobStore, tmp_path: Path) -> None:
    await blobs.put(KEY, b"x")
    unfinished = await blobs.create(OTHER)
    await unfinished.write(b"y")
    assert [key async for key in blobs.leftovers(older_than_s=60)] == []
    make_older(tmp_path, seconds=100)
    assert sorted([key async for key in blobs.leftovers(older_than_s=60)]) == sorted([KEY, OTHER])
    await unfinished.abort()


async def test_many_at_once(blobs: BlobStore) -> None:
    data = {os.urandom(16).hex(): os.urandom(5_000) for _ in range(50)}
    await asyncio.gather(*(blobs.put(key, content) for key, content in data.items()))
    found = await asyncio.gather(*(blobs.read(key, 0, 5_000) for key in data))
    assert found == list(data.values())
    await blobs.check()


@pytest.mark.parametrize("key", ["", "x", "../../etc/passwd", "AB" * 16, "0" * 33, f"{'0' * 31}/"])
async def test_a_key_is_a_key(blobs: BlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="32 lowercase hex"):
        await blobs.put(key, b"")


async def test_a_broken_disk_is_said_in_our_words(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "blobs" / KEY[:2]).write_bytes(b"a file where a folder should be")
    writer = await blobs.create(KEY)
    for attempt in (
        blobs.put(KEY, b"x"),
        writer.write(b"x"),
        writer.commit(),
        blobs.read(KEY, 0, 1),
        blobs.delete(KEY),
    ):
        with pytest.raises(Unavailable):
            await attempt
