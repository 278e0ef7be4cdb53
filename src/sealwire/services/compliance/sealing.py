"""Personal data of audit records (R4.5): sealed on the way in, opened for readers or shown as erased.

All personal values of a record are sealed together. They stand in `metadata` under their names: the first as
`{"of": <person>, "sealed": <envelope, base64>}`, the others as `{"sealed_with": <name of the first>}`; without `of`
nobody is known, and the key is the tenant's of that day. Destroying the key erases the values; the record, its hash and
every proof stay as they are.

Where what is stored of the tenant's keys is damaged, values are sealed under a key of the installation, for the person
or the tenant, and the first says so (`"under": "parked"`): such a record waits beside its log until its own key opens.
"""

from __future__ import annotations

import asyncio
import logging
import os
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol

import msgspec

from sealwire.contracts.audit_log import Actor, AuditEntry, AuditRecord
from sealwire.contracts.crypto_terms import DataKeyDestroyed, DecryptionFailed, KeyDamaged, KeyNotFound, KeyUnusable
from sealwire.kit.caller import SYSTEM_TENANT
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.envelopes import EnvelopeRefused, SealingKey, bind
from sealwire.kit.problem import Invalid, Unavailable
from sealwire.services.compliance.canonical import NotCanonical, canonical, canonical_members
from sealwire.services.compliance.chain import Form, Record, RecordActor, TooLong, form_of, read_record, record_bytes
from sealwire.services.compliance.forms import NUL, plain_forms
from sealwire.services.compliance.ports import StoredRecord

ERASED = "erased"
"""What a reader sees where the key was destroyed."""
UNREADABLE = "unreadable"
"""What a reader sees where the sealed bytes are not what was sealed."""
KEY_DAMAGED = "key_damaged"
"""What a reader sees where the key is there no more though nobody destroyed it: once it is put back, the value is."""
PERSON_SCOPE = "audit"
_DAY_SCOPE = "audit-day:"
_PURPOSE = "audit"
_PARKED = "parked"
_PARKED_MARK = b'"under":"parked"'
_KEY_FAULTS = (DecryptionFailed, KeyDamaged, KeyNotFound, KeyUnusable)
"""What is raised where the keys of one tenant are at fault, and not crypto."""
_NO_KEY = "The key for the personal data of a record can't be opened."
_YEAR_10000_S = 253_402_300_800
_NOTHING: dict[str, dict[str, str]] = {}
_Owner = tuple[str, str, str]
"""Whose key it is: tenant, scope, person."""
_log = logging.getLogger("sealwire.compliance")
_write_values = msgspec.json.Encoder(order="sorted").encode
_read_values = msgspec.json.Decoder(dict[str, str]).decode
_read_metadata = msgspec.json.Decoder(dict[str, Any]).decode


