"""docs/life/upload.md, walked by clients nobody here wrote: tuspy and npm's tus-js-client."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from tusclient.client import TusClient

from sealwire.testing.held_up import HeldUp
from sealwire.testing.installation import Installation, Person
from sealwire.testing.node import NodeMissing, NodeScript

SCRIPT = Path(__file__).resolve().parents[1] / "node" / "tus_client.js"


def endpoint(installation: Installation) -> str:
    return f"{installation.url}/api/v1/media/uploads"


def media_id(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


def a_file(folder: Path, size: int) -> tuple[Path, bytes]:
    content = os.urandom(size)
    path = folder / "scan.bin"
    path.write_bytes(content)
    return path, content


async def npm_client(installation: Installation, person: Person, path: Path, **told: Any) -> NodeScript:
    argument = {"endpoint": endpoint(installation), "token": person.token, "path": str(path), "options": {}, **told}
    try:
        return NodeScript(SCRIPT, json.dumps(argument))
    except NodeMissing as reason:
        pytest.skip(f"the npm client is not tested here: {reason}")


def test_tuspy_uploads_resumes_and_others_read(
    installation: Installation, person: Callable[[str], Person], tmp_path: Path
) -> None:
    anna, ben, eve = person("anna"), person("ben"), person("eve")
    conversation_id = anna.converse(ben)
    path, content = a_file(tmp_path, 1_000_000)
    client = TusClient(endpoint(installation), headers={"Authorization": f"Bearer {anna.token}"})
    metadata = {"filename": "Übersicht.bin", "filetype": "application/x-scan", "conversation_id": conversation_id}
    first = client.uploader(str(path), chunk_size=300_000, metadata=metadata, upload_checksum=True)
    first.upload(stop_at=600_000)
    assert first.offset == 600_000
    second = client.uploader(str(path), chunk_size=123_456, url=first.url, upload_checksum=True)
    assert second.offset == 600_000
    second.upload()

    where = f"/media/{media_id(first.url)}"
    for reader in (anna, ben):
        got = reader.http.get(where)
        assert (got.status_code, got.content) == (200, content)
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["content-disposition"].startswith("attachment;")
        assert "filename*=UTF-8''%C3%9Cbersicht.bin" in got.headers["content-disposition"]
    assert eve.http.get(where).status_code == 404
    part = ben.http.get(where, headers={"range": "bytes=65530-131080"})
    assert (part.status_code, part.content) == (206, content[65_530:131_081])
    info = ben.http.get(f"{where}/info").json()
    assert (info["sha256"], info["status"], info["size_bytes"]) == (
        hashlib.sha256(content).hexdigest(), "clean", 1_000_000,
    )  # fmt: skip
    link = ben.http.post(f"{where}/link", json={"expires_in_s": 60}).json()
    assert httpx.get(installation.url + link["url"]).content == content
    ben.http.post("/auth/logout")
    assert httpx.get(installation.url + link["url"]).status_code == 401
    assert anna.http.delete(where).status_code == 200
    assert anna.http.get(where).status_code == 404


def test_the_audit_trail_tells_of_it(
    installation: Installation, owner: Person, person: Callable[[str], Person], tmp_path: Path
) -> None:
    anna = person("anna")
    path, _ = a_file(tmp_path, 10)
    client = TusClient(endpoint(installation), headers={"Authorization": f"Bearer {anna.token}"})
    uploader = client.uploader(str(path), metadata={"filename": "salaries.txt"})
    uploader.upload()
    query = {"resource_type": "media", "resource_id": media_id(uploader.url)}
    deadline = time.monotonic() + 40
    while True:
        found = owner.http.get("/compliance/audit", params=query)
        actions = [record["action"] for record in found.json()["items"]]
        if "media.uploaded" in actions or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert actions == ["media.upload.started", "media.uploaded"]
    assert "salaries" not in found.text


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"options": {"chunkSize": 200_000}},
        {"options": {"chunkSize": 200_000, "uploadDataDuringCreation": True}},
        {"deferred": True, "options": {"chunkSize": 200_000, "uploadLengthDeferred": True}},
        {"buffer": True, "options": {"parallelUploads": 3}},
        {"options": {"chunkSize": 200_000, "overridePatchMethod": True}},
    ],
    ids=["whole", "chunks", "with creation", "length later", "parallel", "by POST"],
)
async def test_tus_js_client_uploads(
    installation: Installation, person: Callable[[str], Person], tmp_path: Path, told: dict[str, Any]
) -> None:
    anna, ben = person("anna"), person("ben")
    conversation_id = anna.converse(ben)
    path, content = a_file(tmp_path, 700_001)
    metadata = {"filename": "scan.bin", "filetype": "application/x-scan", "conversation_id": conversation_id}
    async with await npm_client(installation, anna, path, metadata=metadata, **told) as js:
        js.do("start")
        await js.until(lambda: js.seen("success") or js.seen("error"))
        assert not js.seen("error"), js.events
        url = js.seen("success")[0]["url"]
    got = ben.http.get(f"/media/{media_id(url)}")
    assert (got.status_code, got.content) == (200, content)
    info = ben.http.get(f"/media/{media_id(url)}/info").json()
    assert (info["filename"], info["sha256"]) == ("scan.bin", hashlib.sha256(content).hexdigest())


async def test_tus_js_client_stops_and_resumes_and_terminates(
    installation: Installation, person: Callable[[str], Person], tmp_path: Path
) -> None:
    anna = person("anna")
    path, content = a_file(tmp_path, 700_001)
    told = {"metadata": {"filename": "scan.bin"}, "abort_after": 300_000}
    async with await npm_client(installation, anna, path, options={"chunkSize": 100_000}, **told) as js:
        js.do("start")
        await js.until(lambda: js.seen("aborted"))
        url = js.seen("aborted")[0]["url"]
        assert not js.seen("success")
    resumed = {"uploadUrl": url, "chunkSize": 150_000}
    async with await npm_client(installation, anna, path, options=resumed, metadata={}) as js:
        js.do("start")
        await js.until(lambda: js.seen("success") or js.seen("error"))
        assert js.seen("success"), js.events
        assert js.seen("chunk")[0]["accepted"] >= 450_000
    assert anna.http.get(f"/media/{media_id(url)}").content == content
    async with await npm_client(installation, anna, path, **told, options={"chunkSize": 100_000}) as js:
        js.do("start")
        await js.until(lambda: js.seen("aborted"))
        url = js.seen("aborted")[0]["url"]
        js.do("terminate")
        await js.until(lambda: js.seen("terminated"))
    assert anna.http.head(url, headers={"tus-resumable": "1.0.0"}).status_code == 410


async def test_tus_js_client_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    """Retries of the client's own meet a server that was killed and came back on the same data."""
    installation = Installation(tmp_path / "data", env={"SEALWIRE_MEDIA__CHECKPOINT_BYTES": "1048576"}).start()
    try:
        anna = Person(installation.url, "anna")
        path, content = a_file(tmp_path, 4_000_000)
        told = {"metadata": {"filename": "scan.bin"}, "retry_ms": [100, 300, 1000, *[3000] * 12]}
        async with await npm_client(installation, anna, path, options={"chunkSize": 400_000}, **told) as js:
            js.do("start")
            await js.until(lambda: len(js.seen("chunk")) >= 3)
            installation.kill()
            installation.start()
            await js.until(lambda: js.seen("success") or js.seen("error"), within_s=60)
            assert js.seen("success"), js.events
            url = js.seen("success")[0]["url"]
        assert anna.http.get(f"/media/{media_id(url)}").content == content
    finally:
        installation.kill()


