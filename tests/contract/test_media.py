"""The promises of media: its operations over every wiring, tus and downloads through its app."""

from __future__ import annotations

import asyncio
import hashlib
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sealwire.contracts.media import InfoQuery, Media, MediaNotFound, NewLink
from sealwire.contracts.users import UserChange
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.problem import Forbidden, Unavailable
from sealwire.kit.segments import CHUNK_BYTES
from sealwire.services.media.config import MediaConfig
from sealwire.services.media.events import audit_entry
from sealwire.services.media.scanning import EICAR
from sealwire.testing.asgi import Pause
from sealwire.testing.clock import ManualClock
from sealwire.testing.media_room import OCTETS, TUS, MediaRoom, metadata
from sealwire.testing.wirings import WIRINGS

CHECKPOINT = 2 * CHUNK_BYTES
CONFIG = MediaConfig(
    max_file_bytes=2_000_000,
    max_tenant_bytes=5_000_000,
    checkpoint_bytes=CHECKPOINT,
    watch_s=0.02,
    sweep_s=0.05,
    scan_wait_s=2.0,
)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[MediaRoom]:
    room = MediaRoom(tmp_path, config=CONFIG)
    await room.open()
    for name in ("anna", "ben", "carl"):
        await room.enter(name)
    yield room
    await room.close()


@pytest.fixture
async def group(room: MediaRoom) -> str:
    """A conversation of anna and ben, without carl."""
    people = room.names.callers
    return (await room.messages.group(people["anna"], people["ben"])).conversation_id


async def fetch(room: MediaRoom, name: str, media_id: str, **headers: str) -> Any:
    return await room.ask(
        name, "GET", f"/media/{media_id}", headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def segments(room: MediaRoom) -> int:
    return sum(1 for f in (room.folder / "blobs").rglob("*") if f.is_file())


# ---- tus: the core protocol


async def test_the_server_tells_what_it_speaks(room: MediaRoom) -> None:
    answer = await room.ask("", "OPTIONS", "/media/uploads")
    assert answer.status == 204
    assert answer.headers["tus-version"] == answer.headers["tus-resumable"] == "1.0.0"
    assert answer.headers["tus-max-size"] == "2000000"
    assert set(answer.headers["tus-extension"].split(",")) >= {
        "creation", "creation-with-upload", "expiration", "checksum", "termination", "concatenation",
    }  # fmt: skip
    assert "sha1" in answer.headers["tus-checksum-algorithm"].split(",")


async def test_a_file_comes_back_byte_for_byte(room: MediaRoom, group: str) -> None:
    data = os.urandom(3 * CHUNK_BYTES + 17)
    where = await room.begin("anna", len(data), filename="rapport.bin", conversation_id=group)
    assert where.startswith("/media/uploads/")
    start = await room.position("anna", where)
    assert (start.status, start.headers["upload-offset"], start.headers["upload-length"]) == (200, "0", str(len(data)))
    assert start.headers["cache-control"] == "no-store"
    half = await room.send("anna", where, 0, [data[:100_000]])
    assert (half.status, half.headers["upload-offset"]) == (204, "100000")
    assert "upload-expires" in half.headers
    rest = await room.send("anna", where, 100_000, [data[100_000:150_000], data[150_000:]])
    assert (rest.status, rest.headers["upload-offset"]) == (204, str(len(data)))
    assert "upload-expires" not in rest.headers
    media_id = where.rpartition("/")[2]
    for name in ("anna", "ben"):
        got = await fetch(room, name, media_id)
        assert got.status == 200
        assert got.body == data
        assert got.headers["content-length"] == str(len(data))
        assert got.headers["content-disposition"] == 'attachment; filename="rapport.bin"'
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["accept-ranges"] == "bytes"
        assert "sandbox" in got.headers["content-security-policy"]
    info = await room.media.info(room.names.callers["ben"], media_id)
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert (info.status, info.size_bytes, info.filename, info.conversation_id) == (
        "clean", len(data), "rapport.bin", group,
    )  # fmt: skip


async def test_sizes_at_the_edges(room: MediaRoom) -> None:
    for size in (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, CHECKPOINT, 2 * CHECKPOINT):
        data = os.urandom(size)
        got = await fetch(room, "anna", await room.upload("anna", data))
        assert (got.status, got.body) == (200, data)


async def test_the_first_bytes_may_come_with_the_creation(room: MediaRoom) -> None:
    data = os.urandom(100_000)
    headers = {**OCTETS, "upload-length": "100000"}
    whole = await room.ask("anna", "POST", "/media/uploads", headers=headers, body=[data])
    assert (whole.status, whole.headers["upload-offset"]) == (201, "100000")
    assert (await fetch(room, "anna", whole.headers["location"].rpartition("/")[2])).body == data
    part = await room.ask("anna", "POST", "/media/uploads", headers=headers, body=[data[:5]])
    assert (part.status, part.headers["upload-offset"]) == (201, "5")
    where = part.headers["location"]
    assert (await room.send("anna", where, 5, [data[5:]])).headers["upload-offset"] == "100000"
    assert (await fetch(room, "anna", where.rpartition("/")[2])).body == data


async def test_the_length_may_come_later(room: MediaRoom) -> None:
    where = await room.begin("anna", None, UPLOAD_DEFER_LENGTH="1")
    answer = await room.position("anna", where)
    assert (answer.headers["upload-defer-length"], "upload-length" in answer.headers) == ("1", False)
    assert (await room.send("anna", where, 0, [b"hello "])).status == 204
    assert (await room.send("anna", where, 6, [b"world"], upload_length="11")).status == 204
    assert (await fetch(room, "anna", where.rpartition("/")[2])).body == b"hello world"
    refused = await room.send("anna", where, 11, [], upload_length="12")
    assert refused.status == 409


async def test_another_offset_is_a_conflict_and_nothing_is_kept(room: MediaRoom) -> None:
    where = await room.begin("anna", 10)
    await room.send("anna", where, 0, [b"12345"])
    for offset in (0, 4, 6, 10):
        answer = await room.send("anna", where, offset, [b"x"])
        assert (answer.status, answer.headers["upload-offset"]) == (409, "5")
        assert answer.headers["tus-resumable"] == "1.0.0"
    assert (await room.position("anna", where)).headers["upload-offset"] == "5"


async def test_more_than_announced_is_refused_and_nothing_of_it_kept(room: MediaRoom) -> None:
    where = await room.begin("anna", 10)
    assert (await room.send("anna", where, 0, [b"12345"])).status == 204
    before = segments(room)
    assert (await room.send("anna", where, 5, [b"123", b"456"])).status == 413
    assert (await room.position("anna", where)).headers["upload-offset"] == "5"
    assert segments(room) == before
    assert (await room.send("anna", where, 5, [b"67890"])).status == 204


BAD_BEGINNINGS: list[tuple[dict[str, str], int]] = [
    ({}, 412),
    ({"tus-resumable": "0.2.2", "upload-length": "5"}, 412),
    (TUS, 400),
    ({**TUS, "upload-length": "-1"}, 400),
    ({**TUS, "upload-length": "1e3"}, 400),
    ({**TUS, "upload-length": "5", "upload-defer-length": "1"}, 400),
    ({**TUS, "upload-defer-length": "2"}, 400),
    ({**TUS, "upload-length": "2000001"}, 413),
    ({**TUS, "upload-length": "9" * 40}, 400),
    ({**TUS, "upload-length": "5", "upload-metadata": "filename !!!"}, 400),
    ({**TUS, "upload-length": "5", "upload-metadata": "filename gA=="}, 400),
    ({**TUS, "upload-length": "5", "upload-metadata": "a YQ==,a YQ=="}, 422),
    ({**TUS, "upload-length": "5", "upload-metadata": metadata(filename="a\0b")}, 422),
    ({**TUS, "upload-length": "5", "upload-metadata": metadata(conversation_id="../x")}, 422),
    ({**TUS, "upload-length": "5", "upload-metadata": metadata(conversation_id="no-such")}, 404),
    ({**TUS, "upload-length": "5", "upload-metadata": metadata(filetype="application/x-msdownload")}, 415),
    ({**TUS, "upload-length": "5", "upload-metadata": "x" * 9_000}, 422),
    ({**TUS, "upload-length": "5", "upload-concat": "some"}, 400),
    ({**TUS, "upload-concat": "final;"}, 400),
    ({**TUS, "upload-concat": "final;/media/uploads/no-such"}, 404),
]


async def test_a_bad_beginning_is_refused_and_stores_nothing(room: MediaRoom) -> None:
    for headers, status in BAD_BEGINNINGS:
        answer = await room.ask("anna", "POST", "/media/uploads", headers=headers)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), headers
        assert answer.headers["tus-resumable"] == "1.0.0"
    assert await room.store.expired(2**62, 10) == []


