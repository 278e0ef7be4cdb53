"""Records whose stored bytes were damaged: every way to read the log names them, and goes on behind them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from tests.contract.test_compliance_streams import entry

from sealwire.contracts.audit_log import AuditBatch, AuditQuery, LogBroken, LogQuery, VerifyQuery
from sealwire.contracts.retention_policies import NewRetentionPolicy
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.clock import US_PER_S, rfc3339
from sealwire.kit.http import App, Edge
from sealwire.kit.permission import Role
from sealwire.resilience.failure import is_failure
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.notes import parse_key
from sealwire.services.compliance.ports import RecordFilter
from sealwire.services.compliance.routes import routes
from sealwire.services.compliance.tiles import read_bundle, write_bundle
from sealwire.services.compliance.verify import verify_export
from sealwire.services.compliance.walk import Tampering
from sealwire.testing.asgi import Answer, ByName, ask
from sealwire.testing.compliance import ComplianceRoom, open_compliance

GATEWAY = service_caller("gateway", "acme")
AUDITOR = Caller(
    principal=Principal(kind="user", tenant_id="acme", subject="anna", role=Role.AUDITOR, auth_time_s=int(time.time()))
)
RECORDS, BAD = 300, 77


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[ComplianceRoom]:
    async with open_compliance(tmp_path) as room:
        await room.service.append(GATEWAY, AuditBatch(records=[entry(i) for i in range(RECORDS)]))
        await room.service.checkpoint(AUDITOR, LogQuery())
        yield room


def damage(folder: Path, change: Callable[[bytes], bytes], seq: int = BAD) -> None:
    conn = apsw.Connection(str(folder / "compliance.db"))
    conn.set_busy_timeout(60_000)
    place, bodies = conn.execute("SELECT place, bodies FROM piece ORDER BY place LIMIT 1").fetchone()
    held = read_bundle(bodies)
    held[seq - 1] = change(held[seq - 1])
    conn.execute("UPDATE piece SET bodies = ? WHERE place = ?", (write_bundle(held), place))
    conn.close()


async def get(room: ComplianceRoom, path: str) -> Answer:
    people = ByName()
    people.callers["anna"] = AUDITOR
    app = App(routes(room.service, Edge(authenticate=people)))
    return await ask(app, "GET", f"/compliance/audit/{path}", headers={"authorization": "anna"})


async def stream(room: ComplianceRoom, query: str) -> bytes:
    """Return what a live stream tells up to the last record."""
    people = ByName()
    people.callers["anna"] = AUDITOR
    told = b""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal told
        told += message.get("body", b"")
        if b"id: %d\n" % RECORDS in told:
            await room.service.drain()

    scope = {
        "type": "http", "method": "GET", "path": "/compliance/audit/stream", "query_string": query.encode(),
        "headers": [(b"authorization", b"anna")], "client": ("127.0.0.1", 1),
    }  # fmt: skip
    async with asyncio.timeout(20):
        await App(routes(room.service, Edge(authenticate=people)))(scope, receive, send)
    return told


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda body: b"",
    "cut": lambda body: body[:20],
    "no metadata": lambda body: body.replace(b',"metadata":', b',"metadate":'),
    "no JSON": lambda body: b"\xff" * len(body),
    "a line more": lambda body: body.replace(b'"outcome"', b'"outco\n"'),
}


@pytest.mark.parametrize("kind", DAMAGES)
async def test_every_way_to_verify_names_it(room: ComplianceRoom, tmp_path: Path, kind: str) -> None:
    key = parse_key((await room.service.checkpoint(AUDITOR, LogQuery())).first_key)
    damage(tmp_path, DAMAGES[kind])
    found = await room.service.verify(GATEWAY, VerifyQuery())
    assert (found.ok, found.first_bad_seq, (found.fault or "").split(":")[0]) == (False, BAD, "changed")
    for query in ("manifest=true", "manifest=true&from_seq=50&to_seq=120", f"manifest=true&from_seq={BAD}"):
        answer = await get(room, f"export?{query}")
        assert (answer.status, answer.complete) == (200, True)
        report = verify_export(answer.body.splitlines(keepends=True), keys=[key])
        assert report.fault is not None
        assert (report.fault.kind, report.fault.seq) == (Tampering.CHANGED, BAD), report.fault
    bundle = await get(room, "evidence?from_seq=50&to_seq=120")
    assert (bundle.status, bundle.complete) == (200, True)
    report, _ = verify_bundle(bundle.body, keys=[key])
    assert report.fault is not None
    assert (report.fault.kind, report.fault.seq) == (Tampering.CHANGED, BAD), report.fault


@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind != "a line more"])
async def test_readers_are_told_and_go_on_behind_it(room: ComplianceRoom, tmp_path: Path, kind: str) -> None:
    damage(tmp_path, DAMAGES[kind])
    events = (await get(room, "export?format=ocsf")).body.splitlines()
    assert [json.loads(e)["metadata"]["sequence"] for e in events] == [s for s in range(1, RECORDS + 1) if s != BAD]
    for form, others in (("record", "record"), ("sealed", "record"), ("ocsf", "ocsf")):
        told = await stream(room, f"after_seq={BAD - 2}&format={form}")
        kinds = [(int(i), kind) for i, kind in re.findall(rb"id: (\d+)\nevent: (\w+)\n", told)]
        assert [seq for seq, _ in kinds] == list(range(BAD - 1, RECORDS + 1))
        assert {seq: name for seq, name in kinds if name != others.encode()} == {BAD: b"damaged"}


@pytest.mark.parametrize("count", ["'text'", "x'00'", "1.5"])
async def test_a_piece_without_a_count_is_named_by_all_who_read_it(
    room: ComplianceRoom, tmp_path: Path, count: str
) -> None:
    conn = apsw.Connection(str(tmp_path / "compliance.db"))
    conn.execute(f"UPDATE piece SET count = {count} WHERE place = (SELECT min(place) FROM piece)")
    conn.close()
    store = room.stores.audit
    for query in (AuditQuery(), AuditQuery(actor="anna"), AuditQuery(to=rfc3339(2**50))):
        with pytest.raises(LogBroken) as told:
            await room.service.query(AUDITOR, query)
        assert not is_failure(told.value), "a log that is damaged says nothing against compliance"
        assert "run its verification" in told.value.detail
    found = await room.service.verify(GATEWAY, VerifyQuery())
    assert (found.ok, (found.fault or "").split(":")[0]) == (False, "changed"), found.fault
    for reading in (
        store.records("acme", 1, 9), store.span("acme", 1, 9), store.misfiled("acme", 1, 9), store.days("acme", [1]),
        store.due("acme", before_us=2**60, after_seq=0, limit=9), store.kept_between("acme", 0, 2**60, after_seq=0),
    ):  # fmt: skip
        with pytest.raises(LogBroken):
            await reading


async def test_retention_leaves_what_was_changed_as_it_is(room: ComplianceRoom, tmp_path: Path) -> None:
    """It is evidence; and its leaf hash, which pruning would keep, is not the one that was signed."""
    damage(tmp_path, lambda body: body.replace(b"anna", b"emma"))
    damage(tmp_path, lambda body: b"", seq=90)
    wanted = set(range(70, 80))
    with_gap = set(range(1, 257))
    due = await room.service.pruning.due("acme", before_us=2**60, after_seq=0, limit=RECORDS)
    assert {d.seq for d in due} == set(range(1, RECORDS + 1)) - with_gap
    assert (await room.service.pruning.prune("acme", wanted, run_id="r1")).pruned == 0
    said = await room.stores.audit.search("acme", RecordFilter(action="audit.pruned"), after_seq=0, limit=9)
    assert not said.records, "it would cover whoever takes out what is still there"
    found = await room.service.verify(GATEWAY, VerifyQuery())
    assert (found.ok, (found.fault or "").split(":")[0]) == (False, "changed"), found.fault
    assert (await room.stores.audit.records("acme", BAD, 1))[0].body


async def test_retention_believes_the_record_and_not_what_is_kept_to_search_by(
    room: ComplianceRoom, tmp_path: Path
) -> None:
    """The traits of a piece are under no hash: whoever makes them say that a record is old would have it taken."""
    (first,) = await room.service.pruning.due("acme", before_us=2**60, after_seq=0, limit=1)
    old_us = first.created_us - 400 * 86_400 * US_PER_S
    conn = apsw.Connection(str(tmp_path / "compliance.db"))
    place, traits = conn.execute("SELECT place, traits FROM piece ORDER BY place LIMIT 1").fetchone()
    lie = old_us.to_bytes(8, "little") + traits[8:]
    conn.execute("UPDATE piece SET traits = ? WHERE place = ?", (lie, place))
    assert await room.service.pruning.due("acme", before_us=old_us + 1, after_seq=0, limit=RECORDS) == []
    conn.execute("UPDATE piece SET traits = ? WHERE place = ?", (traits[:16], place))
    conn.close()
    async with asyncio.timeout(20):
        assert len(await room.stores.audit.days("acme", [1, 2, 3, 4])) == 1
    for wanted, count in (
        (RecordFilter(action=entry(1).action), RECORDS),
        (RecordFilter(action="another"), 0),
        (RecordFilter(from_us=first.created_us, to_us=first.created_us + 1), RECORDS),
        (RecordFilter(from_us=first.created_us + 1), 0),
    ):
        found = await room.stores.audit.search("acme", wanted, after_seq=0, limit=1000)
        assert len(found.records) == count, "where they were cut, the records themselves are asked"


async def test_an_own_change_that_comes_again_and_is_damaged_holds_up_no_other(tmp_path: Path) -> None:
    """Compliance was killed between its log and the place in its outbox, and what it had written was changed."""
    owner = msgspec.structs.replace(AUDITOR, principal=msgspec.structs.replace(AUDITOR.principal, role=Role.OWNER))

    async def set_policies(days: int) -> int:
        async with open_compliance(tmp_path) as room:
            await room.service.set_policy(owner, "messages", NewRetentionPolicy(keep_days=days))
        async with open_compliance(tmp_path) as room:
            found = await room.stores.audit.search(
                "acme", RecordFilter(action="retention.policy_set"), after_seq=0, limit=9
            )
            return len(found.records)

    assert await set_policies(5) == 1
    async with open_compliance(tmp_path) as room:
        await room.service.append(GATEWAY, AuditBatch(records=[entry(i) for i in range(RECORDS)]))
    damage(tmp_path, lambda body: body.replace(b"messages", b"sessions"), seq=1)
    conn = apsw.Connection(str(tmp_path / "compliance.db"))
    conn.execute("DELETE FROM consumer_position WHERE consumer = 'compliance-audit'")
    assert conn.changes() == 1
    assert await set_policies(6) == 2
    there = conn.execute("SELECT position FROM consumer_position WHERE consumer = 'compliance-audit'").get
    conn.close()
    assert there, "it goes on behind what it has recorded, and does not begin there for good"
