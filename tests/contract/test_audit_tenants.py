"""Two tenants' logs never mix, whoever writes at the same time; and who reads another's log than their own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.contracts.audit import EvidenceQuery, ExportQuery, StreamQuery
from sealwire.contracts.audit_log import (
    Actor,
    AuditBatch,
    AuditEntry,
    AuditQuery,
    ConsistencyQuery,
    InclusionQuery,
    LogQuery,
    VerifyQuery,
)
from sealwire.kit.caller import ANONYMOUS_TENANT, SYSTEM_TENANT, Caller, Principal, service_caller
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, NotFound, RateLimited
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.export_route import export_line
from sealwire.services.compliance.notes import parse_key
from sealwire.services.compliance.verify import verify_export
from sealwire.testing.compliance import ComplianceRoom, open_compliance

TENANTS = ("acme", "beta", "gamma", ANONYMOUS_TENANT)


def entry(name: str, tenant: str, at_us: int) -> AuditEntry:
    return AuditEntry(
        audit_id=name,
        tenant_id=tenant,
        actor=Actor(type="user", id=f"user-of-{tenant}"),
        action="a",
        resource_type="r",
        metadata={"whose": tenant},
        personal={"ip_address": "192.0.2.1"},
        created_at_us=at_us,
    )


def person(role: Role, tenant: str) -> Caller:
    return Caller(principal=Principal(kind="user", tenant_id=tenant, subject="p", role=role))


# A write is a batch of records of any tenants at one of few times; a list of them is what one writer does in turn.
WRITES = st.lists(st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 3)), min_size=1, max_size=12), max_size=6)


@settings(max_examples=15, deadline=None)
@given(st.lists(WRITES, min_size=2, max_size=4), st.integers(1, 7))
def test_racing_writers_of_many_tenants(writers: list[list[list[tuple[str, int]]]], limit: int) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(race(Path(folder), writers, limit))


async def race(folder: Path, writers: list[list[list[tuple[str, int]]]], limit: int) -> None:
    sent: dict[str, dict[str, int]] = {tenant: {} for tenant in TENANTS}
    async with open_compliance(folder, config=ComplianceConfig(checkpoint_every_s=3600)) as room:

        async def write(number: int, batches: list[list[tuple[str, int]]]) -> None:
            for b, batch in enumerate(batches):
                records = [entry(f"{number}.{b}.{i}", tenant, at) for i, (tenant, at) in enumerate(batch)]
                for record in records:
                    sent[record.tenant_id][record.audit_id] = record.created_at_us
                await room.service.append(service_caller("gateway", "t"), AuditBatch(records=records))

        await asyncio.gather(*(write(n, batches) for n, batches in enumerate(writers)))
        for tenant in TENANTS:
            found = await all_records(room, person(Role.AUDITOR, tenant), limit)
            assert {r.audit_id: r.created_at for r in found}.keys() == sent[tenant].keys()
            assert [r.seq for r in found] == list(range(1, len(found) + 1))
            assert {r.tenant_id for r in found} <= {tenant}
            assert {r.metadata["whose"] for r in found} <= {tenant}
            for at in (1, 2, 3):  # many records at the same time, and pages that end among them
                same = await all_records(
                    room, person(Role.AUDITOR, tenant), limit, **{"from": time_of(at), "to": time_of(at + 1)}
                )
                assert {r.audit_id for r in same} == {name for name, when in sent[tenant].items() if when == at}
            assert (await room.service.verify(service_caller("x", tenant), VerifyQuery())).ok


def time_of(at_us: int) -> str:
    return f"1970-01-01T00:00:00.{at_us:06d}Z"


async def all_records(room: ComplianceRoom, caller: Caller, limit: int, **query: Any) -> list[Any]:
    items: list[Any] = []
    cursor = None
    while True:
        members = {"from_" if name == "from" else name: value for name, value in query.items()}
        page = await room.service.query(caller, AuditQuery(limit=limit, cursor=cursor, **members))
        items += page.items
        if (cursor := page.next_cursor) is None:
            return items


async def reads(room: ComplianceRoom, caller: Caller, tenant: str | None) -> list[Any]:
    """Every way to read a log. Raises: what the first of them that is refused raises."""
    service = room.service
    head = await service.checkpoint(caller, LogQuery(tenant_id=tenant))
    found: list[Any] = [
        await service.query(caller, AuditQuery(tenant_id=tenant)),
        await service.verify(caller, VerifyQuery(tenant_id=tenant)),
        await service.inclusion(caller, InclusionQuery(seq=1, tenant_id=tenant)),
        await service.consistency(caller, ConsistencyQuery(from_=1, tenant_id=tenant)),
        await service.tile(caller, "0/000.p/1", tenant),
        await service.records(caller, 1, 1, tenant),
        await service.log_size(caller, tenant),
        (await service.manifest(caller, ExportQuery(tenant_id=tenant))).checkpoint,
        head,
    ]
    parts = [part async for part in await service.evidence(caller, EvidenceQuery(tenant_id=tenant))]
    report, _ = verify_bundle(b"".join(parts), keys=[parse_key(head.first_key)])
    assert report.ok, report.fault
    follower = await service.follow(caller, StreamQuery(tenant_id=tenant), 0)
    seen = await follower.next(0)
    follower.close()
    assert seen is not None
    report = verify_export(
        [export_line(r) for r in seen.records], checkpoints=[head.checkpoint], keys=[parse_key(head.first_key)]
    )
    assert report.ok, report.fault
    return found


@pytest.fixture
async def room(tmp_path: Path) -> Any:
    async with open_compliance(tmp_path, config=ComplianceConfig(checkpoint_every_s=3600)) as room:
        batch = [entry(f"{tenant}.{i}", tenant, i + 1) for tenant in (*TENANTS, SYSTEM_TENANT) for i in range(20)]
        await room.service.append(service_caller("gateway", "t"), AuditBatch(records=batch))
        yield room


async def test_operators_read_the_log_of_anonymous_and_their_own_and_no_tenants(room: ComplianceRoom) -> None:
    operator = person(Role.OPERATOR, SYSTEM_TENANT)
    assert (await reads(room, operator, ANONYMOUS_TENANT))[0].items[0].metadata["whose"] == ANONYMOUS_TENANT
    assert (await reads(room, operator, None))[0].items[0].metadata["whose"] == SYSTEM_TENANT
    with pytest.raises(Forbidden):
        await reads(room, operator, "acme")


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.AUDITOR])
async def test_nobody_reads_another_tenants_log_by_any_way(room: ComplianceRoom, role: Role) -> None:
    mine = person(role, "acme")
    assert await reads(room, mine, None) == await reads(room, mine, "acme")
    service = room.service
    for other in ("beta", ANONYMOUS_TENANT, SYSTEM_TENANT):
        ways: list[Any] = [
            service.query(mine, AuditQuery(tenant_id=other)),
            service.verify(mine, VerifyQuery(tenant_id=other)),
            service.checkpoint(mine, LogQuery(tenant_id=other)),
            service.inclusion(mine, InclusionQuery(seq=1, tenant_id=other)),
            service.consistency(mine, ConsistencyQuery(from_=1, tenant_id=other)),
            service.tile(mine, "0/000.p/1", other),
            service.records(mine, 1, 1, other),
            service.log_size(mine, other),
            service.manifest(mine, ExportQuery(tenant_id=other)),
            service.evidence(mine, EvidenceQuery(tenant_id=other)),
            service.follow(mine, StreamQuery(tenant_id=other), None),
        ]
        for way in ways:
            with pytest.raises(Forbidden):
                await way


async def test_a_verification_of_another_log_is_not_found(tmp_path: Path) -> None:
    async with open_compliance(tmp_path, config=ComplianceConfig(verify_at_once=1)) as room:
        batch = [entry(f"{i}", "acme", i + 1) for i in range(20)]
        await room.service.append(service_caller("gateway", "t"), AuditBatch(records=batch))
        job = await room.service.verify(person(Role.AUDITOR, "acme"), VerifyQuery())
        assert job.job_id is not None
        assert (await room.service.verify_job(person(Role.OWNER, "acme"), job.job_id)).job_id == job.job_id
        for stranger in (person(Role.OWNER, "beta"), person(Role.OPERATOR, SYSTEM_TENANT)):
            with pytest.raises(NotFound):
                await room.service.verify_job(stranger, job.job_id)


async def test_one_tenant_does_not_take_every_turn_of_verification(tmp_path: Path) -> None:
    async with open_compliance(tmp_path, config=ComplianceConfig(verify_at_once=1)) as room:
        batch = [entry(f"{tenant}{i}", tenant, i + 1) for i in range(20) for tenant in ("acme", "beta")]
        await room.service.append(service_caller("gateway", "t"), AuditBatch(records=batch))
        acme, beta = person(Role.AUDITOR, "acme"), person(Role.AUDITOR, "beta")
        asked = [room.service.verify(acme, VerifyQuery(to_seq=last)) for last in range(5, 20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, RateLimited)]
        assert 0 < len(refused) < len(answers)
        job = await room.service.verify(beta, VerifyQuery())
        async with asyncio.timeout(20):
            while (job := await room.service.verify_job(beta, job.job_id or "")).progress < 1:  # noqa: ASYNC110 - as a client asks
                await asyncio.sleep(0.01)
        assert job.ok