async def test_a_bad_patch_is_refused(room: MediaRoom) -> None:
    where = await room.begin("anna", 5)
    for headers, status in (
        ({**TUS, "upload-offset": "0"}, 415),
        ({**TUS, "upload-offset": "0", "content-type": "text/plain"}, 415),
        ({**OCTETS}, 400),
        ({**OCTETS, "upload-offset": "-1"}, 400),
        ({**OCTETS, "upload-offset": "0", "upload-checksum": "crc32 AAAA"}, 400),
        ({**OCTETS, "upload-offset": "0", "upload-checksum": "sha1 !!"}, 400),
        ({"upload-offset": "0", "content-type": OCTETS["content-type"]}, 412),
    ):
        assert (await room.ask("anna", "PATCH", where, headers=headers, body=b"12345")).status == status
    assert (await room.position("anna", where)).headers["upload-offset"] == "0"
    assert (await room.ask("anna", "GET", where)).status == 405


async def test_uploads_are_their_owners_business(room: MediaRoom, group: str) -> None:
    where = await room.begin("anna", 5, conversation_id=group)
    for name in ("ben", "carl"):
        for answer in (
            await room.position(name, where),
            await room.send(name, where, 0, [b"12345"]),
            await room.ask(name, "DELETE", where, headers=TUS),
        ):
            assert answer.status == 410
    assert (await room.position("anna", "/media/uploads/no-such")).status == 410
    media_id = where.rpartition("/")[2]
    assert (await fetch(room, "anna", media_id)).status == 404
    assert (await room.send("anna", where, 0, [b"12345"])).status == 204


