"""Evidence that leaves the server: exports, bundles and keys that change, all verified with the first key alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from tests.contract.test_compliance_streams import entry

from sealwire.contracts.audit_log import AuditBatch, Checkpoint, LogQuery, VerifyQuery
from sealwire.contracts.signatures import SystemSignable
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.http import App, Edge
from sealwire.kit.permission import Role
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.key_chain import KeyChain, verify_rotation
from sealwire.services.compliance.notes import parse_key
from sealwire.services.compliance.routes import routes
from sealwire.services.compliance.signers import KEY_NAME
from sealwire.services.compliance.verify import verify_export
from sealwire.services.compliance.walk import Tampering
from sealwire.testing.asgi import Answer, ByName, ask
from sealwire.testing.compliance import ComplianceRoom, open_compliance

GATEWAY = service_caller("gateway", "acme")
AUDITOR = Caller(
    principal=Principal(kind="user", tenant_id="acme", subject="anna", role=Role.AUDITOR, auth_time_s=int(time.time()))
)
RECORDS = 600


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[ComplianceRoom]:
    async with open_compliance(tmp_path) as room:
        await add(room, RECORDS)
        yield room


async def add(room: ComplianceRoom, count: int, start: int = 0) -> None:
    await room.service.append(GATEWAY, AuditBatch(records=[entry(i) for i in range(start, start + count)]))


async def get(room: ComplianceRoom, path: str) -> Answer:
    people = ByName()
    people.callers["anna"] = AUDITOR
    app = App(routes(room.service, Edge(authenticate=people)))
    return await ask(app, "GET", f"/compliance/audit/{path}", headers={"authorization": "anna"})


async def checkpoint(room: ComplianceRoom) -> Checkpoint:
    return await room.service.checkpoint(AUDITOR, LogQuery())


async def test_an_export_with_a_manifest_is_verified_whole_or_in_part(room: ComplianceRoom) -> None:
    key = parse_key((await checkpoint(room)).first_key)
    whole = (await get(room, "export?manifest=true")).body.splitlines(keepends=True)
    assert len(whole) == RECORDS + 2
    manifest = json.loads(whole[0])["manifest"]
    assert (manifest["tenant_id"], manifest["from_seq"], manifest["to_seq"]) == ("acme", 1, RECORDS)
    report = verify_export(whole, keys=[key])
    assert (report.ok, report.records, report.covered) == (True, RECORDS, RECORDS), report.fault
    part = (await get(room, "export?manifest=true&from_seq=250&to_seq=520")).body.splitlines(keepends=True)
    report = verify_export(part, keys=[key])
    assert (report.ok, report.first_seq, report.last_seq) == (True, 250, 520), report.fault


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda lines: lines[:-1], Tampering.TRUNCATED),
        (lambda lines: lines[:300], Tampering.TRUNCATED),
        (lambda lines: [*lines[:5], *lines[6:]], Tampering.REMOVED),
        (lambda lines: [*lines[:-1], lines[-1].replace(b'"records":600', b'"records":601')], Tampering.CHANGED),
        (lambda lines: [lines[0].replace(b"acme", b"evil", 1), *lines[1:]], Tampering.CHECKPOINT),
    ],
)
async def test_a_cut_or_changed_export_is_found(room: ComplianceRoom, change, kind: Tampering) -> None:  # type: ignore[no-untyped-def]  # a lambda
    key = parse_key((await checkpoint(room)).first_key)
    lines = change((await get(room, "export?manifest=true")).body.splitlines(keepends=True))
    report = verify_export(lines, keys=[key])
    assert report.fault is not None
    assert report.fault.kind is kind, report.fault


async def test_keys_follow_one_another_and_the_first_is_enough(room: ComplianceRoom) -> None:
    first = await checkpoint(room)
    assert (first.public_key, first.rotations) == (first.first_key, [])
    notes = [first.checkpoint]
    for i in range(1, 4):
        await room.service.rotate_checkpoint_keys()
        kept = await checkpoint(room)
        assert kept.checkpoint == notes[-1], "nothing grew: what was signed stays as it was"
        assert len(kept.rotations) == i
        await add(room, 50, RECORDS + i * 50)
        notes.append((await checkpoint(room)).checkpoint)
    last = await checkpoint(room)
    assert last.public_key != last.first_key == first.public_key
    assert [verify_rotation(note).size for note in last.rotations] == [600, 650, 700]
    chain = KeyChain.of([parse_key(first.public_key)], last.rotations)
    assert [chain.checkpoint(note).size for note in notes] == [600, 650, 700, 750]
    assert (await room.service.verify(GATEWAY, VerifyQuery())).ok
    lines = (await get(room, "export?manifest=true")).body.splitlines(keepends=True)
    report = verify_export(lines, checkpoints=notes, keys=[parse_key(first.public_key)])
    assert (report.ok, report.covered) == (True, 750), report.fault


async def test_a_key_rotated_by_an_admin_is_vouched_for_before_it_signs(tmp_path: Path) -> None:
    async with open_compliance(tmp_path) as room:
        await add(room, 10)
        first = await checkpoint(room)
        message = SystemSignable(name=KEY_NAME, message=b"")
        key_id = (await room.crypto.system_sign(service_caller("compliance", "acme"), message)).key_id
        admin = Caller(principal=Principal(kind="user", tenant_id="acme", subject="olga", role=Role.ADMIN))
        await room.crypto.rotate(admin, key_id)
    async with open_compliance(tmp_path) as room:
        await asyncio.gather(*(add(room, 1, 10 + i) for i in range(5)))
        seen = await asyncio.gather(*(checkpoint(room) for _ in range(5)))
        assert {len(c.rotations) for c in seen} == {1}
        assert KeyChain.of([parse_key(first.public_key)], seen[0].rotations).checkpoint(seen[0].checkpoint).size == 15
        assert (await room.service.verify(GATEWAY, VerifyQuery())).ok


async def test_a_bundle_is_verified_without_the_server(room: ComplianceRoom) -> None:
    await room.service.pruning.prune("acme", [7, 8], run_id="run")
    await room.service.rotate_checkpoint_keys()
    await add(room, 3, RECORDS)
    key = parse_key((await checkpoint(room)).first_key)
    for query, count in (("", 604), ("?from_seq=5&to_seq=300", 296), ("?actor=anna&from_seq=500", 104)):
        answer = await get(room, f"evidence{query}")
        assert answer.status == 200, answer.body
        report, trusted = verify_bundle(answer.body, keys=[key])
        assert report.ok, report.fault
        assert (report.records, report.covered, trusted) == (count, count, key)
        assert verify_bundle(answer.body)[1] == key, "the key the bundle names, for people to confirm"
    assert report.pruned == []
    for question in ("evidence", "export", "verify"):
        refused = await get(room, f"{question}?from_seq=9&to_seq=5")
        assert (refused.status, b"may not be below" in refused.body) == (422, True), "a rule, not what was asked for"


async def test_any_changed_bit_of_a_bundles_records_is_found_and_named(room: ComplianceRoom) -> None:
    key = parse_key((await checkpoint(room)).first_key)
    body = (await get(room, "evidence?from_seq=100&to_seq=140")).body
    assert verify_bundle(body, keys=[key])[0].ok
    rng = Random(5)
    start = body.index(b'"records":[') + len(b'"records":[')
    for _ in range(150):
        changed = bytearray(body)
        bit = rng.randrange(start * 8, (len(body) - 3) * 8)
        changed[bit // 8] ^= 1 << bit % 8
        report, _ = verify_bundle(bytes(changed), keys=[key])
        assert not report.ok, f"bit {bit}"
    document = json.loads(body)
    for at, exhibit in enumerate(document["records"]):
        exhibit["record"]["outcome"] = "denied"
        report, _ = verify_bundle(json.dumps(document).encode(), keys=[key])
        assert (report.first_bad_seq, report.fault and report.fault.kind) == (100 + at, Tampering.CHANGED)
        exhibit["record"]["outcome"] = "success"
    for change, kind, seq in (
        (lambda r: r[:3] + r[4:], Tampering.REMOVED, 103),
        (lambda r: r[:-2], Tampering.TRUNCATED, 139),
        (lambda r: [r[0], r[0], *r[1:]], Tampering.REORDERED, 100),
    ):
        report, _ = verify_bundle(json.dumps({**document, "records": change(document["records"])}).encode(), keys=[key])
        assert report.fault is not None
        assert (report.fault.kind, report.fault.seq) == (kind, seq)


async def test_another_key_is_not_trusted(room: ComplianceRoom, tmp_path: Path) -> None:
    body = (await get(room, "evidence?from_seq=1&to_seq=2")).body
    (tmp_path / "other").mkdir()
    async with open_compliance(tmp_path / "other") as other:
        await add(other, 3)
        key = parse_key((await checkpoint(other)).first_key)
    report, _ = verify_bundle(body, keys=[key])
    assert report.fault is not None
    assert report.fault.kind is Tampering.CHECKPOINT
