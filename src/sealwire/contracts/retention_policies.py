"""What compliance promises of retention policies: how long a tenant keeps each type of resource."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from sealwire.contracts.compliance_terms import LOOK, RETAIN
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output, Page
from sealwire.kit.operation import Operation, Repeat, table


class RetentionPolicy(Output):
    """How long a type of resource is kept; since `updated_at`, and by the schedule an interval later."""

    resource_type: str
    keep_days: int
    action: str
    updated_at: str = ""


class NewRetentionPolicy(Input):
    """`keep_days` 0 keeps for ever."""

    keep_days: Annotated[int, msgspec.Meta(ge=0, le=36_500)]
    action: Literal["delete", "tombstone"] = "delete"


class RetentionPolicies(Output):
    """The tenant's policies."""

    items: list[RetentionPolicy]
    next_cursor: str | None = None


POLICIES = Operation(
    name="policies",
    verb="GET",
    path="/compliance/retention/policies",
    takes=Page,
    gives=RetentionPolicies,
    repeat=Repeat.SAFE,
    summary="Retention policies",
    **LOOK,
)
POLICY = Operation(
    name="policy",
    verb="GET",
    path="/compliance/retention/policies/{resource_type}",
    gives=RetentionPolicy,
    repeat=Repeat.SAFE,
    summary="One retention policy",
    **LOOK,
)
SET_POLICY = Operation(
    name="set_policy",
    verb="PUT",
    path="/compliance/retention/policies/{resource_type}",
    takes=NewRetentionPolicy,
    gives=RetentionPolicy,
    step_up=True,
    repeat=Repeat.IDEMPOTENT,
    summary="Set a retention policy",
    **RETAIN,
)
REMOVE_POLICY = Operation(
    name="remove_policy",
    verb="DELETE",
    path="/compliance/retention/policies/{resource_type}",
    repeat=Repeat.IDEMPOTENT,
    step_up=True,
    summary="Remove a retention policy",
    **RETAIN,
)

OPERATIONS = table(
    POLICIES,
    POLICY,
    SET_POLICY,
    REMOVE_POLICY,
)


class PolicyDesk(Protocol):
    """Retention policies of the tenant."""

    async def policies(self, caller: Caller, page: Page) -> RetentionPolicies: ...
    async def policy(self, caller: Caller, resource_type: str) -> RetentionPolicy:
        """Raises: NotFound."""

    async def set_policy(self, caller: Caller, resource_type: str, policy: NewRetentionPolicy) -> RetentionPolicy: ...
    async def remove_policy(self, caller: Caller, resource_type: str) -> None: ...