async def test_a_method_may_hide_in_a_post(room: MediaRoom) -> None:
    where = await room.begin("anna", 5)
    headers = {**OCTETS, "upload-offset": "0", "x-http-method-override": "PATCH"}
    assert (await room.ask("anna", "POST", where, headers=headers, body=b"12345")).status == 204
    assert (await room.ask("anna", "POST", where, headers=TUS)).status == 405


# ---- tus: extensions


async def test_a_checksum_guards_the_bytes_of_its_request(room: MediaRoom) -> None:
    data = os.urandom(2 * CHECKPOINT + 5)
    where = await room.begin("anna", len(data))
    first = data[: CHECKPOINT + 3]
    wrong = b64encode(hashlib.sha1(b"other").digest()).decode()
    answer = await room.send("anna", where, 0, [first], upload_checksum=f"sha1 {wrong}")
    assert (answer.status, answer.json()["code"]) == (460, "checksum_mismatch")
    assert (await room.position("anna", where)).headers["upload-offset"] == "0"
    assert segments(room) == 0
    right = b64encode(hashlib.sha1(first).digest()).decode()
    assert (await room.send("anna", where, 0, [first], upload_checksum=f"sha1 {right}")).status == 204
    rest = b64encode(hashlib.sha256(data[len(first) :]).digest()).decode()
    answer = await room.send("anna", where, len(first), [data[len(first) :]], upload_checksum=f"sha256 {rest}")
    assert answer.status == 204
    media_id = where.rpartition("/")[2]
    assert (await fetch(room, "anna", media_id)).body == data
    info = await room.media.info(room.names.callers["anna"], media_id)
    assert info.sha256 == hashlib.sha256(data).hexdigest()


async def test_what_a_client_sent_before_it_left_is_kept_unless_summed(room: MediaRoom) -> None:
    where = await room.begin("anna", 1000)
    await room.send("anna", where, 0, [b"a" * 300], leaves=True)
    assert (await room.position("anna", where)).headers["upload-offset"] == "300"
    await room.send("anna", where, 300, [b"b" * 300], leaves=True, upload_checksum=f"sha1 {b64encode(b'x').decode()}")
    assert (await room.position("anna", where)).headers["upload-offset"] == "300"
    assert (await room.send("anna", where, 300, [b"b" * 700])).status == 204
    assert (await fetch(room, "anna", where.rpartition("/")[2])).body == b"a" * 300 + b"b" * 700


async def test_a_termination_deletes_bytes_and_gives_room_back(room: MediaRoom) -> None:
    where = await room.begin("anna", 1_900_000)
    await room.send("anna", where, 0, [bytes(CHECKPOINT + 5)])
    assert segments(room) > 0
    assert (await room.ask("anna", "DELETE", where, headers=TUS)).status == 204
    assert (await room.position("anna", where)).status == 410
    assert (await room.ask("anna", "DELETE", where, headers=TUS)).status == 410

    async def gone() -> bool:
        return segments(room) == 0

    await until(gone)
    for _ in range(2):
        await room.begin("anna", 1_900_000)


async def test_uploads_expire(tmp_path: Path) -> None:
    clock = ManualClock()
    room = MediaRoom(tmp_path, config=CONFIG, clock=clock)
    await room.open()
    await room.enter("anna")
    where = await room.begin("anna", 10)
    await room.send("anna", where, 0, [b"12345"])
    clock.advance(CONFIG.upload_expires_s - 1)
    assert (await room.send("anna", where, 5, [b"6"])).status == 204
    clock.advance(CONFIG.upload_expires_s - 1)
    assert (await room.position("anna", where)).status == 200
    clock.advance(1)
    assert (await room.position("anna", where)).status == 410
    assert (await room.send("anna", where, 6, [b"7890"])).status == 410

    async def gone() -> bool:
        return segments(room) == 0

    await until(gone)
    done = await room.upload("anna", b"for good")
    clock.advance(10 * CONFIG.upload_expires_s)
    await room.service._sweeper.expire()
    assert (await fetch(room, "anna", done)).status == 200
    assert "media.upload.expired" in await actions(room)
    await room.close()


async def test_parts_are_joined(room: MediaRoom, group: str) -> None:
    data = os.urandom(300_000)
    cuts = [data[:100_000], data[100_000:100_001], data[100_001:]]
    parts = []
    for cut in cuts:
        where = await room.begin("anna", len(cut), UPLOAD_CONCAT="partial")
        assert (await room.send("anna", where, 0, [cut])).status == 204
        answer = await room.position("anna", where)
        assert (answer.headers["upload-concat"], answer.headers["upload-offset"]) == ("partial", str(len(cut)))
        parts.append(where)
    assert (await fetch(room, "anna", parts[0].rpartition("/")[2])).status == 404
    headers = {
        **TUS,
        "upload-concat": f"final;{parts[0]} http://else.where{parts[1]} {parts[2]}",
        "upload-metadata": metadata(filename="whole.bin", conversation_id=group),
    }
    answer = await room.ask("anna", "POST", "/media/uploads", headers=headers)
    assert answer.status == 201
    where = answer.headers["location"]
    answer = await room.position("anna", where)
    assert answer.headers["upload-length"] == answer.headers["upload-offset"] == "300000"
    assert answer.headers["upload-concat"] == f"final;{' '.join(parts)}"
    assert (await room.send("anna", where, 300_000, [b""])).status == 403
    media_id = where.rpartition("/")[2]
    got = await fetch(room, "ben", media_id)
    assert (got.status, got.body) == (200, data)
    for part in parts:  # the parts may go; the whole stays
        assert (await room.ask("anna", "DELETE", part, headers=TUS)).status == 204
    await room.service._sweeper.bury()
    assert (await fetch(room, "ben", media_id, range="bytes=99999-100001")).body == data[99_999:100_002]
    info = await room.media.info(room.names.callers["anna"], media_id)
    assert (info.sha256, info.status) == (hashlib.sha256(data).hexdigest(), "clean")
    await room.media.delete(room.names.callers["anna"], media_id)
    await room.service._sweeper.bury()
    assert segments(room) == 0


