"""Passkeys: made, listed, renamed and removed by who owns them. How one is used to prove something: passkey_proofs.py.

They keep themselves on the authenticator (discoverable), verify the person each time, and are a second factor: with the
first one a person gets recovery codes, and the password alone lets nobody in any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sealwire.contracts.passkeys import (
    NewPasskey,
    Passkey,
    PasskeyAdded,
    PasskeyChange,
    PasskeyInvalid,
    PasskeyNotFound,
    Passkeys,
    PasskeysUnusable,
)
from sealwire.contracts.webauthn import Account, CreationOptions, Descriptor, RelyingParty
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Forbidden, QuotaExceeded
from sealwire.services.auth import ceremonies
from sealwire.services.auth.ceremonies import NewKey, Refused, decoded, encoded
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.mfa import new_recovery_codes
from sealwire.services.auth.mfa_policy import MfaKept, MfaPolicy
from sealwire.services.auth.passkey_challenges import Asked, Challenges
from sealwire.services.auth.passkey_store import PasskeyRecord, PasskeyStore, Purpose, Removal
from sealwire.services.auth.people import People
from sealwire.services.auth.records import UserRecord
from sealwire.services.auth.relying_party import Party
from sealwire.services.auth.vault import Vault


class Credential(msgspec.Struct, frozen=True):
    """The sealed part of a passkey."""

    credential_id: bytes
    public_key: bytes
    transports: tuple[str, ...]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Credential).decode


def user_handle(user_id: str) -> str:
    """Return the handle under which authenticators keep a user: the opaque id."""
    return encoded(user_id.encode())


class PasskeyCase:
    """Keeps people's passkeys."""

    def __init__(
        self, *, store: PasskeyStore, vault: Vault, people: People, policy: MfaPolicy, journal: Journal, party: Party,
        clock: Clock, config: AuthConfig,
    ) -> None:  # fmt: skip
        self.challenges = Challenges(store=store, vault=vault, clock=clock, ttl_s=config.passkey_ttl_s)
        self._store = store
        self._vault = vault
        self._people = people
        self._policy = policy
        self._journal = journal
        self._party = party
        self._clock = clock
        self._config = config

    # ---- making one

    async def options(self, caller: Caller, user: UserRecord) -> CreationOptions:
        """Give out a challenge for this session alone. Raises: QuotaExceeded, PasskeysUnusable, Forbidden."""
        _require_person(caller)
        if not self._party.works:
            raise PasskeysUnusable("Whoever runs it sets server.public_url to an https address with a name.")
        known = await self._store.of_user(user.user_id)
        if len(known) >= self._config.passkeys_per_user:
            raise QuotaExceeded(f"You have {len(known)} passkeys, and may have no more.")
        person = await self._people.person(user)
        challenge = self.challenges.make(_registration(caller))
        return CreationOptions(
            rp=RelyingParty(id=self._party.rp_id, name=self._config.passkey_name),
            user=Account(id=user_handle(user.user_id), name=person.email, display_name=person.display_name),
            challenge=encoded(challenge),
            pub_key_cred_params=ceremonies.ACCEPTED,
            timeout=self._config.passkey_ttl_s * 1000,
            exclude_credentials=await self.descriptors(known),
        )

    async def register(self, caller: Caller, user: UserRecord, new: NewPasskey) -> PasskeyAdded:
        """Check the new credential and keep it. Raises: PasskeyInvalid, PasskeyTaken, QuotaExceeded, Forbidden."""
        _require_person(caller)
        try:
            key = await self._checked(caller, new)
        except Refused as refused:
            raise PasskeyInvalid(f"The new passkey does not answer what was asked ({refused}).") from None
        passkey_id, tenant_id = new_id(), user.tenant_id
        credential = Credential(key.credential_id, key.public_key, tuple(new.response.transports))
        record = PasskeyRecord(
            passkey_id=passkey_id,
            tenant_id=tenant_id,
            user_id=user.user_id,
            credential_index=self._vault.credential_index(key.credential_id),
            sealed_key=await self._vault.seal(tenant_id, _key_of(passkey_id), _encode(credential)),
            sealed_name=await self._vault.seal(tenant_id, _name_of(passkey_id), new.name.encode()),
            sign_count=key.sign_count,
            backup_eligible=key.backup_eligible,
            created_us=self._clock.now_us(),
        )
        event = self._journal.event(
            Kind.PASSKEY_ADDED, await self._journal.origin(caller), subject_id=user.user_id, resource_type="passkey",
            resource_id=passkey_id, backed_up=key.backup_eligible,
        )  # fmt: skip
        codes, hashes = new_recovery_codes(self._vault, user.user_id)
        with_codes = await self._store.add(record, most=self._config.passkeys_per_user, recovery=hashes, events=[event])
        return PasskeyAdded(passkey=self._shown(record, new.name), recovery_codes=codes if with_codes else [])

    async def _checked(self, caller: Caller, new: NewPasskey) -> NewKey:
        challenge = ceremonies.challenge_in(new.response.client_data_json, "webauthn.create")
        if await self.challenges.spend(challenge, [_registration(caller)]) is None:
            raise Refused("challenge")
        return await ceremonies.check_registration(self._party, new, challenge)

    # ---- keeping them

    async def all_of(self, caller: Caller) -> Passkeys:
        """Return the caller's passkeys."""
        records = await self._store.of_user(caller.user_id)
        return Passkeys(items=[self._shown(record, await self._name(record)) for record in records])

    async def rename(self, caller: Caller, passkey_id: str, change: PasskeyChange) -> Passkey:
        """Replace the name. Raises: PasskeyNotFound, Forbidden."""
        _require_person(caller)
        sealed = await self._vault.seal(caller.tenant_id, _name_of(passkey_id), change.name.encode())
        event = self._journal.event(
            Kind.PASSKEY_RENAMED, await self._journal.origin(caller), subject_id=caller.user_id,
            resource_type="passkey", resource_id=passkey_id,
        )  # fmt: skip
        record = await self._store.rename(caller.user_id, passkey_id, sealed, [event])
        if record is None:
            raise PasskeyNotFound("You have no such passkey.")
        return self._shown(record, change.name)

    async def remove(self, caller: Caller, passkey_id: str) -> None:
        """Remove one. Raises: PasskeyNotFound, MfaKept, Forbidden."""
        _require_person(caller)
        event = self._journal.event(
            Kind.PASSKEY_REMOVED, await self._journal.origin(caller), subject_id=caller.user_id,
            resource_type="passkey", resource_id=passkey_id,
        )  # fmt: skip
        keeps = await self._policy.demands(caller.tenant_id)
        removal = await self._store.remove(caller.user_id, passkey_id, keeps_a_factor=keeps, events=[event])
        if removal is Removal.ABSENT:
            raise PasskeyNotFound("You have no such passkey.")
        if removal is Removal.LAST_FACTOR:
            raise MfaKept("Add another passkey or an authenticator app first.")

    # ---- for proofs

    async def credential(self, record: PasskeyRecord) -> Credential | None:
        """Open the sealed part; None once its key is gone."""
        sealed = record.sealed_key
        opened = await self._vault.open_if_possible(record.tenant_id, _key_of(record.passkey_id), sealed)
        return _decode(opened) if opened is not None else None

    async def find(self, raw_id: str) -> PasskeyRecord | None:
        """Return the passkey whose credential that is. Raises: Refused for what can't be one."""
        return await self._store.by_credential(self._vault.credential_index(decoded(raw_id)))

    async def descriptors(self, records: Sequence[PasskeyRecord]) -> list[Descriptor]:
        """Return what browsers are told of passkeys that are known."""
        found = [await self.credential(record) for record in records]
        return [Descriptor(id=encoded(c.credential_id), transports=list(c.transports)) for c in found if c is not None]

    async def _name(self, record: PasskeyRecord) -> str:
        opened = await self._vault.open_if_possible(record.tenant_id, _name_of(record.passkey_id), record.sealed_name)
        return opened.decode() if opened is not None else ""

    @staticmethod
    def _shown(record: PasskeyRecord, name: str) -> Passkey:
        return Passkey(
            passkey_id=record.passkey_id,
            name=name,
            created_at=rfc3339(record.created_us),
            last_used_at=rfc3339(record.used_us) if record.used_us else None,
            status="suspended" if record.suspended_us else "active",
            backed_up=record.backup_eligible,
        )


def _require_person(caller: Caller) -> None:
    if caller.principal.kind != "user":
        raise Forbidden("Only people have passkeys.")


def _registration(caller: Caller) -> Asked:
    """What a new passkey answers: in this session of this person, and in no other."""
    principal = caller.principal
    return Asked(
        purpose=Purpose.REGISTER, tenant_id=caller.tenant_id, user_id=caller.user_id, bound_to=principal.session_id
    )


def _key_of(passkey_id: str) -> str:
    return "passkey:" + passkey_id


def _name_of(passkey_id: str) -> str:
    return "passkey-name:" + passkey_id
