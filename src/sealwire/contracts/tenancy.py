"""What auth promises of tenants and of those who run the installation: quotas, suspension, operators.

An operator lives in the reserved tenant `system`, makes and suspends tenants, and sees no tenant's content.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import msgspec

from sealwire.contracts.auth_terms import SERVICE, Email
from sealwire.contracts.credentials import Invitation
from sealwire.contracts.tenants import Tenant
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output, Page, ShortText
from sealwire.kit.operation import Degraded, Operation, Policy, Repeat, table
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, Forbidden, NotFound

_Quota = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class TenantNotFound(NotFound):
    """No such tenant."""

    code, title = "tenant_not_found", "No such tenant"


class TenantReserved(Forbidden):
    """`system` runs the installation: it is never suspended and has no quotas."""

    code, title = "tenant_reserved", "The tenant is reserved"


class TenantOwned(Conflict):
    """The tenant has an owner; who else owns it is for them to say, not for an operator."""

    code, title = "tenant_owned", "The tenant has its owner"


class Quotas(Output):
    """Most of each in the tenant; None: what the settings of the installation allow.

    `messages` counts every message ever sent, `media_bytes` what its files take now, `keys` those not destroyed.
    """

    users: int | None = None
    messages: int | None = None
    media_bytes: int | None = None
    keys: int | None = None


class QuotaChange(Input):
    """What is left out stays; null takes the tenant's own limit away."""

    users: _Quota | msgspec.UnsetType | None = msgspec.UNSET
    messages: _Quota | msgspec.UnsetType | None = msgspec.UNSET
    media_bytes: _Quota | msgspec.UnsetType | None = msgspec.UNSET
    keys: _Quota | msgspec.UnsetType | None = msgspec.UNSET


class TenantDetails(Tenant):
    """A tenant as operators see it: how many users it has, and not who they are."""

    users: int = 0
    owned: bool = False
    quotas: Quotas = Quotas()


class Tenants(Output):
    """Tenants in the order of their ids."""

    items: list[TenantDetails]
    next_cursor: str | None = None


class TenantChange(Input):
    """`suspended`: every session and API key of the tenant ends, nobody in it can log in; `active` lets them again."""

    name: ShortText | msgspec.UnsetType = msgspec.UNSET
    status: Literal["active", "suspended"] | msgspec.UnsetType = msgspec.UNSET
    quotas: QuotaChange | msgspec.UnsetType = msgspec.UNSET


class OwnerInvitation(Input):
    """Who is to own a tenant that has no owner yet."""

    email: Email


class NewOperator(Input):
    """Who is to run the installation. They choose their password when they register with the letter's token."""

    email: Email


class Invited(Output):
    """The invitation. `token` is told to commands on the machine only; else it is in the letter and nowhere else."""

    invitation: Invitation
    token: str = ""


class Operator(Output):
    """One of those who run the installation."""

    user_id: str
    email: str
    display_name: str
    status: str
    mfa: bool
    created_at: str


class Operators(Output):
    """All of them."""

    items: list[Operator]
    next_cursor: str | None = None


class OperatorChange(Input):
    """A disabled operator's sessions end."""

    status: Literal["active", "disabled"]


_OPERATE: dict[str, Any] = {"service": SERVICE, "needs": Permission.MANAGE_TENANTS}

TENANTS = Operation(
    name="tenants",
    verb="GET",
    path="/auth/tenants",
    takes=Page,
    gives=Tenants,
    repeat=Repeat.SAFE,
    summary="All tenants (operators)",
    **_OPERATE,
)
TENANT = Operation(
    name="tenant",
    verb="GET",
    path="/auth/tenants/{tenant_id}",
    gives=TenantDetails,
    repeat=Repeat.SAFE,
    summary="A tenant by id or slug (operators)",
    **_OPERATE,
)
CHANGE_TENANT = Operation(
    name="change_tenant",
    verb="PATCH",
    path="/auth/tenants/{tenant_id}",
    takes=TenantChange,
    gives=TenantDetails,
    step_up=True,
    repeat=Repeat.IDEMPOTENT,
    summary="Rename a tenant, set its quotas, suspend or resume it (operators)",
    **_OPERATE,
)
INVITE_OWNER = Operation(
    name="invite_owner",
    verb="POST",
    path="/auth/tenants/{tenant_id}/owner",
    takes=OwnerInvitation,
    gives=Invited,
    step_up=True,
    summary="Invite the first owner of a tenant that has none (operators)",
    **_OPERATE,
)
OPERATORS = Operation(
    name="operators",
    verb="GET",
    path="/auth/operators",
    takes=Page,
    gives=Operators,
    repeat=Repeat.SAFE,
    summary="Those who run the installation (operators)",
    **_OPERATE,
)
ADD_OPERATOR = Operation(
    name="add_operator",
    verb="POST",
    path="/auth/operators",
    takes=NewOperator,
    gives=Invited,
    step_up=True,
    summary="Invite another operator (operators)",
    **_OPERATE,
)
CHANGE_OPERATOR = Operation(
    name="change_operator",
    verb="PATCH",
    path="/auth/operators/{user_id}",
    takes=OperatorChange,
    gives=Operator,
    step_up=True,
    repeat=Repeat.IDEMPOTENT,
    summary="Disable or enable an operator (operators)",
    **_OPERATE,
)
TENANT_QUOTAS = Operation(
    name="tenant_quotas",
    verb="GET",
    path="/auth/internal/tenant-quotas",
    gives=Quotas,
    service=SERVICE,
    policy=Policy.SERVICE,
    degraded=Degraded.ALLOW,
    repeat=Repeat.SAFE,
    callers=frozenset({"crypto", "messaging", "media"}),
    summary="The quotas of the caller's tenant, for services",
)

OPERATIONS = table(
    TENANTS, TENANT, CHANGE_TENANT, INVITE_OWNER, OPERATORS, ADD_OPERATOR, CHANGE_OPERATOR, TENANT_QUOTAS
)


class Tenancy(Protocol):
    """The part of auth that deals with them."""

    async def tenants(self, caller: Caller, page: Page) -> Tenants: ...
    async def tenant(self, caller: Caller, tenant_id: str) -> TenantDetails:
        """Raises: TenantNotFound."""

    async def change_tenant(self, caller: Caller, tenant_id: str, change: TenantChange) -> TenantDetails:
        """A suspension is durable, and in the revocation feed, before the answer. Raises: TenantNotFound, Forbidden."""

    async def invite_owner(self, caller: Caller, tenant_id: str, invitation: OwnerInvitation) -> Invited:
        """Raises: TenantNotFound, TenantOwned, EmailTaken."""

    async def operators(self, caller: Caller, page: Page) -> Operators: ...
    async def add_operator(self, caller: Caller, new: NewOperator) -> Invited:
        """Raises: EmailTaken."""

    async def change_operator(self, caller: Caller, user_id: str, change: OperatorChange) -> Operator:
        """Raises: UserNotFound."""

    async def tenant_quotas(self, caller: Caller) -> Quotas:
        """Return the quotas of the caller's tenant; of one that is gone none."""


class QuotaSource(Protocol):
    """What a service that enforces a quota is given."""

    def known(self, tenant_id: str) -> Quotas | None:
        """Return the quotas without waiting, when they are known and young enough."""

    async def of(self, tenant_id: str) -> Quotas:
        """Return the quotas; while auth is out of reach those known last, or else none of the tenant's own."""