async def test_only_ones_own_complete_parts_are_joined(room: MediaRoom) -> None:
    mine = await room.begin("anna", 5, UPLOAD_CONCAT="partial")
    whole = f"/media/uploads/{await room.upload('anna', b'whole')}"
    theirs = await room.begin("ben", 5, UPLOAD_CONCAT="partial")
    await room.send("ben", theirs, 0, [b"12345"])
    for parts in ([mine], [whole], [theirs]):
        headers = {**TUS, "upload-concat": f"final;{' '.join(parts)}"}
        assert (await room.ask("anna", "POST", "/media/uploads", headers=headers)).status == 404


# ---- durability


async def test_every_acknowledged_offset_survives_a_restart(room: MediaRoom) -> None:
    data = os.urandom(500_000)
    where = await room.begin("anna", len(data))
    at = 0
    for step in (1, 10, 100_000, 65_536, 200_000):
        answer = await room.send("anna", where, at, [data[at : at + step]])
        at = int(answer.headers["upload-offset"])
        await room.again()
        assert (await room.position("anna", where)).headers["upload-offset"] == str(at)
    assert (await room.send("anna", where, at, [data[at:]])).status == 204
    media_id = where.rpartition("/")[2]
    got = await fetch(room, "anna", media_id)
    assert (got.status, got.body) == (200, data)
    info = await room.media.info(room.names.callers["anna"], media_id)
    assert (info.sha256, info.status) == (hashlib.sha256(data).hexdigest(), "clean")


async def test_a_long_request_is_acknowledged_piece_by_piece(room: MediaRoom) -> None:
    """A client that lost its connection finds what was stored of a request that never ended."""
    data = os.urandom(5 * CHECKPOINT)
    where = await room.begin("anna", len(data))
    wait = asyncio.Event()
    cut = 2 * CHECKPOINT + 1000
    step = 10_000
    pieces = [data[at : min(at + step, cut)] for at in range(0, cut, step)]
    first = asyncio.create_task(room.send("anna", where, 0, [*pieces, Pause(wait), data[cut:]]))

    async def stored() -> bool:
        file = await room.store.file("default", where.rpartition("/")[2])
        return file is not None and file.offset >= CHECKPOINT

    await until(stored)
    position = await room.position("anna", where)  # takes over: the old request ends, all it sent counts
    assert position.headers["upload-offset"] == str(cut)
    assert (await first).status == 409
    assert (await room.send("anna", where, cut, [data[cut:]])).status == 204
    assert (await fetch(room, "anna", where.rpartition("/")[2])).body == data


async def test_racing_requests_leave_one_story(room: MediaRoom) -> None:
    data = os.urandom(200_000)
    where = await room.begin("anna", len(data))
    answers = await asyncio.gather(
        *(room.send("anna", where, 0, [data[at : at + 20_000] for at in range(0, 200_000, 20_000)]) for _ in range(4)),
        room.position("anna", where),
    )
    assert {a.status for a in answers} <= {200, 204, 409}
    at = int((await room.position("anna", where)).headers["upload-offset"])
    if at < len(data):
        assert (await room.send("anna", where, at, [data[at:]])).status == 204
    assert (await fetch(room, "anna", where.rpartition("/")[2])).body == data


async def test_a_stop_keeps_what_came(room: MediaRoom) -> None:
    where = await room.begin("anna", 1000)
    wait = asyncio.Event()
    sending = asyncio.create_task(room.send("anna", where, 0, [b"x" * 400, Pause(wait), b"y"]))

    async def under_way() -> bool:
        return room.service.transfers.upload(where.rpartition("/")[2]) is not None

    await until(under_way)
    await asyncio.sleep(0)
    await room.again()
    answer = await sending
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    assert (await room.position("anna", where)).headers["upload-offset"] == "400"


async def test_bytes_a_crash_left_behind_are_cleared(room: MediaRoom) -> None:
    media_id = await room.upload("anna", b"kept" * 1000)
    await room.blobs.put("ab" * 16, b"nobody's")
    begun = await room.blobs.create("cd" * 16)
    await begun.write(b"nobody's either")
    assert segments(room) == 3
    assert await room.service._sweeper.clear_orphans() == 0
    for name in (room.folder / "blobs").rglob("*"):
        os.utime(name, (1, 1))
    assert await room.service._sweeper.clear_orphans() == 2
    await begun.abort()
    assert (await fetch(room, "anna", media_id)).body == b"kept" * 1000


# ---- at rest


