"""Retention policies and legal holds (R4.6): what is kept how long, and what may not be touched meanwhile."""

from __future__ import annotations

from sealwire.contracts.compliance import (
    Hold,
    Holds,
    NewHold,
    NewRetentionPolicy,
    RetentionPolicies,
    RetentionPolicy,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Invalid, NotFound
from sealwire.services.compliance.cursors import read_cursor, write_cursor
from sealwire.services.compliance.events import change_event
from sealwire.services.compliance.ports import RetentionStore

RESOURCE_TYPES = ("messages", "media", "audit", "sessions", "exports")


class Retention:
    """The tenant's books of policies and holds."""

    def __init__(self, *, store: RetentionStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def policies(self, caller: Caller, page: Page) -> RetentionPolicies:
        """Return the tenant's policies."""
        after = read_cursor(page.cursor)
        found = await self._store.policies(caller.tenant_id, after=after, limit=page.limit + 1)
        items = list(found[: page.limit])
        more = len(found) > page.limit
        return RetentionPolicies(items=items, next_cursor=write_cursor(items[-1].resource_type) if more else None)

    async def policy(self, caller: Caller, resource_type: str) -> RetentionPolicy:
        """Return the policy of a resource type. Raises: NotFound."""
        for policy in await self._store.policies(caller.tenant_id, after="", limit=len(RESOURCE_TYPES)):
            if policy.resource_type == resource_type:
                return policy
        raise NotFound("There is no policy for this type; without one its resources are kept.")

    async def set_policy(self, caller: Caller, resource_type: str, policy: NewRetentionPolicy) -> RetentionPolicy:
        """Set or replace the policy of a resource type. Raises: Invalid for a type that doesn't exist."""
        if resource_type not in RESOURCE_TYPES:
            raise Invalid(f"The resource types are {', '.join(RESOURCE_TYPES)}.", path="$.resource_type")
        now_us = self._clock.now_us()
        event = change_event(
            caller,
            "retention.policy_set",
            resource_type="retention_policy",
            resource_id=resource_type,
            at_us=now_us,
            keep_days=policy.keep_days,
            action=policy.action,
        )
        stored = RetentionPolicy(
            resource_type=resource_type, keep_days=policy.keep_days, action=policy.action, updated_at=rfc3339(now_us)
        )
        await self._store.set_policy(caller.tenant_id, stored, event)
        return stored

    async def remove_policy(self, caller: Caller, resource_type: str) -> None:
        """Remove a policy. Raises: NotFound."""
        event = change_event(
            caller,
            "retention.policy_removed",
            resource_type="retention_policy",
            resource_id=resource_type[:128],
            at_us=self._clock.now_us(),
        )
        if not await self._store.remove_policy(caller.tenant_id, resource_type, event):
            raise NotFound("There is no policy for this resource type.")

    async def holds(self, caller: Caller, page: Page) -> Holds:
        """Return the tenant's holds in force."""
        found = await self._store.holds(caller.tenant_id, after=read_cursor(page.cursor), limit=page.limit + 1)
        items = list(found[: page.limit])
        more = len(found) > page.limit
        return Holds(items=items, next_cursor=write_cursor(items[-1].hold_id) if more else None)

    async def hold(self, caller: Caller, hold: NewHold) -> Hold:
        """Put a hold on a person or a conversation. Raises: Invalid unless exactly one is named."""
        if (hold.subject_id is None) == (hold.conversation_id is None):
            raise Invalid("Name either subject_id or conversation_id.", path="$")
        now_us = self._clock.now_us()
        stored = Hold(
            hold_id=new_id(),
            reason=hold.reason,
            created_at=rfc3339(now_us),
            created_by=caller.user_id,
            subject_id=hold.subject_id,
            conversation_id=hold.conversation_id,
        )
        event = change_event(
            caller,
            "hold.put",
            resource_type="hold",
            resource_id=stored.hold_id,
            at_us=now_us,
            subject_id=hold.subject_id or "",
            conversation_id=hold.conversation_id or "",
        )
        await self._store.put_hold(caller.tenant_id, stored, event)
        return stored

    async def release(self, caller: Caller, hold_id: str) -> None:
        """End a hold. Raises: NotFound."""
        event = change_event(
            caller, "hold.released", resource_type="hold", resource_id=hold_id[:128], at_us=self._clock.now_us()
        )
        if not await self._store.release(caller.tenant_id, hold_id, event):
            raise NotFound("There is no such hold.")
