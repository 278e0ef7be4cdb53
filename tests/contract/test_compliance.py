"""The promises of compliance, over every wiring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.contracts.audit_log import (
    Actor,
    AuditBatch,
    AuditConflict,
    AuditEntry,
    AuditQuery,
    AuditRangeEmpty,
    AuditRecord,
    ConsistencyQuery,
    InclusionQuery,
    LogQuery,
    VerifyQuery,
)
from sealwire.contracts.compliance import OPERATIONS, Compliance
from sealwire.contracts.consents import NewConsent
from sealwire.contracts.holds import NewHold
from sealwire.contracts.retention_policies import NewRetentionPolicy
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Invalid, NotFound
from sealwire.services.compliance.chain import line_of
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.merkle import leaf_hash, verify_consistency, verify_inclusion
from sealwire.services.compliance.notes import parse_checkpoint, parse_key, verify_note
from sealwire.services.compliance.routes import routes
from sealwire.services.compliance.verify import verify_export
from sealwire.testing.clock import ManualClock
from sealwire.testing.compliance import ComplianceRoom, open_compliance
from sealwire.testing.wirings import WIRINGS, open_wiring

GATEWAY = service_caller("gateway", "acme")


def person(role: Role, tenant_id: str = "acme", name: str = "anna") -> Caller:
    return Caller(
        principal=Principal(kind="user", tenant_id=tenant_id, subject=name, role=role, auth_time_s=4_000_000_000)
    )


AUDITOR, ADMIN, MEMBER = person(Role.AUDITOR), person(Role.ADMIN), person(Role.MEMBER)


def entry(**changes: Any) -> AuditEntry:
    plain = AuditEntry(
        audit_id=new_id(),
        tenant_id="acme",
        actor=Actor(type="user", id="anna"),
        action="message.sent",
        resource_type="message",
        resource_id="m1",
    )
    return msgspec.structs.replace(plain, **changes)


def batch(*entries: AuditEntry) -> AuditBatch:
    return AuditBatch(records=list(entries))


class Room:
    """A compliance service behind a wiring."""

    def __init__(self, folder: Path, wiring: str, clock: ManualClock) -> None:
        self.folder, self.wiring, self.clock = folder, wiring, clock
        self.config = ComplianceConfig(verify_at_once=300, checkpoint_every_s=3600, relay_wait_s=0.0)
        self.inner: ComplianceRoom
        self._open: AbstractAsyncContextManager[ComplianceRoom] | None = None

    async def open(self) -> Compliance:
        self._open = open_compliance(self.folder, clock=self.clock, config=self.config)
        self.inner = await self._open.__aenter__()
        return open_wiring(self.wiring, self.inner.service, OPERATIONS, routes, clock=self.clock)

    async def close(self) -> None:
        if self._open is not None:
            await self._open.__aexit__(None, None, None)

    async def again(self) -> Compliance:
        await self.close()
        return await self.open()

    async def lines(self) -> list[bytes]:
        store, found, first = self.inner.stores.audit, [], 1
        while records := await store.records("acme", first, 256):
            found += [line_of(r.body, r.hash) for r in records]
            first += 256
        return found


@pytest.fixture(params=WIRINGS)
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path, request.param, ManualClock())
    yield room
    await room.close()


@pytest.fixture
async def compliance(room: Room) -> Compliance:
    return await room.open()


async def all_records(compliance: Compliance, **filters: Any) -> list[AuditRecord]:
    items: list[AuditRecord] = []
    cursor = None
    while True:
        page = await compliance.query(AUDITOR, AuditQuery(cursor=cursor, limit=7, **filters))
        items += page.items
        if (cursor := page.next_cursor) is None:
            return items


async def own_records(compliance: Compliance) -> list[AuditRecord]:
    return [r for r in await all_records(compliance) if r.resource_type == "message"]


# ---- intake


async def test_a_record_is_read_as_it_was_sent(compliance: Compliance, room: Room) -> None:
    sent = entry(
        outcome="denied",
        metadata={"text": "ü\n\\u0000", "n": 7, "f": 3.25, "no": None, "yes": True},
        created_at_us=1_700_000_000_123_456,
    )
    answer = await compliance.append(GATEWAY, batch(sent))
    assert (answer.accepted, answer.duplicates) == (1, 0)
    compliance = await room.again()
    (read,) = await own_records(compliance)
    assert read.metadata == sent.metadata
    assert (read.audit_id, read.tenant_id, read.seq, read.actor) == (sent.audit_id, "acme", 1, sent.actor)
    assert (read.action, read.resource_type, read.resource_id) == ("message.sent", "message", "m1")
    assert (read.outcome, read.created_at) == ("denied", "2023-11-14T22:13:20.123456Z")
    assert read.prev_hash == "0" * 64


async def test_records_without_a_time_get_that_of_their_arrival(compliance: Compliance) -> None:
    await compliance.append(GATEWAY, batch(entry()))
    assert (await own_records(compliance))[0].created_at == "2026-01-01T00:00:00.000000Z"


async def test_the_same_record_again_is_a_duplicate(compliance: Compliance, room: Room) -> None:
    sent = [entry(personal={"ip_address": "192.0.2.1"}, subject_id="anna", metadata={"n": i}) for i in range(5)]
    await compliance.append(GATEWAY, batch(*sent[:3]))
    room.clock.advance(60)
    answer = await compliance.append(GATEWAY, batch(*sent, sent[4]))
    assert (answer.accepted, answer.duplicates) == (2, 4)
    compliance = await room.again()
    answer = await compliance.append(GATEWAY, batch(*sent))
    assert (answer.accepted, answer.duplicates) == (0, 5)
    assert [r.audit_id for r in await own_records(compliance)] == [s.audit_id for s in sent]


async def test_a_record_that_is_there_is_a_duplicate_also_behind_another_that_claims_its_id(
    compliance: Compliance,
) -> None:
    sent = entry()
    await compliance.append(GATEWAY, batch(sent))
    with pytest.raises(AuditConflict) as told:
        await compliance.append(GATEWAY, batch(msgspec.structs.replace(sent, action="other"), sent))
    assert (told.value.extra["accepted"], told.value.extra["duplicates"]) == (0, 1)


OTHER_CONTENT: list[dict[str, Any]] = [
    {"action": "other"},
    {"actor": Actor(type="user", id="ben")},
    {"outcome": "failure"},
    {"metadata": {"n": 2}},
    {"metadata": {"n": True}},
    {"resource_id": "m2"},
    {"personal": {"ip_address": "192.0.2.2"}},
    {"personal": {}},
    {"personal": {"user_agent": "192.0.2.1"}},
    {"subject_id": "ben"},
    {"created_at_us": 2_000_000},
]


@pytest.mark.parametrize("together", [True, False])
async def test_the_same_id_with_other_content_is_a_conflict_and_an_alarm(
    compliance: Compliance, together: bool
) -> None:
    firsts = []
    for change in OTHER_CONTENT:
        first = entry(
            metadata={"n": 1}, personal={"ip_address": "192.0.2.1"}, subject_id="anna", created_at_us=1_000_000
        )
        second = msgspec.structs.replace(first, **change)
        third = entry()
        firsts += [first, third]
        if not together:
            await compliance.append(GATEWAY, batch(first))
        for _ in range(2):
            with pytest.raises(AuditConflict) as told:
                await compliance.append(GATEWAY, batch(first, second, third))
            assert told.value.extra["conflicts"] == [first.audit_id], change
    records = await all_records(compliance)
    assert [r.audit_id for r in records if r.resource_type == "message"] == [e.audit_id for e in firsts]
    alarms = [r for r in records if r.action == "audit.conflict"]
    assert [a.resource_id for a in alarms] == [e.audit_id for e in firsts[::2]]
    assert {(a.outcome, a.actor.id) for a in alarms} == {("denied", "gateway")}


async def test_entries_of_many_tenants(compliance: Compliance) -> None:
    answer = await compliance.append(
        GATEWAY, batch(*(entry(tenant_id=f"t{i % 3}", metadata={"i": i}) for i in range(30)))
    )
    assert answer.accepted == 30
    for tenant in ("t0", "t1", "t2"):
        records = (await compliance.query(person(Role.AUDITOR, tenant), AuditQuery())).items
        assert [r.seq for r in records] == list(range(1, 11))
        assert {r.tenant_id for r in records} == {tenant}


BAD: list[dict[str, Any]] = [
    {"metadata": {"n": 2**53}},
    {"metadata": {"n": 1e300}},
    {"metadata": {"ip": "x"}, "personal": {"ip": "y"}},
    {"metadata": {"t": "x" * 70_000}},
    {"personal": {"user_agent": "x" * 60_000}},
    {"created_at_us": 10**18},
    {"created_at_us": -1},
    {"personal": {"ä": "y"}},
    {"personal": {"user_agent": "a\0b"}},
    {"metadata": {"t": "a\0b"}},
]


async def test_an_entry_that_can_not_be_stored_is_refused_whole(compliance: Compliance) -> None:
    for bad in BAD:
        with pytest.raises(Invalid) as told:
            await compliance.append(GATEWAY, batch(entry(), entry(**bad)))
        assert told.value.extra["path"].startswith(("$.records[1]", "$.records[...]")), bad
    assert await own_records(compliance) == []


async def test_the_largest_record(compliance: Compliance) -> None:
    sent = entry(metadata={"t": "x" * 64_900})
    await compliance.append(GATEWAY, batch(sent))
    assert (await own_records(compliance))[0].metadata == sent.metadata


async def test_an_empty_batch(compliance: Compliance) -> None:
    assert (await compliance.append(GATEWAY, batch())).accepted == 0


async def test_racing_senders_make_one_chain(compliance: Compliance, room: Room) -> None:
    sent = [[entry(metadata={"w": w, "i": i}) for i in range(40)] for w in range(8)]
    again = [e for part in sent for e in part[::5]]

    async def send(part: list[AuditEntry]) -> None:
        for start in range(0, len(part), 4):
            await compliance.append(GATEWAY, batch(*part[start : start + 4]))

    await asyncio.gather(*map(send, sent), send(again), send(again))
    records = await own_records(compliance)
    assert sorted(r.audit_id for r in records) == sorted(e.audit_id for part in sent for e in part)
    for w in range(8):
        assert {r.metadata["i"] for r in records if r.metadata["w"] == w} == set(range(40))
    assert verify_export(await room.lines()).ok


async def test_one_audit_id_sent_by_many_at_once_is_stored_once(compliance: Compliance) -> None:
    sent = [entry(metadata={"i": i}) for i in range(20)]
    answers = await asyncio.gather(*(compliance.append(GATEWAY, batch(*sent)) for _ in range(10)))
    assert sum(a.accepted for a in answers) == 20
    assert sum(a.duplicates for a in answers) == 180
    assert len(await own_records(compliance)) == 20


async def test_only_services_send_records(compliance: Compliance) -> None:
    with pytest.raises(Forbidden):
        await compliance.append(ADMIN, batch(entry()))


# ---- personal data


async def test_personal_data_is_sealed_at_rest_and_opened_for_readers(compliance: Compliance, room: Room) -> None:
    known = entry(personal={"ip_address": "192.0.2.77", "user_agent": "curl/8 ü"}, subject_id="anna")
    unknown = entry(personal={"ip_address": "192.0.2.78"}, metadata={"method": "GET"})
    await compliance.append(GATEWAY, batch(known, unknown))
    compliance = await room.again()
    first, second = await own_records(compliance)
    assert first.metadata == {"ip_address": "192.0.2.77", "user_agent": "curl/8 ü"}
    assert second.metadata == {"ip_address": "192.0.2.78", "method": "GET"}
    lines = b"".join(await room.lines())
    assert b"192.0.2." not in lines
    assert b"curl" not in lines
    for file in room.folder.iterdir():
        assert b"192.0.2.7" not in file.read_bytes(), file.name


async def test_erasing_a_person_leaves_chain_and_proofs(compliance: Compliance, room: Room) -> None:
    await compliance.append(
        GATEWAY,
        batch(
            *(entry(personal={"ip_address": f"192.0.2.{i}"}, subject_id="anna", metadata={"i": i}) for i in range(5)),
            entry(personal={"ip_address": "192.0.2.99"}, subject_id="ben"),
        ),
    )
    before, lines = await compliance.checkpoint(AUDITOR, LogQuery()), await room.lines()
    await room.inner.keys.destroy("acme", subject_id="anna")
    resent = entry(audit_id=(await own_records(compliance))[0].audit_id, metadata={"i": 0}, subject_id="anna")
    await compliance.append(GATEWAY, batch(msgspec.structs.replace(resent, personal={"ip_address": "192.0.2.0"})))
    records = await own_records(compliance)
    assert [r.metadata["ip_address"] for r in records] == ["erased"] * 5 + ["192.0.2.99"]
    assert (await room.lines())[:6] == lines[:6]
    after = await compliance.verify(AUDITOR, VerifyQuery())
    assert after.ok, after.fault
    key = parse_key(before.public_key)
    assert verify_export(await room.lines(), checkpoints=[before.checkpoint, after.checkpoint], keys=[key]).ok


# ---- reading


async def test_filters(compliance: Compliance) -> None:
    entries = [
        entry(
            actor=Actor(type="user", id=f"u{i % 3}"),
            action=f"a{i % 4}",
            resource_id=f"r{i}",
            outcome="failure" if i % 5 == 0 else "success",
            created_at_us=1_700_000_000_000_000 + i * 1_000_000,
        )
        for i in range(60)
    ]
    await compliance.append(GATEWAY, batch(*entries))

    async def found(**filters: Any) -> list[int]:
        records = await all_records(compliance, **filters)
        return [int(r.resource_id[1:]) for r in records if r.resource_type == "message"]

    assert await found(actor="u1") == [i for i in range(60) if i % 3 == 1]
    assert await found(action="a2", outcome="failure") == [i for i in range(60) if i % 4 == 2 and i % 5 == 0]
    assert await found(resource_id="r33") == [33]
    assert await found(resource_type="key", action="a1") == []
    assert await found(from_="2023-11-14T22:13:50Z", to="2023-11-14T23:14:00+01:00") == list(range(30, 40))


async def test_cursors_never_skip_equal_times(compliance: Compliance) -> None:
    sent = [entry(metadata={"i": i}, created_at_us=5_000_000) for i in range(30)]
    await compliance.append(GATEWAY, batch(*sent))
    assert [r.metadata["i"] for r in await own_records(compliance)] == list(range(30))


async def test_unreadable_questions(compliance: Compliance) -> None:
    for query in ({"cursor": "x"}, {"cursor": "cGV0ZXI"}, {"from_": "yesterday"}, {"to": "2026-01-01"}):
        with pytest.raises(Invalid):
            await compliance.query(AUDITOR, AuditQuery(**query))


async def test_nobody_reads_another_tenants_log(compliance: Compliance) -> None:
    await compliance.append(GATEWAY, batch(entry(), entry(tenant_id="anonymous")))
    other = person(Role.AUDITOR, "other")
    assert (await compliance.query(other, AuditQuery())).items == []
    for tenant in ("acme", "anonymous", "nobody"):
        with pytest.raises(Forbidden):
            await compliance.query(other, AuditQuery(tenant_id=tenant))
    operator = person(Role.OPERATOR, "system")
    assert len((await compliance.query(operator, AuditQuery(tenant_id="anonymous"))).items) == 1
    with pytest.raises(Forbidden):
        await compliance.query(operator, AuditQuery(tenant_id="acme"))


async def test_members_don_t_read_the_log(room: Room, compliance: Compliance) -> None:
    if room.wiring == "direct":
        return  # a direct call was checked at the edge it came through
    with pytest.raises(Forbidden):
        await compliance.query(MEMBER, AuditQuery())


# ---- evidence


async def test_a_checkpoint_covers_the_log_and_is_signed(compliance: Compliance, room: Room) -> None:
    await compliance.append(GATEWAY, batch(*(entry() for _ in range(300))))
    checkpoint = await compliance.checkpoint(AUDITOR, LogQuery())
    key = parse_key(checkpoint.public_key)
    head = parse_checkpoint(verify_note(checkpoint.checkpoint, [key]).text)
    assert (head.origin, head.size, head.root.hex()) == (key.name, checkpoint.tree_size, checkpoint.root)
    assert head.origin == "sealwire.local/audit/acme"
    assert head.size >= 300
    assert await compliance.checkpoint(AUDITOR, LogQuery()) == checkpoint, "nothing came since"
    report = verify_export(await room.lines(), checkpoints=[checkpoint.checkpoint], keys=[key])
    assert (report.ok, report.covered) == (True, head.size)


async def test_proofs(compliance: Compliance, room: Room) -> None:
    roots = {}
    for count in (1, 255, 1, 300):
        await compliance.append(GATEWAY, batch(*(entry() for _ in range(count))))
        checkpoint = await compliance.checkpoint(AUDITOR, LogQuery())
        roots[checkpoint.tree_size] = bytes.fromhex(checkpoint.root)
    bodies = [r.body for first in (1, 257, 513) for r in await room.inner.stores.audit.records("acme", first, 256)]
    for size, root in roots.items():
        for seq in {1, 2, 200, 256, 257, size} & set(range(1, size + 1)):
            proof = await compliance.inclusion(AUDITOR, InclusionQuery(seq=seq, tree_size=size))
            hashes = [bytes.fromhex(h) for h in proof.hashes]
            assert (proof.leaf_index, proof.tree_size) == (seq - 1, size)
            verify_inclusion(seq - 1, size, leaf_hash(bodies[seq - 1]), hashes, root)
        for older, older_root in roots.items():
            if older <= size:
                proof = await compliance.consistency(AUDITOR, ConsistencyQuery(from_=older, to=size))
                verify_consistency(older, size, older_root, root, [bytes.fromhex(h) for h in proof.hashes])
    newest = await compliance.inclusion(AUDITOR, InclusionQuery(seq=3))
    assert newest.tree_size == max(roots)
    with pytest.raises(AuditRangeEmpty):
        await compliance.inclusion(AUDITOR, InclusionQuery(seq=10_000))
    with pytest.raises(AuditRangeEmpty):
        await compliance.inclusion(AUDITOR, InclusionQuery(seq=5, tree_size=4))
    with pytest.raises(AuditRangeEmpty):
        await compliance.consistency(AUDITOR, ConsistencyQuery(from_=1, to=10_000))
    with pytest.raises(Invalid):
        await compliance.consistency(AUDITOR, ConsistencyQuery(from_=5, to=4))


async def test_verification(compliance: Compliance) -> None:
    empty = await compliance.verify(AUDITOR, VerifyQuery())
    assert (empty.ok, empty.records) == (True, 0)
    await compliance.append(GATEWAY, batch(*(entry() for _ in range(280))))
    whole = await compliance.verify(AUDITOR, VerifyQuery())
    assert (whole.ok, whole.first_bad_seq, whole.fault) == (True, None, None)
    assert whole.records >= 280
    assert len(whole.root) == 64
    assert "sealwire.local/audit/acme" in whole.checkpoint
    part = await compliance.verify(AUDITOR, VerifyQuery(from_seq=200, to_seq=270))
    assert (part.ok, part.records) == (True, 71)
    with pytest.raises(Invalid):
        await compliance.verify(AUDITOR, VerifyQuery(from_seq=5, to_seq=4))
    with pytest.raises(AuditRangeEmpty):
        await compliance.verify(AUDITOR, VerifyQuery(from_seq=10_000))


async def test_a_long_verification_is_a_job(compliance: Compliance) -> None:
    await compliance.append(GATEWAY, batch(*(entry() for _ in range(700))))
    begun = await compliance.verify(AUDITOR, VerifyQuery())
    assert begun.job_id
    assert begun.progress < 1
    assert not begun.ok
    same = await compliance.verify(AUDITOR, VerifyQuery())
    for _ in range(100_000):
        if (job := await compliance.verify_job(AUDITOR, begun.job_id)).progress == 1:
            break
        await asyncio.sleep(0)
    assert (job.ok, job.fault, job.job_id) == (True, None, begun.job_id)
    assert job.records >= 700
    assert same.job_id
    with pytest.raises(NotFound):
        await compliance.verify_job(person(Role.AUDITOR, "other"), begun.job_id)
    with pytest.raises(NotFound):
        await compliance.verify_job(AUDITOR, "nothing")


# ---- consents, policies, holds


async def test_consents_have_a_history(compliance: Compliance, room: Room) -> None:
    for version in ("1", "1", "2"):
        given = await compliance.consent(MEMBER, NewConsent(purpose="newsletter", policy_version=version))
        room.clock.advance(1)
    assert (given.subject_id, given.withdrawn_at) == ("anna", None)
    await compliance.consent(MEMBER, NewConsent(purpose="research", policy_version="7"))
    await compliance.withdraw(MEMBER, "newsletter")
    with pytest.raises(NotFound):
        await compliance.withdraw(MEMBER, "newsletter")
    with pytest.raises(NotFound):
        await compliance.withdraw(person(Role.MEMBER, name="ben"), "research")
    first = await compliance.consents(MEMBER, Page(limit=2))
    rest = await compliance.consents(MEMBER, Page(limit=2, cursor=first.next_cursor))
    items = first.items + rest.items
    assert [(c.purpose, c.policy_version, c.withdrawn_at is None) for c in items] == [
        ("newsletter", "1", False),
        ("newsletter", "2", False),
        ("research", "7", True),
    ]
    assert rest.next_cursor is None
    assert (await compliance.consents(person(Role.MEMBER, name="ben"), Page())).items == []
    compliance = await room.again()
    actions = [r.action for r in await all_records(compliance, resource_type="consent")]
    assert actions == ["consent.given", "consent.given", "consent.given", "consent.withdrawn"]


async def test_no_consent_is_taken_that_could_not_be_withdrawn(compliance: Compliance) -> None:
    for purpose in ("a/b", "/", ".", "..", "a\0b"):  # it is a segment of the path to withdraw it (GDPR Art. 7(3))
        with pytest.raises(Invalid) as refused:
            await compliance.consent(MEMBER, NewConsent(purpose=purpose, policy_version="1"))
        assert refused.value.extra["path"] == "$.purpose"
    assert (await compliance.consents(MEMBER, Page())).items == []


async def test_retention_policies(compliance: Compliance, room: Room) -> None:
    await compliance.set_policy(ADMIN, "messages", NewRetentionPolicy(keep_days=30))
    await compliance.set_policy(ADMIN, "media", NewRetentionPolicy(keep_days=0, action="delete"))
    changed = await compliance.set_policy(ADMIN, "messages", NewRetentionPolicy(keep_days=60, action="tombstone"))
    assert (changed.keep_days, changed.action, changed.updated_at[:4]) == (60, "tombstone", "2026")
    with pytest.raises(Invalid, match="Only messages leave tombstones"):
        await compliance.set_policy(ADMIN, "media", NewRetentionPolicy(keep_days=1, action="tombstone"))
    with pytest.raises(Invalid):
        await compliance.set_policy(ADMIN, "houses", NewRetentionPolicy(keep_days=1))
    items = (await compliance.policies(ADMIN, Page())).items
    assert [(p.resource_type, p.keep_days) for p in items] == [("media", 0), ("messages", 60)]
    page = await compliance.policies(ADMIN, Page(limit=1))
    assert (await compliance.policies(ADMIN, Page(limit=1, cursor=page.next_cursor))).items == items[1:]
    assert (await compliance.policies(person(Role.ADMIN, "other"), Page())).items == []
    await compliance.remove_policy(ADMIN, "media")
    with pytest.raises(NotFound):
        await compliance.remove_policy(ADMIN, "media")
    compliance = await room.again()
    records = await all_records(compliance, resource_type="retention_policy")
    assert [r.action.split(".")[1] for r in records] == ["policy_set", "policy_set", "policy_set", "policy_removed"]


async def test_holds(compliance: Compliance, room: Room) -> None:
    person_hold = await compliance.hold(ADMIN, NewHold(reason="case 7", subject_id="ben"))
    await compliance.hold(ADMIN, NewHold(reason="case 8", conversation_id="c1"))
    for wrong in (NewHold(reason="x"), NewHold(reason="x", subject_id="a", conversation_id="b")):
        with pytest.raises(Invalid):
            await compliance.hold(ADMIN, wrong)
    assert [h.reason for h in (await compliance.holds(ADMIN, Page())).items] == ["case 7", "case 8"]
    store = room.inner.stores.holds
    assert await store.covers("acme", subject_id="ben")
    assert await store.covers("acme", conversation_id="c1")
    assert not await store.covers("acme", subject_id="anna")
    assert not await store.covers("other", subject_id="ben")
    assert (await compliance.holds(person(Role.ADMIN, "other"), Page())).items == []
    with pytest.raises(NotFound):
        await compliance.release(person(Role.ADMIN, "other"), person_hold.hold_id)
    await compliance.release(ADMIN, person_hold.hold_id)
    with pytest.raises(NotFound):
        await compliance.release(ADMIN, person_hold.hold_id)
    compliance = await room.again()
    records = await all_records(compliance, resource_type="hold")
    asked = [r.action for r in records if r.action in ("hold.put", "hold.released")]
    assert asked == ["hold.put", "hold.put", "hold.released"]
    assert b"case 7" not in b"".join(await room.lines())
