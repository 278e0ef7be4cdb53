"""kill -9 around every durable step of an export: the next life goes on, fetches nothing twice and misses nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from sealwire.testing.installation import Installation, Person

pytestmark = pytest.mark.timeout(400)  # each life is a start
MESSAGES = 420
FILES = 70
LARGE = 2_600_000
LIVES = 40

LIFE = """
import asyncio, os, signal, sys
from pathlib import Path
from random import Random

from sealwire.adapters.embedded.blobs import FileBlobStore
from sealwire.adapters.embedded.compliance import SqliteCompliance
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.gdpr import NewExport
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.rights import Surroundings
from sealwire.services.compliance.service import ComplianceService
from sealwire.testing.media_room import MediaRoom

folder, first, when, nth = Path(sys.argv[1]), sys.argv[2] == "first", sys.argv[3], int(sys.argv[4])
MESSAGES, FILES, LARGE = (int(arg) for arg in sys.argv[5:8])
log = open(folder.parent / "fetched", "a", buffering=1)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Told:
    # Writes down what is fetched of a service, and ends the life at the nth fetch.
    fetches = 0

    def __init__(self, name, custodian):
        self._name, self._custodian = name, custodian

    def __getattr__(self, name):
        return getattr(self._custodian, name)

    def _tell(self, *what):
        Told.fetches += 1
        if when == "fetching" and Told.fetches > nth:
            die()
        print(self._name, *what, file=log)

    async def export_subject(self, caller, subject_id, query):
        if job_began:
            self._tell("page", query.cursor or "first")
        return await self._custodian.export_subject(caller, subject_id, query)

    async def subject_content(self, caller, subject_id, media_id, query):
        self._tell("file", media_id, query.offset)
        return await self._custodian.subject_content(caller, subject_id, media_id, query)


def deadly(store):
    # Before it is stored a part is nobody's; after it nobody has been told.
    saves = 0

    def around(call):
        async def once(*args):
            nonlocal saves
            saves += 1
            if when == "before" and saves > nth:
                die()
            done = await call(*args)
            print("durable", file=log)
            if when == "after" and saves > nth:
                die()
            return done
        return once

    store.save_part, store.save = around(store.save_part), around(store.save)