async def test_nothing_readable_is_at_rest(room: MediaRoom, group: str) -> None:
    data = b"a very recognisable sentence. " * 10_000
    await room.upload("anna", data, filename="secret-plan.txt", filetype="text/x-special", conversation_id=group)
    half = await room.begin("anna", 1000, filename="other-plan.txt")
    await room.send("anna", half, 0, [data[:500]])
    await room.close_media()
    everything = b"".join(f.read_bytes() for f in room.folder.rglob("*") if f.is_file() and "media" in str(f))
    everything += b"".join(f.read_bytes() for f in (room.folder / "blobs").rglob("*") if f.is_file())
    for text in (b"recognisable", b"secret-plan", b"other-plan", b"text/x-special", hashlib.sha256(data).digest()):
        assert text not in everything
    assert hashlib.sha256(data).hexdigest().encode() not in everything
    await room.open_media()


async def test_changed_bytes_are_never_given_out(room: MediaRoom) -> None:
    data = os.urandom(3 * CHUNK_BYTES)
    media_id = await room.upload("anna", data)
    blobs = sorted(f for f in (room.folder / "blobs").rglob("*") if f.is_file())
    whole = blobs[0].read_bytes()
    blobs[0].write_bytes(whole[:-1] + bytes((whole[-1] ^ 1,)))
    got = await fetch(room, "anna", media_id)
    assert not got.complete
    assert data.startswith(got.body)
    blobs[0].write_bytes(whole[:-20])
    got = await fetch(room, "anna", media_id)
    assert (got.status, got.json()["code"]) == (409, "media_damaged"), "where nothing was sent yet, the reason is told"


# ---- downloads


RANGES: list[tuple[str, int, tuple[int, int] | None]] = [
    ("bytes=0-0", 206, (0, 1)),
    ("bytes=0-", 206, (0, 200_000)),
    ("bytes=65530-65545", 206, (65_530, 65_546)),
    ("bytes=131072-131072", 206, (131_072, 131_073)),
    ("bytes=-1", 206, (199_999, 200_000)),
    ("bytes=-999999", 206, (0, 200_000)),
    ("bytes=199999-500000", 206, (199_999, 200_000)),
    ("BYTES=5-6", 206, (5, 7)),
    ("bytes=5-6,900000-", 206, (5, 7)),
    ("bytes=200000-", 416, None),
    ("bytes=-0", 416, None),
    ("bytes=6-5", 200, (0, 200_000)),
    ("bytes=", 200, (0, 200_000)),
    ("bytes=a-b", 200, (0, 200_000)),
    ("items=0-1", 200, (0, 200_000)),
    ("bytes=-", 200, (0, 200_000)),
    ("bytes=0-,0-", 200, (0, 200_000)),
    ("bytes=" + ",".join(f"{i}-{i}" for i in range(17)), 200, (0, 200_000)),
]


async def test_ranges(room: MediaRoom) -> None:
    data = os.urandom(200_000)
    media_id = await room.upload("anna", data)
    for header, status, content in RANGES:
        got = await fetch(room, "anna", media_id, range=header)
        assert got.status == status, header
        if content is None:
            assert got.headers["content-range"] == "bytes */200000"
            continue
        start, end = content
        assert got.body == data[start:end]
        assert got.headers["content-length"] == str(end - start)
        if status == 206:
            assert got.headers["content-range"] == f"bytes {start}-{end - 1}/200000"


async def test_several_ranges_come_in_parts(room: MediaRoom) -> None:
    data = os.urandom(200_000)
    media_id = await room.upload("anna", data)
    got = await fetch(room, "anna", media_id, range="bytes=0-9, 70000-140000 ,-5")
    assert got.status == 206
    assert len(got.body) == int(got.headers["content-length"])
    boundary = got.headers["content-type"].partition("boundary=")[2].encode()
    assert got.headers["content-type"].startswith("multipart/byteranges")
    parts = got.body.split(b"--" + boundary)
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    found = []
    for part in parts[1:-1]:
        head, _, body = part.partition(b"\r\n\r\n")
        found.append((head.partition(b"content-range: ")[2], body[:-2]))
    assert found == [
        (b"bytes 0-9/200000", data[:10]),
        (b"bytes 70000-140000/200000", data[70_000:140_001]),
        (b"bytes 199995-199999/200000", data[-5:]),
    ]


async def test_caches_and_conditions(room: MediaRoom) -> None:
    media_id = await room.upload("anna", b"hello world")
    etag = (await fetch(room, "anna", media_id)).headers["etag"]
    assert etag.startswith('"')
    for header in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        got = await fetch(room, "anna", media_id, if_none_match=header)
        assert (got.status, got.body, got.headers["etag"]) == (304, b"", etag)
    assert (await fetch(room, "anna", media_id, if_none_match='"x"')).status == 200
    assert (await fetch(room, "anna", media_id, range="bytes=0-1", if_range=etag)).status == 206
    for stale in ('"x"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        got = await fetch(room, "anna", media_id, range="bytes=0-1", if_range=stale)
        assert (got.status, got.body) == (200, b"hello world")
    head = await room.ask("anna", "HEAD", f"/media/{media_id}")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "11")
    assert (await fetch(room, "anna", media_id)).headers["cache-control"] == "private, no-cache"


