"""A bundle of evidence is written and read line by line: memory is flat, and there are no two ways to read it."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.test_beside_the_evidence import ended_anew
from tests.contract.test_compliance_evidence import AUDITOR, GATEWAY, RECORDS, add, checkpoint, get
from tests.contract.test_compliance_streams import entry

from sealwire.cli.audit import verify_source
from sealwire.contracts.audit import EvidenceQuery
from sealwire.contracts.audit_log import AuditBatch
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.bundle_file import BundleCut, count_exhibits
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.notes import VerifierKey, parse_key
from sealwire.services.compliance.walk import Tampering
from sealwire.testing.compliance import ComplianceRoom, open_compliance


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[ComplianceRoom]:
    async with open_compliance(tmp_path, config=ComplianceConfig(evidence_records=2_000)) as room:
        await add(room, RECORDS)
        yield room


async def key_of(room: ComplianceRoom) -> VerifierKey:
    return parse_key((await checkpoint(room)).first_key)


async def test_memory_is_flat_in_the_number_of_records(tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    peaks: dict[str, list[int]] = {"made": [], "verified": []}
    async with open_compliance(tmp_path / "log") as room:
        for count in (500, 2_500):
            start = (await room.stores.audit.head("acme")).size
            for at in range(start, start + count, 250):
                long = [msgspec.structs.replace(entry(i), metadata={"text": "x" * 2_000}) for i in range(at, at + 250)]
                await room.service.append(GATEWAY, AuditBatch(records=long))
            await checkpoint(room)
            query = EvidenceQuery(from_seq=start + 1, to_seq=start + count)
            tracemalloc.start()
            with file.open("wb") as out:
                async for part in await room.service.evidence(AUDITOR, query):
                    out.write(part)
            peaks["made"].append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()
            with file.open("rb") as source:
                report, _ = verify_bundle(source, keys=[await key_of(room)])
            peaks["verified"].append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert (report.ok, report.covered) == (True, count), report.fault
    size = file.stat().st_size
    assert max(peaks["made"]) < 0.75 * size, (size, peaks)
    assert max(peaks["verified"]) < 0.25 * size, (size, peaks)


async def test_a_record_that_is_pruned_while_the_bundle_is_written_is_shown_as_pruned(room: ComplianceRoom) -> None:
    await room.service.pruning.prune("acme", [3], run_id="before")
    parts: list[bytes] = []
    async for part in await room.service.evidence(AUDITOR, EvidenceQuery(to_seq=RECORDS)):
        if len(parts) == 1:
            await room.service.pruning.prune("acme", [5, 550, 551], run_id="meanwhile")
            await add(room, 5, RECORDS + 1)
        parts.append(part)
    content = b"".join(parts)
    report, _ = verify_bundle(content, keys=[await key_of(room)])
    assert report.ok, report.fault
    assert report.covered == RECORDS
    assert {(3, 3), (550, 551)} <= set(report.pruned)
    document = json.loads(content)
    assert document["later"]["checkpoint"] != document["checkpoint"], "its own was signed before they went"
    document["later"]["checkpoint"] = document["checkpoint"]
    assert not verify_bundle(json.dumps(document).encode(), keys=[await key_of(room)])[0].ok
    for cut in (b'],"later"', b'],"later":{', b"]}\n"):
        report, _ = verify_bundle(content[: content.rindex(cut)], keys=[await key_of(room)])
        assert report.fault is not None
        assert report.fault.kind is Tampering.TRUNCATED, report.fault


async def test_a_key_that_changes_while_the_bundle_is_written_is_vouched_for(room: ComplianceRoom) -> None:
    key, parts = await key_of(room), list[bytes]()
    async for part in await room.service.evidence(AUDITOR, EvidenceQuery(to_seq=RECORDS)):
        if len(parts) == 1:
            await room.service.rotate_checkpoint_keys()
            await room.service.pruning.prune("acme", [550], run_id="meanwhile")
        parts.append(part)
    report, _ = verify_bundle(b"".join(parts), keys=[key])
    assert report.ok, report.fault
    assert report.pruned == [(550, 550)]
    document = json.loads(b"".join(parts))
    assert len(document["later"].pop("rotations")) == 1
    report, _ = verify_bundle(json.dumps(document).encode(), keys=[key])
    assert report.fault is not None
    assert report.fault.kind is Tampering.CHECKPOINT, "a key that nothing vouches for"


async def test_the_chain_hash_within_a_pruned_run_is_told_as_the_logs_own_word(room: ComplianceRoom) -> None:
    await room.service.pruning.prune("acme", [5, 6, 7, 20], run_id="run")
    key = await key_of(room)
    for asked, unproved in (("to_seq=30", [(5, 6)]), ("to_seq=7", [(5, 7)]), ("to_seq=20", [(5, 6), (20, 20)])):
        content = (await get(room, f"evidence?{asked}")).body
        report, _ = verify_bundle(content, keys=[key])
        assert (report.ok, report.hash_unproved) == (True, unproved), report.fault
    # What the record behind vouches for can't be changed; what nobody vouches for is named above.
    document = json.loads((await get(room, "evidence?to_seq=30")).body)
    document["records"][6]["pruned"]["hash"] = "0" * 64
    report, _ = verify_bundle(json.dumps(document).encode(), keys=[key])
    assert (report.first_bad_seq, report.ok) == (8, False)


async def test_more_records_than_a_bundle_holds_are_refused_before_it_begins(room: ComplianceRoom) -> None:
    await add(room, 1_500, RECORDS)
    for query in ("", "?actor=anna", "?to_seq=2001"):
        answer = await get(room, f"evidence{query}")
        assert (answer.status, answer.json()["code"]) == (413, "evidence_too_large"), query
    assert (await get(room, "evidence?to_seq=2000")).complete


async def test_a_bundle_that_takes_too_long_is_broken_off_and_told_as_cut(tmp_path: Path) -> None:
    async with open_compliance(tmp_path, config=ComplianceConfig(evidence_s=0.05)) as room:
        await add(room, 2_500)
        answer = await get(room, "evidence")
        assert not answer.complete
        assert room.service.evidence_turns.taken == 0


async def test_what_an_older_version_wrote_is_still_proved(room: ComplianceRoom) -> None:
    """Format 1: one line, and what vouches for pruned records in front of them, under the same checkpoint."""
    await room.service.pruning.prune("acme", [7], run_id="run")
    document = json.loads((await get(room, "evidence?to_seq=9")).body)
    assert document.pop("later")["checkpoint"] == document["checkpoint"]
    records, pruning = document.pop("records"), document.pop("pruning")
    older = document | {"format": "sealwire-evidence/1", "pruning": pruning, "records": records}
    content = json.dumps(older, separators=(",", ":")).encode() + b"\n"
    assert verify_bundle(content, keys=[await key_of(room)])[0].ok
    assert count_exhibits(io.BytesIO(content)) == 9


def lines_of(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def joined_at(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


NEST = b',"records":[\n'
SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "a member more in the head": lambda c: joined_at(c, b'{"format"', b'{"record":{},"format"'),
    "a member twice in the head": lambda c: joined_at(c, b'"tenant_id"', b'"tenant_id":"evil","tenant_id"'),
    "a member more in the question": lambda c: joined_at(c, b'"question":{', b'"question":{"actor":"eve",'),
    "the records nested": lambda c: joined_at(c, NEST, b',"x":{"a":1,"records":[\n'),
    "records before the records": lambda c: joined_at(c, NEST, b',"records":[]' + NEST),
    "records behind the records": lambda c: c[:-3] + b'],"records":[\n]}\n',
    "another member behind the records": lambda c: c[:-3] + b'],"Records":[{}]}\n',
    "an own member with the pruning": lambda c: c[:-3] + b'],"note":"","pruning":[\n]}\n',
    "the head again behind the records": lambda c: c[:-3] + b'],"tenant_id":"evil","pruning":[\n]}\n',
    "a comma too many": lambda c: c[:-4] + b",\n]}\n",
    "a comma too few": lambda c: joined_at(c, b"},\n{", b"}\n{"),
    "two exhibits on a line": lambda c: joined_at(c, b"},\n{", b"},{"),
    "a blank line": lambda c: joined_at(c, b"},\n{", b"},\n\n{"),
    "an exhibit that is none": lambda c: joined_at(c, b"},\n{", b"},\n1,\n{"),
    "a member more in an exhibit": lambda c: joined_at(c, b'{"record":{', b'{"Record":{},"record":{'),
    "something behind the end": lambda c: c + b"{}",
    "a line behind the end": lambda c: c + b"\n",
    "an array that is closed twice": lambda c: c[:-3] + b"]]}\n",
}


@pytest.mark.parametrize("name", SPELLINGS)
async def test_a_file_that_another_reader_takes_for_something_else_is_refused(room: ComplianceRoom, name: str) -> None:
    content = (await get(room, "evidence?from_seq=5&to_seq=9")).body
    key = await key_of(room)
    assert verify_bundle(content, keys=[key])[0].ok
    report, _ = verify_bundle(SPELLINGS[name](content), keys=[key])
    assert not report.ok, name


async def test_a_cut_file_is_truncated_where_it_ends_and_never_counted(room: ComplianceRoom) -> None:
    content = (await get(room, "evidence?from_seq=5&to_seq=9")).body
    assert count_exhibits(io.BytesIO(content)) == 5
    key = await key_of(room)
    lines = lines_of(content)
    assert len(lines) == 7
    for kept in range(1, 7):
        for cut in (b"".join(lines[:kept]), b"".join(lines[:kept]) + lines[kept][:-1]):
            report, _ = verify_bundle(cut, keys=[key])
            assert report.fault is not None
            assert report.fault.kind is Tampering.TRUNCATED, (kept, report.fault)
            assert report.first_bad_seq == 4 + kept
            with pytest.raises(BundleCut):
                count_exhibits(io.BytesIO(cut))


async def test_an_empty_answer_is_a_bundle_too(room: ComplianceRoom) -> None:
    content = (await get(room, "evidence?actor=nobody")).body
    assert json.loads(content)["records"] == []
    report, _ = verify_bundle(content, keys=[await key_of(room)])
    assert (report.ok, report.records) == (True, 0)


@pytest.mark.parametrize("member", ["first_key", "public_key"])
async def test_a_key_that_a_bundle_names_is_compared_with_the_one_given(
    room: ComplianceRoom, tmp_path: Path, member: str
) -> None:
    (tmp_path / "other").mkdir()
    async with open_compliance(tmp_path / "other") as other:
        await add(other, 3)
        foreign = (await checkpoint(other)).first_key
    key = await key_of(room)
    for path in ("evidence?to_seq=9", "evidence?actor=anna&to_seq=9"):
        document: dict[str, Any] = json.loads((await get(room, path)).body)
        report, _ = verify_bundle(json.dumps(document | {member: foreign}).encode(), keys=[key])
        assert report.fault is not None
        assert report.fault.kind is Tampering.CHECKPOINT
        assert foreign in report.fault.detail, "the difference is named"
    report, _ = verify_bundle(json.dumps(document).encode(), keys=[parse_key(foreign)])
    assert report.fault is not None
    assert key.text in report.fault.detail
    assert foreign in report.fault.detail


async def test_keys_named_beside_an_export_or_a_folder_are_compared_too(tmp_path: Path, capsys: Any) -> None:
    key, file, folder = (tmp_path / name for name in ("key", "export", "folder"))
    for name in ("log", "other"):
        (tmp_path / name).mkdir()
    async with open_compliance(tmp_path / "log") as room, open_compliance(tmp_path / "other") as other:
        await add(room, 20)
        await checkpoint(room)
        await room.service.rotate_checkpoint_keys()
        await add(room, 20, 20)
        await add(other, 3)
        foreign = (await checkpoint(other)).first_key
        head = await checkpoint(room)
        content = (await get(room, "export?manifest=true")).body
        (folder / "tile" / "entries").mkdir(parents=True)
        for path in ("entries/000.p/40", "0/000.p/40"):
            (folder / "tile" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tile" / path).write_bytes(await room.service.tile(AUDITOR, path))
    (folder / "checkpoint").write_text(head.checkpoint)
    key.write_text(head.first_key)
    later = {"first_key": head.first_key, "rotations": head.rotations}

    def judged(source: Path) -> str:
        code = verify_source(source, key=key, checkpoints=[], witnesses=[], as_json=True)
        found = json.loads(capsys.readouterr().out)
        assert (code == 0) == found["ok"]
        return "" if found["fault"] is None else f"{found['fault']['kind']} {found['fault']['detail']}"

    for names in (later, later | {"first_key": foreign}, later | {"first_key": head.public_key}):
        (folder / "keys.json").write_text(json.dumps(names))
        file.write_bytes(content.replace(json.dumps(head.first_key).encode(), json.dumps(names["first_key"]).encode()))
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(ended_anew(lines)))
        for source in (folder, file):
            said = judged(source)
            if names is later:
                assert said == ""
            else:
                assert said.startswith("checkpoint ")
                assert names["first_key"] in said
                assert head.first_key in said
    key.write_text(head.public_key)
    (folder / "keys.json").write_text(json.dumps(later))
    assert judged(folder) == "", "who holds a later key is not refused for the first that led to it"
