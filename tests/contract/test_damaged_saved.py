"""Of a log that is damaged, and so signed no more, what stands before the damage can be saved as evidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from tests.contract.test_damaged_records import AUDITOR, GATEWAY, get
from tests.contract.test_parked_records import DAMAGES, Mend, edit, entries

from sealwire.contracts.audit_log import AuditBatch, LogQuery, VerifyQuery
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.notes import VerifierKey, parse_key
from sealwire.services.compliance.tiles import read_bundle, write_bundle
from sealwire.services.compliance.verify import verify_export
from sealwire.testing.compliance import open_compliance

SIGNED = (100, 256, 300, 310)
HOLDS = {
    "_without_piece": 256, "_changed_record": 261, "_other_head": 310, "_cut_tile": 310, "_head_put_back": 270,
    "_changed_late": 304,
}  # fmt: skip
"""How many records verification finds to hold, by damage."""
SAVED = {**HOLDS, "_changed_record": 256, "_head_put_back": 256, "_changed_late": 300}
"""How many of them are under a checkpoint."""


def _changed_late(conn: apsw.Connection) -> Mend:
    where = "place & ((1 << 40) - 1) = 301"
    held = read_bundle(conn.execute(f"SELECT bodies FROM piece WHERE {where}").get)
    held[4] = held[4].replace(b"message.sent", b"message.seen")
    conn.execute(f"UPDATE piece SET bodies = ? WHERE {where}", (write_bundle(held),))
    return lambda conn: None


async def damaged(folder: Path, damage: Callable[[apsw.Connection], Mend]) -> VerifierKey:
    """Make a log of 310 records that is signed now and then, and damage it. Return its key."""
    sent = entries(310)
    async with open_compliance(folder) as room:
        for before, size in zip((0, *SIGNED), SIGNED, strict=False):
            await room.service.append(GATEWAY, AuditBatch(records=sent[before:size]))
            key = parse_key((await room.service.checkpoint(AUDITOR, LogQuery())).first_key)
    edit(folder, lambda conn: damage(conn) and None)
    return key


@pytest.mark.parametrize(
    "damage", [*(d for d in DAMAGES if d.__name__ in HOLDS), _changed_late], ids=lambda d: d.__name__
)
async def test_what_was_signed_before_the_damage_is_saved_and_verifies(
    tmp_path: Path, damage: Callable[[apsw.Connection], Mend]
) -> None:
    name = damage.__name__
    key = await damaged(tmp_path, damage)
    async with open_compliance(tmp_path) as room:
        for path in ("export?manifest=true", "evidence", "export?manifest=true&to_seq=99", "evidence?to_seq=99"):
            refused = await get(room, path)
            assert (refused.status, json.loads(refused.body)["code"]) == (503, "audit_log_broken"), path
        found = await room.service.verify(AUDITOR, VerifyQuery())
        assert (found.ok, found.records) == (False, HOLDS[name])
        file = await get(room, f"export?manifest=true&to_seq={found.records}")
        assert (file.status, file.complete) == (200, True)
        report = verify_export(file.body.splitlines(keepends=True), keys=[key])
        assert (report.ok, report.records, report.covered) == (True, SAVED[name], SAVED[name]), report.fault
        last, saved = found.records, SAVED[name]
        if name == "_cut_tile":  # proofs are made of tiles: of the records before there were any they are
            assert (await get(room, f"evidence?to_seq={last}")).status == 503
            last, saved = 255, 100
        for query, count in ((f"to_seq={last}", saved), (f"from_seq=30&to_seq={last}", saved - 29)):
            bundle = await get(room, f"evidence?{query}")
            proved, _ = verify_bundle(bundle.body, keys=[key])
            assert (bundle.status, proved.fault, proved.records) == (200, None, count)
        chosen = await get(room, f"evidence?actor=anna&to_seq={last}")
        assert verify_bundle(chosen.body, keys=[key])[0].fault is None


async def test_pruned_records_are_shown_by_what_was_signed_when_they_went(tmp_path: Path) -> None:
    key = await damaged(tmp_path, lambda conn: lambda conn: None)
    async with open_compliance(tmp_path) as room:
        await room.service.pruning.prune("acme", set(range(20, 40)), run_id="r1")
        await room.service.append(GATEWAY, AuditBatch(records=entries(20)))
        size = (await room.service.checkpoint(AUDITOR, LogQuery())).tree_size
        await room.service.append(GATEWAY, AuditBatch(records=entries(10)))
        await room.service.checkpoint(AUDITOR, LogQuery())
    edit(tmp_path, lambda conn: change_last(conn))
    async with open_compliance(tmp_path) as room:
        assert (await get(room, "evidence")).status == 503
        bundle = await get(room, f"evidence?to_seq={size}")
        report, _ = verify_bundle(bundle.body, keys=[key])
        assert (bundle.status, report.fault, report.records) == (200, None, size)
        assert report.pruned == [(20, 39)]
        file = await get(room, f"export?manifest=true&to_seq={size}")
        assert verify_export(file.body.splitlines(keepends=True), keys=[key]).ok


def change_last(conn: apsw.Connection) -> None:
    conn.execute("UPDATE tenant SET last_hash = ? WHERE tenant_id = 'acme'", (bytes(32),))


async def test_a_log_that_is_whole_is_signed_anew_for_every_part(tmp_path: Path) -> None:
    key = await damaged(tmp_path, lambda conn: lambda conn: None)
    async with open_compliance(tmp_path) as room:
        file = await get(room, "export?manifest=true&to_seq=270")
        assert json.loads(file.body.splitlines()[0])["manifest"]["tree_size"] == 310
        proved, _ = verify_bundle((await get(room, "evidence?to_seq=270")).body, keys=[key])
        assert (proved.fault, proved.records) == (None, 270)
