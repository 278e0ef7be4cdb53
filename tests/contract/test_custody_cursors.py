"""What another service sends as a cursor or a time is refused in words when it is none, by everybody who is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.adapters.embedded import compliance_rights
from sealwire.contracts.custody import DueItem, DueQuery, SubjectQuery
from sealwire.contracts.holds import Hold
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import parse_rfc3339, rfc3339
from sealwire.kit.problem import Invalid
from sealwire.ports.events import NewEvent
from sealwire.services.compliance.job_ports import Archive, JobFilter, StoredJob
from sealwire.testing.keeping_room import KeepingRoom

COMPLIANCE = service_caller("compliance", "default")
BEFORE = rfc3339(1)
NO_NUMBERS = ["x", "²", "9" * 19, "-1", " 1", "1.5"]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[KeepingRoom]:
    room = KeepingRoom(tmp_path)
    await room.open()
    yield room
    await room.close()


@pytest.mark.parametrize("cursor", NO_NUMBERS)
async def test_what_is_no_cursor_is_refused(room: KeepingRoom, cursor: str) -> None:
    shelf = room.compliance.service.keeping.engine._custodians()["compliance"]
    query = DueQuery(before=BEFORE, cursor=cursor)
    for custodian, resource_type in (
        (shelf, "audit"),
        (room.messages.service, "messages"),
        (room.files.service, "media"),
    ):
        with pytest.raises(Invalid):
            await custodian.due(COMPLIANCE, resource_type, query)
    own = room.compliance.service.own
    for phase in ("consents", "jobs", "records", "nothing"):
        with pytest.raises(Invalid):
            await own.export_subject(COMPLIANCE, "agnes-1", SubjectQuery(cursor=f"{phase}:{cursor}"))


@pytest.mark.parametrize("before", ["yesterday, as it were", "2026-01-31T12:00:00", "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_does_not_arrive(before: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode({"before": before}), type=DueQuery)
    with pytest.raises(ValueError, match=r"time|Invalid"):
        parse_rfc3339(before)


async def test_due_exports_are_found_by_their_archives_beside_the_loop(room: KeepingRoom) -> None:
    rights: Any = room.compliance.stores.rights
    plan = rights._db.read(f"EXPLAIN QUERY PLAN {compliance_rights.DUE_EXPORTS}", ("t", 1, "", 1))
    assert any("SEARCH j USING INDEX gdpr_job_archive" in str(row[3]) for row in plan), plan
    archive = Archive(size_bytes=1, expires_us=1 << 50)
    for number, (tenant_id, subject_id, made, done_us) in enumerate([
        ("default", "agnes", archive, 10), ("default", "held", archive, 10), ("default", "bertil", archive, 10),
        ("default", "agnes", archive, 99), ("default", "agnes", None, 10), ("elsewhere", "agnes", archive, 10),
    ]):  # fmt: skip
        job = StoredJob(
            job_id=f"job-{number}", tenant_id=tenant_id, kind="export", subject_id=subject_id, status="done",
            requested_by="agnes", requested_us=1, due_us=2, finished_us=done_us, archive=made,
        )  # fmt: skip
        event = NewEvent(event_id=job.job_id, tenant_id=tenant_id, kind="gdpr.export.requested", at_us=1, data=b"")
        await rights.add(job, event)
    hold = Hold(hold_id="h1", reason="case 7", created_at=BEFORE, created_by="anna", subject_id="held", state="placing")
    await room.compliance.stores.holds.place("default", hold, msgspec.structs.replace(event, event_id="e-h1"))
    scan, threads = rights._db.scan, list[str]()

    async def looked(fn: Any) -> Any:
        threads.append("beside")
        return await scan(fn)

    rights._db.scan = looked
    shelf = room.compliance.service.keeping.engine._custodians()["compliance"]
    found, cursor = list[DueItem](), None
    while cursor is not None or not found:
        due = await shelf.due(COMPLIANCE, "exports", DueQuery(before=rfc3339(50), limit=1, cursor=cursor))
        found, cursor = [*found, *due.items], due.next_cursor
    assert [(item.id, item.held) for item in found] == [("job-2", False), ("job-1", True), ("job-0", False)]
    assert len(threads) == 4, "three with one each, and one that finds no more"


@pytest.mark.parametrize("wanted", [JobFilter(), JobFilter(kind="erasure", status="done"), JobFilter(due_before_us=9)])
async def test_a_page_of_jobs_sorts_none_but_those_on_it(room: KeepingRoom, wanted: JobFilter) -> None:
    rights: Any = room.compliance.stores.rights
    read, plans = rights._db.read, list[str]()

    def explained(sql: str, params: Any = ()) -> Any:
        plans.extend(str(row[3]) for row in read(f"EXPLAIN QUERY PLAN {sql}", params))
        return read(sql, params)

    rights._db.read = explained
    for before in ("", "job-9"):
        await rights.jobs("default", wanted, before=before, limit=9)
    assert len(plans) == 2, plans
    assert not any("TEMP B-TREE" in step for step in plans), plans
