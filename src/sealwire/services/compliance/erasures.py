"""Erasing a person: step by step over every service, each with its receipt, then keys, a probe and a certificate.

A step is repeated until its service says that it is done; what is done is stored before the next begins. So a crash
anywhere costs a repetition of what was under way, which changes nothing twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

from msgspec.structs import replace

from sealwire.contracts.custody import SubjectCustody, SubjectErasure, SubjectItem, SubjectProbe, SubjectQuery
from sealwire.contracts.gdpr import Receipt
from sealwire.contracts.holds import Hold, LegalHold
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.problem import Unavailable
from sealwire.services.compliance.boxes import Boxes, JobKeys
from sealwire.services.compliance.certificates import KIND, SERVICE, Certificates
from sealwire.services.compliance.events import job_event
from sealwire.services.compliance.job_ports import Box, RightsStore, StoredJob
from sealwire.services.compliance.sealing import parked_owner

ORDER: Final = ("auth", "messaging", "media", "search", "gateway", "compliance", "crypto")
AUDIT: Final = "audit"
"""The step that destroys the keys of the person's data in audit records."""
MOST_WORDS: Final = 8
MOST_TEXTS: Final = 64
"""That a probe looks for: address, name, words, then other addresses, the newest first."""
LONGEST_PAUSE_S: Final = 0.005
"""Between two calls others have the disk and the loop for as long as the call had them, up to this; where much is
changed, the service rests besides between its own writes."""
MOST_ROUNDS: Final = 5
"""After so many the certificate says what is left, and the job too: repeating helps no more."""
PROBE: Final = "probe"
_WORD: Final = re.compile(r"[^\W\d_]{7,64}")
Custodians = Callable[[], Mapping[str, SubjectCustody]]


class ProbeFound(Unavailable):
    """Something of the person is left: the erasure goes on, and no certificate says that it is over."""

    code, title = "erasure_incomplete", "Something of the person is left"