async def test_empty_files_have_no_ranges(room: MediaRoom) -> None:
    media_id = await room.upload("anna", b"")
    assert (await fetch(room, "anna", media_id, range="bytes=0-")).status == 416
    assert (await fetch(room, "anna", media_id, range="bytes=-5")).status == 416
    assert (await fetch(room, "anna", media_id)).body == b""


async def test_names_are_safe_and_types_are_what_the_bytes_show(room: MediaRoom) -> None:
    for name, claimed, data, told, kind in (
        ("../../etc/passwd", "text/plain", b"root:x", 'filename="passwd"', "text/plain"),
        ('a"b\r\nx: y.txt', "text/plain", b"x", 'filename="a_bx_ y.txt"', "text/plain"),
        ("Größe.png", "text/html", PNG, "filename*=UTF-8''Gr%C3%B6%C3%9Fe.png", "image/png"),
        ("page.html", "text/html", b"<html><script>1</script>", 'filename="page.html"', "text/plain"),
        ("evil.svg", "image/svg+xml", b"<svg onload=x>", 'filename="evil.svg"', "text/plain"),
        ("fake.png", "image/png", b"\x00\x01not a picture", 'filename="fake.png"', "application/octet-stream"),
        ("", "nonsense", b"\x00\x01", 'filename="file"', "application/octet-stream"),
        ("a.json", "application/json; charset=utf-8", b"{}", 'filename="a.json"', "application/json"),
    ):
        media_id = await room.upload("anna", data, filename=name, filetype=claimed)
        got = await fetch(room, "anna", media_id)
        assert told in got.headers["content-disposition"]
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["content-type"] == kind


async def test_a_file_that_turns_out_to_be_refused_is_gone(room: MediaRoom) -> None:
    where = await room.begin("anna", 100, filetype="image/png")
    answer = await room.send("anna", where, 0, [b"MZ" + bytes(98)])
    assert (answer.status, answer.headers["tus-resumable"]) == (415, "1.0.0")
    assert (await room.position("anna", where)).status == 410
    where = await room.begin("anna", 100)
    await room.send("anna", where, 0, [b"MZ" + bytes(48)])
    await room.again()  # so that it has to be looked at again
    assert (await room.send("anna", where, 50, [bytes(50)])).status == 204
    media_id = where.rpartition("/")[2]

    async def gone() -> bool:
        return (await fetch(room, "anna", media_id)).status == 404

    await until(gone)
    assert (await actions(room)).count("media.refused") == 2


async def test_malware_is_quarantined(room: MediaRoom, group: str) -> None:
    for cut in (None, 60):
        data = b"before" * 10_000 + EICAR + b"after"
        where = await room.begin("anna", len(data), conversation_id=group)
        pieces = [data] if cut is None else [data[: 60_000 + cut], data[60_000 + cut :]]
        assert (await room.send("anna", where, 0, pieces)).status == 204
        media_id = where.rpartition("/")[2]
        for name in ("anna", "ben"):
            got = await fetch(room, name, media_id)
            assert (got.status, got.json()["code"]) == (403, "media_quarantined")
        assert (await room.media.info(room.names.callers["ben"], media_id)).status == "quarantined"
    entries = [audit_entry(e) for e in await room.store.feed.read(0, 100)]
    assert [e.outcome for e in entries if e.action == "media.quarantined"] == ["denied", "denied"]


# ---- who may


async def test_members_read_and_others_know_nothing(room: MediaRoom, group: str) -> None:
    media_id = await room.upload("anna", b"hello", conversation_id=group)
    alone = await room.upload("anna", b"mine")
    assert (await fetch(room, "ben", media_id)).status == 200
    for name, what in (("carl", media_id), ("ben", alone), ("carl", alone), ("ben", "no-such")):
        got = await fetch(room, name, what)
        assert (got.status, got.json()["code"]) == (404, "media_not_found")
    assert (await room.ask("nobody", "GET", f"/media/{media_id}")).status == 401
    await room.enter("stranger", tenant="selftest-other")
    assert (await fetch(room, "stranger", media_id)).status == 404
    anna, ben = room.names.callers["anna"], room.names.callers["ben"]
    await room.messages.messaging.remove_member(anna, group, ben.user_id)
    assert (await fetch(room, "ben", media_id)).status == 404
    assert (await fetch(room, "anna", media_id)).status == 200


async def test_nobody_uploads_into_a_conversation_of_others(room: MediaRoom, group: str) -> None:
    headers = {**TUS, "upload-length": "5", "upload-metadata": metadata(conversation_id=group)}
    assert (await room.ask("carl", "POST", "/media/uploads", headers=headers)).status == 404
    where = await room.begin("ben", 5, conversation_id=group)
    anna, ben = room.names.callers["anna"], room.names.callers["ben"]
    await room.messages.messaging.remove_member(anna, group, ben.user_id)
    assert (await room.send("ben", where, 0, [b"12345"])).status == 404


