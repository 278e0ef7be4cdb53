"""Second factors: an authenticator app (TOTP, RFC 6238) and recovery codes, each use counted once."""

from __future__ import annotations

import base64
import hmac
import os
from typing import Final

import pyotp

from sealwire.contracts.logins import MfaFailed, RecoveryCodes, TotpCode, TotpEnrollment
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.lockout import Lockout
from sealwire.services.auth.mfa_policy import MfaKept, MfaPolicy
from sealwire.services.auth.passkey_store import PasskeyStore, Removal
from sealwire.services.auth.passwords import NO_PASSWORD
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import MfaStore
from sealwire.services.auth.records import TotpRecord, UserRecord
from sealwire.services.auth.vault import Vault

STEP_S: Final = 30
"""RFC 6238 section 5.2. A code of the step before or after is accepted unless the settings say otherwise: clocks differ
and people type slowly."""
PENDING_US: Final = 15 * 60 * US_PER_S
RECOVERY_CODES: Final = 10
_RECOVERY_BYTES: Final = 15
"""120 bits, so that a fast keyed hash is enough (ASVS 5.0, 6.5.2 asks for 112)."""
_ISSUER_NAME: Final = "Sealwire"


class SecondFactors:
    """Enrols, checks and removes second factors."""

    def __init__(
        self, *, store: MfaStore, passkeys: PasskeyStore, vault: Vault, people: People, lockout: Lockout,
        policy: MfaPolicy, journal: Journal, clock: Clock, drift_steps: int,
    ) -> None:  # fmt: skip
        self._store = store
        self._passkeys = passkeys
        self._policy = policy
        self._vault = vault
        self._people = people
        self._lockout = lockout
        self._journal = journal
        self._clock = clock
        self._drift_steps = drift_steps

    async def enroll(self, caller: Caller, user: UserRecord) -> TotpEnrollment:
        """Make a secret that waits for its first code; one in use stays in use until then."""
        secret = pyotp.random_base32(32)
        sealed = await self._vault.seal(user.tenant_id, _record(user.user_id), secret.encode())
        event = self._journal.event(
            Kind.TOTP_ENROLLED, await self._journal.origin(caller), subject_id=user.user_id, resource_type="totp"
        )
        await self._store.enroll(user.user_id, sealed, self._clock.now_us() + PENDING_US, [event])
        person = await self._people.person(user)
        uri = pyotp.TOTP(secret).provisioning_uri(name=person.email, issuer_name=_ISSUER_NAME)
        return TotpEnrollment(secret=secret, otpauth_uri=uri)

    async def confirm(self, caller: Caller, user: UserRecord, code: TotpCode) -> RecoveryCodes:
        """Put the waiting secret into use. Raises: MfaFailed, TooManyAttempts."""
        async with self._lockout.proof(user.user_id) as standing:
            record = await self._store.totp(user.user_id)
            pending = self._pending(record)
            step = await self._step(user, pending, code.code) if pending is not None else None
            if pending is None or step is None:
                failed = self._journal.event(
                    Kind.MFA_FAILED, await self._journal.origin(caller), subject_id=user.user_id, outcome="failure",
                    method="totp",
                )  # fmt: skip
                await self._lockout.fail(standing, [failed])
                raise MfaFailed
            codes, hashes = new_recovery_codes(self._vault, user.user_id)
            event = self._journal.event(
                Kind.TOTP_CONFIRMED, await self._journal.origin(caller), subject_id=user.user_id, resource_type="totp"
            )
            if not await self._store.confirm(
                user.user_id, pending_sealed=pending, step=step, recovery=hashes, events=[event]
            ):
                raise MfaFailed
        return RecoveryCodes(recovery_codes=codes)

    async def remove(self, caller: Caller) -> None:
        """Remove the authenticator app; nothing happens when there is none. Raises: MfaKept."""
        event = self._journal.event(
            Kind.TOTP_REMOVED, await self._journal.origin(caller), subject_id=caller.user_id, resource_type="totp"
        )
        keeps = await self._policy.demands(caller.tenant_id)
        if await self._store.remove(caller.user_id, keeps_a_factor=keeps, events=[event]) is Removal.LAST_FACTOR:
            raise MfaKept("Enrol another authenticator app instead, it replaces this one; or add a passkey first.")

    async def methods(self, user_id: str) -> list[str]:
        """Return the second factors that the user can use now: recovery codes run out, passkeys are suspended."""
        record = await self._store.totp(user_id)
        found = {
            "passkey": await self._passkeys.is_usable(user_id),
            "totp": record is not None and record.sealed_secret is not None,
            "recovery": await self._store.has_recovery(user_id),
        }
        return [method for method, usable in found.items() if usable]

    async def proofs(self, user: UserRecord) -> list[str]:
        """Return what a step-up takes of this person: a second factor of those who have one, else their password."""
        if user.mfa:
            return await self.methods(user.user_id)
        return [] if user.password_hash == NO_PASSWORD else ["password"]

    async def holds(self, caller: Caller, user: UserRecord, method: str, code: str) -> bool:
        """Check a code and use it up: the same code never counts twice, however many ask at once."""
        if method == "recovery":
            code_hash = self._vault.code_hash(user.user_id, _plain(code))
            origin = await self._journal.origin(caller, user.tenant_id)
            event = self._journal.event(
                Kind.RECOVERY_USED, origin, subject_id=user.user_id, resource_type="recovery_code", as_subject=True
            )
            return await self._store.use_recovery(user.user_id, code_hash, [event])
        record = await self._store.totp(user.user_id)
        if record is None or record.sealed_secret is None:
            return False
        step = await self._step(user, record.sealed_secret, code)
        return step is not None and await self._store.use_step(user.user_id, step)

    def _pending(self, record: TotpRecord | None) -> bytes | None:
        if record is None or record.pending_until_us <= self._clock.now_us():
            return None
        return record.pending_sealed

    async def _step(self, user: UserRecord, sealed: bytes, code: str) -> int | None:
        secret = (await self._vault.open(user.tenant_id, _record(user.user_id), sealed)).decode()
        return matching_step(secret, _plain(code), now_us=self._clock.now_us(), drift_steps=self._drift_steps)


