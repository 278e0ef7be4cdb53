"""Senders of audit records: each event is recorded once, in order; nothing waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.outbox import OUTBOX_SCHEMA, POSITIONS_SCHEMA, SqliteOutbox, SqlitePositions
from sealwire.clients.compliance import ComplianceClient, audit_relay, local_compliance
from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry, AuditQuery
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Role
from sealwire.kit.problem import Unavailable
from sealwire.ports.events import Event, NewEvent
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry
from sealwire.testing.compliance import ComplianceRoom, open_compliance
from sealwire.testing.patience import until

AUDITOR = Caller(principal=Principal(kind="user", tenant_id="acme", subject="olga", role=Role.AUDITOR))


def entry(audit_id: str = "", action: str = "message.sent", **changes: Any) -> AuditEntry:
    return AuditEntry(
        audit_id=audit_id or new_id(),
        tenant_id="acme",
        actor=Actor(type="user", id="anna"),
        action=action,
        resource_type="message",
        **changes,
    )


async def to_entries(events: Sequence[Event]) -> list[AuditEntry]:
    made = []
    for event in events:
        if event.kind != "noise":
            metadata = {"text": event.data.decode()}
            made.append(entry(event.event_id, event.kind, metadata=metadata, created_at_us=event.at_us))
    return made


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[ComplianceRoom]:
    async with open_compliance(tmp_path) as room:
        yield room


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[tuple[Database, SqliteOutbox, SqlitePositions]]:
    db = Database.open(tmp_path / "other.db", [OUTBOX_SCHEMA + POSITIONS_SCHEMA])
    yield db, SqliteOutbox(db), SqlitePositions(db)
    await db.close()


def event(kind: str = "message.sent", data: str = "", event_id: str = "") -> NewEvent:
    return NewEvent(event_id=event_id or new_id(), tenant_id="acme", kind=kind, at_us=1_000_000, data=data.encode())


async def recorded(room: ComplianceRoom) -> list[Any]:
    return (await room.service.query(AUDITOR, AuditQuery(limit=1000))).items


async def drained(relay: Any) -> None:
    relay.start()
    await relay.stop(drain=True)


async def test_a_relay_records_each_event_once_and_in_order(room: ComplianceRoom, outbox: Any) -> None:
    db, feed, positions = outbox
    events = [event(data=str(i), kind="noise" if i % 10 == 5 else "message.sent") for i in range(250)]
    await db.write(lambda conn: feed.append(conn, events[:120]))

    def relay(places: SqlitePositions = positions) -> Any:
        return audit_relay(
            service="messaging", feed=feed, positions=places, compliance=room.service, entries=to_entries, linger_s=0
        )

    await drained(relay())
    await db.write(lambda conn: feed.append(conn, events[120:]))
    await drained(relay())
    expected = [e.event_id for e in events if e.kind != "noise"]
    assert [r.audit_id for r in await recorded(room)] == expected

    class Forgetful:
        """Positions that were lost: everything is sent again."""

        async def load(self, consumer: str) -> int:
            return 0

        async def save(self, consumer: str, position: int) -> None:
            pass

    await drained(relay(Forgetful()))  # type: ignore[arg-type]  # has what a relay asks for
    assert [r.audit_id for r in await recorded(room)] == expected


async def test_a_relay_passes_what_can_not_be_stored(room: ComplianceRoom, outbox: Any) -> None:
    db, feed, positions = outbox
    taken = new_id()
    await room.service.append(service_caller("gateway", "acme"), AuditBatch(records=[entry(taken)]))
    events = [event(data=str(i)) for i in range(20)]
    events[7] = event(data="x" * 70_000)
    events[11] = event(data="a\0b")
    events[13] = event(data="other", event_id=taken)
    await db.write(lambda conn: feed.append(conn, events))
    relay = audit_relay(
        service="messaging", feed=feed, positions=positions, compliance=room.service, entries=to_entries, linger_s=0
    )
    await drained(relay)
    records = await recorded(room)
    by_id = {r.audit_id: r for r in records}
    assert {e.event_id for e in events} <= by_id.keys()
    for i in (7, 11):
        refused = by_id[events[i].event_id]
        assert (refused.action, refused.metadata) == ("audit.refused", {"code": "invalid", "action": "message.sent"})
    assert [r.resource_id for r in records if r.action == "audit.conflict"] == [taken]
    assert await relay.lag() == 0


class Gate:
    """Compliance behind a door."""

    def __init__(self, room: ComplianceRoom) -> None:
        self._room = room
        self.open = True
        self.batches: list[int] = []

    async def append(self, caller: Caller, batch: AuditBatch) -> Any:
        if not self.open:
            raise Unavailable("closed")
        self.batches.append(len(batch.records))
        return await self._room.service.append(caller, batch)


def client(compliance: Any, **options: Any) -> ComplianceClient:
    clock = SystemClock()
    guard = Guard.of("compliance", registry=Registry(clock=clock), clock=clock, rng=Random(1))
    return ComplianceClient(compliance=compliance, guard=guard, service="gateway", **options)


async def test_a_client_sends_in_batches_or_after_a_while(room: ComplianceRoom) -> None:
    gate = Gate(room)
    sender = client(gate, wait_s=0.02)
    sent = [entry(metadata={"i": i}) for i in range(205)]
    for e in sent:
        sender.log(e)
    await until(lambda: not sender.waiting)
    assert gate.batches == [100, 100, 5]
    sender.log(entry(metadata={"i": 205}))
    await asyncio.sleep(0)
    assert sender.waiting == 1
    await until(lambda: not sender.waiting)
    assert [r.metadata["i"] for r in await recorded(room)] == list(range(206))
    await sender.stop()


async def test_a_client_keeps_records_while_compliance_is_out(room: ComplianceRoom) -> None:
    gate = Gate(room)
    gate.open = False
    sender = client(gate, wait_s=0.01, max_waiting=150)
    for i in range(150):
        sender.log(entry(metadata={"i": i}))
    with pytest.raises(Unavailable):
        sender.log(entry())
    with pytest.raises(Unavailable):
        await sender.flush()
    gate.open = True
    await until(lambda: not sender.waiting)
    await sender.stop()
    assert [r.metadata["i"] for r in await recorded(room)] == list(range(150))


async def test_stopping_a_client_sends_what_waits(room: ComplianceRoom) -> None:
    sender = client(room.service, wait_s=60)
    sender.log(entry())
    await sender.stop()
    assert len(await recorded(room)) == 1
    assert (await sender.verify(AUDITOR)).ok
    assert (await sender.query(AUDITOR, AuditQuery())).items
    assert sender.is_healthy()
    assert sender.get_circuit_breaker_state().name == "compliance"


async def test_the_local_client_is_the_contract_behind_its_guard(room: ComplianceRoom) -> None:
    clock = SystemClock()
    guard = Guard.of("compliance", registry=Registry(clock=clock), clock=clock, rng=Random(1))
    compliance = local_compliance(room.service, guard)
    answer = await compliance.append(service_caller("auth", "acme"), AuditBatch(records=[entry()]))
    assert answer.accepted == 1
