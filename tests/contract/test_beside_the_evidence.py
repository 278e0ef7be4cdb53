"""Evidence shows nothing beside what is proved: whatever another reader might take for a record is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.test_compliance_evidence import GATEWAY, add, checkpoint, get

from sealwire.cli.audit import verify_source
from sealwire.contracts.audit_log import VerifyQuery
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.chain import line_of
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.evidence import Evidence
from sealwire.services.compliance.notes import VerifierKey, parse_key
from sealwire.services.compliance.ports import AuditStore
from sealwire.services.compliance.verification import StoredLog
from sealwire.services.compliance.verify import Report, verify_export
from sealwire.testing.compliance import open_compliance

FORGED = {"action": "key.deleted", "actor": {"id": "eve", "type": "user"}, "seq": 7, "tenant_id": "acme"}


@pytest.fixture
async def shown(tmp_path: Path) -> tuple[Any, list[bytes], VerifierKey]:
    """A bundle and an export of a log of which two records are pruned, and the key; both hold as they are."""
    async with open_compliance(tmp_path) as room:
        await add(room, 30)
        await room.service.pruning.prune("acme", [7, 8], run_id="run-1")
        key = parse_key((await checkpoint(room)).first_key)
        bundle = json.loads((await get(room, "evidence?from_seq=5&to_seq=9")).body)
        lines = (await get(room, "export?manifest=true")).body.splitlines(keepends=True)
    assert judged(bundle, key).ok
    assert verify_export(lines, keys=[key]).ok
    return bundle, lines, key


def judged(bundle: Any, key: VerifierKey) -> Report:
    return verify_bundle(json.dumps(bundle).encode(), keys=[key])[0]


def a_record_beside_what_is_left_of_one(bundle: Any) -> None:
    bundle["records"][2]["record"] = FORGED


def a_record_beside_what_vouches(bundle: Any) -> None:
    bundle["pruning"].append(bundle["records"][2] | {"record": FORGED})


def a_name_nobody_knows(bundle: Any) -> None:
    bundle["records"][2]["Record"] = FORGED


def a_name_nobody_knows_within(bundle: Any) -> None:
    bundle["records"][2]["pruned"]["action"] = "key.deleted"


def a_hash_that_is_none(bundle: Any) -> None:
    bundle["records"][3]["pruned"]["hash"] = ""


@pytest.mark.parametrize(
    "change",
    [
        a_record_beside_what_is_left_of_one,
        a_record_beside_what_vouches,
        a_name_nobody_knows,
        a_name_nobody_knows_within,
        a_hash_that_is_none,
    ],
)
def test_a_bundle_shows_nothing_beside_its_exhibits(shown: Any, change: Callable[[Any], None]) -> None:
    bundle, _, key = shown
    change(bundle)
    assert not judged(bundle, key).ok


@pytest.mark.parametrize("place", [b'"records":', b'"record":', b'"checkpoint":', b'"seq":', b'"question":'])
def test_a_bundle_that_can_be_read_in_two_ways_is_none(shown: Any, place: bytes) -> None:
    """Of a name that stands twice some readers take the first value and others the last."""
    bundle, _, key = shown
    content = json.dumps(bundle, separators=(",", ":")).encode()
    assert verify_bundle(content, keys=[key])[0].ok
    twice = content.replace(place, place + json.dumps(FORGED).encode() + b"," + place, 1)
    assert not verify_bundle(twice, keys=[key])[0].ok


def ended_anew(lines: list[bytes]) -> list[bytes]:
    """Give the lines an end that fits them, as whoever changes them can."""
    lines = lines[:-1]
    records = sum(not line.startswith((b'{"manifest":', b'{"checkpoint":')) for line in lines)
    end = {"end": {"records": records, "sha256": sha256(b"".join(lines)).hexdigest()}}
    return [*lines, json.dumps(end, separators=(",", ":")).encode() + b"\n"]


def with_members(line: bytes, **members: Any) -> bytes:
    return json.dumps(json.loads(line) | members, separators=(",", ":")).encode() + b"\n"


def a_record_in_a_pruned_line(lines: list[bytes]) -> list[bytes]:
    at = next(i for i, line in enumerate(lines) if line.startswith(b'{"pruned":'))
    return ended_anew([*lines[:at], with_members(lines[at], **FORGED), *lines[at + 1 :]])


def a_record_in_a_checkpoint_line(lines: list[bytes]) -> list[bytes]:
    note = json.loads(lines[0])["manifest"]["checkpoint"]
    line = json.dumps({"checkpoint": note} | FORGED, separators=(",", ":")).encode() + b"\n"
    return ended_anew([lines[0], line, *lines[1:]])


def a_record_in_the_end(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], with_members(lines[-1], **FORGED)]


def a_record_in_the_manifest_line(lines: list[bytes]) -> list[bytes]:
    return ended_anew([with_members(lines[0], **FORGED), *lines[1:]])


def a_hash_among_the_metadata(lines: list[bytes]) -> list[bytes]:
    record = json.loads(lines[1])
    hash_hex = record.pop("hash")
    body = msgspec.json.encode(record, order="sorted")
    moved = body.replace(b'},"outcome"', b',"hash":"%s"},"outcome"' % hash_hex.encode(), 1)
    assert moved != body
    return ended_anew([lines[0], moved + b"\n", *lines[2:]])


def another_tenant(lines: list[bytes]) -> list[bytes]:
    head = json.loads(lines[0])
    head["manifest"]["tenant_id"] = "globex"
    return ended_anew([json.dumps(head, separators=(",", ":")).encode() + b"\n", *lines[1:]])


def another_log(lines: list[bytes]) -> list[bytes]:
    head = json.loads(lines[0])
    head["manifest"]["origin"] = "sealwire.local/audit/globex"
    return ended_anew([json.dumps(head, separators=(",", ":")).encode() + b"\n", *lines[1:]])


def a_count_that_is_not_so(lines: list[bytes]) -> list[bytes]:
    end = json.loads(lines[-1])
    end["end"]["records"] -= 2
    return [*lines[:-1], json.dumps(end, separators=(",", ":")).encode() + b"\n"]


@pytest.mark.parametrize(
    "change",
    [
        a_record_in_a_pruned_line,
        a_record_in_a_checkpoint_line,
        a_record_in_the_end,
        a_record_in_the_manifest_line,
        a_hash_among_the_metadata,
        another_tenant,
        another_log,
        a_count_that_is_not_so,
    ],
)
def test_an_export_shows_nothing_beside_its_records(shown: Any, change: Callable[[list[bytes]], list[bytes]]) -> None:
    _, lines, key = shown
    assert ended_anew(lines) == lines
    assert not verify_export(change(lines), keys=[key]).ok


async def test_nothing_stands_behind_the_end_of_an_export(tmp_path: Path) -> None:
    async with open_compliance(tmp_path) as room:
        await add(room, 10)
        lines = (await get(room, "export?manifest=true")).body.splitlines(keepends=True)
        await add(room, 1, 10)
        more = (await get(room, "export")).body.splitlines(keepends=True)
        key = parse_key((await checkpoint(room)).first_key)
    assert verify_export(lines, keys=[key]).ok
    assert not verify_export([*lines, more[-1]], keys=[key]).ok


@pytest.mark.parametrize("size", [511, 512, 600])
async def test_a_log_that_grows_while_it_is_verified_is_not_called_changed(tmp_path: Path, size: int) -> None:
    """The tiles above the leaves are stored as they grow: by the time they are read they may hold more."""
    async with open_compliance(tmp_path) as room:
        await add(room, size)
        head = await room.stores.audit.head("acme")
        assert head.size == size
        evidence: Evidence = room.service._evidence
        log = StoredLog(store=room.stores.audit, evidence=evidence, tenant_id="acme", progress=lambda records: None)
        await add(room, 300, size)
        assert await log.verify(1, size, head) is None
        assert (await room.service.verify(GATEWAY, VerifyQuery())).ok


async def test_records_that_are_written_while_checkpoints_are_signed_are_signed_next_time(tmp_path: Path) -> None:
    async with open_compliance(tmp_path, config=ComplianceConfig(checkpoint_every_s=3600)) as room:
        evidence: Evidence = room.service._evidence
        under_way = asyncio.create_task(add(room, 5))
        while not evidence._grown:  # noqa: ASYNC110 - turn by turn, as the moment counts
            await asyncio.sleep(0)
        await evidence.sign_grown()  # looks at the log before what is under way is durable
        await under_way
        await evidence.sign_grown()
        last = await room.stores.audit.last_checkpoint("acme")
        assert last is not None
        assert last.size == 5


async def test_a_record_that_is_pruned_while_its_log_is_verified_is_not_called_removed(tmp_path: Path) -> None:
    """What says that it was pruned stands behind the end that the log had."""
    async with open_compliance(tmp_path) as room:
        await add(room, 300)
        head = await room.stores.audit.head("acme")
        await room.service.pruning.prune("acme", [270], run_id="meanwhile")
        evidence: Evidence = room.service._evidence
        log = StoredLog(store=room.stores.audit, evidence=evidence, tenant_id="acme", progress=lambda records: None)
        assert await log.verify(1, head.size, head) is None
        assert log.walk.pruned == [(270, 270)]


class SignedLate:
    """A store that shows no checkpoint before the second tile was read: it was being signed until then."""

    def __init__(self, store: AuditStore, *, changed: bool) -> None:
        self._store, self._changed = store, changed
        self._read_up_to = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def span(self, tenant_id: str, first_seq: int, limit: int) -> Any:
        self._read_up_to = first_seq + limit - 1
        return await self._store.span(tenant_id, first_seq, limit)

    async def checkpoints(self, tenant_id: str, *, above: int, limit: int) -> Any:
        if self._read_up_to <= 256:
            return []
        found = await self._store.checkpoints(tenant_id, above=above, limit=limit)
        return [msgspec.structs.replace(c, root=bytes(32)) for c in found] if self._changed else found


@pytest.mark.parametrize(("signed", "changed"), [(300, False), (700, False), (700, True)])
async def test_a_checkpoint_that_is_signed_while_a_log_is_verified(tmp_path: Path, signed: int, changed: bool) -> None:
    """Of what the walk has passed no root is known any more; of where it ends there is."""
    async with open_compliance(tmp_path) as room:
        await add(room, signed)
        await checkpoint(room)
        await add(room, 700 - signed, signed)
        head = await room.stores.audit.head("acme")
        evidence: Evidence = room.service._evidence
        late: Any = SignedLate(room.stores.audit, changed=changed)
        log = StoredLog(store=late, evidence=evidence, tenant_id="acme", progress=lambda records: None)
        async with asyncio.timeout(60):
            fault = await log.verify(1, head.size, head)
        assert (fault and fault.kind) == ("checkpoint" if changed else None)


async def test_a_checkpoint_held_that_a_bundle_is_not_tied_to_is_not_passed_over(tmp_path: Path, capsys: Any) -> None:
    key, bundle, same, later = (tmp_path / name for name in ("key", "bundle", "same", "later"))
    async with open_compliance(tmp_path / "log") as room:
        await add(room, 20)
        head = await checkpoint(room)
        key.write_text(head.first_key)
        same.write_text(head.checkpoint)
        bundle.write_bytes((await get(room, "evidence?from_seq=5&to_seq=9")).body)
        await add(room, 20, 20)
        later.write_text((await checkpoint(room)).checkpoint)

    def judged(*held: Path) -> int:
        return verify_source(bundle, key=key, checkpoints=held, witnesses=[], as_json=False)

    assert (judged(), judged(same)) == (0, 0)
    capsys.readouterr()
    assert judged(same, later) == 1
    assert capsys.readouterr().out.startswith("NOT SHOWN"), "whether the log still held then is not known"


async def test_records_that_nobody_signed_are_not_ok_behind_others_that_are(tmp_path: Path, capsys: Any) -> None:
    """Whoever can write a file can go on with a chain: what lies above the last checkpoint is anybody's word."""
    key, file = tmp_path / "key", tmp_path / "export.ndjson"
    async with open_compliance(tmp_path / "log") as room:
        await add(room, 20)
        lines = (await get(room, "export?manifest=true")).body.splitlines(keepends=True)
        key.write_text((await checkpoint(room)).first_key)
    last = json.loads(lines[-2])
    forged = last | {"seq": last["seq"] + 1, "prev_hash": last["hash"], "action": "key.deleted"}
    del forged["hash"]
    body = msgspec.json.encode(forged, order="sorted")
    head = json.loads(lines[0])
    head["manifest"] |= {"to_seq": forged["seq"], "tree_size": forged["seq"]}
    first = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    more = [first, *lines[1:-1], line_of(body, sha256(body).hexdigest()) + b"\n", lines[-1]]
    report = verify_export(ended_anew(more), keys=[parse_key(key.read_text())])
    assert (report.ok, report.records, report.covered) == (True, forged["seq"], last["seq"]), report.fault

    def judged(content: list[bytes]) -> int:
        file.write_bytes(b"".join(content))
        return verify_source(file, key=key, checkpoints=[], witnesses=[], as_json=False)

    assert judged(lines) == 0
    capsys.readouterr()
    assert judged(ended_anew(more)) == 1
    assert capsys.readouterr().out.startswith("UNSIGNED")
