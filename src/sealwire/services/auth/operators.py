"""Operators: the people of the tenant `system`, and how the first owner of a tenant comes in."""

from __future__ import annotations

from sealwire.contracts.tenancy import Invited, Operator, OperatorChange, Operators, TenantOwned, TenantReserved
from sealwire.contracts.users import User, UserChange, UserNotFound
from sealwire.kit.caller import SYSTEM_TENANT, Caller
from sealwire.kit.codec import Page
from sealwire.kit.permission import Role
from sealwire.services.auth.invitations import Guestbook
from sealwire.services.auth.records import TenantRecord
from sealwire.services.auth.users import Roster


class Stewards:
    """Those who run the installation. The first is invited by a command on the machine (`sealwire operator create`)."""

    def __init__(self, *, users: Roster, guestbook: Guestbook) -> None:
        self._users = users
        self._guestbook = guestbook

    async def invite(self, caller: Caller, email: str) -> Invited:
        """Invite another operator. Raises: EmailTaken, QuotaExceeded."""
        return await self._guestbook.add_by_operator(caller, SYSTEM_TENANT, email, Role.OPERATOR)

    async def invite_owner(self, caller: Caller, tenant: TenantRecord, email: str) -> Invited:
        """Invite the first owner of a tenant. Raises: TenantOwned, TenantReserved, EmailTaken, QuotaExceeded."""
        if tenant.tenant_id == SYSTEM_TENANT:
            raise TenantReserved("`system` has operators and no owner.")
        if tenant.owner_claimed:
            raise TenantOwned("Ask its owner; an operator invites the first one only.")
        return await self._guestbook.add_by_operator(caller, tenant.tenant_id, email, Role.OWNER)

    async def page(self, caller: Caller, page: Page) -> Operators:
        """List them."""
        found = await self._users.page(_in_system(caller), page)
        return Operators(items=[_shown(user) for user in found.items], next_cursor=found.next_cursor)

    async def change(self, caller: Caller, user_id: str, change: OperatorChange) -> Operator:
        """Disable or enable one. Raises: UserNotFound."""
        if not user_id:
            raise UserNotFound("There is no such operator.")
        return _shown(await self._users.change(_in_system(caller), user_id, UserChange(status=change.status)))


def _in_system(caller: Caller) -> Caller:
    """Return the caller, who is an operator or one of our services in `system`. Raises: UserNotFound otherwise."""
    if caller.tenant_id != SYSTEM_TENANT:
        raise UserNotFound("There is no such operator.")
    return caller


def _shown(user: User) -> Operator:
    return Operator(
        user_id=user.user_id,
        email=user.email,
        display_name=user.display_name,
        status=user.status,
        mfa=user.mfa,
        created_at=user.created_at,
    )
