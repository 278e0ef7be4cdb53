"""Auth's part of a person's rights (`contracts.custody.SubjectCustody`): erase, tell, put right, restrict, look for.

An erasure is three steps, each of which may be done again after a crash: the person is cut off and their record leaves
a nameless stub; letters and what was sealed into events go; what was kept to find these goes.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from sealwire.contracts.custody import (
    HoldDesk,
    HoldPlacement,
    OwnersOnly,
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectFindings,
    SubjectItem,
    SubjectItems,
    SubjectProbe,
    SubjectQuery,
    SubjectRectified,
    SubjectRestriction,
    require_custodian,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.permission import Role
from sealwire.kit.problem import Conflict, Invalid
from sealwire.services.auth.addresses import AddressBook, moved
from sealwire.services.auth.events import Body, Journal, Kind
from sealwire.services.auth.ports import UserStore
from sealwire.services.auth.postman import Postman
from sealwire.services.auth.records import Cut, Reason, UserRecord
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.subject_ports import Erasing, RowKind, SubjectRow, SubjectStore
from sealwire.services.auth.vault import Person, Vault

EVENTS_AT_ONCE: Final = 200
TRIES: Final = 3
DAMAGED: Final[dict[str, Any]] = {"damaged": True}
"""Told of a row that was changed outside of auth and does not open."""
WAIT_S: Final = 0.05
"""Between two looks at events that the audit relay has not passed yet, so that who asks again does not spin."""
_NO_HASH: Final = "!"
_KINDS: Final[tuple[RowKind, ...]] = ("session", "api_key", "passkey", "consent", "identity", "former")
_read_body = msgspec.msgpack.Decoder(Body).decode
_write_body = msgspec.msgpack.Encoder().encode


class SubjectService:
    """The part of `AuthService` that compliance uses."""

    def __init__(
        self, *, store: SubjectStore, users: UserStore, vault: Vault, postman: Postman,
        addresses: AddressBook, journal: Journal, revoker: Revoker, clock: Clock,
    ) -> None:  # fmt: skip
        self._subjects = store
        self._user_store = users
        self._vault = vault
        self._post = postman
        self._address_book = addresses
        self._journal = journal
        self._revoker = revoker
        self._hold_desk = HoldDesk(store.holds, clock)

    # ---- holds

    async def put_hold(self, caller: Caller, hold_id: str, placement: HoldPlacement) -> None:
        await self._hold_desk.put_hold(caller, hold_id, placement)

    async def release_hold(self, caller: Caller, hold_id: str) -> None:
        await self._hold_desk.release_hold(caller, hold_id)

    # ---- erasure

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        user = await self._subject(caller, subject_id)
        if user is not None:
            _spare_owners(user, erasure.spares_owners)
        if erasure.check_only:
            if user is not None:
                await self._subjects.require_erasable(user)
            return SubjectErased(done=False)
        if user is not None:
            return await self._cut_off(caller, user)
        under_way = await self._subjects.erasing(require_custodian(caller), subject_id)
        if under_way is None:
            await self._subjects.compact()  # after a crash it may be all that is left to do
            return SubjectErased(done=True)
        return await self._erase_rest(under_way)

    async def _cut_off(self, caller: Caller, user: UserRecord) -> SubjectErased:
        """Take the access, and all that auth has of them but letters and events. Raises: LegalHold, LastOwner."""
        cut = Cut(
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            reason=Reason.ERASED,
            revocation=self._revoker.subject(user.tenant_id, user.user_id, Reason.ERASED),
            expected_role=user.role,
            status="disabled",
            from_status=user.status,
            password_hash=_NO_HASH,
        )
        event = self._journal.event(
            Kind.USER_ERASED, await self._journal.origin(caller, user.tenant_id), subject_id=user.user_id
        )
        # What is kept of them until the last step says where letters went, to an address never proved too.
        if (person := await self._readable(user)) is not None:
            beside = await self._address_book.beside(user, person)
            if beside.own != person.former:
                person = msgspec.structs.replace(person, former=beside.own)
                sealed = await self._vault.seal_person(user.tenant_id, user.user_id, person)
                user = msgspec.structs.replace(user, sealed=sealed)
        erased = dict(await self._subjects.begin_erasing(user, cut, [event]) or {})
        # In the same step: a hold may come before the next, and nothing goes out to who has no account any more.
        if erased and (letters := await self._forget_letters(user.tenant_id, person)):
            erased["letter"] = letters
        return SubjectErased(done=False, erased=erased)

    async def _erase_rest(self, under_way: Erasing) -> SubjectErased:
        person = await self._person_under_way(under_way)
        letters = await self._forget_letters(under_way.tenant_id, person)
        events, all_seen = await self._subjects.forget_events(
            under_way.user_id, lambda data: _without_person(data, under_way.user_id), limit=EVENTS_AT_ONCE
        )
        erased = {kind: count for kind, count in {"letter": letters, "event": events}.items() if count}
        if not all_seen:
            if not erased:
                await asyncio.sleep(WAIT_S)
            return SubjectErased(done=False, erased=erased)
        if late := await self._forget_letters(under_way.tenant_id, person):
            erased["letter"] = erased.get("letter", 0) + late  # a notice of what happened right before
        account = under_way.email_index.hex()
        keys = [self._vault.attempt_key("account", account), self._vault.attempt_key("proof", under_way.user_id)]
        if failures := await self._subjects.finish_erasing(under_way.user_id, keys):
            erased["failure"] = failures
        # What is sealed here is sealed under the tenant's key, which stays: no copy may stay in the file's log.
        await self._subjects.compact()
        return SubjectErased(done=True, erased=erased)

    async def _forget_letters(self, tenant_id: str, person: Person | None) -> int:
        """Destroy letters to every address the person has or had; return how many there were."""
        addresses = (person.email, *person.former) if person is not None else ()
        return sum([await self._post.forget(tenant_id, address) for address in addresses])

    async def _person_under_way(self, under_way: Erasing) -> Person | None:
        return await self._vault.person_if_possible(under_way.tenant_id, under_way.user_id, under_way.sealed)

    async def _readable(self, user: UserRecord) -> Person | None:
        """Return address and name; None when their row was changed: that must not keep the rest from the person."""
        return await self._vault.person_if_possible(user.tenant_id, user.user_id, user.sealed)

    # ---- restriction and rectification

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        for _ in range(TRIES):  # who may do it depends on the role there is; what another changes is not undone
            user = await self._subject(caller, subject_id)
            if user is None or restriction.restricted == (user.status == "restricted"):
                return
            _spare_owners(user, restriction.spares_owners)
            if await self._restrict(caller, user, restriction):
                return
        raise Conflict("The person was changed meanwhile; try again.")

    async def _restrict(self, caller: Caller, user: UserRecord, restriction: SubjectRestriction) -> bool:
        """Restrict or release a user as they are now; False when they are not so any more."""
        tenant_id, subject_id = user.tenant_id, user.user_id
        before = await self._subjects.kept_status(subject_id) or "active"
        if restriction.restricted:
            revocation = self._revoker.subject(tenant_id, subject_id, Reason.RESTRICTED)
        else:
            revocation = self._revoker.role(tenant_id, subject_id, Reason.ENABLED)
        cut = Cut(
            tenant_id=tenant_id,
            user_id=subject_id,
            reason=revocation.reason,
            revocation=revocation,
            ends_sessions=restriction.restricted,
            expected_role=user.role,
            status="restricted" if restriction.restricted else before,
            from_status=user.status,
        )
        event = self._journal.event(
            Kind.USER_RESTRICTED, await self._journal.origin(caller, tenant_id), subject_id=subject_id,
            restricted=restriction.restricted,
        )  # fmt: skip
        return await (self._subjects.restrict if restriction.restricted else self._subjects.release)(cut, [event])

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        for _ in range(TRIES):  # what the person changes themself at the same moment is not lost
            user = await self._subject(caller, subject_id)
            if user is None:
                return SubjectRectified()
            _spare_owners(user, changes.spares_owners)
            before = await self._readable(user)
            if before is None:
                raise Invalid("What is stored of the person does not open; it can only be erased.", path="$")
            after = msgspec.structs.replace(before, display_name=changes.display_name or before.display_name)
            if changes.email and changes.email != before.email:
                after = moved(after, changes.email)
                # First, so that the notice of it stays: whoever reads the address that was wrong hears that it goes.
                await self._post.forget(user.tenant_id, before.email)
            if after == before:
                return SubjectRectified()
            if await self._put_right(caller, user, before, after):
                return SubjectRectified(changed={"profile": 1})
        raise Conflict("The person was changed meanwhile; try again.")

    async def _put_right(self, caller: Caller, user: UserRecord, before: Person, after: Person) -> bool:
        """Replace the profile, directly: the controller answers for it. The old address hears of it."""
        cut = Cut(
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            reason=Reason.RECTIFIED,
            revocation=self._revoker.role(user.tenant_id, user.user_id, Reason.RECTIFIED),
            ends_sessions=False,
            expected_role=user.role,
            from_status=user.status,
            expected_sealed=user.sealed,
            sealed=await self._vault.seal_person(user.tenant_id, user.user_id, after),
            email_index=self._vault.email_index(user.tenant_id, after.email) if after.email != before.email else None,
        )
        told = {} if after.email == before.email else {"email_before": before.email}
        event = self._journal.event(
            Kind.PROFILE_CHANGED, await self._journal.origin(caller, user.tenant_id, **told),
            subject_id=user.user_id, member="email" if told else "display_name",
        )  # fmt: skip
        return await self._user_store.cut(cut, [event]) is not None

    # ---- export and probe

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        user = await self._subject(caller, subject_id)
        phase, _, after = (query.cursor or "profile:").partition(":")
        if phase not in ("profile", *_KINDS):
            raise Invalid("Give a `next_cursor` as it was.", path="$.cursor")
        if user is None:
            return SubjectItems(items=[])
        if phase == "profile":
            return SubjectItems(items=[await self._profile_item(user)], next_cursor="session:")
        kind = next(kind for kind in _KINDS if kind == phase)
        rows = await self._subjects.rows(subject_id, kind, after, query.limit)
        items = [await self._row_item(user, row) for row in rows]
        if len(rows) == query.limit:
            return SubjectItems(items=items, next_cursor=f"{kind}:{rows[-1].row_id}")
        rest = _KINDS[_KINDS.index(kind) + 1 :]
        return SubjectItems(items=items, next_cursor=f"{rest[0]}:" if rest else None)

    async def _profile_item(self, user: UserRecord) -> SubjectItem:
        person = await self._readable(user)
        data: dict[str, Any] = {
            "role": user.role.value,
            "second_factor": user.mfa,
            "service_account": user.service,
        }
        if person is None:
            data |= DAMAGED
            return SubjectItem(kind="profile", resource_id=user.user_id, at=rfc3339(user.created_us), data=data)
        data = {"email": person.email, "display_name": person.display_name} | data
        beside = await self._address_book.beside(user, person)
        if beside.former:
            data["former_emails"] = list(beside.former)
        if beside.unproved:  # whether somebody else has one is not told
            data["unproved_emails"] = list(beside.unproved)
        return SubjectItem(
            kind="profile", resource_id=user.user_id, at=rfc3339(user.created_us), data=data, telling=list(beside.own)
        )

    async def _row_item(self, user: UserRecord, row: SubjectRow) -> SubjectItem:
        if row.kind == "former":
            return await self._former_item(user, row)
        data: dict[str, Any] = dict(row.facts)
        if row.kind == "session":
            device = await self._vault.device_if_possible(user.tenant_id, row.row_id, row.sealed)
            data |= DAMAGED if device is None else {"ip_address": device.ip, "user_agent": device.user_agent}
        for name in ("last_seen_us", "last_used_us"):
            if name in data:
                at_us = data.pop(name)
                data[name.removesuffix("_us") + "_at"] = rfc3339(at_us) if at_us else None
        return SubjectItem(kind=row.kind, resource_id=row.row_id, at=rfc3339(row.at_us), data=data)

    async def _former_item(self, user: UserRecord, row: SubjectRow) -> SubjectItem:
        """Return a profile that a hold keeps, as it was until `replaced_at`."""
        person = await self._vault.person_if_possible(user.tenant_id, user.user_id, row.sealed)
        until = rfc3339(row.at_us)
        known = DAMAGED if person is None else {"email": person.email, "display_name": person.display_name}
        data = {**known, "former": True, "replaced_at": until}
        return SubjectItem(kind="profile", resource_id=user.user_id, at=until, data=data)

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        user = await self._subject(caller, subject_id)
        tenant_id = require_custodian(caller)
        person = await self._readable(user) if user is not None else None
        email = person.email if person is not None else ""
        index = user.email_index if user is not None else b""
        words = [word.encode() for word in probe.words]
        places = dict(await self._subjects.places(tenant_id, subject_id, index, words))
        places["letters_waiting"], places["letters_kept"] = await self._post.count(tenant_id, email, probe.words)
        return SubjectFindings(places=places)

    async def _subject(self, caller: Caller, subject_id: str) -> UserRecord | None:
        """Return the person, when they are of the tenant that compliance acts in. Raises: Forbidden."""
        tenant_id = require_custodian(caller)
        user = await self._user_store.get(subject_id)
        return user if user is not None and user.tenant_id == tenant_id else None


def _spare_owners(user: UserRecord, spares_owners: bool) -> None:
    """Hold the change to who asked for it; the cut holds it to the role there is now. Raises: OwnersOnly."""
    if spares_owners and user.role is Role.OWNER:
        raise OwnersOnly


def _without_person(data: bytes, user_id: str) -> bytes | None:
    """Return an event's data without what is sealed into it of the person; None when it holds nothing of them."""
    body = _read_body(data)
    if not body.sealed or user_id not in (body.subject_id, body.actor_id):
        return None
    return _write_body(msgspec.structs.replace(body, sealed=b""))