@pytest.mark.parametrize("what", ["session", "membership"])
async def test_an_upload_ends_when_session_or_membership_does(room: MediaRoom, group: str, what: str) -> None:
    where = await room.begin("ben", 1000, conversation_id=group)
    never = asyncio.Event()
    sending = asyncio.create_task(room.send("ben", where, 0, [b"x" * 400, Pause(never)]))

    async def under_way() -> bool:
        return room.service.transfers.upload(where.rpartition("/")[2]) is not None

    await until(under_way)
    await end(room, group, what)
    answer = await asyncio.wait_for(sending, 1.0)
    assert answer.status == (401 if what == "session" else 404)
    file = await room.store.file("default", where.rpartition("/")[2])
    assert file is not None
    assert file.offset == 0  # what came after the end of the right doesn't count


@pytest.mark.parametrize("what", ["session", "membership"])
async def test_a_download_ends_when_session_or_membership_does(room: MediaRoom, group: str, what: str) -> None:
    data = os.urandom(1_000_000)
    media_id = await room.upload("anna", data, conversation_id=group)
    never = asyncio.Event()
    taking = asyncio.create_task(room.ask("ben", "GET", f"/media/{media_id}", gate=never))

    async def under_way() -> bool:
        return len(room.service.transfers) == 1

    await until(under_way)
    await end(room, group, what)
    answer = await asyncio.wait_for(taking, 1.0)
    assert not answer.complete
    assert len(answer.body) < len(data)
    assert len(room.service.transfers) == 0


async def end(room: MediaRoom, group: str, what: str) -> None:
    """End ben's session or membership."""
    anna, ben = room.names.callers["anna"], room.names.callers["ben"]
    if what == "session":
        await room.messages.people.auth.end_session(ben, ben.principal.session_id)
    else:
        await room.messages.messaging.remove_member(anna, group, ben.user_id)


async def test_a_client_that_stalls_is_ended_and_keeps_what_it_sent(tmp_path: Path) -> None:
    clock = ManualClock()
    room = MediaRoom(tmp_path, config=CONFIG, clock=clock)
    await room.open()
    await room.enter("anna")
    where = await room.begin("anna", 1000)
    never = asyncio.Event()
    sending = asyncio.create_task(room.send("anna", where, 0, [b"x" * 400, Pause(never)]))

    async def under_way() -> bool:
        return room.service.transfers.upload(where.rpartition("/")[2]) is not None

    await until(under_way)
    await asyncio.sleep(0.05)
    assert not sending.done()
    clock.advance(CONFIG.stall_s + 1)
    answer = await asyncio.wait_for(sending, 1.0)
    assert (answer.status, answer.json()["code"]) == (408, "transfer_stalled")
    assert (await room.position("anna", where)).headers["upload-offset"] == "400"
    await room.close()


async def test_the_tenants_room_is_bounded(room: MediaRoom) -> None:
    made = [await room.begin("anna", 1_900_000) for _ in range(2)]
    headers = {**TUS, "upload-length": "1900000"}
    refused = await room.ask("ben", "POST", "/media/uploads", headers=headers)
    assert (refused.status, refused.json()["code"]) == (409, "quota_exceeded")
    await room.ask("anna", "DELETE", made[0], headers=TUS)
    assert (await room.ask("ben", "POST", "/media/uploads", headers=headers)).status == 201
    later = await room.begin("anna", None, UPLOAD_DEFER_LENGTH="1")
    assert (await room.send("anna", later, 0, [b"x"], upload_length="1900000")).status == 409
    await room.enter("stranger", tenant="selftest-other")
    await room.begin("stranger", 1_900_000)


# ---- operations, over every wiring


@pytest.fixture(params=WIRINGS)
async def wired(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MediaRoom]:
    room = MediaRoom(tmp_path, config=CONFIG, wiring=request.param)
    await room.open()
    for name in ("anna", "ben", "carl"):
        await room.enter(name)
    yield room
    await room.close()


def people(room: MediaRoom) -> tuple[Media, Caller, Caller, Caller]:
    callers = room.names.callers
    return room.media, callers["anna"], callers["ben"], callers["carl"]


async def test_info_and_deletion(wired: MediaRoom) -> None:
    media, anna, ben, carl = people(wired)
    group = (await wired.messages.group(anna, ben)).conversation_id
    media_id = await wired.upload("anna", PNG, filename="a.png", conversation_id=group)
    info = await media.info(ben, media_id)
    assert (info.owner_id, info.tenant_id, info.content_type, info.size_bytes) == (
        anna.user_id, "default", "image/png", len(PNG),
    )  # fmt: skip
    with pytest.raises(MediaNotFound):
        await media.info(carl, media_id)
    with pytest.raises(MediaNotFound):
        await media.delete(carl, media_id)
    with pytest.raises(Forbidden):
        await media.delete(ben, media_id)
    await media.delete(anna, media_id)
    with pytest.raises(MediaNotFound):
        await media.info(anna, media_id)
    with pytest.raises(MediaNotFound):
        await media.delete(anna, media_id)
    assert (await actions(wired))[-1] == "media.deleted"


async def test_infos_for_services(wired: MediaRoom) -> None:
    media = wired.media
    one, two = await wired.upload("anna", b"1"), await wired.upload("ben", b"2")
    query = InfoQuery(media_ids=[one, two, "no-such", one])
    found = await media.infos(service_caller("search", "default"), query)
    assert [i.media_id for i in found.items] == [one, two]
    assert (await media.infos(service_caller("search", "other"), query)).items == []


