"""Invitations: who may come in by being asked, as what, and for how long."""

from __future__ import annotations

import msgspec

from sealwire.contracts.credentials import (
    Invitation,
    InvitationInvalid,
    InvitationNotFound,
    Invitations,
    NewInvitation,
)
from sealwire.contracts.tenancy import Invited
from sealwire.contracts.users import EmailTaken
from sealwire.kit.caller import SYSTEM_TENANT, Caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.permission import GRANTS, Permission, Role
from sealwire.kit.problem import Forbidden
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.letters import INVITATION_SUBJECT, invitation_text
from sealwire.services.auth.model import DEFAULT_TENANT, check_role_given
from sealwire.services.auth.one_time import new_token, token_hash
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.postman import Postman
from sealwire.services.auth.records import InvitationRecord
from sealwire.services.auth.vault import Vault

_DAY_S = 86_400


class Guestbook:
    """The open invitations of every tenant."""

    def __init__(
        self, *, stores: AuthStores, vault: Vault, postman: Postman, journal: Journal, clock: Clock,
        config: AuthConfig, site: str,
    ) -> None:  # fmt: skip
        self._stores = stores
        self._vault = vault
        self._postman = postman
        self._journal = journal
        self._clock = clock
        self._config = config
        self._site = site

    async def add(self, caller: Caller, new: NewInvitation) -> Invitation:
        """Invite a person. Raises: Forbidden, EmailTaken, QuotaExceeded."""
        role, tenant_id = Role(new.role), caller.tenant_id
        check_role_given(by=caller.principal.role, role=role, tenant_id=tenant_id)
        life_s = min(new.expires_in_s or self._config.invitation_ttl_s, self._config.invitation_ttl_s)
        return (await self._invite(caller, tenant_id, new.email, role, life_s, by=caller.user_id)).invitation

    async def add_by_operator(self, caller: Caller, tenant_id: str, email: str, role: Role) -> Invited:
        """Invite a tenant's first owner or another operator. The token is told to who holds the data folder anyway.

        Raises: EmailTaken, QuotaExceeded.
        """
        by = SYSTEM_TENANT if caller.is_service else caller.user_id
        invited = await self._invite(caller, tenant_id, email, role, self._config.invitation_ttl_s, by=by)
        return invited if caller.is_service else Invited(invitation=invited.invitation)

    async def _invite(self, caller: Caller, tenant_id: str, email: str, role: Role, life_s: int, *, by: str) -> Invited:
        index = self._vault.email_index(tenant_id, email)
        if await self._stores.users.by_email(tenant_id, index) is not None:
            raise EmailTaken("That person is a user already.")
        token, invitation_id, now_us = new_token("swi1"), new_id(), self._clock.now_us()
        record = InvitationRecord(
            invitation_id=invitation_id,
            token_hash=token_hash(token),
            tenant_id=tenant_id,
            email_index=index,
            sealed=await self._vault.seal(tenant_id, "invitation:" + invitation_id, email.encode()),
            role=role,
            invited_by=by,
            created_us=now_us,
            expires_us=now_us + life_s * US_PER_S,
        )
        tenant = await self._stores.tenants.find(tenant_id)
        named = tenant.slug if tenant is not None and tenant_id != DEFAULT_TENANT else ""
        text = invitation_text(
            site=self._site, token=token, role=role.value, days=max(1, life_s // _DAY_S), tenant=named
        )
        letter = await self._postman.seal(tenant_id, to=email, subject=INVITATION_SUBJECT, text=text)
        event = self._journal.event(
            Kind.INVITED, await self._journal.origin(caller, email=email), resource_type="invitation",
            resource_id=invitation_id, role=role.value,
        )  # fmt: skip
        await self._stores.invitations.add(record, letter, most=self._config.invitations_per_tenant, events=[event])
        self._postman.wake()
        return Invited(invitation=_shown(record, email), token=token)

    async def page(self, caller: Caller, page: Page) -> Invitations:
        """List the open invitations of the caller's tenant."""
        records = await self._stores.invitations.page(
            caller.tenant_id, read_cursor(page.cursor), page.limit + 1, self._clock.now_us()
        )
        shown = records[: page.limit]
        items = [_shown(record, await self._email(record)) for record in shown]
        return Invitations(
            items=items, next_cursor=write_cursor(shown[-1].invitation_id) if len(records) > page.limit else None
        )

    async def withdraw(self, caller: Caller, invitation_id: str) -> None:
        """Withdraw an invitation. Raises: InvitationNotFound."""
        event = self._journal.event(
            Kind.INVITATION_WITHDRAWN, await self._journal.origin(caller), resource_type="invitation",
            resource_id=invitation_id,
        )  # fmt: skip
        if not await self._stores.invitations.remove(caller.tenant_id, invitation_id, [event]):
            raise InvitationNotFound("There is no such invitation.")

    async def shown_by(self, token: str, email: str) -> InvitationRecord:
        """Return the invitation that somebody registers with, if it is good for that address.

        It is only as good as who gave it: a person who may not give that role any more invites nobody.
        Raises: InvitationInvalid.
        """
        record = await self._stores.invitations.find(token_hash(token), self._clock.now_us())
        if record is None or self._vault.email_index(record.tenant_id, email) != record.email_index:
            raise InvitationInvalid
        if record.invited_by == SYSTEM_TENANT:  # by a command on the machine
            return msgspec.structs.replace(record, by_operator=True)
        host = await self._stores.users.get(record.invited_by)
        if host is None or host.status != "active":
            raise InvitationInvalid
        if host.role is Role.OPERATOR and record.role in (Role.OWNER, Role.OPERATOR):
            return msgspec.structs.replace(record, by_operator=True)
        if Permission.INVITE not in GRANTS[host.role] or host.tenant_id != record.tenant_id:
            raise InvitationInvalid
        try:
            check_role_given(by=host.role, role=record.role, tenant_id=record.tenant_id)
        except Forbidden:
            raise InvitationInvalid from None
        return record

    async def _email(self, record: InvitationRecord) -> str:
        sealed = await self._vault.open(record.tenant_id, "invitation:" + record.invitation_id, record.sealed)
        return sealed.decode()


def _shown(record: InvitationRecord, email: str) -> Invitation:
    return Invitation(
        invitation_id=record.invitation_id,
        email=email,
        role=record.role,
        invited_by=record.invited_by,
        created_at=rfc3339(record.created_us),
        expires_at=rfc3339(record.expires_us),
    )