async def main():
    global job_began
    print("born", file=log)
    room = MediaRoom(folder)
    await room.open()
    people = room.messages.people
    storage = SqliteCompliance.open(folder / "compliance.db")
    deadly(storage.stores.rights)
    there = {
        "auth": people.auth, "messaging": room.messages.messaging, "media": room.media, "crypto": people.crypto,
    }
    service = ComplianceService(
        stores=storage.stores, crypto=people.crypto,
        keys=KeyRing(crypto=people.crypto, service="compliance", clock=room.clock),
        around=Surroundings(
            custodians=lambda: {n: Told(n, c) for n, c in {**there, "compliance": service}.items()},
            blobs=FileBlobStore(folder / "exports"),
            count_in_data=None, rng=Random(1),
        ),
        clock=room.clock,
        config=ComplianceConfig(job_retry_base_s=0.01, job_retry_cap_s=0.02, export_file_items=100),
    )
    job_began = not first
    if first:
        owner = await room.enter("bertil")
        agnes = await room.enter("agnes")
        group = await room.messages.group(owner, agnes)
        for number in range(MESSAGES):
            await room.messages.say(agnes, group, f"number {number}")
        await room.upload("agnes", bytes(range(250)) * (LARGE // 250), filename="large.bin")
        for number in range(FILES):
            await room.upload("agnes", b"%d" % number * 100, filename="../Müller/x.txt")
        await service.start()
        job = await service.request_export(agnes, NewExport())
        job_began = True
        await service.rights.runner.settled(job.job_id)
    else:
        await service.start()
        for job in await storage.stores.rights.unfinished():
            await service.rights.runner.settled(job.job_id)
            done = await storage.stores.rights.job(job.tenant_id, job.job_id)
            assert done.status == "done", done
            with open(folder.parent / "export.zip", "wb") as out:
                async for part in service.rights.exports.read(done):
                    out.write(part)
            assert out.closed and os.path.getsize(out.name) == done.archive.size_bytes
    await service.stop()
    await storage.close()
    await room.close()

job_began = False
asyncio.run(main())
"""


def live(folder: Path, *, first: bool, when: str, nth: int) -> int:
    """Live until the end or the kill; return the exit code."""
    argv = [str(folder), "first" if first else "again", when, str(nth), str(MESSAGES), str(FILES), str(LARGE)]
    done = subprocess.run([sys.executable, "-c", LIFE, *argv], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, -9), done.stderr[-3000:]
    return done.returncode


def check_zip(path: Path) -> tuple[dict[str, Any], zipfile.ZipFile]:
    """Open it with the standard library; return manifest and archive, every digest compared, each name there once."""
    archive = zipfile.ZipFile(path)
    assert archive.testzip() is None
    manifest = json.loads(archive.read("manifest.json"))
    named = [line["path"] for line in manifest["files"]]
    assert sorted([*named, "manifest.json"]) == sorted(set(archive.namelist())) == sorted(archive.namelist())
    for line in manifest["files"]:
        content = archive.read(line["path"])
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (line["sha256"], line["size_bytes"])
        if line["items"] is not None:
            assert len(json.loads(content)) == line["items"]
    return manifest, archive


def listed(archive: zipfile.ZipFile, start: str) -> list[dict[str, Any]]:
    """Return the items of all files of one kind."""
    names = [name for name in archive.namelist() if name.startswith(start) and name.endswith(".json")]
    return [item for name in names for item in json.loads(archive.read(name))]


def fetched_twice(log: str) -> list[str]:
    """Return what was fetched again although a part that holds it was durable."""
    durable: set[str] = set()
    since: list[str] = []
    again = []
    for line in log.splitlines():
        if line == "born":
            since.clear()
        elif line == "durable":
            durable.update(since)
            since.clear()
        else:
            since.append(line)
            if line in durable:
                again.append(line)
    return again


def test_every_durable_step_survives_a_kill(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    assert live(folder, first=True, when="after", nth=1) == -9
    ways = (("before", 2), ("after", 1), ("fetching", 6), ("after", 2))
    code, kills = -9, 1
    for life in range(LIVES):
        when, nth = ways[life % len(ways)]
        code = live(folder, first=False, when=when, nth=nth)
        if code == 0:
            break
        kills += 1
    assert code == 0, "the export came to its end"
    assert kills >= 5
    log = (tmp_path / "fetched").read_text()
    assert fetched_twice(log) == []
    assert log.count("durable") >= 10
    manifest, archive = check_zip(tmp_path / "export.zip")
    assert [m["body"] for m in listed(archive, "messaging/message")] == [f"number {n}" for n in range(MESSAGES)]
    assert len([line for line in manifest["files"] if line["path"].startswith("messaging/message")]) >= 4
    files = listed(archive, "media/file")
    assert len({file["id"] for file in files}) == len(files) == FILES + 1
    copies = [line for line in manifest["files"] if line["path"].startswith("media/") and line["items"] is None]
    assert {line["path"].split("/")[1] for line in copies} == {file["id"] for file in files}
    assert max(line["size_bytes"] for line in copies) == LARGE
    blobs = [path for path in (folder / "exports").rglob("*") if path.is_file()]
    assert blobs, "the archive is there"


def upload(who: Person, data: bytes, filename: str) -> str:
    pairs = f"filename {b64encode(filename.encode()).decode()}"
    tus = {"tus-resumable": "1.0.0"}
    made = who.http.post("/media/uploads", headers={**tus, "upload-length": str(len(data)), "upload-metadata": pairs})
    assert made.status_code == 201, made.text
    where = made.headers["location"].removeprefix("/api/v1")
    headers = {**tus, "upload-offset": "0", "content-type": "application/offset+octet-stream"}
    assert who.http.patch(where, content=data, headers=headers).status_code == 204
    return where.rpartition("/")[2]


def test_an_installation_that_is_killed_goes_on_with_its_exports(tmp_path: Path) -> None:
    env = {"SEALWIRE_COMPLIANCE__EXPORT_FILE_ITEMS": "50", "SEALWIRE_COMPLIANCE__JOB_RETRY_BASE_S": "0.05"}
    installation = Installation(tmp_path / "data", env=env).start()
    exports = installation.data / "exports"
    try:
        anna, ben = (Person(installation.url, name) for name in ("anna", "ben"))
        room = anna.converse(ben)
        said = [anna.send(room, f"number {number}")["message_id"] for number in range(230)]
        kept = {upload(anna, os.urandom(5_000_000), f"{number}.bin") for number in range(8)}
        job_id = anna.http.post("/compliance/gdpr/exports", json={}).json()["job_id"]
        job: dict[str, Any] = {}
        kills, seen = 0, set()
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            parts = {path.name: path.stat().st_mtime_ns for path in exports.rglob("*") if path.suffix != ".part"}
            if kills < 2 and len(parts) >= 3 * (kills + 1):
                kills += 1
                installation.kill()
                seen |= {
                    (path.name, path.stat().st_mtime_ns)
                    for path in exports.rglob("*")
                    if path.is_file() and path.suffix != ".part"
                }
                installation.start()
            job = anna.http.get(f"/compliance/gdpr/exports/{job_id}").json()
            if job["status"] == "done":
                break
            time.sleep(0.002)
        assert job["status"] == "done", job
        assert kills >= 1
        still = {(p.name, p.stat().st_mtime_ns) for p in exports.rglob("*") if p.is_file() and p.suffix != ".part"}
        # A part that was on the disk and not yet in the book is left over and swept: at most one a kill.
        assert len(still & seen) == len(seen), "parts of before are used as they were"
        (tmp_path / "export.zip").write_bytes(anna.http.get(job["download"].removeprefix("/api/v1")).content)
    finally:
        installation.kill()
    manifest, archive = check_zip(tmp_path / "export.zip")
    assert [m["id"] for m in listed(archive, "messaging/message")] == said
    copies = [line["path"].split("/")[1] for line in manifest["files"] if line["path"].startswith("media/")]
    assert {name for name in copies if not name.startswith("file")} == kept
