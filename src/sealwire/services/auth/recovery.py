"""Recovery: for who lost a factor or a device. New codes for oneself; what somebody who ranks higher does for them."""

from __future__ import annotations

from sealwire.contracts.logins import RecoveryCodes
from sealwire.contracts.recovery import NoSecondFactor
from sealwire.contracts.users import UserNotFound
from sealwire.kit.caller import Caller
from sealwire.kit.problem import Conflict, Forbidden
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.mfa import new_recovery_codes
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.records import Cut, Reason, UserRecord
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.vault import Vault


class Rescue:
    """Makes recovery codes and resets factors."""

    def __init__(self, *, stores: AuthStores, vault: Vault, journal: Journal, revoker: Revoker) -> None:
        self._stores = stores
        self._vault = vault
        self._journal = journal
        self._revoker = revoker

    async def new_codes(self, caller: Caller, user: UserRecord) -> RecoveryCodes:
        """Replace the caller's recovery codes. Raises: NoSecondFactor."""
        codes, hashes = new_recovery_codes(self._vault, user.user_id)
        event = self._journal.event(
            Kind.RECOVERY_MADE, await self._journal.origin(caller), subject_id=user.user_id,
            resource_type="recovery_code",
        )  # fmt: skip
        if not await self._stores.mfa.renew_recovery(user.user_id, hashes, [event]):
            raise NoSecondFactor("Set up a passkey or an authenticator app first; recovery codes come with it.")
        return RecoveryCodes(recovery_codes=codes)

    async def end_sessions(self, caller: Caller, user: UserRecord) -> None:
        """End all that is open of a user; they may log in again. Raises: Conflict, as `reset`."""
        cut = Cut(
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            reason=Reason.ENDED_BY_ADMIN,
            revocation=self._revoker.subject(user.tenant_id, user.user_id, Reason.ENDED_BY_ADMIN),
            expected_role=user.role,
        )
        event = self._journal.event(
            Kind.SESSIONS_ENDED, await self._journal.origin(caller), subject_id=user.user_id,
            reason=Reason.ENDED_BY_ADMIN.value,
        )  # fmt: skip
        if await self._stores.users.cut(cut, [event]) is None:
            raise Conflict("The user was changed meanwhile; look again.")

    async def reset_named(self, caller: Caller, tenant: str, email: str) -> None:
        """Take all second factors of whoever has that address. Raises: UserNotFound."""
        found = await self._stores.tenants.find(tenant)
        user = None
        if found is not None:
            index = self._vault.email_index(found.tenant_id, email)
            user = await self._stores.users.by_email(found.tenant_id, index)
        if user is None:
            raise UserNotFound("Nobody in this tenant has that address.")
        await self.reset(caller, user)

    async def reset(self, caller: Caller, user: UserRecord) -> None:
        """Take all second factors of a user. The password and linked identities stay, everything open ends.

        Raises: Forbidden for who is restricted (GDPR), where nothing changes; Conflict for who went or has another role
        by now: whoever asks ranked above the one they had.
        """
        if user.status == "restricted":
            raise Forbidden("The user's data is restricted; whoever restricted it (GDPR) lifts that.")
        if not user.mfa and await self._stores.mfa.totp(user.user_id) is None:
            return
        cut = Cut(
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            reason=Reason.FACTORS,
            revocation=self._revoker.subject(user.tenant_id, user.user_id, Reason.FACTORS),
            expected_role=user.role,
            drops_factors=True,
        )
        event = self._journal.event(
            Kind.FACTORS_RESET, await self._journal.origin(caller, user.tenant_id), subject_id=user.user_id
        )
        if await self._stores.users.cut(cut, [event]) is None:
            raise Conflict("The user was changed meanwhile; look again.")
