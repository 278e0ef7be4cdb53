"""What queries find records by lies under no hash: who changes it hides records, and `index=true` names the first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace
from tests.fault.test_audit_tampering import CALLER, entries, tamper

from sealwire.contracts.audit_log import AuditBatch, AuditQuery, VerifyQuery
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.testing.compliance import ComplianceRoom, open_compliance

RECORDS = 300
COLUMNS = {"time": (0, 8), "actor": (8, 4), "action": (12, 4), "resource_type": (16, 4), "resource_id": (20, 4),
           "outcome": (24, 4)}  # fmt: skip
"""Where a column of a piece begins, in bytes a record, and how wide it is (see `audit_traits`)."""


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[ComplianceRoom]:
    async with open_compliance(tmp_path) as room:
        for start in range(0, RECORDS, 100):
            await room.service.append(CALLER, AuditBatch(records=entries(RECORDS)[start : start + 100]))
        yield room


async def found(room: ComplianceRoom, first: int = 1, last: int | None = None) -> tuple[str | None, int | None]:
    query = VerifyQuery(from_seq=first, to_seq=last)
    assert (await room.service.verify(CALLER, query)).ok, "all that is under a hash fits"
    verdict = await room.service.verify(CALLER, replace(query, index=True))
    assert verdict.ok is (verdict.fault is None)
    return verdict.fault, verdict.first_bad_seq


def change(conn: apsw.Connection, seq: int, column: str) -> None:
    sql = "SELECT place, count, traits FROM piece WHERE place & 0xffffffffff <= ? ORDER BY place DESC LIMIT 1"
    place, count, traits = next(iter(conn.execute(sql, (seq,))))
    start, width = COLUMNS[column]
    at = start * count + (seq - (place & 0xFFFFFFFFFF)) * width
    changed = bytearray(traits)
    changed[at] ^= 1
    conn.execute("UPDATE piece SET traits = ? WHERE place = ?", (bytes(changed), place))


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_record_that_is_hidden_from_queries_is_named(room: ComplianceRoom, tmp_path: Path, column: str) -> None:
    assert await found(room) == (None, None)
    for seq in (RECORDS, 201, 100, 1):
        tamper(tmp_path, partial(change, seq=seq, column=column))
        assert await found(room) == ("index: queries know the record by something else than it says", seq)
    assert (await found(room, 2))[1] == 100
    assert await found(room, 101, 200) == (None, None)
    if column == "actor":
        listed = (await room.service.query(CALLER, AuditQuery(actor=entries(1)[0].actor.id, limit=500))).items
        assert {1, 100, 201, RECORDS}.isdisjoint(record.seq for record in listed), "that is what it is for"


@pytest.mark.parametrize("traits", [b"", b"x" * 28, "x" * 2_800, 7, b"x" * 2_799])
async def test_columns_that_were_cut_hide_nothing_and_are_named(
    room: ComplianceRoom, tmp_path: Path, traits: bytes | str | int
) -> None:
    sql = "UPDATE piece SET traits = ? WHERE place = (SELECT place FROM piece ORDER BY place LIMIT 1 OFFSET 1)"

    def cut(conn: apsw.Connection) -> None:
        conn.execute(sql, (traits,))

    tamper(tmp_path, cut)
    assert (await found(room))[1] == 101
    listed = await room.service.query(CALLER, AuditQuery(action=entries(1)[0].action, limit=500))
    whole = len(str(traits)) == 2_800  # as long as it should be, and so believed
    assert (101 in {record.seq for record in listed.items}) is not whole


async def test_what_is_pruned_says_nothing(room: ComplianceRoom, tmp_path: Path) -> None:
    await room.service.pruning.prune("acme", [2, 3, 150], run_id="run-1")
    assert (await room.service.verify(CALLER, VerifyQuery(index=True))).fault is None
    tamper(tmp_path, partial(change, seq=150, column="actor"))
    assert (await room.service.verify(CALLER, VerifyQuery(index=True))).fault is None
    tamper(tmp_path, partial(change, seq=151, column="actor"))
    assert (await found(room))[1] == 151


async def test_a_long_log_is_looked_at_in_the_background_too(tmp_path: Path) -> None:
    async with open_compliance(tmp_path, config=ComplianceConfig(verify_at_once=10)) as room:
        await room.service.append(CALLER, AuditBatch(records=entries(20)))
        tamper(tmp_path, partial(change, seq=20, column="time"))
        begun = await room.service.verify(CALLER, VerifyQuery(index=True))
        assert begun.job_id is not None
        async with asyncio.timeout(60):
            job = begun
            while job.progress != 1:
                await asyncio.sleep(0.01)
                job = await room.service.verify_job(CALLER, begun.job_id)
        assert job.first_bad_seq == 20