class Erasures:
    """Runs erasure jobs."""

    def __init__(
        self,
        *,
        store: RightsStore,
        boxes: Boxes,
        keys: JobKeys,
        custodians: Custodians,
        certificates: Certificates,
        forget_person: Callable[[str, str], None],
        count_in_data: Callable[[Sequence[bytes]], Awaitable[int]],
        is_held: Callable[[str, str], Awaitable[bool]],
        holds_on: Callable[[str, Collection[str], Collection[str]], Awaitable[Sequence[Hold]]],
        clock: Clock,
    ) -> None:
        """`is_held` says whether a hold on a person is in compliance's own book, in force or not yet, `holds_on` which
        holds on these conversations, or with these ids, are.
        `forget_person` makes records of a person, from now on, unreadable to everybody; `count_in_data` looks for
        texts in every file of the installation."""
        self._store = store
        self._boxes = boxes
        self._keys = keys
        self._custodians = custodians
        self._certificates = certificates
        self._forget_person = forget_person
        self._count_in_data = count_in_data
        self._is_held = is_held
        self._holds_on = holds_on
        self._steps: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._clock = clock

    async def check(self, tenant_id: str, subject_id: str) -> None:
        """Ask every service whether anything stands against it. Raises: LegalHold, LastOwner, Unavailable."""
        caller = service_caller(SERVICE, tenant_id)
        erasure = SubjectErasure(job_id="check", pseudonym="check", check_only=True)
        for _, custodian in self._in_order():
            await custodian.erase_subject(caller, subject_id, erasure)

    def _step(self, job_id: str) -> asyncio.Lock:
        lock = self._steps.get(job_id)
        if lock is None:
            lock = self._steps[job_id] = asyncio.Lock()
        return lock

    async def between_steps(self, job_id: str) -> None:
        """Return once the step of a job that is under way, if any, is over and its receipt stored."""
        async with self._step(job_id):
            return

    async def between_steps_of(self, tenant_id: str) -> None:
        """Return once the steps that are under way in a tenant are over."""
        for job in await self._store.unfinished():
            if (job.tenant_id, job.kind) == (tenant_id, "erasure"):
                await self.between_steps(job.job_id)

    async def run(self, job: StoredJob) -> StoredJob:
        """Take a job up where it stands and bring it to its end. Raises: LegalHold, what makes services unavailable."""
        box = await self._boxes.open(job)
        if not box.collected:
            box = await self._collect(job, box)
            job = replace(job, box=await self._boxes.seal(job.tenant_id, job.job_id, box))
            await self._store.save(job)
        for name, custodian in self._in_order():
            job = await self._erase_at(job, name, custodian, box)
        job = await self._destroy_audit_keys(job)
        places = await self._probe(job, box)
        rounds = _receipt(job, PROBE).counts.get("rounds", 0) + 1
        async with self._step(job.job_id):  # who releases a hold looks behind it for what was kept
            let_go = await self.let_go(job)
            if (any(places.values()) or let_go) and rounds < MOST_ROUNDS:
                # Begin again with the services: whatever came after their receipts is found by a second round.
                again = tuple(replace(r, done=False) for r in job.receipts if r.service != PROBE)
                told = Receipt(service=PROBE, counts={"rounds": rounds})
                await self._store.save(replace(job, receipts=(*again, told)))
                raise ProbeFound(f"Left of the person: {_found(places)} {sorted(let_go)}.", retry_after_s=5.0)
            return await self._certify(job, box, places)

    async def let_go(self, job: StoredJob) -> set[str]:
        """Return where something was kept under a hold that is released, or being released: conversation or hold."""
        kept_in, kept_by = _kept(job)
        holds = [hold for hold in await self._holds_there(job) if hold.state != "releasing"]
        return (kept_in - {hold.conversation_id for hold in holds}) | (kept_by - {hold.hold_id for hold in holds})

    async def _holds_there(self, job: StoredJob) -> Sequence[Hold]:
        """Return the holds that the receipts name or that are on conversations which they name."""
        kept_in, kept_by = _kept(job)
        return await self._holds_on(job.tenant_id, kept_in, kept_by) if kept_in or kept_by else ()

    def _in_order(self) -> list[tuple[str, SubjectCustody]]:
        there = self._custodians()
        return [(name, there[name]) for name in ORDER if name in there]

    # ---- before: what the probe will look for

    async def _collect(self, job: StoredJob, box: Box) -> Box:
        """Learn the person's e-mail, name and some words of their messages; they leave the job with its end."""
        there, caller = self._custodians(), service_caller(SERVICE, job.tenant_id)
        email, name, words, addresses = None, None, [], list[str]()
        if (auth := there.get("auth")) is not None:
            for item in (await auth.export_subject(caller, job.subject_id, SubjectQuery())).items:
                addresses += item.telling
                if item.kind == "profile":
                    email, name = item.data.get("email"), item.data.get("display_name")
        if (messaging := there.get("messaging")) is not None:
            words = await self._sample(caller, job.subject_id, messaging)
        # A word that the files are full of anyway says nothing about this person; an address always does.
        telling = [*([name] if name else []), *words]
        if await self._count_in_data([word.encode() for word in telling]):
            telling = [word for word in telling if not await self._count_in_data([word.encode()])]
        chosen = tuple(word for word in [*([email] if email else []), *telling, *addresses] if len(word) >= 4)
        return replace(box, email=email, display_name=name, words=chosen[:MOST_TEXTS], collected=True)

    async def _sample(self, caller: Caller, subject_id: str, messaging: SubjectCustody) -> list[str]:
        """Return long words of the person's messages, from the first pages of them."""
        found: dict[str, None] = {}
        cursor: str | None = None
        for _ in range(40):
            page = await messaging.export_subject(caller, subject_id, SubjectQuery(limit=50, cursor=cursor))
            for item in page.items:
                found.update(dict.fromkeys(_WORD.findall(_text(item))))
            cursor = page.next_cursor
            if cursor is None or len(found) >= MOST_WORDS * 8:
                break
        return sorted(found, key=len, reverse=True)[:MOST_WORDS]

    # ---- the steps

    async def _erase_at(self, job: StoredJob, name: str, custodian: SubjectCustody, box: Box) -> StoredJob:
        """Have one service erase, call by call; each call's counts are stored before the next."""
        receipt = _receipt(job, name)
        caller = service_caller(SERVICE, job.tenant_id)
        erasure = SubjectErasure(
            job_id=job.job_id, pseudonym=box.pseudonym or job.job_id, messages=box.messages,
            spares_owners=box.spares_owners,
        )  # fmt: skip
        while not receipt.done:
            began_s = self._clock.monotonic()
            async with self._step(job.job_id):  # a hold that is being placed says what is gone: not half of a step
                if await self._is_held(job.tenant_id, job.subject_id):
                    raise LegalHold("A legal hold covers this person; erasing goes on once it is released.")
                answer = await custodian.erase_subject(caller, job.subject_id, erasure)
                receipt = replace(
                    receipt,
                    done=answer.done,
                    counts=_sum(receipt.counts, answer.erased),
                    kept=answer.kept if answer.done else receipt.kept,  # told with the last call
                    kept_in=answer.kept_in if answer.done else receipt.kept_in,
                    kept_by=answer.kept_by if answer.done else receipt.kept_by,
                    finished_at=rfc3339(self._clock.now_us()) if answer.done else None,
                )
                job = self._with(job, receipt)
                await self._store.save(job)
            await asyncio.sleep(min(self._clock.monotonic() - began_s, LONGEST_PAUSE_S))  # others have had to wait
        return job

    async def _destroy_audit_keys(self, job: StoredJob) -> StoredJob:
        """Make the person's data in audit records unreadable: in those there are, and in those that still come."""
        receipt = _receipt(job, AUDIT)
        if receipt.done:
            return job
        async with self._step(job.job_id):
            if await self._is_held(job.tenant_id, job.subject_id):
                raise LegalHold("A legal hold covers this person; erasing goes on once it is released.")
            await self._store.mark_erased(job.tenant_id, job.subject_id)
            self._forget_person(job.tenant_id, job.subject_id)
            destroyed = await self._keys.destroy(job.tenant_id, subject_id=job.subject_id)
            owner, scope, person = parked_owner(job.tenant_id, job.subject_id)
            destroyed += await self._keys.destroy(owner, scope=scope, subject_id=person)
            counts = _sum(receipt.counts, {"data_key": destroyed})
            receipt = replace(receipt, done=True, counts=counts, finished_at=rfc3339(self._clock.now_us()))
            job = self._with(job, receipt)
            await self._store.save(job)
        return job

    async def _probe(self, job: StoredJob, box: Box) -> dict[str, int]:
        """Look for the person in every service and in every file."""
        caller = service_caller(SERVICE, job.tenant_id)
        probe = SubjectProbe(words=list(box.words))
        places: dict[str, int] = {}
        for name, custodian in self._in_order():
            answer = await custodian.probe_subject(caller, job.subject_id, probe)
            places.update({f"{name}.{place}": count for place, count in answer.places.items()})
        places["data.files"] = await self._count_in_data([word.encode() for word in box.words])
        return places

    # ---- the end

    async def _certify(self, job: StoredJob, box: Box, places: Mapping[str, int]) -> StoredJob:
        now_us = self._clock.now_us()
        statement: dict[str, Any] = {
            "kind": KIND,
            "job_id": job.job_id,
            "tenant_id": job.tenant_id,
            "subject_id": job.subject_id,
            "requested_at": rfc3339(job.requested_us),
            "requested_by": job.requested_by,
            "completed_at": rfc3339(now_us),
            "messages": box.messages,
            "erased": [
                {
                    "where": r.service,
                    "counts": r.counts,
                    "kept_under_legal_hold": r.kept,
                    "kept_in": r.kept_in,
                    "at": r.finished_at,
                }
                for r in job.receipts
                if r.service != PROBE
            ],
            "legal_holds": [
                # Whom a hold on somebody else names is nothing that this person's certificate tells.
                {"hold_id": hold.hold_id, "placed_at": hold.created_at}
                | ({} if hold.conversation_id is None else {"conversation_id": hold.conversation_id})
                for hold in await self._holds_there(job)
            ],
            "probe": {"texts": len(box.words), "places": dict(places), "found": sum(places.values())},
        }
        certificate = await self._certificates.sign(job.tenant_id, statement)
        done = replace(
            job, status="done", progress=1.0, finished_us=now_us, box=None,
            problem=ProbeFound.code if any(places.values()) else None,
            certificate=certificate.note, public_key=certificate.public_key,
        )  # fmt: skip
        event = job_event("gdpr.erasure.completed", done, at_us=now_us, actor="", certificate_sha256=certificate.sha256)
        await self._store.save(done, [event])
        await self._boxes.destroy(job)
        return done

    @staticmethod
    def _with(job: StoredJob, receipt: Receipt) -> StoredJob:
        others = tuple(r for r in job.receipts if r.service != receipt.service)
        receipts = (*others, receipt)
        done = sum(r.done for r in receipts)
        return replace(job, receipts=receipts, progress=round(min(done / (len(ORDER) + 2), 0.99), 2))


def _receipt(job: StoredJob, name: str) -> Receipt:
    return next((r for r in job.receipts if r.service == name), Receipt(service=name))


def _kept(job: StoredJob) -> tuple[set[str], set[str]]:
    """Return the conversations in which something is kept, and the holds on other people that keep something."""
    return {id_ for r in job.receipts for id_ in r.kept_in}, {id_ for r in job.receipts for id_ in r.kept_by}


def _sum(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {kind: counts.get(kind, 0) + more.get(kind, 0) for kind in (*counts, *(k for k in more if k not in counts))}


def _found(places: Mapping[str, int]) -> dict[str, int]:
    return {place: count for place, count in places.items() if count}


def _text(item: SubjectItem) -> str:
    body = item.data.get("body")
    return body if isinstance(body, str) else ""