class Keys(Protocol):
    """What sealing asks of the key ring (`clients.key_ring.KeyRing`)."""

    def ready(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey | None: ...
    async def sealing_key(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey: ...
    async def open(self, tenant_id: str, scope: str, subject_id: str, envelope: bytes, aad: bytes) -> bytes: ...


class Intake(msgspec.Struct, frozen=True, gc=False):
    """An entry made ready for its log: everything but `seq` and `prev_hash`."""

    entry: AuditEntry
    form: Form
    created_at: str
    created_us: int
    sealed: bool = False
    """Whether `entry` lacks metadata and personal values: they stand in the form alone, as it was read back."""
    parks: bool = False
    """Whether it is sealed to wait beside its log, as its own key is damaged."""


class _KeyOut(Exception):
    """The key of an entry's personal values can't be had, and it is no outage."""


class Sealer:
    """Turns entries into what is stored, and stored records into what readers see."""

    def __init__(self, *, keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._stamps = _Stamps()
        self.forgotten: set[tuple[str, str]] = set()
        """Erased people (tenant, id): what still comes of them is stored in its place and readable to nobody."""

    def forget(self, tenant_id: str, subject_id: str) -> None:
        """From now on seal what is personal about this person under keys that are thrown away at once."""
        self.forgotten.add((tenant_id, subject_id))

    async def take_in(self, entries: Sequence[AuditEntry], *, park: bool = True) -> list[Intake]:
        """Seal personal data and fix time and bytes of each entry; with `park`, those whose keys are damaged to wait.

        Raises: Invalid, with the path of the entry at fault; what crypto raises when a key can't be had.
        """
        now_us = self._clock.now_us()
        personal = any(entry.personal for entry in entries)
        out = await self._fetch_keys(entries) if personal else set()
        parks = [False] * len(entries)
        times = [entry.created_at_us or now_us for entry in entries]
        created_at = self._stamps.of(times)
        sealed: list[Mapping[str, object]] = [_NOTHING] * len(entries)
        for i, entry in enumerate(entries if personal or not created_at else ()):
            try:
                if i == len(created_at):
                    created_at.append(self._stamps.at(times[i]))
                if not entry.personal:
                    continue
                try:
                    sealed[i] = await self._sealed(entry, created_at[i], out)
                except _KeyOut:
                    if not park:
                        raise Unavailable(_NO_KEY) from None
                    sealed[i] = await self._sealed_to_wait(entry)
                    parks[i] = True
            except (NotCanonical, UnicodeEncodeError, OverflowError) as error:
                raise Invalid(f"The record can't be stored: {error}", path=f"$.records[{i}]") from None
        forms = plain_forms(entries, sealed, created_at) or _forms_one_by_one(entries, sealed, created_at)
        if True in parks:
            return list(map(Intake, entries, forms, created_at, times, repeat(False), parks))
        return list(map(Intake, entries, forms, created_at, times))

    async def _sealed(self, entry: AuditEntry, created_at: str, out: set[_Owner]) -> Mapping[str, object]:
        """Return the members that stand for an entry's personal values. `out` are the owners whose keys were asked for
        in vain. Raises: _KeyOut; NotCanonical; as `take_in`."""
        tenant_id, subject_id = entry.tenant_id, entry.subject_id
        if self.forgotten and (tenant_id, subject_id) in self.forgotten:
            return self._under(entry, None)
        scope = PERSON_SCOPE if subject_id else day_scope(created_at)
        key = self._keys.ready(tenant_id, scope, subject_id)
        return self._under(entry, key or await self._key((tenant_id, scope, subject_id), out))

    async def _sealed_to_wait(self, entry: AuditEntry) -> Mapping[str, object]:
        """Seal an entry's personal values under the installation's own key for those who wait. As `_sealed`."""
        if (entry.tenant_id, entry.subject_id) in self.forgotten:  # since their own key was asked for
            return self._under(entry, None)
        owner = parked_owner(entry.tenant_id, entry.subject_id)
        try:
            return self._under(entry, self._keys.ready(*owner) or await self._key(owner, set()), _PARKED)
        except _KeyOut:  # the installation's own: then nobody's records can be taken in
            raise Unavailable(_NO_KEY) from None

    def _under(self, entry: AuditEntry, key: SealingKey | None, under: str = "") -> Mapping[str, object]:
        """Seal under a key, but for somebody who is erased, or was while the key was waited for: it may have been made
        after theirs were destroyed. Raises: NotCanonical."""
        if key is None or (self.forgotten and (entry.tenant_id, entry.subject_id) in self.forgotten):
            return _seal(entry, SealingKey(key_id=os.urandom(16), key=os.urandom(32)))
        return _seal(entry, key, under=under)

    async def _key(self, owner: _Owner, out: set[_Owner]) -> SealingKey:
        """Return a key. Raises: _KeyOut when there is no use in asking again; then it stands in `out`."""
        if owner not in out:
            try:
                return await self._keys.sealing_key(*owner)
            except _KEY_FAULTS as error:
                _log.error("the key for records of %s can't be had: %r", owner[0], error)
                out.add(owner)
        raise _KeyOut

    async def _fetch_keys(self, entries: Sequence[AuditEntry]) -> set[_Owner]:
        """Have the keys of all people loaded that aren't at hand, at the same time and not one after another.

        Return the owners of those that can't be had. Raises: what crypto raises when it is out.
        """
        ready = self._keys.ready
        people = {(e.tenant_id, e.subject_id) for e in entries if e.personal and e.subject_id} - self.forgotten
        missing = [person for person in people if ready(person[0], PERSON_SCOPE, person[1]) is None]
        out: set[_Owner] = set()
        if len(missing) > 1:
            owners = [(tenant, PERSON_SCOPE, person) for tenant, person in missing]
            for got in await asyncio.gather(*(self._key(o, out) for o in owners), return_exceptions=True):
                if isinstance(got, BaseException) and not isinstance(got, _KeyOut):
                    raise got
        return out

    async def show(self, stored: StoredRecord) -> AuditRecord:
        """Return the record as a reader with the right to it sees it."""
        record = read_record(stored.body)
        return AuditRecord(
            audit_id=record.audit_id,
            tenant_id=record.tenant_id,
            seq=record.seq,
            actor=Actor(type=record.actor.type, id=record.actor.id),  # type: ignore[arg-type]  # as it was taken in
            action=record.action,
            resource_type=record.resource_type,
            resource_id=record.resource_id,
            outcome=record.outcome,
            metadata=await self.metadata(record),
            created_at=record.created_at,
            prev_hash=record.prev_hash,
            hash=stored.hash,
        )

    async def is_readable(self, stored: StoredRecord, subject_id: str) -> bool:
        """Whether a record shows anything sealed for this person."""
        record = read_record(stored.body)
        kept = _read_metadata(record.metadata)
        names = [name for name, value in kept.items() if type(value) is dict]
        if not any(kept[name].get("of") == subject_id for name in names):
            return False
        return any(value not in {ERASED, UNREADABLE} for value in (await self._open(record, names, kept)).values())

    async def metadata(self, record: Record) -> dict[str, Any]:
        """Return a record's metadata with sealed values opened, `erased`, `unreadable` or `key_damaged`."""
        metadata = _read_metadata(record.metadata)
        if names := [name for name, value in metadata.items() if type(value) is dict]:
            metadata.update(await self._open(record, names, metadata))
        return metadata

    async def _open(self, record: Record, names: Sequence[str], metadata: dict[str, Any]) -> dict[str, str]:
        """Return what readers see under the names of sealed values."""
        holder = _holder(names, metadata)
        try:
            values = await self._values(record, holder)
        except DataKeyDestroyed:
            return dict.fromkeys(names, ERASED)
        except _KEY_FAULTS as error:
            # What comes of erased people is sealed under keys that crypto never heard of.
            thrown_away = isinstance(error, DecryptionFailed) and self._is_forgotten(record, holder)
            return dict.fromkeys(names, ERASED if thrown_away else KEY_DAMAGED)
        except (EnvelopeRefused, Base64Error, ValueError):
            values = {}
        return {name: values.get(name, UNREADABLE) for name in names}

    async def _values(self, record: Record, holder: Mapping[str, str]) -> dict[str, str]:
        """Open what `holder` holds. Raises: DataKeyDestroyed; what is in `_KEY_FAULTS`; ValueError, EnvelopeRefused."""
        subject_id = holder.get("of", "")
        owner = (record.tenant_id, PERSON_SCOPE if subject_id else day_scope(record.created_at), subject_id)
        if holder.get("under") == _PARKED:
            owner = parked_owner(record.tenant_id, subject_id)
        context = bind(record.tenant_id, _PURPOSE, record.audit_id)
        return _read_values(await self._keys.open(*owner, a2b_base64(holder.get("sealed", "")), context))

    def _is_forgotten(self, record: Record, holder: Mapping[str, str]) -> bool:
        return (record.tenant_id, holder.get("of", "")) in self.forgotten

    async def same(self, intake: Intake, stored: StoredRecord) -> bool:
        """Say whether the stored record is this entry, taken in before. What was erased since can't differ, and of what
        doesn't open for now nobody says that it does."""
        try:
            record = read_record(stored.body)
        except ValueError:
            return False  # it was damaged
        entry = await self._whole(intake) if intake.sealed else intake.entry
        if (
            record.action != entry.action
            or (record.actor.type, record.actor.id) != (entry.actor.type, entry.actor.id)
            or record.resource_type != entry.resource_type
            or record.resource_id != entry.resource_id
            or record.outcome != entry.outcome
            or (entry.created_at_us and record.created_at != intake.created_at)
        ):
            return False
        kept = _read_metadata(record.metadata)
        names = [name for name, value in kept.items() if type(value) is dict]
        public = {name: value for name, value in kept.items() if name not in names}
        if canonical(public) != canonical(entry.metadata) or set(names) != entry.personal.keys():
            return False
        if names and all(kept[name].get("of", "") != entry.subject_id for name in names if "sealed" in kept[name]):
            return False
        opened = await self._open(record, names, kept)
        return all(opened[name] in {entry.personal[name], ERASED, KEY_DAMAGED} for name in names)

    def reopen(self, body: bytes, created_us: int) -> Intake:
        """Return the entry whose bytes before it had a place these are. Raises: ValueError when they are damaged."""
        r = read_record(body)
        entry = AuditEntry(
            audit_id=r.audit_id,
            tenant_id=r.tenant_id,
            actor=Actor(type=r.actor.type, id=r.actor.id),  # type: ignore[arg-type]  # as it was taken in
            action=r.action,
            resource_type=r.resource_type,
            resource_id=r.resource_id,
            outcome=r.outcome,  # type: ignore[arg-type]  # as it was taken in
            created_at_us=created_us,
        )
        return Intake(entry, form_of(body), r.created_at, created_us, sealed=True)

    async def reseal(self, intake: Intake) -> Intake:
        """Return an entry that was reopened as its log takes it: one that is sealed to wait, under its own key.

        What was erased while it waited stays as it is. Raises: Unavailable, and what is in `_KEY_FAULTS`, while that
        key can't be had; ValueError, EnvelopeRefused for what was changed.
        """
        body = intake.form.bytes_at(0, b"")
        if _PARKED_MARK not in body:
            return intake
        record = read_record(body)
        kept = _read_metadata(record.metadata)
        names = [name for name, value in kept.items() if type(value) is dict]
        holder = _holder(names, kept)
        if holder.get("under") != _PARKED:
            return intake
        try:
            personal = await self._values(record, holder)
        except DataKeyDestroyed:
            return intake
        public = {name: value for name, value in kept.items() if name not in names}
        entry = msgspec.structs.replace(
            intake.entry, metadata=public, personal=personal, subject_id=holder.get("of", "")
        )
        return (await self.take_in([entry], park=False))[0]

    async def _whole(self, intake: Intake) -> AuditEntry:
        """Return the entry of one that was reopened, with all that it held."""
        record = read_record(intake.form.bytes_at(0, b""))
        kept = _read_metadata(record.metadata)
        names = [name for name, value in kept.items() if type(value) is dict]
        return msgspec.structs.replace(
            intake.entry,
            metadata={name: value for name, value in kept.items() if name not in names},
            personal=await self._open(record, names, kept) if names else {},
            subject_id=_holder(names, kept).get("of", ""),
        )


def _forms_one_by_one(
    entries: Sequence[AuditEntry], sealed: Sequence[Mapping[str, object]], created_at: Sequence[str]
) -> list[Form]:
    """Return the forms of entries of which any may be at fault. Raises: Invalid, with the path of the one that is."""
    forms = []
    for i, entry in enumerate(entries):
        try:
            body = record_bytes(blank(entry, canonical_members(entry.metadata, sealed[i]), created_at[i]))
            if NUL in body:
                _refuse_nul(entry)
            forms.append(form_of(body))
        except TooLong:
            raise Invalid("The record is longer than 65,535 bytes.", path=f"$.records[{i}]") from None
        except (NotCanonical, UnicodeEncodeError) as error:
            raise Invalid(f"The record can't be stored: {error}", path=f"$.records[{i}]") from None
    return forms


def _holder(names: Sequence[str], metadata: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the member that holds the sealed values, of those that stand for one."""
    return next((metadata[name] for name in names if "sealed" in metadata[name]), {})


def parked_owner(tenant_id: str, subject_id: str) -> _Owner:
    """Return whose key seals what waits for a key of this tenant's: the installation's own, and none of theirs."""
    return SYSTEM_TENANT, f"{_PARKED}:{tenant_id}", subject_id


def _seal(entry: AuditEntry, key: SealingKey, *, under: str = "") -> dict[str, dict[str, str]]:
    """Return the members that stand for an entry's personal values. Raises: NotCanonical."""
    personal, subject_id = entry.personal, entry.subject_id
    values = _write_values(personal)
    if not subject_id.isascii() or (NUL in values and _holds_nul(personal)):
        raise NotCanonical("a subject's id is ASCII, and personal values hold no NUL")
    envelope = key.seal(values, bind(entry.tenant_id, _PURPOSE, entry.audit_id))
    text = b2a_base64(envelope, newline=False).decode()
    first = min(personal) if len(personal) > 1 else next(iter(personal))
    sealed: dict[str, dict[str, str]] = {first: {"of": subject_id, "sealed": text} if subject_id else {"sealed": text}}
    if under:
        sealed[first]["under"] = under
    for name in personal:
        if not name.isascii():
            raise NotCanonical("the name of a personal value is ASCII")
        if name != first:
            sealed[name] = {"sealed_with": first}
    return sealed


def same_entry(a: AuditEntry, b: AuditEntry) -> bool:
    """Say whether two entries with one `audit_id` that wait at the same time are one (1 and true are not)."""
    return a == b and canonical(a.metadata) == canonical(b.metadata)


def blank(entry: AuditEntry, metadata: bytes, created_at: str) -> Record:
    """Return the record before it has a place."""
    e, actor = entry, entry.actor
    return Record(
        e.action, RecordActor(actor.id, actor.type), e.audit_id, created_at, msgspec.Raw(metadata), e.outcome, "",
        e.resource_id, e.resource_type, 0, e.tenant_id,
    )  # fmt: skip


def day_scope(created_at: str) -> str:
    """Return the scope of the tenant's key for the day of an RFC 3339 time."""
    return _DAY_SCOPE + created_at[:10]


def _refuse_nul(entry: AuditEntry) -> None:
    """Raises: NotCanonical when there is NUL in what is not sealed, as the edge refuses it too."""
    e = entry
    texts = (e.action, e.actor.id, e.actor.type, e.audit_id, e.outcome, e.resource_id, e.resource_type, e.tenant_id)
    if _holds_nul(e.metadata) or any("\0" in text for text in texts):
        raise NotCanonical("it holds the character NUL")


def _holds_nul(members: Mapping[str, object]) -> bool:
    return any("\0" in name or (type(value) is str and "\0" in value) for name, value in members.items())


class _Stamps:
    """Writes times as RFC 3339 with microseconds, remembering the second it wrote last."""

    __slots__ = ("_begins_us", "_form")

    def __init__(self) -> None:
        self._begins_us = -US_PER_S
        self._form = ""

    def of(self, times_us: Sequence[int]) -> list[str]:
        """Return the texts of times that all lie in the second written last, else none of them."""
        begins_us, form = self._begins_us, self._form
        if not times_us or not form or min(times_us) < begins_us or max(times_us) >= begins_us + US_PER_S:
            return []
        return [form % (at_us - begins_us) for at_us in times_us]

    def at(self, at_us: int) -> str:
        """Return the text of a time. Raises: OverflowError outside of the years 1970 to 9999."""
        micros = at_us - self._begins_us
        if not 0 <= micros < US_PER_S or not self._form:
            second, micros = divmod(at_us, US_PER_S)
            if not 0 <= second < _YEAR_10000_S:
                raise OverflowError("the time lies outside of the years 1970 to 9999")
            self._begins_us = at_us - micros
            self._form = rfc3339(self._begins_us)[:19] + ".%06dZ"
        return self._form % micros
