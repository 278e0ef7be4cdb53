"""What docs/life/audit.md has an operator do by hand with a damaged log, done with the statements that stand there."""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest
from tests.contract.test_parked_records import (
    CONFIG,
    GATEWAY,
    RARELY,
    Mend,
    edit,
    entries,
    records,
    until_whole,
)
from tests.contract.test_parked_records import _cut_tile as cut_tile

from sealwire.contracts.audit_log import AuditBatch, VerifyQuery
from sealwire.kit.caller import service_caller
from sealwire.testing.compliance import ComplianceRoom, open_compliance

PAGE = Path(__file__).resolve().parents[2] / "docs" / "life" / "audit.md"
PUT_BACK, TAKE_OUT = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def run(folder: Path, script: str, **values: object) -> list[tuple[object, ...]]:
    """Run a page's statements as the sqlite3 shell does: parameters stay set."""
    found = []
    conn = sqlite3.connect(folder / "compliance.db", isolation_level=None)
    for statement in script.split(";"):
        given = {name: value for name, value in values.items() if f":{name}" in statement}
        found += conn.execute(statement, given).fetchall()
    conn.close()
    return found


def typed(folder: Path, script: str, **values: object) -> list[tuple[object, ...]]:
    """Run statements as who types them, or has them read, does: the shell goes on after one that fails."""
    found = []
    conn = sqlite3.connect(folder / "compliance.db", isolation_level=None)
    for statement in script.split(";"):
        given = {name: value for name, value in values.items() if f":{name}" in statement}
        with suppress(sqlite3.Error):
            found += conn.execute(statement, given).fetchall()
    conn.close()
    return found


async def verdict(room: ComplianceRoom) -> tuple[bool, int | None]:
    found = await room.service.verify(service_caller("gateway", "acme"), VerifyQuery(index=True))
    return found.ok, found.first_bad_seq


async def grown(folder: Path, copy: Path) -> None:
    """Make a log of 300 records more than its copy has."""
    async with open_compliance(folder, config=RARELY) as room:
        await room.service.append(GATEWAY, AuditBatch(records=entries(3, "other")))
        for _ in range(3):
            await room.service.append(GATEWAY, AuditBatch(records=entries(100)))
        await room.service.checkpoint(service_caller("gateway", "acme"))
    shutil.copytree(folder, copy)
    async with open_compliance(folder, config=RARELY) as room:
        for _ in range(3):
            await room.service.append(GATEWAY, AuditBatch(records=entries(100)))
        await room.service.checkpoint(service_caller("gateway", "acme"))


@pytest.mark.parametrize("damage", [
    "UPDATE piece SET bodies = zeroblob(length(bodies)) WHERE (place & 0xffffffffff) = 101 AND place >> 40 = 2",
    "DELETE FROM piece WHERE (place & 0xffffffffff) IN (1, 101) AND place >> 40 = 2",
    "UPDATE piece SET traits = zeroblob(length(traits)), hashes = x'00' WHERE place >> 40 = 2 AND place & 0xff = 101",
    "UPDATE tile SET hashes = zeroblob(8192) WHERE place = 2 << 40",
])  # fmt: skip
async def test_a_tile_of_records_is_put_back_from_a_copy(tmp_path: Path, damage: str) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    data.mkdir()
    await grown(data, copy)
    run(data, damage)
    async with open_compliance(data, config=RARELY) as room:
        assert not (await verdict(room))[0]
        await room.service.append(GATEWAY, AuditBatch(records=entries(2)))
    asked = {"tenant": "acme", "tile": 0, "copy": str(copy / "compliance.db")}
    assert run(data, PUT_BACK, **{**asked, "tile": 1}) == [(0,)], "the copy has not all of the second tile"
    run(copy, "UPDATE tenant SET tenant_id = tenant_id || '-'")
    assert run(data, PUT_BACK, **asked) == [(0,)], "the copy is of another installation"
    run(copy, "UPDATE tenant SET tenant_id = rtrim(tenant_id, '-')")
    assert run(data, PUT_BACK, **asked) == [(1,)]
    async with open_compliance(data, config=CONFIG) as room:
        await until_whole(room)
        assert await verdict(room) == (True, None)
        assert len(await records(room)) == 602
        assert len(await records(room, "other")) == 3


@pytest.mark.parametrize("made", [
    None,
    "",
    "ALTER TABLE piece RENAME COLUMN traits TO former",
    "ALTER TABLE audit_id RENAME COLUMN seq TO former",
    "ALTER TABLE tile RENAME COLUMN hashes TO former",
])  # fmt: skip
async def test_what_is_no_copy_takes_nothing(tmp_path: Path, made: str | None) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    data.mkdir()
    await grown(data, copy)
    if not made:  # a slip of the pen: there is no such folder, or no such file in it
        shutil.rmtree(copy)
    if made == "":
        copy.mkdir()
    elif made:
        run(copy, made)
    before = run(data, "SELECT * FROM piece"), run(data, "SELECT * FROM tile")
    assert typed(data, PUT_BACK, tenant="acme", tile=0, copy=str(copy / "compliance.db")) == []
    assert (run(data, "SELECT * FROM piece"), run(data, "SELECT * FROM tile")) == before


async def test_another_installation_has_no_copy_of_a_log_though_all_has_the_same_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        await grown(tmp_path / name, tmp_path / f"copy of {name}")
    before = run(tmp_path / "one", "SELECT * FROM piece")
    asked = {"tenant": "acme", "tile": 0, "copy": str(tmp_path / "copy of two" / "compliance.db")}
    assert run(tmp_path / "one", PUT_BACK, **asked) == [(0,)]
    assert run(tmp_path / "one", "SELECT * FROM piece") == before


async def test_what_retention_took_does_not_come_back(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    data.mkdir()
    await grown(data, copy)
    async with open_compliance(data, config=RARELY) as room:
        await room.service.pruning.prune("acme", [5, 6], run_id="run-1")
    before = run(data, "SELECT * FROM piece")
    assert run(data, PUT_BACK, tenant="acme", tile=0, copy=str(copy / "compliance.db")) == [(0,)]
    assert run(data, "SELECT * FROM piece") == before


@pytest.mark.parametrize(
    "change", ["tenant_id = 'other'", "body = x'7b'", "body = 7", "created_us = 'soon'", "created_us = 5"]
)
async def test_a_changed_row_that_waited_is_named_and_taken_out(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    data.mkdir()
    await grown(data, copy)
    mends: list[Mend] = []
    edit(data, lambda conn: mends.append(cut_tile(conn)))
    async with open_compliance(data, config=RARELY) as room:
        answer = await room.service.append(GATEWAY, AuditBatch(records=entries(4)))
        assert answer.parked == 4
    edit(data, mends[0])
    ((audit_id,),) = run(data, "SELECT audit_id FROM parked ORDER BY number LIMIT 1")
    run(data, f"UPDATE parked SET {change} WHERE audit_id = :audit_id", audit_id=audit_id)
    with caplog.at_level(logging.ERROR, "sealwire.compliance"):
        async with open_compliance(data, config=RARELY) as room:
            room.service._logs.try_parked()
            await room.service._logs.settle()
    assert f"the parked record {audit_id} is not as it was parked" in caplog.text
    run(data, TAKE_OUT, audit_id=audit_id)
    async with open_compliance(data, config=CONFIG) as room:
        await until_whole(room)
        assert await verdict(room) == (True, None)
        assert len(await records(room)) == 600 + 3 + 1
