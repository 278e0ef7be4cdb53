"""Retention takes records while a log is read: they are pruned, not removed, whichever way it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import apsw
import pytest
from tests.contract.test_compliance_evidence import AUDITOR, add, checkpoint
from tests.contract.test_compliance_streams import entry

from sealwire.cli.audit_live import LiveLog
from sealwire.contracts.audit_log import AuditBatch
from sealwire.kit.caller import service_caller
from sealwire.kit.http import App, Edge
from sealwire.services.compliance.merkle import leaf_hash
from sealwire.services.compliance.notes import VerifierKey, parse_key
from sealwire.services.compliance.routes import routes
from sealwire.services.compliance.tile_folder import verify_tiles
from sealwire.services.compliance.tiles import read_bundle, write_bundle
from sealwire.services.compliance.verify import Report, verify_export
from sealwire.services.compliance.walk import Tampering
from sealwire.testing.asgi import ByName, ask
from sealwire.testing.compliance import ComplianceRoom, open_compliance

RECORDS = 1_000
Meanwhile = Callable[[], Awaitable[object]]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[ComplianceRoom]:
    (tmp_path / "room").mkdir()
    async with open_compliance(tmp_path / "room") as room:
        await add(room, RECORDS)
        yield room


@pytest.fixture
async def key(room: ComplianceRoom) -> VerifierKey:
    return parse_key((await checkpoint(room)).first_key)


def app_of(room: ComplianceRoom) -> App:
    people = ByName()
    people.callers["anna"] = people.callers["Bearer anna"] = AUDITOR
    return App(routes(room.service, Edge(authenticate=people)))


async def export(room: ComplianceRoom, query: str, meanwhile: Meanwhile, *, after: int) -> list[bytes]:
    """Return an export's lines; `meanwhile` happens once so many pieces were written."""
    body: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if content := message.get("body"):
            body.append(content)
            if len(body) == after:
                await meanwhile()

    scope = {
        "type": "http", "method": "GET", "path": "/compliance/audit/export", "query_string": query.encode(),
        "headers": [(b"authorization", b"anna")], "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await app_of(room)(scope, receive, send)
    return b"".join(body).splitlines(keepends=True)


@contextmanager
def served(room: ComplianceRoom, before: Callable[[str], Awaitable[None]]) -> Iterator[LiveLog]:
    """Give the log over HTTP, to be read from another thread; `before` hears each path that is asked for."""
    loop, app = asyncio.get_running_loop(), app_of(room)

    async def answer(path: str, accept: str) -> Any:
        await before(path)
        return await ask(app, "GET", path, headers={"authorization": "Bearer anna", "accept": accept})

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Pass it on."""
            asked = answer(self.path.removeprefix("/api/v1"), self.headers["accept"])
            found = asyncio.run_coroutine_threadsafe(asked, loop).result(60)
            self.send_response(found.status)
            for name, value in {**found.headers, "content-length": str(len(found.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield LiveLog(f"http://127.0.0.1:{server.server_port}", "anna")
        server.shutdown()


def by_hand(folder: Path, seq: int) -> None:
    """Take a record out as retention does, but say it nowhere."""
    conn = apsw.Connection(str(folder / "compliance.db"))
    conn.set_busy_timeout(60_000)
    with conn:
        place, bodies = conn.execute("SELECT place, bodies FROM piece ORDER BY place LIMIT 1").fetchone()
        held = read_bundle(bodies)
        leaves = b"".join(map(leaf_hash, held))
        held[seq - 1] = b""
        conn.execute("REPLACE INTO leaf VALUES (?, ?)", (place, leaves))
        conn.execute("UPDATE piece SET bodies = ? WHERE place = ?", (write_bundle(held), place))
    conn.close()


@pytest.mark.parametrize("query", ["manifest=true", "checkpoint=true"])
@pytest.mark.parametrize("rotated", [False, True])
async def test_an_export_goes_on_to_the_record_that_names_them(
    room: ComplianceRoom, key: VerifierKey, query: str, rotated: bool
) -> None:
    async def meanwhile() -> None:
        await room.service.pruning.prune("acme", [7, *range(600, 650)], run_id="run-1")
        if rotated:
            await room.service.rotate_checkpoint_keys()
        await add(room, 40, RECORDS)

    lines = await export(room, query, meanwhile, after=2)
    report = verify_export(lines, keys=[key])
    assert report.ok, report.fault
    assert report.pruned == [(600, 649)], "the first was read before it was pruned"
    assert report.covered == report.records > RECORDS
    cut = verify_export([line for line in lines if b'"audit.pruned"' not in line], keys=[key])
    assert not cut.ok


async def test_an_export_without_pruning_or_of_a_part_ends_where_it_ended(
    room: ComplianceRoom, key: VerifierKey
) -> None:
    async def more() -> None:
        await add(room, 10, RECORDS)

    assert len(await export(room, "manifest=true", more, after=1)) == RECORDS + 2
    size = (await checkpoint(room)).tree_size

    async def prune() -> None:
        await room.service.pruning.prune("acme", range(600, 650), run_id="run-1")

    part = await export(room, "manifest=true&from_seq=500&to_seq=700", prune, after=1)
    assert len(part) == 201 + 2
    assert verify_export(part, keys=[key]).ok
    plain = await export(room, "", more, after=1)
    assert size < len(plain) <= size + 11, "nothing signed, nothing to go on to"


async def test_what_was_taken_by_hand_is_removed_all_the_same(
    room: ComplianceRoom, key: VerifierKey, tmp_path: Path
) -> None:
    by_hand(tmp_path / "room", 70)

    async def meanwhile() -> None:
        await room.service.pruning.prune("acme", range(600, 650), run_id="run-1")

    report = verify_export(await export(room, "manifest=true", meanwhile, after=2), keys=[key])
    assert report.fault is not None
    assert (report.fault.kind, report.fault.seq) == (Tampering.REMOVED, 70), report.fault


@pytest.mark.parametrize("hand", [0, 70])
async def test_a_live_log_and_its_mirror_go_on_too(
    room: ComplianceRoom, key: VerifierKey, tmp_path: Path, hand: int
) -> None:
    batch = AuditBatch(records=[entry(i) for i in range(300)])
    waits: list[Any] = []

    async def before(path: str) -> None:
        if waits and ("export" in path or "entries" in path):
            seqs = waits.pop()
            await room.service.pruning.prune("acme", seqs, run_id="run")
            await room.service.append(service_caller("gateway", "acme"), batch)

    def read(log: LiveLog) -> Report:
        head = log.checkpoint()
        return verify_export(log.log(head), checkpoints=[head.checkpoint], keys=[key], rotations=head.rotations)

    def mirror(log: LiveLog) -> Report:
        log.mirror(tmp_path / "mirror")
        return verify_tiles(tmp_path / "mirror", keys=[key])

    if hand:
        by_hand(tmp_path / "room", hand)
    with served(room, before) as log:
        for way, seqs in ((read, range(300, 310)), (mirror, range(513, 769))):
            waits.append(seqs)
            report = await asyncio.to_thread(way, log)
            assert not waits
            if hand:
                assert report.fault is not None
                assert (report.fault.kind, report.fault.seq) == (Tampering.REMOVED, hand), report.fault
                continue
            assert report.ok, report.fault
            assert (seqs[0], seqs[-1]) in report.pruned
            assert report.covered == report.records > RECORDS
