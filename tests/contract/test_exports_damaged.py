"""Exports of a person some of whose files can't be read any more, over the real media service."""

from __future__ import annotations

import asyncio
import io
import json
import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sealwire.contracts.custody import ContentQuery
from sealwire.contracts.data_keys import DataKeyDestruction
from sealwire.contracts.gdpr import NewExport
from sealwire.contracts.media import MediaDamaged
from sealwire.kit.caller import Caller, service_caller
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.job_ports import StoredJob
from sealwire.testing.compliance import ComplianceRoom, open_compliance
from sealwire.testing.custody import MemoryCustody
from sealwire.testing.media_room import MediaRoom, flip
from sealwire.testing.wirings import WIRINGS

CUSTODIAN = service_caller("compliance", "default")
QUICK = ComplianceConfig(job_retry_base_s=0.01, job_retry_cap_s=0.02, relay_wait_s=0.01)
LARGE = 2_500_000
"""Three pieces of a mebibyte."""


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[MediaRoom]:
    (tmp_path / "media").mkdir()
    opened = MediaRoom(tmp_path / "media", wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


async def exported(tmp_path: Path, room: MediaRoom, me: Caller) -> tuple[StoredJob, zipfile.ZipFile]:
    (tmp_path / "data").mkdir()
    auth = MemoryCustody()
    auth.put(me.tenant_id, me.user_id, "profile", me.user_id, email="anna@example.org")
    town: dict[str, Any] = {"auth": auth, "media": room.media}
    async with open_compliance(tmp_path / "data", custodians=town, config=QUICK) as there:
        return await _settled(there, me)


async def _settled(there: ComplianceRoom, me: Caller) -> tuple[StoredJob, zipfile.ZipFile]:
    asked = await there.service.request_export(me, NewExport())
    async with asyncio.timeout(30):
        await there.service.rights.runner.settled(asked.job_id)
    job = await there.stores.rights.job(me.tenant_id, asked.job_id)
    assert job is not None
    archive = zipfile.ZipFile(io.BytesIO(b"".join([part async for part in there.service.rights.exports.read(job)])))
    assert archive.testzip() is None
    return job, archive


def counts(job: StoredJob) -> dict[str, int]:
    return {receipt.service: receipt.counts for receipt in job.receipts}["media"]


async def test_an_export_goes_on_without_what_is_damaged_and_names_it(room: MediaRoom, tmp_path: Path) -> None:
    me = await room.enter("anna")
    contents = {f"{n}.bin": os.urandom(LARGE if n in (1, 3, 4) else 1_000) for n in range(6)}
    ids = {name: await room.upload("anna", data, filename=name) for name, data in contents.items()}
    flip(await room.blob_of(ids["1.bin"]), LARGE - 1_000)  # in its third piece
    (await room.blob_of(ids["2.bin"])).unlink()
    (await room.blob_of(ids["3.bin"])).unlink()
    os.truncate(await room.blob_of(ids["4.bin"]), 1_500_000)
    job, archive = await exported(tmp_path, room, me)
    assert (job.status, job.problem, counts(job)) == ("done", None, {"file": 6, "file_damaged": 4})
    names = [name for name in archive.namelist() if name.startswith("media/") and name != "media/file.json"]
    assert names == [f"media/{ids[name]}/{name}" for name in ("0.bin", "5.bin")]
    for name in ("0.bin", "5.bin"):
        assert archive.read(f"media/{ids[name]}/{name}") == contents[name]
    manifest = json.loads(archive.read("manifest.json"))
    assert {line["path"] for line in manifest["files"]} == set(archive.namelist()) - {"manifest.json"}
    assert manifest["damaged"] == [
        {"path": f"media/{ids['1.bin']}/1.bin", "reason": "bytes_refused"},
        {"path": f"media/{ids['2.bin']}/2.bin", "reason": "bytes_missing"},
        {"path": f"media/{ids['3.bin']}/3.bin", "reason": "bytes_missing"},
        {"path": f"media/{ids['4.bin']}/4.bin", "reason": "bytes_missing"},
    ]


async def test_files_whose_key_is_gone_are_named_too(room: MediaRoom, tmp_path: Path) -> None:
    me = await room.enter("anna")
    media_id = await room.upload("anna", b"kept" * 100, filename="letter.txt")
    await room.messages.people.crypto.destroy_data_keys(
        service_caller("media", "default"), DataKeyDestruction(subject_id=me.user_id)
    )
    await room.again()
    with pytest.raises(MediaDamaged) as told:
        await room.media.subject_content(CUSTODIAN, me.user_id, media_id, ContentQuery())
    assert told.value.extra == {"reason": "key_unusable"}
    job, archive = await exported(tmp_path, room, me)
    assert counts(job) == {"file": 1, "file_damaged": 1}
    (line,) = json.loads(archive.read("manifest.json"))["damaged"]
    assert line == {"path": f"media/{media_id}/file", "reason": "key_unusable"}


async def test_many_damaged_files_are_told_of_in_parts(room: MediaRoom, tmp_path: Path) -> None:
    me = await room.enter("anna")
    ids = [await room.upload("anna", b"%d" % n, filename=f"{n}.txt") for n in range(130)]
    for media_id in ids:
        (await room.blob_of(media_id)).unlink()
    job, archive = await exported(tmp_path, room, me)
    assert counts(job) == {"file": 130, "file_damaged": 130}
    named = [line["path"] for line in json.loads(archive.read("manifest.json"))["damaged"]]
    assert named == [f"media/{media_id}/{n}.txt" for n, media_id in enumerate(ids)]
