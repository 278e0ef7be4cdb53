"""A tenant's log is damaged on disk: its records wait beside it, nobody else's do, and none is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import msgspec
import pytest

from sealwire.clients.compliance import send_records
from sealwire.contracts.audit_log import (
    Actor,
    AuditBatch,
    AuditConflict,
    AuditEntry,
    AuditQuery,
    AuditRecord,
    LogBroken,
    VerifyQuery,
)
from sealwire.contracts.custody import SubjectItem, SubjectProbe, SubjectQuery
from sealwire.kit.caller import service_caller
from sealwire.kit.ids import new_id
from sealwire.kit.pages import DegradedOnly
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.metrics import AuditCollector
from sealwire.services.compliance.tiles import read_bundle, write_bundle
from sealwire.testing.compliance import ComplianceRoom, open_compliance

GATEWAY = service_caller("gateway", "system")
CONFIG = ComplianceConfig(parked_retry_s=0.05)
RARELY = ComplianceConfig(parked_retry_s=3600)
_SEQ = "place & ((1 << 40) - 1)"


def entries(count: int, tenant: str = "acme", **values: object) -> list[AuditEntry]:
    return [
        AuditEntry(
            audit_id=new_id(),
            tenant_id=tenant,
            actor=Actor(type="user", id="anna"),
            action="message.sent",
            resource_type="message",
            metadata={"n": i, **values},
            personal={"email": f"anna{i}@example.org", "ip_address": "192.0.2.7"},
            subject_id="anna" if i % 2 else "",
            created_at_us=1_700_000_000_000_000 + i,
        )
        for i in range(count)
    ]


async def records(room: ComplianceRoom, tenant: str = "acme") -> list[AuditRecord]:
    found: list[AuditRecord] = []
    cursor = None
    while True:
        page = await room.service.query(service_caller("gateway", tenant), AuditQuery(limit=1000, cursor=cursor))
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found


async def verified(room: ComplianceRoom, tenant: str = "acme") -> None:
    found = await room.service.verify(service_caller("gateway", tenant), VerifyQuery())
    assert found.ok, found.fault


async def until_whole(room: ComplianceRoom) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await room.service.checks()["audit_logs"]()
            except DegradedOnly:
                await asyncio.sleep(0.01)
            else:
                return


def edit(folder: Path, change: Callable[[apsw.Connection], None]) -> None:
    conn = apsw.Connection(str(folder / "compliance.db"))
    conn.set_busy_timeout(60_000)
    with conn:
        change(conn)
    conn.close()


Mend = Callable[[apsw.Connection], None]


def _without_piece(conn: apsw.Connection) -> Mend:
    where = f"SELECT * FROM piece WHERE {_SEQ} = 257"
    row = conn.execute(where).fetchone()
    conn.execute(f"DELETE FROM piece WHERE {_SEQ} = 257")
    return lambda conn: conn.execute("INSERT INTO piece VALUES (?, ?, ?, ?, ?)", row).fetchall() and None


def _changed_record(conn: apsw.Connection) -> Mend:
    place, bodies = conn.execute(f"SELECT place, bodies FROM piece WHERE {_SEQ} = 257").fetchone()
    held = read_bundle(bodies)
    held[5] = held[5].replace(b"message.sent", b"message.seen")
    sql = "UPDATE piece SET bodies = ? WHERE place = ?"
    conn.execute(sql, (write_bundle(held), place))
    return lambda conn: conn.execute(sql, (bodies, place)).fetchall() and None


def _other_head(conn: apsw.Connection) -> Mend:
    held = conn.execute("SELECT last_hash FROM tenant WHERE tenant_id = 'acme'").get
    sql = "UPDATE tenant SET last_hash = ? WHERE tenant_id = 'acme'"
    conn.execute(sql, (bytes(32),))
    return lambda conn: conn.execute(sql, (held,)).fetchall() and None


def _cut_tile(conn: apsw.Connection) -> Mend:
    place = conn.execute("SELECT place FROM tile WHERE (place >> 36) & 15 = 1").get
    held = conn.execute("SELECT hashes FROM tile WHERE place = ?", (place,)).get
    sql = "UPDATE tile SET hashes = ? WHERE place = ?"
    conn.execute(sql, (held[:7], place))
    return lambda conn: conn.execute(sql, (held, place)).fetchall() and None


def _head_put_back(conn: apsw.Connection) -> Mend:
    size, last = conn.execute("SELECT size, last_hash FROM tenant WHERE tenant_id = 'acme'").fetchone()
    hashes = conn.execute(f"SELECT hashes FROM piece WHERE {_SEQ} = 257").get
    sql = "UPDATE tenant SET size = ?, last_hash = ? WHERE tenant_id = 'acme'"
    conn.execute(sql, (270, hashes[13 * 32 : 14 * 32]))
    return lambda conn: conn.execute(sql, (size, last)).fetchall() and None


def _other_type(table: str, column: str, where: str) -> Callable[[apsw.Connection], Mend]:
    def damage(conn: apsw.Connection) -> Mend:
        held = conn.execute(f"SELECT {column} FROM {table} WHERE {where}").get
        conn.execute(f"UPDATE {table} SET {column} = 'text' WHERE {where}")
        sql = f"UPDATE {table} SET {column} = ? WHERE {where}"
        return lambda conn: conn.execute(sql, (held,)).fetchall() and None

    damage.__name__ = f"_other_type_of_{column}"
    return damage


def _without_row(conn: apsw.Connection) -> Mend:
    row = conn.execute("SELECT * FROM tenant WHERE tenant_id = 'acme'").fetchone()
    conn.execute("DELETE FROM tenant WHERE tenant_id = 'acme'")
    return lambda conn: conn.execute("INSERT INTO tenant VALUES (?, ?, ?, ?)", row).fetchall() and None


def _without_row_and_signed(conn: apsw.Connection) -> Mend:
    rows = conn.execute("SELECT * FROM checkpoint").fetchall()
    conn.execute("DELETE FROM checkpoint")
    mend = _without_row(conn)

    def both(conn: apsw.Connection) -> None:
        mend(conn)
        conn.executemany("INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?, ?)", rows)

    return both


DAMAGES: list[Callable[[apsw.Connection], Mend]] = [
    _without_piece, _changed_record, _other_head, _cut_tile, _head_put_back, _without_row, _without_row_and_signed,
    _other_type("tenant", "last_hash", "tenant_id = 'acme'"), _other_type("tenant", "size", "tenant_id = 'acme'"),
    _other_type("piece", "count", f"{_SEQ} = 257"),
]  # fmt: skip


async def damaged(folder: Path, damage: Callable[[apsw.Connection], Mend]) -> tuple[list[AuditEntry], Mend]:
    """Make a log of 300 records and damage it. Return them, and what mends it."""
    sent = entries(300)
    async with open_compliance(folder) as room:
        await room.service.append(GATEWAY, AuditBatch(records=sent))
        await room.service.checkpoint(service_caller("gateway", "acme"))
    mend: list[Mend] = []
    edit(folder, lambda conn: mend.append(damage(conn)))
    return sent, mend[0]


def woven(*lists: Sequence[AuditEntry]) -> list[AuditEntry]:
    return [entry for some in zip(*lists, strict=True) for entry in some]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
async def test_records_of_a_damaged_log_wait_beside_it_and_nobody_elses_do(
    tmp_path: Path, damage: Callable[[apsw.Connection], Mend]
) -> None:
    before, mend = await damaged(tmp_path, damage)
    waiting, others = entries(60), entries(60, "other")
    async with open_compliance(tmp_path, config=CONFIG) as room:
        for start in range(0, 30, 10):
            batch = woven(waiting[start : start + 10], others[start : start + 10])
            answer = await room.service.append(GATEWAY, AuditBatch(records=batch))
            assert (answer.accepted, answer.duplicates, answer.parked) == (20, 0, 10)
        assert [r.audit_id for r in await records(room, "other")] == [e.audit_id for e in others[:30]]
        with pytest.raises(DegradedOnly, match="1 audit logs, or the keys they need, are damaged; 30 records wait"):
            await room.service.checks()["audit_logs"]()
        counts = {m.name: m.samples[0].value for m in AuditCollector(room.service).collect()}
        assert counts == {"sealwire_audit_damaged_logs": 1, "sealwire_audit_parked_records": 30}
        again = await room.service.append(GATEWAY, AuditBatch(records=woven(waiting[:10], others[:10])))
        assert (again.accepted, again.duplicates, again.parked) == (0, 20, 0)
    async with open_compliance(tmp_path, config=CONFIG) as room:
        with pytest.raises(DegradedOnly, match="30 records wait"):
            await room.service.checks()["audit_logs"]()
        for start in range(30, 60, 10):
            batch = woven(waiting[start : start + 10], others[start : start + 10])
            await send_records(room.service, GATEWAY, batch)
        edit(tmp_path, mend)
        await until_whole(room)
        found = await records(room)
        expected = [*(e.audit_id for e in before), *(e.audit_id for e in waiting)]
        assert [r.audit_id for r in found if r.action != "audit.resumed"] == expected
        said = next(r for r in found if r.action == "audit.resumed")
        assert (said.seq, said.actor.id, said.resource_id) == (301, "compliance", waiting[0].audit_id)
        assert said.metadata["waited"] == 60
        assert [r.metadata["email"] for r in found[301:]] == [e.personal["email"] for e in waiting]
        after = await room.service.append(GATEWAY, AuditBatch(records=woven(entries(2), waiting[:2])))
        assert (after.accepted, after.duplicates, after.parked) == (2, 2, 0)
        await verified(room)
        await verified(room, "other")


@pytest.mark.parametrize("damage", [_changed_record, _cut_tile], ids=lambda d: d.__name__)
async def test_a_persons_export_has_what_waits_and_an_erasure_reaches_it(
    tmp_path: Path, damage: Callable[[apsw.Connection], Mend]
) -> None:
    await damaged(tmp_path, damage)
    caller = service_caller("compliance", "acme")
    later, bens = entries(9), [msgspec.structs.replace(e, actor=Actor(type="user", id="ben")) for e in entries(3)]

    async def waiting(room: ComplianceRoom) -> list[SubjectItem]:
        found, cursor = [], None
        while True:
            page = await room.service.own.export_subject(caller, "anna", SubjectQuery(limit=4, cursor=cursor))
            found += page.items
            if (cursor := page.next_cursor) is None:
                return [item for item in found if item.data.get("waits")]

    async with open_compliance(tmp_path, config=RARELY) as room:
        answer = await room.service.append(GATEWAY, AuditBatch(records=[*later, *bens]))
        assert answer.parked == 12
        found = await waiting(room)
        assert [item.resource_id for item in found] == [e.audit_id for e in later]
        assert [item.data["metadata"]["email"] for item in found] == [e.personal["email"] for e in later]
        assert not {"seq", "hash", "prev_hash"} & found[0].data.keys()
        room.service._sealer.forget("acme", "anna")
        assert (await room.service.own.probe_subject(caller, "anna", SubjectProbe())).places["records"] >= 4
        await room.keys.destroy("acme", subject_id="anna")
        assert (await room.service.own.probe_subject(caller, "anna", SubjectProbe())).places["records"] == 0
        shown = [item.data["metadata"]["email"] for item in await waiting(room)]
        assert shown == [e.personal["email"] if not e.subject_id else "erased" for e in later]


async def test_rows_that_were_changed_on_the_disk_end_nobodys_export_and_no_probe(tmp_path: Path) -> None:
    """Whose they are nobody can say any more; the log never takes them."""
    await damaged(tmp_path, _changed_record)
    metadata: list[object] = [
        [],
        "x",
        {"email": {"sealed": 5}},
        {"email": {"of": 7, "sealed": "AA=="}},
        {"a": {"b": 1}},
    ]
    waiting = entries(4 + len(metadata))
    async with open_compliance(tmp_path, config=RARELY) as room:
        assert (await room.service.append(GATEWAY, AuditBatch(records=waiting))).parked == len(waiting)

    def change(conn: apsw.Connection) -> None:
        bodies = dict(conn.execute("SELECT audit_id, body FROM parked WHERE tenant_id = 'acme'"))
        put = "UPDATE parked SET body = ? WHERE audit_id = ?"
        conn.execute(put, (7, waiting[0].audit_id))
        conn.execute(put, ("[" * 100_000, waiting[1].audit_id))
        conn.execute("UPDATE parked SET tenant_id = 'other' WHERE audit_id = ?", (waiting[2].audit_id,))
        for entry, made in zip(waiting[4:], metadata, strict=True):
            record = msgspec.json.decode(bodies[entry.audit_id]) | {"metadata": made}
            conn.execute(put, (msgspec.json.encode(record, order="sorted"), entry.audit_id))

    edit(tmp_path, change)
    async with open_compliance(tmp_path, config=RARELY) as room:
        own = room.service.own
        for tenant in ("acme", "other"):
            caller = service_caller("compliance", tenant)
            found, cursor = [], None
            while cursor is not None or not found:
                page = await own.export_subject(caller, "anna", SubjectQuery(limit=200, cursor=cursor))
                found += [item.resource_id for item in page.items if item.data.get("waits")]
                if (cursor := page.next_cursor) is None:
                    break
            assert (waiting[3].audit_id in found) == (tenant == "acme")
            assert not {entry.audit_id for entry in waiting[:3]} & set(found)
            room.service._sealer.forget(tenant, "anna")
            await own.probe_subject(caller, "anna", SubjectProbe())
        with pytest.raises(AuditConflict):
            await room.service.append(GATEWAY, AuditBatch(records=waiting[:1]))


async def test_what_comes_again_while_it_waits_is_judged_as_if_it_stood_in_the_log(tmp_path: Path) -> None:
    before, mend = await damaged(tmp_path, _without_piece)
    (waits,) = entries(1)
    changed = msgspec.structs.replace(waits, personal={**waits.personal, "email": "eve@example.org"})
    known, forged = before[7], msgspec.structs.replace(before[8], personal={**before[8].personal, "email": "e@e.org"})
    async with open_compliance(tmp_path, config=RARELY) as room:
        assert (await room.service.append(GATEWAY, AuditBatch(records=[waits, waits]))).duplicates == 1
        with pytest.raises(AuditConflict):
            await room.service.append(GATEWAY, AuditBatch(records=[changed]))
        answer = await room.service.append(GATEWAY, AuditBatch(records=[known, forged]))
        assert answer.parked == 2, "what the log holds of them is seen when it can be read"
    edit(tmp_path, mend)
    async with open_compliance(tmp_path, config=CONFIG) as room:
        await until_whole(room)
        found = await records(room)
        assert len(found) == 300 + len(("resumed", "waits", "its alarm", "alarm about the forged one"))
        alarms = {r.resource_id: r for r in found if r.action == "audit.conflict"}
        assert alarms.keys() == {waits.audit_id, forged.audit_id}
        assert alarms[waits.audit_id].actor.id == "gateway"
        shown = {r.audit_id: r.metadata["email"] for r in found if "email" in r.metadata}
        assert shown[waits.audit_id] == waits.personal["email"]
        assert shown[forged.audit_id] == before[8].personal["email"]
        await verified(room)


async def test_a_long_row_goes_into_its_log_while_more_comes(tmp_path: Path) -> None:
    _, mend = await damaged(tmp_path, _changed_record)
    first = entries(5_000)
    sent = [e.audit_id for e in first]
    async with open_compliance(tmp_path, config=CONFIG) as room:
        for start in range(0, 5_000, 1_000):
            await room.service.append(GATEWAY, AuditBatch(records=first[start : start + 1_000]))
        edit(tmp_path, mend)
        async with asyncio.timeout(60):
            while (answer := await room.service.append(GATEWAY, AuditBatch(records=(more := entries(10))))).parked:
                sent += [e.audit_id for e in more]
        sent += [e.audit_id for e in more]
        assert answer.accepted == 10
        found = [r.audit_id for r in (await records(room))[300:] if r.action != "audit.resumed"]
        assert found == sent
        await verified(room)


async def test_nothing_is_pruned_of_a_log_that_can_not_say_so(tmp_path: Path) -> None:
    _, mend = await damaged(tmp_path, _changed_record)
    async with open_compliance(tmp_path, config=CONFIG) as room:
        with pytest.raises(LogBroken):
            await room.service.pruning.prune("acme", [1, 2, 3], run_id="r1")
        assert not room.service.parking.waiting, "nor is it said: it would stand in the log, and not be so"
        assert all(r.body for r in await room.stores.audit.records("acme", 1, 3))
        await room.service.append(GATEWAY, AuditBatch(records=entries(1)))
        edit(tmp_path, mend)
        await until_whole(room)
        assert (await room.service.pruning.prune("acme", [1, 2, 3], run_id="r1")).pruned == 3
        await verified(room)


async def test_a_record_that_comes_again_and_is_damaged_in_the_log_holds_up_nobody(tmp_path: Path) -> None:
    sent = entries(3)
    async with open_compliance(tmp_path) as room:
        await room.service.append(GATEWAY, AuditBatch(records=sent))
        bodies = (await room.stores.audit.records("acme", 1, 3))[1].body

        def cut(conn: apsw.Connection) -> None:
            place, bundle = conn.execute("SELECT place, bodies FROM piece").fetchone()
            held = read_bundle(bundle)
            assert held[1] == bodies
            held[1] = held[1][:-9]
            conn.execute("UPDATE piece SET bodies = ? WHERE place = ?", (write_bundle(held), place))

        edit(tmp_path, cut)
        with pytest.raises(AuditConflict) as conflict:
            await room.service.append(GATEWAY, AuditBatch(records=[*sent, *entries(2, "other")]))
        assert conflict.value.extra["conflicts"] == [sent[1].audit_id]
        assert len(await records(room, "other")) == 2


async def test_a_lost_row_is_no_new_log_and_its_number_nobody_elses(tmp_path: Path) -> None:
    """Else a history that begins again at 1 would be signed by the key of the one before."""
    _, mend = await damaged(tmp_path, _without_row)
    async with open_compliance(tmp_path, config=RARELY) as room:
        answer = await room.service.append(GATEWAY, AuditBatch(records=woven(entries(2), entries(2, "other"))))
        assert (answer.accepted, answer.parked) == (4, 2)
        with pytest.raises(LogBroken):
            await room.service.checkpoint(service_caller("gateway", "acme"))
        assert len(await records(room, "other")) == 2
    edit(tmp_path, mend)
    async with open_compliance(tmp_path, config=CONFIG) as room:
        await until_whole(room)
        assert len(await records(room)) == 303
        await room.service.append(GATEWAY, AuditBatch(records=entries(1, "third")))
        for tenant in ("acme", "other", "third"):
            await verified(room, tenant)


@pytest.mark.parametrize("change", ["tenant_id = 'other'", "audit_id = 'x'", "body = CAST(replace(body, {}) AS BLOB)"])
async def test_what_was_changed_while_it_waited_damages_no_log_for_good(tmp_path: Path, change: str) -> None:
    """A record of another tenant, once it is chained and signed, could never be taken out again."""
    _, mend = await damaged(tmp_path, _without_piece)
    change = change.format('\'"action":"message.sent"\', \'"action":"audit.pruned"\'')
    async with open_compliance(tmp_path, config=RARELY) as room:
        await room.service.append(GATEWAY, AuditBatch(records=[*entries(1), *entries(1, "other")]))
    edit(tmp_path, lambda conn: conn.execute(f"UPDATE parked SET {change}").fetchall() and None)
    edit(tmp_path, mend)
    async with open_compliance(tmp_path, config=CONFIG) as room:
        tenant = "other" if change.startswith("tenant") else "acme"
        for _ in range(2):
            await room.service.append(GATEWAY, AuditBatch(records=[*entries(1, tenant), *entries(1, "third")]))
            room.service._logs.try_parked()
            await room.service._logs.settle()
        with pytest.raises(DegradedOnly, match="1 audit logs, or the keys they need, are damaged; 3 records wait"):
            await room.service.checks()["audit_logs"]()
        for name in ("acme", "other", "third"):
            if name != "acme" or tenant != "acme":
                await verified(room, name)
        assert "audit.pruned" not in {r.action for r in await records(room)}


async def test_the_key_of_a_day_outlives_what_waits_beside_the_log(tmp_path: Path) -> None:
    """A run was killed when the records were gone, and the key of their day was not, and is done again."""
    (waits,) = entries(1)
    async with open_compliance(tmp_path) as room:
        await room.service.append(GATEWAY, AuditBatch(records=entries(3)))
        await room.stores.audit.prune("acme", [1, 2, 3], run_id="r1", at_us=1)
    mend: list[Mend] = []
    edit(tmp_path, lambda conn: mend.append(_other_head(conn)))
    async with open_compliance(tmp_path, config=RARELY) as room:
        assert (await room.service.append(GATEWAY, AuditBatch(records=[waits]))).parked == 1
        for damaged in (True, False):
            with pytest.raises(LogBroken, match=None if damaged else "Records wait"):
                await room.service.pruning.prune("acme", [1, 2, 3], run_id="r1")
            edit(tmp_path, mend[0])
    async with open_compliance(tmp_path, config=CONFIG) as room:
        await until_whole(room)
        assert [r.metadata["email"] for r in await records(room) if r.action == "message.sent"] == ["anna0@example.org"]


async def test_the_key_of_a_day_outlives_a_damaged_record_of_it(tmp_path: Path) -> None:
    """It is not pruned, as it is evidence; and its bytes may come back."""
    whole: list[bytes] = []

    def cut(conn: apsw.Connection) -> None:
        whole.append(conn.execute("SELECT bodies FROM piece").get)
        held = read_bundle(whole[0])
        held[2] = held[2][:-9]
        conn.execute("UPDATE piece SET bodies = ?", (write_bundle(held),))

    def put_back(conn: apsw.Connection) -> None:
        held = read_bundle(conn.execute("SELECT bodies FROM piece ORDER BY place LIMIT 1").get)
        held[2] = read_bundle(whole[0])[2]
        conn.execute("UPDATE piece SET bodies = ? WHERE place = (SELECT min(place) FROM piece)", (write_bundle(held),))

    async with open_compliance(tmp_path) as room:
        await room.service.append(GATEWAY, AuditBatch(records=entries(3)))
        edit(tmp_path, cut)
        assert (await room.service.pruning.prune("acme", [1, 2, 3], run_id="r1")).pruned == 2
        edit(tmp_path, put_back)
        assert [r.metadata["email"] for r in await records(room) if r.action == "message.sent"] == ["anna2@example.org"]
        assert (await room.service.pruning.prune("acme", [3], run_id="r2")).pruned == 1
        await verified(room)


@pytest.mark.parametrize("what", ["data_keys", "versions"])
async def test_a_damaged_key_makes_no_record_a_refused_one(tmp_path: Path, what: str) -> None:
    """What doesn't open is crypto's damage and not the record's fault: it stands in the log with all that it says."""
    mine = "key_id IN (SELECT key_id FROM keys WHERE purpose = 'system:compliance' AND name = 'data')"
    changes = {
        "data_keys": "UPDATE data_keys SET wrapped = randomblob(length(wrapped)) WHERE service = 'compliance'",
        "versions": f"UPDATE versions SET wrapped = randomblob(length(wrapped)) WHERE {mine}",
    }
    sent = entries(4)
    async with open_compliance(tmp_path) as room:
        await room.service.append(GATEWAY, AuditBatch(records=sent[:2]))
    conn = apsw.Connection(str(tmp_path / "crypto.db"))
    conn.execute(changes[what])
    assert conn.changes() >= 1
    conn.close()
    async with open_compliance(tmp_path) as room:
        await send_records(room.service, GATEWAY, [*sent[2:], *entries(2, "other")])
        found = await records(room)
        assert [r.audit_id for r in found if r.action == "message.sent"] == [e.audit_id for e in sent]
        assert [r.metadata["email"] for r in found[2:4]] == [e.personal["email"] for e in sent[2:]]
        assert len(await records(room, "other")) == 2
