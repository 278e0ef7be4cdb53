"""The rights of people over the contract: who may ask, what comes of it, what a crash in between leaves."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import json
import time
import zipfile
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest

from sealwire.contracts import accountability
from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry, AuditQuery, VerifyQuery
from sealwire.contracts.consents import NewConsent
from sealwire.contracts.crypto_terms import KeyUnusable
from sealwire.contracts.custody import OwnersOnly, SubjectErased
from sealwire.contracts.gdpr import (
    ExportGone,
    ExportNotReady,
    GdprJob,
    JobNotFound,
    JobQuery,
    NewErasure,
    NewExport,
    NewRectification,
    NewRestriction,
    PersonChanges,
    PersonNotFound,
)
from sealwire.contracts.holds import HoldPending, LegalHold, NewHold
from sealwire.contracts.users import LastOwner
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.permission import Role
from sealwire.kit.problem import Conflict, Forbidden, Invalid, NotFound, Unavailable
from sealwire.services.compliance.boxes import scope_of
from sealwire.services.compliance.certificates import digest, read_certificate
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.deadlines import a_month_after
from sealwire.services.compliance.erasures import LONGEST_PAUSE_S
from sealwire.services.compliance.notes import NoteInvalid, parse_key
from sealwire.services.compliance.routes import routes
from sealwire.testing.clock import ManualClock
from sealwire.testing.compliance import open_compliance
from sealwire.testing.custody import MemoryCustody
from sealwire.testing.wirings import WIRINGS, open_wiring

TENANT = "tenant-a"
AGNES = "agnes-1"
QUICK = ComplianceConfig(job_retry_base_s=0.01, job_retry_cap_s=0.02, relay_wait_s=0.01)
WORD = "Zwetschgenknödel"


def person(subject: str, role: Role = Role.MEMBER) -> Caller:
    now_s = int(time.time())
    return Caller(
        principal=Principal(
            kind="user", tenant_id=TENANT, subject=subject, role=role, auth_time_s=now_s, session_id="s"
        )
    )


ADMIN = person("admin-1", Role.ADMIN)
ME, OWNER, AUDITOR, OTHER = person(AGNES), person("owner-1", Role.OWNER), person("aud-1", Role.AUDITOR), person("m-2")


def people() -> dict[str, MemoryCustody]:
    auth, messaging = MemoryCustody(), MemoryCustody()
    for name, mail in ((AGNES, "agnes.quill@example.org"), ("owner-1", "o@example.org"), ("m-2", "m@example.org")):
        auth.put(TENANT, name, "profile", name, email=mail, display_name=f"{name} Quillfeather")
        for number in range(7):
            messaging.put(
                TENANT, name, "message", f"{name}-{number}", body=f"{number} {WORD if name == AGNES else name}"
            )
    return {"auth": auth, "messaging": messaging}


class Room:
    def __init__(self, opened, service, there) -> None:
        self.opened, self.service, self.there = opened, service, there

    async def done(self, job: GdprJob, who: Caller = OWNER) -> GdprJob:
        async with asyncio.timeout(20):
            await self.opened.service.rights.runner.settled(job.job_id)
        look = getattr(self.service, f"{job.kind}_job")
        return await look(who, job.job_id)


@asynccontextmanager
async def opened(folder, *, wiring="direct", there=None, **more):
    there = people() if there is None else there
    folder.mkdir(exist_ok=True)
    async with open_compliance(folder, custodians=there, **{"config": QUICK, **more}) as room:
        service = open_wiring(wiring, room.service, accountability.OPERATIONS, routes)
        yield Room(room, service, there)


@pytest.fixture(params=WIRINGS)
async def room(request, tmp_path):
    async with opened(tmp_path / "data", wiring=request.param) as made:
        yield made


async def test_an_erasure_ends_in_a_certificate_that_the_log_names(room):
    await room.service.consent(ME, NewConsent(purpose="news", policy_version="1"))
    asked = await room.service.request_erasure(ME, NewErasure(reason="leaving"))
    assert asked.status in {"pending", "running"}
    done = await room.done(asked)
    assert (done.status, done.progress, done.problem) == ("done", 1.0, None)
    assert room.there["messaging"].things[TENANT, AGNES] == []
    statement = read_certificate(done.certificate, [parse_key(done.public_key)])
    assert statement["subject_id"] == AGNES
    counts = {part["where"]: part["counts"] for part in statement["erased"]}
    assert (counts["auth"], counts["messaging"]) == ({"profile": 1}, {"message": 7})
    assert counts["compliance"]["consent"] == 1
    assert statement["probe"]["found"] == 0
    assert statement["probe"]["texts"] >= 3
    assert "agnes.quill" not in done.certificate
    log = await until_recorded(room, "gdpr.erasure.completed")
    assert log.metadata["certificate_sha256"] == done.certificate_sha256 == digest(done.certificate)
    with pytest.raises(NoteInvalid):
        read_certificate(done.certificate.replace(AGNES, "agnes-2"), [parse_key(done.public_key)])


async def until_recorded(room, action: str):
    async with asyncio.timeout(10):
        while not (found := (await room.service.query(OWNER, AuditQuery(action=action))).items):  # noqa: ASYNC110 - the log tells nobody
            await asyncio.sleep(0.01)
    return found[0]


def entry(audit_id: str, subject_id: str, **personal: str) -> AuditEntry:
    return AuditEntry(
        audit_id=audit_id, tenant_id=TENANT, actor=Actor(type="user", id=subject_id), action="auth.login",
        resource_type="session", personal=personal, subject_id=subject_id,
    )  # fmt: skip


async def test_records_stay_proven_and_forget_the_person(room):
    gateway = service_caller("gateway", TENANT)
    records = [entry("a-1", AGNES, ip_address="203.0.113.77"), entry("a-2", "m-2", ip_address="203.0.113.78")]
    await room.service.append(gateway, AuditBatch(records=records))
    await room.done(await room.service.request_erasure(ME, NewErasure()))
    late = entry("a-3", AGNES, ip_address="203.0.113.79")
    assert (await room.service.append(gateway, AuditBatch(records=[late]))).accepted == 1
    assert (await room.service.append(gateway, AuditBatch(records=[late, records[0]]))).duplicates == 2
    shown = {r.audit_id: r for r in (await room.service.query(OWNER, AuditQuery(action="auth.login"))).items}
    assert shown["a-1"].metadata["ip_address"] == shown["a-3"].metadata["ip_address"] == "erased"
    assert shown["a-2"].metadata["ip_address"] == "203.0.113.78"
    assert (await room.service.verify(AUDITOR, VerifyQuery())).ok


async def test_who_may_ask_and_look(room):
    with pytest.raises(Forbidden):
        await room.service.request_erasure(OTHER, NewErasure(subject_id=AGNES))
    with pytest.raises(Forbidden):
        await room.service.request_export(AUDITOR, NewExport(subject_id=AGNES))
    with pytest.raises(PersonNotFound):
        await room.service.request_export(OWNER, NewExport(subject_id="nobody-1"))
    mine = await room.service.request_export(ME, NewExport())
    for who in (ME, OWNER, AUDITOR):
        assert (await room.service.export_job(who, mine.job_id)).job_id == mine.job_id
        assert [job.job_id for job in (await room.service.gdpr_jobs(who, JobQuery())).items] == [mine.job_id]
    with pytest.raises(JobNotFound):
        await room.service.export_job(OTHER, mine.job_id)
    with pytest.raises(JobNotFound):
        await room.service.erasure_job(ME, mine.job_id)
    assert (await room.service.gdpr_jobs(OTHER, JobQuery())).items == []
    assert (await room.service.gdpr_jobs(OTHER, JobQuery(subject_id=AGNES))).items == []


async def test_erasing_twice_is_one_erasure(room):
    first = await room.service.request_erasure(ME, NewErasure())
    second = await room.service.request_erasure(OWNER, NewErasure(subject_id=AGNES))
    done = await room.done(first)
    third = await room.service.request_erasure(OWNER, NewErasure(subject_id=AGNES))
    assert first.job_id == second.job_id == third.job_id
    assert third.certificate == done.certificate


async def test_a_hold_stands_against_it(room):
    await room.there["messaging"].put_hold(service_caller("compliance", TENANT), "h", _placement(AGNES))
    with pytest.raises(LegalHold):
        await room.service.request_erasure(ME, NewErasure())
    assert room.there["auth"].things[TENANT, AGNES]


async def test_a_hold_that_comes_later_blocks_until_it_is_released(room):
    calls, messaging = 0, room.there["messaging"]
    erase, compliance = messaging.erase_subject, service_caller("compliance", TENANT)

    async def hold_first(caller, subject_id, erasure) -> SubjectErased:
        nonlocal calls
        if not erasure.check_only:
            calls += 1
            if calls == 1:
                await messaging.put_hold(compliance, "h", _placement(AGNES))
        return await erase(caller, subject_id, erasure)

    messaging.erase_subject = hold_first
    asked = await room.service.request_erasure(ME, NewErasure())
    async with asyncio.timeout(10):
        while (job := await room.service.erasure_job(OWNER, asked.job_id)).status != "blocked":  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    assert job.problem == "legal_hold"
    await messaging.release_hold(compliance, "h")
    assert (await room.done(asked)).status == "done"


def _placement(subject_id: str):
    from sealwire.contracts.custody import HoldPlacement

    return HoldPlacement(subject_id=subject_id)


async def test_the_last_owner_stays(room):
    async def refuse(caller, subject_id, erasure):
        raise LastOwner

    room.there["auth"].erase_subject = refuse
    with pytest.raises(LastOwner):
        await room.service.request_erasure(OWNER, NewErasure())


async def test_an_export_is_a_zip_that_is_fetched_once(tmp_path):
    async with opened(tmp_path / "data") as room:
        service = room.opened.service
        await service.consent(ME, NewConsent(purpose="news", policy_version="1"))
        done = await room.done(await service.request_export(ME, NewExport()), ME)
        assert done.status == "done"
        assert done.download == f"/api/v1/compliance/gdpr/exports/{done.job_id}/download"
        for path in (tmp_path / "data-exports").rglob("*"):
            assert not path.is_file() or WORD.encode() not in path.read_bytes()
        with pytest.raises(Forbidden):
            await service.download(OWNER, done.job_id)
        key = await room.opened.keys.sealing_key(TENANT, scope_of(done.job_id), "")
        size, parts = await service.download(ME, done.job_id)
        body = b"".join([part async for part in parts])
        assert len(body) == size == done.size_bytes
        with pytest.raises(KeyUnusable):
            await room.opened.keys.key_by_id(TENANT, scope_of(done.job_id), "", key.key_id)
        with pytest.raises(ExportGone):
            await service.download(ME, done.job_id)
        assert [p for p in (tmp_path / "data-exports").rglob("*") if p.is_file()] == []
    archive = zipfile.ZipFile(io.BytesIO(body))
    assert archive.testzip() is None
    manifest = json.loads(archive.read("manifest.json"))
    assert {line["path"] for line in manifest["files"]} == set(archive.namelist()) - {"manifest.json"}
    for line in manifest["files"]:
        content = archive.read(line["path"])
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (line["sha256"], line["size_bytes"])
    messages = json.loads(archive.read("messaging/message.json"))
    assert [m["id"] for m in messages] == [f"{AGNES}-{n}" for n in range(7)]
    assert json.loads(archive.read("auth/profile.json"))[0]["email"] == "agnes.quill@example.org"
    assert json.loads(archive.read("compliance/consent.json"))[0]["purpose"] == "news"


async def test_two_who_come_at_once_don_t_both_get_it(tmp_path):
    async with opened(tmp_path / "data") as room:
        service = room.opened.service
        done = await room.done(await service.request_export(ME, NewExport()), ME)
        _, broken_off = await service.download(ME, done.job_id)
        with pytest.raises(ExportNotReady):
            await service.download(ME, done.job_id)
        await broken_off.aclose()
        size, parts = await service.download(ME, done.job_id)
        assert sum([len(part) async for part in parts]) == size
        with pytest.raises(ExportGone):
            await service.download(ME, done.job_id)


async def test_who_has_all_of_it_hears_that_it_is_gone_at_once(tmp_path):
    async with opened(tmp_path / "data") as room:
        service = room.opened.service
        done = await room.done(await service.request_export(ME, NewExport()), ME)
        size, parts = await service.download(ME, done.job_id)
        taken = 0

        async def take() -> None:
            nonlocal taken
            async for part in parts:
                taken += len(part)

        taking = asyncio.create_task(take())
        async with asyncio.timeout(20):
            while taken < size:  # noqa: ASYNC110 - the next turn of the loop is what is meant
                await asyncio.sleep(0)
        assert not taking.done(), "its key is being destroyed"
        with pytest.raises(ExportGone):
            await service.download(ME, done.job_id)
        await taking
        with pytest.raises(ExportGone):
            await service.download(ME, done.job_id)


async def test_who_lost_the_right_to_it_does_not_fetch_it(tmp_path):
    async with opened(tmp_path / "data") as room:
        service = room.opened.service
        done = await room.done(await service.request_export(OWNER, NewExport(subject_id=AGNES)))
        with pytest.raises(Forbidden):
            await service.download(person(OWNER.user_id, Role.MEMBER), done.job_id)
        _, parts = await service.download(OWNER, done.job_id)
        await parts.aclose()


async def test_an_export_that_is_not_fetched_goes_with_its_time(tmp_path):
    clock = ManualClock()
    async with opened(tmp_path / "data", clock=clock) as room:
        service = room.opened.service
        done = await room.done(await service.request_export(ME, NewExport()), ME)
        clock.advance(73 * 3600)
        with pytest.raises(ExportGone):
            await service.download(ME, done.job_id)
        await service.rights.exports.sweep()
        assert [p for p in (tmp_path / "data-exports").rglob("*") if p.is_file()] == []
        assert (await service.export_job(ME, done.job_id)).download is None


async def test_rectification_reaches_every_service(room):
    changes = PersonChanges(display_name="Agnes Hill")
    done = await room.done(await room.service.request_rectification(ME, NewRectification(changes=changes)))
    assert done.status == "done"
    assert room.there["auth"].things[TENANT, AGNES][0].data["display_name"] == "Agnes Hill"
    assert [receipt.service for receipt in done.receipts] == ["auth", "messaging", "compliance"]


async def test_only_an_owner_changes_an_owner(room):
    room.there["auth"].things[TENANT, "owner-1"][0].data["role"] = "owner"
    changes = PersonChanges(email="mine-now@example.org")
    for act in (
        room.service.request_rectification(ADMIN, NewRectification(subject_id="owner-1", changes=changes)),
        room.service.request_erasure(ADMIN, NewErasure(subject_id="owner-1")),
        room.service.restrict(ADMIN, NewRestriction(subject_id="owner-1", reason="because")),
        room.service.lift_restriction(ADMIN, "owner-1"),
    ):
        with pytest.raises(Forbidden):
            await act
    assert room.there["auth"].things[TENANT, "owner-1"][0].data["email"] == "o@example.org"
    for who, subject in ((ADMIN, AGNES), (OWNER, None), (person("owner-2", Role.OWNER), "owner-1")):
        asked = NewRectification(subject_id=subject, changes=PersonChanges(display_name="As it is"))
        assert (await room.done(await room.service.request_rectification(who, asked))).status == "done"


async def test_who_is_made_an_owner_meanwhile_is_not_changed_by_an_admin(room):
    """Auth looks at the role as it writes; what is asked says that it has to."""
    auth, told = room.there["auth"], []

    def refusing(kind):
        async def refuse(caller, subject_id, change):
            told.append((kind, change.spares_owners))
            if change.spares_owners and not getattr(change, "check_only", False):
                raise OwnersOnly
            return await before[kind](caller, subject_id, change)

        return refuse

    kinds = ("erase_subject", "rectify_subject", "restrict_subject")
    before = {kind: getattr(auth, kind) for kind in kinds}
    for kind in kinds:
        setattr(auth, kind, refusing(kind))
    asked = NewRectification(subject_id="m-2", changes=PersonChanges(display_name="Mine"))
    done = await room.done(await room.service.request_rectification(ADMIN, asked))
    assert (done.status, done.problem) == ("failed", "owners_only")
    with pytest.raises(OwnersOnly):
        await room.service.restrict(ADMIN, NewRestriction(subject_id="m-2", reason="because"))
    assert (await room.service.restrictions(OWNER, Page())).items == [], "what is not in force is not listed"
    assert (TENANT, "m-2") not in room.there["messaging"].restricted
    done = await room.done(await room.service.request_erasure(ADMIN, NewErasure(subject_id="m-2")))
    assert (done.status, done.problem) == ("failed", "owners_only")
    assert {kind for kind, spares in told if spares} == set(kinds)
    told.clear()
    await room.service.restrict(OWNER, NewRestriction(subject_id="m-2", reason="because"))
    await room.service.lift_restriction(OWNER, "m-2")
    own = NewRectification(changes=PersonChanges(display_name="Mine"))
    assert (await room.done(await room.service.request_rectification(ME, own))).status == "done"
    assert told == [("restrict_subject", False)] * 2 + [("rectify_subject", False)]


async def test_a_restriction_that_a_crash_cut_short_spares_who_became_an_owner(tmp_path):
    """What is told again at the next start is told as who asked for it might have it told."""
    there = people()
    auth, told = there["auth"], []
    restrict = auth.restrict_subject

    async def crash(caller, subject_id, restriction):
        raise Conflict("it is written down, and nobody was told: as after a crash")

    async def owners(caller, subject_id, restriction):
        told.append((subject_id, restriction.restricted, restriction.spares_owners))
        if restriction.restricted and restriction.spares_owners and subject_id == "m-2":
            raise OwnersOnly
        await restrict(caller, subject_id, restriction)

    auth.restrict_subject = crash
    async with opened(tmp_path / "data", there=there) as room:
        for who, subject in ((ADMIN, "m-2"), (ADMIN, AGNES), (OWNER, "owner-1")):
            with pytest.raises(Conflict):
                await room.service.restrict(who, NewRestriction(subject_id=subject, reason="because"))
    auth.restrict_subject = owners
    async with opened(tmp_path / "data", there=there) as room, asyncio.timeout(20):
        while len({subject for subject, *_ in told}) < 3 or "m-2" in await listed(room):  # noqa: ASYNC110 - asking is it
            await asyncio.sleep(0.01)
        assert ("owner-1", True, False) in told, "an owner asked for that one"
        assert {("m-2", True, True), (AGNES, True, True)} <= set(told)
        assert await listed(room) == {AGNES, "owner-1"}, "what is not in force is not listed"
        in_force = {(TENANT, AGNES), (TENANT, "owner-1")}
        while there["messaging"].restricted != in_force:  # noqa: ASYNC110 - looking is it
            await asyncio.sleep(0.01)


async def listed(room) -> set[str]:
    return {restriction.subject_id for restriction in (await room.service.restrictions(OWNER, Page())).items}


def test_an_address_that_is_put_right_is_an_address():
    for text in ("agnes", "agnes@", "a@b@example.org", "agnes@example.org\r\nBcc: all@example.org"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"email": text}, PersonChanges)


async def test_restriction_stops_processing_and_keeps(room):
    new = NewRestriction(subject_id=AGNES, reason="accuracy is contested")
    for _ in range(2):
        assert (await room.service.restrict(OWNER, new)).reason == "accuracy is contested"
    assert (TENANT, AGNES) in room.there["messaging"].restricted
    (listed,) = (await room.service.restrictions(OWNER, Page())).items
    assert (listed.subject_id, listed.restricted_by) == (AGNES, "owner-1")
    await room.service.lift_restriction(OWNER, AGNES)
    assert room.there["messaging"].restricted == set()
    with pytest.raises(NotFound):
        await room.service.lift_restriction(OWNER, AGNES)


async def test_what_was_under_way_goes_on_after_a_restart(tmp_path):
    there = people()
    messaging = there["messaging"]
    erase, reached = messaging.erase_subject, asyncio.Event()

    async def stuck(caller, subject_id, erasure):
        if not erasure.check_only:
            reached.set()
            raise Unavailable("not now")
        return await erase(caller, subject_id, erasure)

    messaging.erase_subject = stuck
    async with opened(tmp_path / "data", there=there) as room:
        asked = await room.service.request_erasure(ME, NewErasure())
        await asyncio.wait_for(reached.wait(), 10)
    messaging.erase_subject = erase
    async with opened(tmp_path / "data", there=there) as room:
        done = await room.done(asked)
        assert done.status == "done"
        statement = read_certificate(done.certificate, [parse_key(done.public_key)])
        assert statement["probe"]["texts"] >= 3, "what the probe looks for outlives the restart"


async def test_an_export_is_written_anew_after_a_restart(tmp_path):
    there = people()
    messaging = there["messaging"]
    export, reached = messaging.export_subject, asyncio.Event()

    async def stuck(caller, subject_id, query):
        reached.set()
        await asyncio.Event().wait()

    messaging.export_subject = stuck
    async with opened(tmp_path / "data", there=there) as room:
        asked = await room.service.request_export(ME, NewExport())
        await asyncio.wait_for(reached.wait(), 10)
        assert 0 < (await room.service.export_job(ME, asked.job_id)).progress < 1
    messaging.export_subject = export
    async with opened(tmp_path / "data", there=there) as room:
        done = await room.done(asked, ME)
        _, parts = await room.opened.service.download(ME, done.job_id)
        archive = zipfile.ZipFile(io.BytesIO(b"".join([part async for part in parts])))
        assert archive.testzip() is None
        assert len(json.loads(archive.read("messaging/message.json"))) == 7


async def test_what_is_left_keeps_it_open(tmp_path):
    there = people()
    async with opened(tmp_path / "data", there=there) as room:
        leaky = there["messaging"]
        probe, looked = leaky.probe_subject, 0

        async def find_once(caller, subject_id, asked):
            nonlocal looked
            looked += 1
            found = await probe(caller, subject_id, asked)
            return type(found)(places={"left": 1}) if looked == 1 else found

        leaky.probe_subject = find_once
        done = await room.done(await room.service.request_erasure(ME, NewErasure()))
        assert (done.status, looked) == ("done", 2)


async def test_other_addresses_are_looked_for_and_shown_to_nobody(tmp_path):
    there, asked_for = people(), set()
    auth = there["auth"]
    (profile,) = auth.things[TENANT, AGNES]
    auth.things[TENANT, AGNES] = [msgspec.structs.replace(profile, telling=["old@agnes.example"])]
    probe = auth.probe_subject

    async def listen(caller, subject_id, asked):
        asked_for.update(asked.words)
        return await probe(caller, subject_id, asked)

    auth.probe_subject = listen
    async with opened(tmp_path / "data", there=there) as room:
        exported = await room.done(await room.service.request_export(ME, NewExport()), ME)
        _, parts = await room.opened.service.download(ME, exported.job_id)
        archive = zipfile.ZipFile(io.BytesIO(b"".join([part async for part in parts])))
        assert b"old@agnes.example" not in archive.read("auth/profile.json")
        assert (await room.done(await room.service.request_erasure(ME, NewErasure()))).status == "done"
        assert {"old@agnes.example", "agnes.quill@example.org"} <= asked_for


async def test_due_in_a_month_then_overdue(tmp_path):
    clock = ManualClock()
    there = people()

    async def never(*_):
        raise Unavailable("not now")

    there["messaging"].rectify_subject = never
    async with opened(tmp_path / "data", clock=clock, there=there) as room:
        new = NewRectification(changes=PersonChanges(display_name="A"))
        asked = await room.service.request_rectification(ME, new)
        assert not asked.overdue
        assert (await room.service.gdpr_jobs(OWNER, JobQuery(overdue=True))).items == []
        clock.advance(32 * 86_400)
        (late,) = (await room.service.gdpr_jobs(OWNER, JobQuery(overdue=True))).items
        assert late.overdue


@pytest.mark.parametrize(
    ("asked", "due"),
    [("2026-01-31", "2026-02-28"), ("2028-01-31", "2028-02-29"), ("2026-12-05", "2027-01-05")],
)
def test_a_month_is_a_calendar_month(asked, due):
    def micros(day: str) -> int:
        return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000 + 7

    assert a_month_after(micros(asked)) == micros(due)


async def test_a_rectification_names_something(room):
    with pytest.raises((Invalid, ValueError)):
        await room.service.request_rectification(ME, NewRectification(changes=PersonChanges()))


async def test_what_can_not_be_removed_is_certified_as_found(tmp_path):
    there = people()
    async with opened(tmp_path / "data", there=there) as room:
        leaky = there["messaging"]
        probe = leaky.probe_subject

        async def always(caller, subject_id, asked):
            return type(await probe(caller, subject_id, asked))(places={"left": 2})

        leaky.probe_subject = always
        done = await room.done(await room.service.request_erasure(ME, NewErasure()))
        assert (done.status, done.problem) == ("done", "erasure_incomplete")
        statement = read_certificate(done.certificate, [parse_key(done.public_key)])
        assert statement["probe"]["found"] == 2


async def test_what_lies_in_any_file_of_the_installation_is_found(tmp_path):
    async with opened(tmp_path / "data") as room:
        (tmp_path / "data" / "left.log").write_text("to agnes.quill@example.org")
        done = await room.done(await room.service.request_erasure(ME, NewErasure()))
        assert (done.status, done.problem) == ("done", "erasure_incomplete")
        statement = read_certificate(done.certificate, [parse_key(done.public_key)])
        assert (statement["probe"]["places"]["data.files"], statement["probe"]["found"]) == (1, 1)


async def test_what_comes_late_of_an_erased_person_is_readable_to_nobody_after_a_restart_too(tmp_path):
    async with opened(tmp_path / "data") as room:
        assert (await room.done(await room.service.request_erasure(ME, NewErasure()))).status == "done"
    async with opened(tmp_path / "data") as room:
        late = entry("late", AGNES, ip_address="203.0.113.9")
        await room.service.append(service_caller("gateway", TENANT), AuditBatch(records=[late]))
        assert (await until_recorded(room, late.action)).metadata["ip_address"] == "erased"


async def test_no_step_begins_while_a_hold_is_being_placed(tmp_path):
    """Not every service has it yet: the next one would still erase."""
    there = {**people(), "media": MemoryCustody()}
    there["media"].put(TENANT, AGNES, "file", "f-1", name="letter.txt")
    erase, reached, go_on = there["messaging"].erase_subject, asyncio.Event(), asyncio.Event()

    async def slow(caller, subject_id, erasure):
        if not erasure.check_only:
            reached.set()
            await go_on.wait()
        return await erase(caller, subject_id, erasure)

    async def silent(*_):
        await asyncio.Event().wait()

    there["messaging"].erase_subject = slow
    config = msgspec.structs.replace(QUICK, hold_patience_s=0.1)
    async with opened(tmp_path / "data", there=there, config=config) as room, asyncio.timeout(20):
        job = await room.service.request_erasure(ME, NewErasure())
        await reached.wait()
        there["auth"].put_hold = silent
        with pytest.raises(HoldPending):
            await room.service.hold(OWNER, NewHold(subject_id=AGNES, reason="case 7"))
        go_on.set()
        while job.status != "blocked":
            await asyncio.sleep(0.01)
            job = await room.service.erasure_job(OWNER, job.job_id)
        assert job.problem == "legal_hold"
        assert len(there["media"].things[TENANT, AGNES]) == 1


async def test_a_restriction_that_a_crash_left_half_told_is_told_at_the_next_start(tmp_path):
    there = people()
    messaging = there["messaging"]
    restrict, reached = messaging.restrict_subject, asyncio.Event()

    async def stuck(caller, subject_id, restriction):
        reached.set()
        await asyncio.Event().wait()

    messaging.restrict_subject = stuck
    async with opened(tmp_path / "data", there=there) as room:
        asking = asyncio.create_task(room.service.restrict(OWNER, NewRestriction(subject_id=AGNES, reason="contested")))
        await asyncio.wait_for(reached.wait(), 10)
        asking.cancel()
    assert (TENANT, AGNES) not in messaging.restricted
    messaging.restrict_subject = restrict
    async with opened(tmp_path / "data", there=there), asyncio.timeout(20):
        while (TENANT, AGNES) not in messaging.restricted:  # noqa: ASYNC110 - a set wakes nobody
            await asyncio.sleep(0.01)


async def test_others_have_as_long_between_two_steps_as_a_step_took(tmp_path):
    there = people()
    messaging = there["messaging"]
    erase, spans = messaging.erase_subject, []

    async def slowly(caller, subject_id, erasure):
        began_s = time.monotonic()
        if not erasure.check_only:
            time.sleep(0.02)  # noqa: ASYNC251 - a step that has the loop to itself
            spans.append((began_s, time.monotonic()))
        return await erase(caller, subject_id, msgspec.structs.replace(erasure, limit=1))

    messaging.erase_subject = slowly
    async with opened(tmp_path / "data", there=there) as room:
        assert (await room.done(await room.service.request_erasure(ME, NewErasure()))).status == "done"
    assert len(spans) == 7
    for (began_s, ended_s), (next_s, _) in itertools.pairwise(spans):
        assert next_s - ended_s >= 0.9 * min(ended_s - began_s, LONGEST_PAUSE_S)


async def test_what_a_hold_kept_is_erased_by_another_request(tmp_path):
    there = people()
    async with opened(tmp_path / "data", there=there) as room:
        messaging = there["messaging"]
        erase = messaging.erase_subject

        async def keep(caller, subject_id, erasure):
            return SubjectErased(done=not erasure.check_only, kept={"message": 7})

        messaging.erase_subject = keep
        messaging.probe_subject = there["auth"].probe_subject
        first = await room.done(await room.service.request_erasure(ME, NewErasure()))
        assert read_certificate(first.certificate, [parse_key(first.public_key)])["erased"][1][
            "kept_under_legal_hold"
        ] == {"message": 7}
        messaging.erase_subject = erase
        second = await room.done(await room.service.request_erasure(OWNER, NewErasure(subject_id=AGNES)))
        assert second.job_id != first.job_id
        assert messaging.things[TENANT, AGNES] == []


async def test_an_export_under_way_ends_with_the_person(tmp_path):
    there = people()
    messaging = there["messaging"]
    export, reached, go_on = messaging.export_subject, asyncio.Event(), asyncio.Event()

    async def slow(caller, subject_id, query):
        if not go_on.is_set():
            reached.set()
            await go_on.wait()
        return await export(caller, subject_id, query)

    async with opened(tmp_path / "data", there=there) as room:
        messaging.export_subject = slow
        exporting = await room.service.request_export(ME, NewExport())
        await asyncio.wait_for(reached.wait(), 10)
        messaging.export_subject = export
        await room.done(await room.service.request_erasure(ME, NewErasure()))
        go_on.set()
        ended = await room.done(exporting)
        assert (ended.status, ended.download) == ("failed", None)
        assert [p for p in (tmp_path / "data-exports").rglob("*") if p.is_file()] == []
