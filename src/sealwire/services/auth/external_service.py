"""Use cases of sign-in through somebody else (implements `contracts.external.External`)."""

from __future__ import annotations

from sealwire.contracts.external import LinkedIdentities, Providers
from sealwire.kit.caller import Caller
from sealwire.services.auth.external_logins import ExternalLogins


class ExternalService:
    """The part of auth that lets people in by their identity elsewhere."""

    def __init__(self, *, external: ExternalLogins) -> None:
        self.external = external

    async def providers(self, caller: Caller) -> Providers:
        return self.external.listed()

    async def identities(self, caller: Caller) -> LinkedIdentities:
        return await self.external.page(caller)

    async def end_identity(self, caller: Caller, identity_id: str) -> None:
        await self.external.unlink(caller, identity_id)