async def test_links_work_until_they_end(wired: MediaRoom) -> None:
    media, anna, ben, carl = people(wired)
    group = (await wired.messages.group(anna, ben)).conversation_id
    media_id = await wired.upload("anna", b"hello", filename="h.txt", conversation_id=group)
    with pytest.raises(MediaNotFound):
        await media.link(carl, media_id, NewLink())
    link = await media.link(ben, media_id, NewLink(expires_in_s=60))
    path = link.url.removeprefix("/api/v1")
    got = await wired.ask("", "GET", path)
    assert (got.status, got.body) == (200, b"hello")
    assert (await wired.ask("", "GET", path, headers={"range": "bytes=1-2"})).body == b"el"
    other = await wired.upload("anna", b"other", conversation_id=group)
    broken = path[:-2] + ("AA" if path[-2:] != "AA" else "BB")
    for bad in (
        path.replace(media_id, other),
        broken,
        path.partition("?")[0] + "?link=x",
        path.partition("?")[0] + "?link=" + "A" * 5000,
        path.partition("?")[0] + "?link=%F0%9F%98%80.AAAA",
    ):
        assert (await wired.ask("", "GET", bad)).status in (400, 404)
    assert (await wired.ask("", "GET", path.partition("?")[0])).status == 400
    await wired.messages.people.auth.end_session(ben, ben.principal.session_id)
    assert (await wired.ask("", "GET", path)).status == 401


async def test_a_link_ends_with_its_time_and_with_membership(wired: MediaRoom) -> None:
    media, anna, ben, _ = people(wired)
    assert isinstance(wired.clock, ManualClock)
    group = (await wired.messages.group(anna, ben)).conversation_id
    media_id = await wired.upload("anna", b"hello", conversation_id=group)
    short = (await media.link(ben, media_id, NewLink(expires_in_s=10))).url.removeprefix("/api/v1")
    longer = (await media.link(ben, media_id, NewLink(expires_in_s=1000))).url.removeprefix("/api/v1")
    wired.clock.advance(11)
    assert (await wired.ask("", "GET", short)).status == 404
    assert (await wired.ask("", "GET", longer)).status == 200
    await wired.messages.messaging.remove_member(anna, group, ben.user_id)
    assert (await wired.ask("", "GET", longer)).status == 404


async def test_guests_read_and_do_not_upload(room: MediaRoom, group: str) -> None:
    media_id = await room.upload("anna", b"hello", conversation_id=group)
    anna, ben = room.names.callers["anna"], room.names.callers["ben"]
    await room.messages.people.auth.change_user(anna, ben.user_id, UserChange(role="guest"))
    room.names.callers["ben"] = room.messages.people.caller(await room.messages.people.log_in("ben"))
    assert (await fetch(room, "ben", media_id)).status == 200
    refused = await room.ask("ben", "POST", "/media/uploads", headers={**TUS, "upload-length": "5"})
    assert refused.status == 403


# ---- the installation


async def actions(room: MediaRoom) -> list[str]:
    return [event.kind for event in await room.store.feed.read(0, 1000)]


async def test_what_happens_is_recorded_and_names_are_not(room: MediaRoom, group: str) -> None:
    media_id = await room.upload("anna", b"hello", filename="salary.txt", conversation_id=group)
    await room.media.delete(room.names.callers["anna"], media_id)
    events = await room.store.feed.read(0, 100)
    assert [e.kind for e in events] == ["media.upload.started", "media.uploaded", "media.deleted"]
    entry = audit_entry(events[1])
    assert (entry.resource_id, entry.metadata["size_bytes"], entry.metadata["conversation_id"]) == (media_id, 5, group)
    assert not any(b"salary" in e.data for e in events)


async def test_a_look_goes_on_after_a_restart_and_downloads_wait_for_it(room: MediaRoom) -> None:
    data = os.urandom(300_000)
    where = await room.begin("anna", len(data))
    await room.send("anna", where, 0, [data[:200_000]])
    await room.again()
    await room.service._looks.stop()
    assert (await room.send("anna", where, 200_000, [data[200_000:]])).status == 204
    media_id = where.rpartition("/")[2]
    assert (await room.media.info(room.names.callers["anna"], media_id)).status == "scanning"
    await room.again()
    got = await fetch(room, "anna", media_id)
    assert (got.status, got.body) == (200, data)


async def test_what_is_being_scanned_is_not_given_out(tmp_path: Path) -> None:
    room = MediaRoom(tmp_path, config=MediaConfig(scan_wait_s=0.01))
    await room.open()
    await room.enter("anna")
    where = await room.begin("anna", 10)
    await room.send("anna", where, 0, [b"12345"])
    await room.again()
    await room.service._looks.stop()
    await room.send("anna", where, 5, [b"67890"])
    got = await fetch(room, "anna", where.rpartition("/")[2])
    assert (got.status, "retry-after" in got.headers) == (503, True)
    await room.close()


async def test_the_checks_hold_and_say_when_they_do_not(room: MediaRoom) -> None:
    checks = room.service.checks()
    assert set(checks) == {"store", "blobs", "scanner"}
    for probe in checks.values():
        await probe()
    folder = room.folder / "blobs"
    folder.rename(room.folder / "elsewhere")
    with pytest.raises(Unavailable):
        await checks["blobs"]()
    (room.folder / "elsewhere").rename(folder)
