"""What auth promises of making and removing tenants; what operators do with them is in tenancy."""

from __future__ import annotations

from typing import Literal, Protocol

from sealwire.contracts.auth_terms import SERVICE, Email, Slug
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output, ShortText
from sealwire.kit.operation import Operation, Repeat, table
from sealwire.kit.permission import Permission


class NewTenant(Input):
    """A tenant an operator makes. `owner_email`: who is invited to own it; nobody becomes its owner by coming first."""

    slug: Slug
    name: ShortText
    owner_email: Email | None = None


class Tenant(Output):
    """A tenant."""

    tenant_id: str
    slug: str
    name: str
    created_at: str
    status: Literal["active", "suspended"] = "active"


ADD_TENANT = Operation(
    name="add_tenant",
    verb="POST",
    path="/auth/tenants",
    takes=NewTenant,
    gives=Tenant,
    service=SERVICE,
    needs=Permission.MANAGE_TENANTS,
    step_up=True,
    summary="Make a tenant (operators)",
)
REMOVE_TENANT = Operation(
    name="remove_tenant",
    verb="DELETE",
    path="/auth/tenants/{tenant_id}",
    repeat=Repeat.IDEMPOTENT,
    service=SERVICE,
    needs=Permission.OWN_PROFILE,
    step_up=True,
    summary="Remove a throwaway tenant of the self-test (its owner, or an operator)",
)

OPERATIONS = table(ADD_TENANT, REMOVE_TENANT)


class TenantRegistry(Protocol):
    """The part of auth that makes tenants."""

    async def add_tenant(self, caller: Caller, tenant: NewTenant) -> Tenant: ...

    async def remove_tenant(self, caller: Caller, tenant_id: str) -> None:
        """Remove users and sessions of a throwaway tenant of the self-test.

        Registering in a tenant named `selftest-<id>` makes it while registration is open; its first user owns it.
        Raises: Forbidden for any other tenant, and for a caller who is neither its owner nor an operator.
        """
