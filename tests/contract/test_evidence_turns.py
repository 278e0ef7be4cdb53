"""Bundles of evidence: only so many at once, none without a recent proof, none held by who takes nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path

from tests.contract.test_compliance_streams import entry

from sealwire.contracts.audit_log import AuditBatch
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.http import STEP_UP_WINDOW_S, App, Edge
from sealwire.kit.permission import Role
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.routes import routes
from sealwire.testing.asgi import ByName, ask
from sealwire.testing.compliance import open_compliance

PATH = "/compliance/audit/evidence"


def auditor(tenant: str, ago_s: int = 0, kind: str = "user") -> Caller:
    at_s = int(time.time()) - ago_s
    return Caller(
        principal=Principal(kind=kind, tenant_id=tenant, subject="anna", role=Role.AUDITOR, auth_time_s=at_s)  # type: ignore[arg-type]  # named by the test
    )


@asynccontextmanager
async def opened(folder: Path, config: ComplianceConfig):
    async with open_compliance(folder, config=config) as room:
        for tenant in ("acme", "bolt"):
            batch = AuditBatch(records=[entry(i) for i in range(20)])
            await room.service.append(service_caller("gateway", tenant), batch)
        people = ByName()
        people.callers |= {
            "acme": auditor("acme"), "bolt": auditor("bolt"), "long ago": auditor("acme", STEP_UP_WINDOW_S + 5),
            "key": auditor("acme", kind="api_key"),
        }  # fmt: skip
        yield App(routes(room.service, Edge(authenticate=people))), room.service.evidence_turns


async def get(app: App, who: str, gate: asyncio.Event | None = None):
    return await ask(app, "GET", PATH, headers={"authorization": who}, gate=gate)


async def test_who_comes_while_all_turns_are_taken_is_told_when_to_come_back(tmp_path):
    async with opened(tmp_path, ComplianceConfig(evidence_at_once=2)) as (app, turns):
        gate = asyncio.Event()
        slow = asyncio.create_task(get(app, "acme", gate))
        async with asyncio.timeout(20):
            while not turns.taken:  # noqa: ASYNC110 - a request in this very loop wakes nobody
                await asyncio.sleep(0)  # the request begins
        answer = await get(app, "acme")
        assert (answer.status, answer.json()["code"]) == (503, "unavailable")
        assert float(answer.headers["retry-after"]) >= 1
        assert (await get(app, "bolt")).status == 200, "one tenant can't take the turns of all"
        gate.set()
        assert (await slow).complete
        assert (await get(app, "acme")).status == 200


async def test_who_takes_nothing_loses_the_turn(tmp_path):
    async with opened(tmp_path, ComplianceConfig(evidence_at_once=1, stream_stall_s=0.05)) as (app, turns):
        asleep = asyncio.create_task(get(app, "acme", asyncio.Event()))
        async with asyncio.timeout(20):
            await asyncio.wait({asleep})
            assert turns.taken == 0
            assert (await get(app, "acme")).status == 200


async def test_evidence_asks_for_a_recent_proof(tmp_path):
    async with opened(tmp_path, ComplianceConfig()) as (app, _):
        refused = await get(app, "long ago")
        assert (refused.status, refused.json()["code"]) == (403, "step_up_required")
        assert (await get(app, "key")).status == 403
        assert (await get(app, "acme")).status == 200
