"""Auth's use cases about passkeys (implements `contracts.passkeys.PasskeyRing`)."""

from __future__ import annotations

from sealwire.contracts.logins import LoginResult
from sealwire.contracts.passkeys import (
    Factors,
    FactorsQuery,
    NewPasskey,
    Passkey,
    PasskeyAdded,
    PasskeyChange,
    PasskeyLogin,
    PasskeyLoginStart,
    Passkeys,
)
from sealwire.contracts.users import UserNotFound
from sealwire.contracts.webauthn import CreationOptions, RequestOptions
from sealwire.kit.caller import Caller
from sealwire.kit.problem import Forbidden
from sealwire.services.auth.mfa import SecondFactors
from sealwire.services.auth.passkey_proofs import PasskeyProofs
from sealwire.services.auth.passkeys import PasskeyCase
from sealwire.services.auth.ports import UserStore
from sealwire.services.auth.records import UserRecord


class PasskeyService:
    """The part of `AuthService` that deals with passkeys."""

    def __init__(
        self, *, case: PasskeyCase, proofs: PasskeyProofs, second_factors: SecondFactors, people: UserStore
    ) -> None:
        self._case = case
        self._proofs = proofs
        self._second_factors = second_factors
        self._owners = people

    async def passkey_register_options(self, caller: Caller) -> CreationOptions:
        return await self._case.options(caller, await self._owner(caller))

    async def passkey_register(self, caller: Caller, new: NewPasskey) -> PasskeyAdded:
        return await self._case.register(caller, await self._owner(caller), new)

    async def passkey_login_options(self, caller: Caller, start: PasskeyLoginStart) -> RequestOptions:
        return await self._proofs.login_options(caller, start)

    async def passkey_login(self, caller: Caller, login: PasskeyLogin) -> LoginResult:
        return await self._proofs.login(caller, login)

    async def passkey_step_up_options(self, caller: Caller) -> RequestOptions:
        return await self._proofs.step_up_options(caller, await self._owner(caller))

    async def passkeys(self, caller: Caller) -> Passkeys:
        return await self._case.all_of(caller)

    async def rename_passkey(self, caller: Caller, passkey_id: str, change: PasskeyChange) -> Passkey:
        return await self._case.rename(caller, passkey_id, change)

    async def remove_passkey(self, caller: Caller, passkey_id: str) -> None:
        await self._case.remove(caller, passkey_id)

    async def factors(self, caller: Caller, query: FactorsQuery) -> Factors:
        if not caller.is_service:
            raise Forbidden("This is for services, on their own behalf.")
        user = await self._owners.get(query.user_id)
        if user is None or user.tenant_id != caller.tenant_id:
            raise UserNotFound("There is no such user in this tenant.")
        return Factors(methods=await self._second_factors.proofs(user), second_factor=user.mfa)

    async def _owner(self, caller: Caller) -> UserRecord:
        user = await self._owners.get(caller.user_id)
        if user is None or user.tenant_id != caller.tenant_id:
            raise UserNotFound("You are not known any more.")
        return user
