"""Exports that are interrupted, large, or about things that go meanwhile."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import tracemalloc
import zipfile
from base64 import b64encode
from collections import deque
from collections.abc import MutableSequence

import pytest

from sealwire.contracts.custody import ContentPart, ContentQuery, SubjectItem, SubjectItems, SubjectQuery
from sealwire.contracts.gdpr import ExportGone, NewErasure, NewExport
from sealwire.contracts.media import MediaNotFound
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.permission import Role
from sealwire.kit.problem import Unavailable
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.testing.compliance import open_compliance
from sealwire.testing.custody import MemoryCustody

TENANT, AGNES = "tenant-a", "agnes-1"
QUICK = ComplianceConfig(job_retry_base_s=0.01, job_retry_cap_s=0.02, relay_wait_s=0.01, export_file_items=100)
ME = Caller(principal=Principal(kind="user", tenant_id=TENANT, subject=AGNES, role=Role.MEMBER, session_id="s"))


class Files(MemoryCustody):
    """Media with so many files, made as they are asked for; `stuck` lets nobody past a file."""

    def __init__(self, count: int, size_bytes: int = 100) -> None:
        super().__init__()
        self.count = count
        self.data = b"x" * size_bytes
        self.gone: set[str] = set()
        self.stuck = ""
        self.reached = asyncio.Event()
        self.asked: MutableSequence[tuple[str, int]] = []

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        start = int(query.cursor or 0)
        end = min(start + query.limit, self.count)
        items = [
            SubjectItem(kind="file", resource_id=f"m{n}", at="", data={"filename": f"{n}.txt"}, media_id=f"m{n}")
            for n in range(start, end)
        ]
        return SubjectItems(items=items, next_cursor=str(end) if end < self.count else None)

    async def subject_content(self, caller: Caller, subject_id: str, media_id: str, query: ContentQuery) -> ContentPart:
        self.asked.append((media_id, query.offset))
        if media_id == self.stuck:
            self.reached.set()
            await asyncio.Event().wait()
        if media_id in self.gone:
            raise MediaNotFound
        data = self.data[query.offset : query.offset + query.limit_bytes]
        return ContentPart(data=b64encode(data).decode(), last=query.offset + len(data) >= len(self.data))


def town(files: Files) -> dict[str, MemoryCustody]:
    auth = MemoryCustody()
    auth.put(TENANT, AGNES, "profile", AGNES, email="agnes.quill@example.org", display_name="Agnes")
    return {"auth": auth, "media": files}


async def settled(room, job_id: str):
    async with asyncio.timeout(30):
        await room.service.rights.runner.settled(job_id)
    return await room.stores.rights.job(TENANT, job_id)


async def opened(room, job) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(b"".join([part async for part in room.service.rights.exports.read(job)])))
    assert archive.testzip() is None
    return archive


def blobs(tmp_path) -> list:
    return [path for path in (tmp_path / "data-exports").rglob("*") if path.is_file()]


async def test_memory_is_flat_in_the_number_of_members(tmp_path):
    (tmp_path / "data").mkdir()
    files = Files(6_000)
    files.asked = deque(maxlen=10)
    async with open_compliance(tmp_path / "data", custodians=town(files), config=QUICK) as room:
        gc.collect()
        tracemalloc.start()
        try:
            asked = await room.service.request_export(ME, NewExport())
            job = await settled(room, asked.job_id)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (job.status, job.receipts[1].counts) == ("done", {"file": 6_000})
        assert len((await opened(room, job)).namelist()) > 6_000
    assert peak < 2_000_000, "two buffers on the way to the disk, and less than 100 bytes a member besides"


async def test_a_restart_goes_on_behind_the_last_durable_part(tmp_path):
    (tmp_path / "data").mkdir()
    files = Files(200)
    files.stuck = "m150"
    async with open_compliance(tmp_path / "data", custodians=town(files), config=QUICK) as room:
        asked = await room.service.request_export(ME, NewExport())
        await asyncio.wait_for(files.reached.wait(), 20)
    before, files.asked, files.stuck = {m for m, _ in files.asked}, [], ""
    assert len(before) == 151
    async with open_compliance(tmp_path / "data", custodians=town(files), config=QUICK) as room:
        job = await settled(room, asked.job_id)
        archive = await opened(room, job)
        await room.service.rights.exports.sweep()
        assert len(blobs(tmp_path)) == await room.stores.rights.count_parts(asked.job_id)
    assert [m for m, _ in files.asked] == [f"m{n}" for n in range(128, 200)], "two parts of 64 files were durable"
    names = archive.namelist()
    assert sorted(n for n in names if n.startswith("media/m")) == sorted(f"media/m{n}/{n}.txt" for n in range(200))
    assert len(json.loads(archive.read("manifest.json"))["files"]) == len(names) - 1


async def test_a_file_that_goes_meanwhile_is_left_out_and_told(tmp_path):
    (tmp_path / "data").mkdir()
    files = Files(3, size_bytes=2_500_000)
    serve = files.subject_content

    async def going(caller, subject_id, media_id, query):
        if (media_id, query.offset > 0) == ("m1", True):
            files.gone.add("m1")
        return await serve(caller, subject_id, media_id, query)

    files.subject_content = going
    async with open_compliance(tmp_path / "data", custodians=town(files), config=QUICK) as room:
        asked = await room.service.request_export(ME, NewExport())
        job = await settled(room, asked.job_id)
        assert (job.status, job.receipts[1].counts) == ("done", {"file": 3, "file_gone_meanwhile": 1})
        archive = await opened(room, job)
    assert [n for n in archive.namelist() if n.startswith("media/m")] == ["media/m0/0.txt", "media/m2/2.txt"]
    assert archive.read("media/m2/2.txt") == files.data


async def test_an_erasure_takes_what_an_export_had_so_far(tmp_path):
    (tmp_path / "data").mkdir()
    files = Files(200)
    files.stuck = "m150"
    async with open_compliance(tmp_path / "data", custodians=town(files), config=QUICK) as room:
        asked = await room.service.request_export(ME, NewExport())
        await asyncio.wait_for(files.reached.wait(), 20)
        assert len(blobs(tmp_path)) >= 3
        erasure = await room.service.request_erasure(ME, NewErasure())
        done = await settled(room, erasure.job_id)
        counts = {receipt.service: receipt.counts for receipt in done.receipts}
        assert (done.status, counts["compliance"]["export"]) == ("done", 1)
        assert blobs(tmp_path) == []
        assert (await room.stores.rights.job(TENANT, asked.job_id)).status == "failed"


async def test_what_a_crash_left_of_an_ended_export_is_swept(tmp_path):
    (tmp_path / "data").mkdir()
    files = Files(70)
    async with open_compliance(tmp_path / "data", custodians=town(files), config=QUICK) as room:
        asked = await room.service.request_export(ME, NewExport())
        await settled(room, asked.job_id)
        assert blobs(tmp_path)
        await room.stores.rights.clear_archive(asked.job_id)  # and then the process died
        await room.service.rights.exports.sweep()
        assert blobs(tmp_path) == []
        assert await room.stores.rights.count_parts(asked.job_id) == 0


async def test_a_service_that_fails_for_a_while_costs_one_part(tmp_path):
    (tmp_path / "data").mkdir()
    files = Files(200)
    serve, failures = files.subject_content, iter([True] * 3)

    async def failing(caller, subject_id, media_id, query):
        if media_id == "m100" and next(failures, False):
            raise Unavailable("not now")
        return await serve(caller, subject_id, media_id, query)

    files.subject_content = failing
    async with open_compliance(tmp_path / "data", custodians=town(files), config=QUICK) as room:
        asked = await room.service.request_export(ME, NewExport())
        job = await settled(room, asked.job_id)
        assert job.status == "done"
        assert len([m for m, _ in files.asked if m == "m10"]) == 1


NAMES = [
    "../../etc/passwd", "..\\..\\x", "/abs/x", "a/b/c", ".hidden", "...", "  ", "", "a\x00b\nc", "C:\\x",
    "\u202egpj.exe", "manifest.json", "A.txt", "a.txt", "x" * 300 + ".pdf", "\u6587" * 300 + ".pdf",
    "\U00020000" * 120 + ".txt", "\u00e9" * 250, "x" * 199 + " b", "con", "Nul.txt", "COM1.tar.gz", "name.",
    "name ", "." + "y" * 400,
]  # fmt: skip


async def test_a_file_of_any_name_can_be_unpacked_where_it_belongs(tmp_path):
    class Named(Files):
        async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
            named = [{"filename": name} for name in NAMES]
            return SubjectItems(
                items=[
                    SubjectItem(kind="file", resource_id=f"m{n}", at="", data=data, media_id=f"m{n}")
                    for n, data in enumerate(named)
                ]
            )

    (tmp_path / "data").mkdir()
    async with open_compliance(tmp_path / "data", custodians=town(Named(len(NAMES))), config=QUICK) as room:
        asked = await room.service.request_export(ME, NewExport())
        archive = await opened(room, await settled(room, asked.job_id))
    archive.extractall(tmp_path / "out")
    names = [name.split("/") for name in archive.namelist() if name.startswith("media/m")]
    assert [parts[1] for parts in names] == [f"m{n}" for n in range(len(NAMES))]
    assert all((tmp_path / "out" / "/".join(parts)).read_bytes() for parts in names)
    called = dict(zip(NAMES, (parts[2] for parts in names), strict=True))
    assert [name for name in called.values() if name[0] == "." or name[-1] in ". " or len(name.encode()) > 200] == []
    assert {called[name] for name in ("con", "Nul.txt", "COM1.tar.gz")} == {"_con", "_Nul.txt", "_COM1.tar.gz"}
    assert called["x" * 300 + ".pdf"] == "x" * 196 + ".pdf", "what it is opened with"
    assert called["A.txt"] == "A.txt"


async def test_an_archive_whose_key_went_before_a_crash_is_gone(tmp_path):
    (tmp_path / "data").mkdir()
    async with open_compliance(tmp_path / "data", custodians=town(Files(2)), config=QUICK) as room:
        asked = await room.service.request_export(ME, NewExport())
        job = await settled(room, asked.job_id)
        await room.keys.destroy(TENANT, scope=f"gdpr-job:{job.job_id}")  # and no more of what follows a download
        for _ in range(2):
            with pytest.raises(ExportGone):
                await room.service.rights.download(ME, job.job_id)
        assert (await room.service.export_job(ME, job.job_id)).download is None
    assert blobs(tmp_path) == []
