"""Auth's use cases about tenants and operators (implements `contracts.tenancy.Tenancy`)."""

from __future__ import annotations

from sealwire.contracts import tenancy
from sealwire.contracts.tenancy import (
    Invited,
    NewOperator,
    Operator,
    OperatorChange,
    Operators,
    OwnerInvitation,
    Quotas,
    TenantChange,
    TenantDetails,
)
from sealwire.contracts.tenants import NewTenant, Tenant
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Page
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Forbidden
from sealwire.services.auth.operators import Stewards
from sealwire.services.auth.tenants import Tenants, details


class TenancyService:
    """The part of `AuthService` that operators and services use."""

    def __init__(self, *, tenants: Tenants, stewards: Stewards) -> None:
        self._tenants = tenants
        self._stewards = stewards

    async def tenants(self, caller: Caller, page: Page) -> tenancy.Tenants:
        require_operator(caller)
        return await self._tenants.page(page)

    async def tenant(self, caller: Caller, tenant_id: str) -> TenantDetails:
        require_operator(caller)
        return details(await self._tenants.get(tenant_id))

    async def add_tenant(self, caller: Caller, tenant: NewTenant) -> Tenant:
        require_operator(caller)
        made = await self._tenants.add(caller, tenant)
        if tenant.owner_email is not None:
            await self._stewards.invite_owner(caller, await self._tenants.get(made.tenant_id), tenant.owner_email)
        return made

    async def change_tenant(self, caller: Caller, tenant_id: str, change: TenantChange) -> TenantDetails:
        require_operator(caller)
        return await self._tenants.change(caller, tenant_id, change)

    async def remove_tenant(self, caller: Caller, tenant_id: str) -> None:
        role, own = caller.principal.role, caller.tenant_id == tenant_id
        if not caller.is_service and role is not Role.OPERATOR and not (role is Role.OWNER and own):
            raise Forbidden("Only its owner or an operator removes a throwaway tenant.")
        await self._tenants.remove(caller, tenant_id)

    async def invite_owner(self, caller: Caller, tenant_id: str, invitation: OwnerInvitation) -> Invited:
        require_operator(caller)
        return await self._stewards.invite_owner(caller, await self._tenants.get(tenant_id), invitation.email)

    async def operators(self, caller: Caller, page: Page) -> Operators:
        require_operator(caller)
        return await self._stewards.page(caller, page)

    async def add_operator(self, caller: Caller, new: NewOperator) -> Invited:
        require_operator(caller)
        return await self._stewards.invite(caller, new.email)

    async def change_operator(self, caller: Caller, user_id: str, change: OperatorChange) -> Operator:
        require_operator(caller)
        return await self._stewards.change(caller, user_id, change)

    async def tenant_quotas(self, caller: Caller) -> Quotas:
        if not caller.is_service:
            raise Forbidden("This is for services, on their own behalf.")
        found = await self._tenants.find(caller.tenant_id)
        return found.quotas if found is not None else Quotas()


def require_operator(caller: Caller) -> None:
    """Raises: Forbidden for everybody else."""
    if not caller.may(Permission.MANAGE_TENANTS):
        raise Forbidden(f"Your role does not grant {Permission.MANAGE_TENANTS.value}.")
