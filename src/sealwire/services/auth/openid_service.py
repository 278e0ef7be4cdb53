"""Use cases of OpenID Connect: who may register apps, and see what people allowed them."""

from __future__ import annotations

from sealwire.contracts.openid import ClientMade, Clients, Consents, NewClient, ProviderMetadata
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Page
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden
from sealwire.services.auth.openid import OpenIdProvider


class OpenIdService:
    """The part of auth that apps sign people in with (implements `contracts.openid.OpenId`)."""

    def __init__(self, *, openid: OpenIdProvider) -> None:
        self.openid = openid

    async def openid_configuration(self, caller: Caller) -> ProviderMetadata:
        return self.openid.metadata()

    async def clients(self, caller: Caller, page: Page) -> Clients:
        _require(caller)
        return await self.openid.clients.page(caller, page)

    async def add_client(self, caller: Caller, new: NewClient) -> ClientMade:
        _require(caller)
        return await self.openid.clients.add(caller, new)

    async def end_client(self, caller: Caller, client_id: str) -> None:
        _require(caller)
        await self.openid.clients.end(caller, client_id)

    async def consents(self, caller: Caller, page: Page) -> Consents:
        return await self.openid.consents.page(caller, page)

    async def end_consent(self, caller: Caller, client_id: str) -> None:
        await self.openid.consents.end(caller, client_id)


def _require(caller: Caller) -> None:
    """Check once more what the edge has checked: a call in this process came past no edge. Raises: Forbidden."""
    if not caller.may(Permission.MANAGE_USERS):
        raise Forbidden("Your role does not grant manage_users.")
