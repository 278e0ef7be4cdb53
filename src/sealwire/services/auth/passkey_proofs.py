"""Proofs by passkey: a login of its own, the second factor of one that has begun, and a step-up.

What a challenge is for, whose it is, and the session or login it belongs to are in it (passkey_challenges.py), so that
an answer counts there and nowhere else. With a passkey we know it is spent by the first answer, right or wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sealwire.contracts.logins import LoginResult, MfaFailed
from sealwire.contracts.passkeys import PasskeyLogin, PasskeyLoginStart, PasskeyRefused
from sealwire.contracts.webauthn import Assertion, RequestOptions
from sealwire.kit.caller import ANONYMOUS_TENANT, Caller
from sealwire.kit.clock import Clock
from sealwire.kit.problem import Invalid, StepUpRequired
from sealwire.services.auth import ceremonies
from sealwire.services.auth.ceremonies import Refused, encoded
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.lockout import Lockout
from sealwire.services.auth.mfa import SecondFactors
from sealwire.services.auth.model import DEFAULT_TENANT
from sealwire.services.auth.one_time import token_hash
from sealwire.services.auth.passkey_challenges import Asked
from sealwire.services.auth.passkey_store import PasskeyRecord, Purpose, Use
from sealwire.services.auth.passkeys import PasskeyCase, user_handle
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.records import UserRecord
from sealwire.services.auth.relying_party import Party
from sealwire.services.auth.sessions import SessionKeeper
from sealwire.services.auth.vault import Vault

_NOBODY: Final = ""
Amr = tuple[str, ...]


def amr_of(record: PasskeyRecord) -> Amr:
    """Return what a proof by it amounts to (RFC 8176): key, presence, and two factors, as the person was verified.

    A key that can be backed up left its device's hardware at least once.
    """
    return ("swk" if record.backup_eligible else "hwk", "user", "mfa")


class PasskeyProofs:
    """Asks for and checks proofs."""

    def __init__(
        self, *, stores: AuthStores, case: PasskeyCase, factors: SecondFactors, sessions: SessionKeeper,
        lockout: Lockout, vault: Vault, journal: Journal, party: Party, clock: Clock, config: AuthConfig,
    ) -> None:  # fmt: skip
        self._stores = stores
        self._case = case
        self._factors = factors
        self._sessions = sessions
        self._lockout = lockout
        self._vault = vault
        self._journal = journal
        self._party = party
        self._clock = clock
        self._config = config

    # ---- asking

    async def login_options(self, caller: Caller, start: PasskeyLoginStart) -> RequestOptions:
        """Begin a login, or its second factor. Raises: MfaFailed, Invalid."""
        if start.mfa_token is not None:
            if start.email is not None or start.tenant is not None:
                raise Invalid("The token says already who it is.", path="$.mfa_token")
            return await self._mfa_options(start.mfa_token)
        if start.email is None and start.tenant is None:
            return await self._ask(Purpose.LOGIN, tenant_id="", user_id=None)
        tenant = await self._stores.tenants.find(start.tenant or DEFAULT_TENANT)
        tenant_id = tenant.tenant_id if tenant is not None else ANONYMOUS_TENANT
        if start.email is None:
            return await self._ask(Purpose.LOGIN, tenant_id=tenant_id, user_id=None)
        # No passkey is named, not even a made-up one: how many there are, and their ids, would tell who is who.
        user = await self._stores.users.by_email(tenant_id, self._vault.email_index(tenant_id, start.email))
        return await self._ask(
            Purpose.LOGIN, tenant_id=tenant_id, user_id=user.user_id if user is not None else _NOBODY
        )

    async def _mfa_options(self, mfa_token: str) -> RequestOptions:
        hashed = token_hash(mfa_token)
        waiting = await self._stores.mfa.waiting(hashed, now_us=self._clock.now_us(), most=self._config.mfa_attempts)
        usable = await self._usable(waiting.user_id) if waiting is not None else []
        if waiting is None or not usable:
            raise MfaFailed("There is no passkey that finishes this login, or it took too long; begin again.")
        return await self._ask(
            Purpose.MFA, tenant_id=waiting.tenant_id, user_id=waiting.user_id, bound_to=hashed.hex(), allowed=usable
        )

    async def step_up_options(self, caller: Caller, user: UserRecord) -> RequestOptions:
        """Begin a step-up. Raises: StepUpRequired with what would do instead."""
        usable = await self._usable(user.user_id)
        if not usable:
            raise StepUpRequired("You have no passkey.", methods=await self._factors.proofs(user))
        return await self._ask(
            Purpose.STEP_UP, tenant_id=user.tenant_id, user_id=user.user_id, bound_to=caller.principal.session_id,
            allowed=usable,
        )  # fmt: skip

    async def _ask(
        self, purpose: Purpose, *, tenant_id: str, user_id: str | None, bound_to: str = "",
        allowed: Sequence[PasskeyRecord] = (),
    ) -> RequestOptions:  # fmt: skip
        challenge = self._case.challenges.make(
            Asked(purpose=purpose, tenant_id=tenant_id, user_id=user_id, bound_to=bound_to)
        )
        return RequestOptions(
            challenge=encoded(challenge),
            timeout=self._config.passkey_ttl_s * 1000,
            rp_id=self._party.rp_id,
            allow_credentials=await self._case.descriptors(allowed),
        )

    async def _usable(self, user_id: str) -> list[PasskeyRecord]:
        return [record for record in await self._stores.passkeys.of_user(user_id) if not record.suspended_us]

    # ---- checking

    async def login(self, caller: Caller, login: PasskeyLogin) -> LoginResult:
        """Open a session. Raises: PasskeyRefused."""
        try:
            record = await self._proved(caller, login, Purpose.LOGIN, "")
            user = await self._stores.users.get(record.user_id)
            tenant = await self._stores.tenants.find(record.tenant_id)
            if user is None or user.status != "active" or tenant is None or tenant.status != "active":
                raise Refused("account")
        except Refused as refused:
            await self._login_failed(caller, login, str(refused))
            raise PasskeyRefused from None
        forgiven = self._lockout.full_login(user.email_index.hex(), caller.ip, user.user_id)
        granted = await self._sessions.open(
            caller, user, amr=amr_of(record), forgive=forgiven, failed_before=await self._lockout.failures(forgiven)
        )
        if granted is None:
            raise PasskeyRefused
        return granted

    async def holds(
        self, caller: Caller, user: UserRecord, assertion: Assertion, purpose: Purpose, bound_to: str
    ) -> Amr | None:
        """Return what a known user has proved; None when nothing."""
        try:
            record = await self._proved(caller, assertion, purpose, bound_to)
        except Refused:
            return None
        return amr_of(record) if record.user_id == user.user_id else None

    async def _proved(self, caller: Caller, assertion: Assertion, purpose: Purpose, bound_to: str) -> PasskeyRecord:
        """Return the passkey that answered a challenge of ours, counted as used. Raises: Refused."""
        challenge = ceremonies.challenge_in(assertion.response.client_data_json, "webauthn.get")
        record = await self._case.find(assertion.raw_id)
        credential = await self._case.credential(record) if record is not None else None
        if record is None or credential is None:
            raise Refused("unknown")
        asked = await self._case.challenges.spend(challenge, _askings(record, purpose, bound_to))
        if asked is None:
            raise Refused("challenge")
        if record.suspended_us:
            raise Refused("suspended")
        _check_handle(asked, record, assertion.response.user_handle)
        proof = await ceremonies.check_assertion(self._party, assertion, challenge, credential.public_key)
        if proof.backup_eligible != record.backup_eligible:
            raise Refused("backup eligibility")
        suspended = self._journal.event(
            Kind.PASSKEY_SUSPENDED, await self._journal.origin(caller, record.tenant_id), subject_id=record.user_id,
            resource_type="passkey", resource_id=record.passkey_id, outcome="denied", reason="counter_went_back",
        )  # fmt: skip
        use = await self._stores.passkeys.use(
            record.passkey_id,
            sign_count=proof.sign_count,
            now_us=self._clock.now_us(),
            suspended_events=[suspended],
        )
        if use is not Use.COUNTED:
            raise Refused(use.value)
        return record

    async def _login_failed(self, caller: Caller, login: PasskeyLogin, rule: str) -> None:
        """Note the failure in the log of the passkey's tenant, or where it is not known in that of nobody."""
        try:
            record = await self._case.find(login.raw_id)
        except Refused:
            record = None
        origin = await self._journal.origin(caller, record.tenant_id if record is not None else ANONYMOUS_TENANT)
        event = self._journal.event(
            Kind.LOGIN_FAILED, origin, subject_id=record.user_id if record is not None else "", outcome="failure",
            method="passkey", rule=rule,
        )  # fmt: skip
        await self._stores.passkeys.note([event])


def _askings(record: PasskeyRecord, purpose: Purpose, bound_to: str) -> list[Asked]:
    """Return every challenge that this passkey may answer there."""
    theirs = Asked(purpose=purpose, tenant_id=record.tenant_id, user_id=record.user_id, bound_to=bound_to)
    if purpose is not Purpose.LOGIN:
        return [theirs]
    of_tenant = msgspec.structs.replace(theirs, user_id=None)
    return [theirs, of_tenant, msgspec.structs.replace(of_tenant, tenant_id="")]


def _check_handle(asked: Asked, record: PasskeyRecord, handle: str | None) -> None:
    """Raises: Refused when the passkey is not of who was asked.

    Where anybody may answer, the authenticator has to say whose it is (WebAuthn Level 3, section 7.2 step 6).
    """
    if handle != user_handle(record.user_id) and (handle or asked.user_id is None):
        raise Refused("user handle")
