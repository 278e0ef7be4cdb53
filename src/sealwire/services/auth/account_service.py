"""Auth's use cases about addresses and recovery (implements `contracts.addresses` and `contracts.recovery`)."""

from __future__ import annotations

from sealwire.contracts.addresses import EmailChange, EmailChangeAsked, EmailChanged, EmailConfirmation
from sealwire.contracts.credentials import ResetAsked
from sealwire.contracts.logins import RecoveryCodes
from sealwire.contracts.recovery import CARRIER, LockedOut
from sealwire.contracts.users import UserNotFound
from sealwire.kit.caller import SYSTEM_TENANT, Caller
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden
from sealwire.services.auth.addresses import AddressBook
from sealwire.services.auth.model import check_outranks
from sealwire.services.auth.ports import UserStore
from sealwire.services.auth.records import UserRecord
from sealwire.services.auth.recovery import Rescue
from sealwire.services.auth.resets import Resets


class AccountService:
    """The part of `AuthService` that deals with them."""

    def __init__(self, *, addresses: AddressBook, rescue: Rescue, resets: Resets, accounts: UserStore) -> None:
        self._addresses = addresses
        self._rescue = rescue
        self._resets = resets
        self._accounts = accounts

    async def change_email(self, caller: Caller, change: EmailChange) -> EmailChangeAsked:
        return await self._addresses.ask(caller, await self._oneself(caller), change.email)

    async def change_email_of(self, caller: Caller, user_id: str, change: EmailChange) -> EmailChangeAsked:
        return await self._addresses.ask(caller, await self._other(caller, user_id), change.email)

    async def confirm_email(self, caller: Caller, confirmation: EmailConfirmation) -> EmailChanged:
        return await self._addresses.confirm(caller, confirmation.token)

    async def new_recovery_codes(self, caller: Caller) -> RecoveryCodes:
        return await self._rescue.new_codes(caller, await self._oneself(caller))

    async def reset_factors(self, caller: Caller, user_id: str) -> None:
        await self._rescue.reset(caller, await self._other(caller, user_id))

    async def send_reset(self, caller: Caller, user_id: str) -> ResetAsked:
        return await self._resets.send(caller, await self._other(caller, user_id))

    async def end_sessions_of(self, caller: Caller, user_id: str) -> None:
        await self._rescue.end_sessions(caller, await self._other(caller, user_id))

    async def rescue(self, caller: Caller, who: LockedOut) -> None:
        if not caller.is_service or caller.user_id != CARRIER or caller.tenant_id != SYSTEM_TENANT:
            raise Forbidden("This is for a command on the machine.")
        await self._rescue.reset_named(caller, who.tenant, who.email)

    async def _oneself(self, caller: Caller) -> UserRecord:
        """Return the caller's record. Raises: Forbidden for who is no person, UserNotFound."""
        if caller.principal.kind != "user" or caller.principal.legacy:
            raise Forbidden("This is for people, in a session of their own.")
        return await self._found(caller, caller.user_id)

    async def _other(self, caller: Caller, user_id: str) -> UserRecord:
        """Return somebody else of the tenant whom the caller may act on. Raises: Forbidden, UserNotFound."""
        if not caller.may(Permission.MANAGE_USERS) or caller.principal.kind == "api_key":
            raise Forbidden("This needs an administrator in person.")
        user = await self._found(caller, user_id)
        if user_id == caller.user_id:
            raise Forbidden("Nobody does that to themself: use what your own account offers.")
        check_outranks(by=caller.principal.role, of=user.role)
        if user.service:
            raise Forbidden("A service account has neither.")
        if user.status == "restricted":
            raise Forbidden("The user's data is restricted; whoever restricted it (GDPR) lifts that.")
        return user

    async def _found(self, caller: Caller, user_id: str) -> UserRecord:
        user = await self._accounts.get(user_id)
        if user is None or user.tenant_id != caller.tenant_id:
            raise UserNotFound("There is no such user.")
        return user
