"""Archives: a ZIP written in sealed parts, each durable on its own, in memory that does not grow with it."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile

import pytest

from sealwire.adapters.embedded.blobs import FileBlobStore
from sealwire.kit.envelopes import EnvelopeRefused
from sealwire.services.compliance.archives import Archives, Part
from sealwire.services.compliance.zips import Entry, Packer, directory_end, directory_line
from sealwire.testing.compliance import open_compliance

MIB = 1024 * 1024


@pytest.fixture
async def archives(tmp_path):
    async with open_compliance(tmp_path) as room:
        yield Archives(blobs=FileBlobStore(tmp_path / "archives"), keys=room.keys)


async def each(parts):
    for part in parts:
        yield part


async def write(archives, *groups: dict[str, bytes], job: str = "job-1") -> list[Part]:
    """Write an archive, a part per group of files, and the directory in a part of its own."""
    parts, offset = [], 0
    entries: list[Entry] = []
    for number, files in enumerate([*groups, None], 1):
        part = await archives.part("tenant-a", job, number=number, offset=offset)
        for name, data in (files or {}).items():
            member = part.member(name, pack=name.endswith(".json"))
            for at in range(0, len(data), 100_000):
                await member.write(data[at : at + 100_000])
            await member.close()
        entries += part.entries
        if files is None:
            for entry in entries:
                await part.write(directory_line(entry))
            await part.write(directory_end(members=len(entries), offset=offset, size_bytes=part.size_bytes))
        offset += part.size_bytes
        parts.append(await part.commit())
    return parts


async def read(archives, parts, job: str = "job-1") -> bytes:
    return b"".join([piece async for piece in archives.read("tenant-a", job, each(parts))])


async def test_it_opens_as_it_was_written(archives):
    content = os.urandom(3 * MIB + 7)
    parts = await write(archives, {"a.json": b"[]" * 9_000, "empty": b""}, {"media/x/Füße.png": content})
    body = await read(archives, parts)
    assert len(body) == sum(part.size_bytes for part in parts)
    opened = zipfile.ZipFile(io.BytesIO(body))
    assert opened.testzip() is None
    assert opened.namelist() == ["a.json", "empty", "media/x/Füße.png"]
    assert opened.read("a.json") == b"[]" * 9_000
    assert opened.read("media/x/Füße.png") == content


async def test_parts_are_bound_to_their_place(archives):
    first, second, end = await write(archives, {"a": b"a"}, {"b": b"b"})
    swapped = [second._replace(number=1), first._replace(number=2), end]
    for wrong in (swapped, [first._replace(size_bytes=first.size_bytes - 1)]):
        with pytest.raises(EnvelopeRefused):
            await read(archives, wrong)
    with pytest.raises(EnvelopeRefused):
        await read(archives, [second._replace(number=3)])


async def test_what_is_not_committed_is_nowhere(archives, tmp_path):
    part = await archives.part("tenant-a", "job-1", number=1, offset=0)
    member = part.member("film", pack=False)
    await member.write(os.urandom(2 * MIB))
    await part.abort()
    assert [path for path in (tmp_path / "archives").rglob("*") if path.is_file()] == []


async def test_memory_stays_flat(archives):
    piece = os.urandom(MIB)
    tracemalloc.start()
    try:
        part = await archives.part("tenant-a", "job-1", number=1, offset=0)
        member = part.member("media/x/film", pack=False)
        for _ in range(48):
            await member.write(piece)
        await member.close()
        durable = await part.commit()
        size = 0
        async for read_piece in archives.read("tenant-a", "job-1", each([durable])):
            size += len(read_piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 48 * MIB
    assert peak < 16 * MIB


async def test_what_is_forgotten_can_t_be_read(archives, tmp_path):
    parts = await write(archives, {"a": b"x"})
    for _ in range(2):
        await archives.forget("tenant-a", "job-1")
        for part in parts:
            await archives.delete(part.blob_key)
    assert [path for path in (tmp_path / "archives").rglob("*") if path.is_file()] == []


def test_a_directory_says_what_needs_64_bits_and_only_that():
    plain = Entry("a", "", 5, 1, 5, 0, 0)
    far = Entry("b", "", 5, 1, 5, 1 << 33, 0)
    assert len(directory_line(plain)) == 46 + 1
    assert len(directory_line(far)) == 46 + 1 + 28
    assert len(directory_end(members=1, offset=50, size_bytes=47)) == 22
    assert len(directory_end(members=70_000, offset=50, size_bytes=47)) == 22 + 56 + 20


def test_more_members_than_the_old_format_counts_open():
    out, entries = io.BytesIO(), []
    for number in range(65_540):
        packer = Packer(f"f/{number}", offset=out.tell(), pack=False)
        out.write(packer.head() + packer.add(b"x") + packer.end())
        entries.append(packer.entry())
    offset = out.tell()
    directory = b"".join(directory_line(entry) for entry in entries)
    out.write(directory + directory_end(members=len(entries), offset=offset, size_bytes=len(directory)))
    opened = zipfile.ZipFile(out)
    assert len(opened.namelist()) == 65_540
    assert opened.read("f/65539") == b"x"
