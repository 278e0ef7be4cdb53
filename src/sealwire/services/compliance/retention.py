"""Retention policies (R4.6): what is kept how long. Runs are in `retention_runs`, legal holds in `holds`."""

from __future__ import annotations

from sealwire.contracts.compliance_terms import SERVICE
from sealwire.contracts.retention_policies import NewRetentionPolicy, RetentionPolicies, RetentionPolicy
from sealwire.kit.caller import ANONYMOUS_TENANT, Caller, service_caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.problem import Invalid, NotFound
from sealwire.services.compliance.events import change_event
from sealwire.services.compliance.ports import RetentionStore

RESOURCE_TYPES = ("messages", "media", "audit", "sessions", "exports")


class Retention:
    """The tenant's book of policies."""

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
        """Set or replace the policy of a resource type. Raises: Invalid for a type or an action that there isn't."""
        if resource_type not in RESOURCE_TYPES:
            raise Invalid(f"The resource types are {', '.join(RESOURCE_TYPES)}.", path="$.resource_type")
        if policy.action == "tombstone" and resource_type != "messages":
            raise Invalid("Only messages leave tombstones; of this type nothing would be left.", path="$.action")
        now_us = self._clock.now_us()
        found = await self._store.policies(caller.tenant_id, after="", limit=len(RESOURCE_TYPES))
        same = [p.updated_at for p in found if p.resource_type == resource_type and _says(p) == _says(policy)]
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
            resource_type=resource_type,
            keep_days=policy.keep_days,
            action=policy.action,
            updated_at=same[0] if same else rfc3339(now_us),  # said again it is no other: the schedule does not wait
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

    async def keep_anonymous(self, keep_days: int) -> None:
        """Let the log of those who are not known be kept as the settings say: nobody administers that tenant."""
        caller = service_caller(SERVICE, ANONYMOUS_TENANT)
        found = await self._store.policies(ANONYMOUS_TENANT, after="", limit=len(RESOURCE_TYPES))
        before = next((policy.keep_days for policy in found if policy.resource_type == "audit"), 0)
        if before and not keep_days:
            await self.remove_policy(caller, "audit")
        elif before != keep_days:
            await self.set_policy(caller, "audit", NewRetentionPolicy(keep_days=keep_days))


def _says(policy: RetentionPolicy | NewRetentionPolicy) -> tuple[int, str]:
    return policy.keep_days, policy.action
