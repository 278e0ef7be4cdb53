"""Archives: a ZIP that is sealed while it is written, in memory that does not grow with it."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile

import pytest
from msgspec.structs import replace

from sealwire.adapters.embedded.blobs import FileBlobStore
from sealwire.kit.envelopes import EnvelopeRefused
from sealwire.services.compliance.archives import Archives
from sealwire.testing.compliance import open_compliance

MIB = 1024 * 1024


@pytest.fixture
async def archives(tmp_path):
    async with open_compliance(tmp_path) as room:
        yield Archives(blobs=FileBlobStore(tmp_path / "archives"), keys=room.keys)


async def test_it_opens_as_it_was_written(archives):
    writer = await archives.writer("tenant-a", "job-1")
    content = os.urandom(3 * MIB + 7)
    for name, data in (("a.json", b"[]"), ("empty", b""), ("media/x/photo", content)):
        member = writer.member(name, pack=name != "media/x/photo")
        for at in range(0, len(data), 100_000):
            await member.write(data[at : at + 100_000])
        await member.close()
    archive = await writer.finish(expires_us=1)
    body = b"".join([part async for part in archives.read("tenant-a", "job-1", archive)])
    assert len(body) == archive.size_bytes
    read = zipfile.ZipFile(io.BytesIO(body))
    assert read.testzip() is None
    assert read.read("media/x/photo") == content
    with pytest.raises(EnvelopeRefused):
        _ = [
            part
            async for part in archives.read("tenant-a", "job-1", replace(archive, size_bytes=archive.size_bytes - 1))
        ]


async def test_memory_stays_flat(archives):
    part = os.urandom(MIB)
    tracemalloc.start()
    try:
        writer = await archives.writer("tenant-a", "job-1")
        member = writer.member("media/x/film", pack=False)
        for _ in range(48):
            await member.write(part)
        await member.close()
        archive = await writer.finish(expires_us=1)
        size = 0
        async for piece in archives.read("tenant-a", "job-1", archive):
            size += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 48 * MIB
    assert peak < 16 * MIB


async def test_what_is_dropped_is_gone(archives, tmp_path):
    writer = await archives.writer("tenant-a", "job-1")
    member = writer.member("a")
    await member.write(b"x")
    await member.close()
    archive = await writer.finish(expires_us=1)
    for _ in range(2):
        await archives.drop("tenant-a", "job-1", archive)
    assert [path for path in (tmp_path / "archives").rglob("*") if path.is_file()] == []
