"""Second factors: an authenticator app (TOTP, RFC 6238) and recovery codes, each use counted once."""

from __future__ import annotations

import base64
import hmac
import os
from typing import Final, Literal

import pyotp

from sealwire.contracts.auth import MfaFailed, RecoveryCodes, TotpCode, TotpEnrollment
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.lockout import Lockout
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import MfaStore
from sealwire.services.auth.records import TotpRecord, UserRecord
from sealwire.services.auth.vault import Vault

Method = Literal["totp", "recovery"]
STEP_S: Final = 30
"""RFC 6238 section 5.2. A code of the step before or after is accepted: clocks differ and people type slowly."""
PENDING_US: Final = 15 * 60 * US_PER_S
RECOVERY_CODES: Final = 10
_RECOVERY_BYTES: Final = 15
"""120 bits, so that a fast keyed hash is enough (ASVS 5.0, 6.5.2 asks for 112)."""
_ISSUER_NAME: Final = "Sealwire"


class SecondFactors:
    """Enrols, checks and removes second factors."""

    def __init__(
        self, *, store: MfaStore, vault: Vault, people: People, lockout: Lockout, journal: Journal, clock: Clock
    ) -> None:
        self._store = store
        self._vault = vault
        self._people = people
        self._lockout = lockout
        self._journal = journal
        self._clock = clock

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
            codes = [_new_recovery_code() for _ in range(RECOVERY_CODES)]
            event = self._journal.event(
                Kind.TOTP_CONFIRMED, await self._journal.origin(caller), subject_id=user.user_id, resource_type="totp"
            )
            hashes = [self._vault.code_hash(user.user_id, _plain(text)) for text in codes]
            if not await self._store.confirm(
                user.user_id, pending_sealed=pending, step=step, recovery=hashes, events=[event]
            ):
                raise MfaFailed
        return RecoveryCodes(recovery_codes=codes)

    async def remove(self, caller: Caller) -> None:
        """Remove the authenticator app and the recovery codes; nothing happens when there are none."""
        event = self._journal.event(
            Kind.TOTP_REMOVED, await self._journal.origin(caller), subject_id=caller.user_id, resource_type="totp"
        )
        await self._store.remove(caller.user_id, [event])

    async def methods(self, user_id: str) -> list[str]:
        """Return the second factors that the user has: recovery codes run out."""
        record = await self._store.totp(user_id)
        found = ["totp"] if record is not None and record.sealed_secret is not None else []
        return [*found, "recovery"] if await self._store.has_recovery(user_id) else found

    async def holds(self, caller: Caller, user: UserRecord, method: Method, code: str) -> bool:
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
        """Return the time step that the code belongs to; all candidates are compared, each in constant time."""
        secret = (await self._vault.open(user.tenant_id, _record(user.user_id), sealed)).decode()
        totp = pyotp.TOTP(secret, interval=STEP_S)
        now = self._clock.now_us() // US_PER_S // STEP_S
        found = None
        for step in (now - 1, now, now + 1):
            if hmac.compare_digest(totp.generate_otp(step).encode(), code.encode()):
                found = step
        return found


def _record(user_id: str) -> str:
    return "totp:" + user_id


def _new_recovery_code() -> str:
    """Return 24 characters of base32 in groups of six."""
    text = base64.b32encode(os.urandom(_RECOVERY_BYTES)).decode().lower()
    return "-".join(text[at : at + 6] for at in range(0, len(text), 6))


def _plain(code: str) -> str:
    return code.replace("-", "").lower()