def matching_step(secret: str, code: str, *, now_us: int, drift_steps: int = 1) -> int | None:
    """Return the time step that a code belongs to (RFC 6238: HMAC-SHA-1, 6 digits, 30 s), or None.

    `secret` is base32. `drift_steps` before and after count as well; all are compared, each in constant time.
    """
    totp = pyotp.TOTP(secret, interval=STEP_S)
    now = now_us // US_PER_S // STEP_S
    given = code.encode(errors="replace")
    found = None
    for step in range(now - drift_steps, now + drift_steps + 1):
        if step >= 0 and hmac.compare_digest(totp.generate_otp(step).encode(), given):
            found = step
    return found


def _record(user_id: str) -> str:
    return "totp:" + user_id


def new_recovery_codes(vault: Vault, user_id: str) -> tuple[list[str], list[bytes]]:
    """Return fresh recovery codes of a user, and the hashes they are stored as."""
    codes = [_new_recovery_code() for _ in range(RECOVERY_CODES)]
    return codes, [vault.code_hash(user_id, _plain(code)) for code in codes]


def _new_recovery_code() -> str:
    """Return 24 characters of base32 in groups of six."""
    text = base64.b32encode(os.urandom(_RECOVERY_BYTES)).decode().lower()
    return "-".join(text[at : at + 6] for at in range(0, len(text), 6))


def _plain(code: str) -> str:
    """Return a code as it is compared: people write hyphens and spaces where they are shown some, or don't."""
    return code.replace("-", "").replace(" ", "").lower()