def test_an_upload_ends_within_a_second_after_the_logout(
    installation: Installation, person: Callable[[str], Person]
) -> None:
    anna = person("anna")
    where = begin(anna, 1_000_000)
    with slow_patch(installation, anna, where, b"x" * 50_000) as connection:
        time.sleep(0.1)
        with HeldUp(installation.pid, installation.data.parent) as held:
            assert anna.http.post("/auth/logout").status_code == 204
            started = time.monotonic()
            answer = connection.recv(65_536)
            assert time.monotonic() - started < 1.0 + held.up_s
        assert b" 401 " in answer.partition(b"\r\n")[0]
    anna.log_in()
    head = anna.http.head(where, headers={"tus-resumable": "1.0.0"})
    assert head.headers["upload-offset"] == "0"


def test_a_cut_connection_loses_nothing_that_arrived(
    installation: Installation, person: Callable[[str], Person]
) -> None:
    anna = person("anna")
    where = begin(anna, 1_000_000)
    with slow_patch(installation, anna, where, b"x" * 300_000):
        time.sleep(0.3)
    deadline = time.monotonic() + 40
    offset = 0
    while offset != 300_000 and time.monotonic() < deadline:
        offset = int(anna.http.head(where, headers={"tus-resumable": "1.0.0"}).headers["upload-offset"])
    assert offset == 300_000


def test_memory_is_flat_in_the_file_size(installation: Installation, person: Callable[[str], Person]) -> None:
    anna = person("anna")
    server = psutil.Process(installation.pid)
    size, block = 48 * 1024 * 1024, os.urandom(1024 * 1024)
    where = begin(anna, size)
    before = server.memory_info().rss
    headers = {
        "tus-resumable": "1.0.0",
        "upload-offset": "0",
        "content-type": "application/offset+octet-stream",
        "content-length": str(size),
    }
    peak = before

    def body() -> Any:
        nonlocal peak
        for _ in range(size // len(block)):
            peak = max(peak, server.memory_info().rss)
            yield block

    assert anna.http.patch(where, content=body(), headers=headers).status_code == 204
    with anna.http.stream("GET", f"/media/{media_id(where)}") as got:
        digest = hashlib.sha256()
        for data in got.iter_bytes():
            digest.update(data)
            peak = max(peak, server.memory_info().rss)
    assert digest.hexdigest() == anna.http.get(f"/media/{media_id(where)}/info").json()["sha256"]
    assert peak - before < 24 * 1024 * 1024


def begin(person: Person, size: int) -> str:
    """Begin an upload; return its URL."""
    made = person.http.post("/media/uploads", headers={"tus-resumable": "1.0.0", "upload-length": str(size)})
    assert made.status_code == 201, made.text
    return str(httpx.URL(str(person.http.base_url)).join(made.headers["location"]))


def slow_patch(installation: Installation, person: Person, where: str, sent: bytes) -> socket.socket:
    """Send the head of a long PATCH and its first bytes; the rest never comes."""
    connection = socket.create_connection(("127.0.0.1", installation.base), timeout=40)
    head = (
        f"PATCH {urlsplit(where).path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {person.token}\r\n"
        "tus-resumable: 1.0.0\r\nupload-offset: 0\r\ncontent-length: 1000000\r\n"
        "content-type: application/offset+octet-stream\r\n\r\n"
    )
    connection.sendall(head.encode() + sent)
    return connection
