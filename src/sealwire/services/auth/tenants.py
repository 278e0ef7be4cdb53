"""Tenants: the two there are from the start, those an operator makes, and the self-test's throwaway ones."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from sealwire.contracts import tenancy
from sealwire.contracts.tenancy import QuotaChange, Quotas, TenantChange, TenantDetails, TenantNotFound, TenantReserved
from sealwire.contracts.tenants import NewTenant, Tenant
from sealwire.kit.caller import ANONYMOUS_TENANT, SYSTEM_TENANT, Caller, service_caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Conflict, Forbidden
from sealwire.ports.events import NewEvent
from sealwire.services.auth.events import Journal, Kind, Origin
from sealwire.services.auth.model import DEFAULT_TENANT, SELFTEST_LIFE_S, SELFTEST_PREFIX
from sealwire.services.auth.ports import TenantStore
from sealwire.services.auth.records import Reason, TenantRecord
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.vault import Vault

_RESERVED: Final = frozenset({DEFAULT_TENANT, SYSTEM_TENANT, ANONYMOUS_TENANT})
_SELFTEST: Final = re.compile(SELFTEST_PREFIX + r"[a-z0-9-]{1,48}")
_SWEPT_AT_ONCE: Final = 20


class Tenants:
    """Makes, finds and removes tenants."""

    def __init__(self, *, store: TenantStore, vault: Vault, journal: Journal, revoker: Revoker, clock: Clock) -> None:
        self._store = store
        self._vault = vault
        self._journal = journal
        self._revoker = revoker
        self._clock = clock

    async def start(self) -> None:
        """Make `default` and `system` when they are not there; their ids are their names."""
        for name in (DEFAULT_TENANT, SYSTEM_TENANT):
            if await self._store.find(name) is None:
                await self._make(service_caller("auth", SYSTEM_TENANT), name, name, tenant_id=name)

    async def for_registration(self, caller: Caller, name: str | None, *, may_make: bool) -> TenantRecord:
        """Return the tenant somebody wants to register in; `may_make` lets the self-test have a throwaway one.

        Raises: TenantNotFound, also for `system`, whose people are made by operators.
        """
        wanted = name or DEFAULT_TENANT
        tenant = await self._store.find(wanted)
        if tenant is None and may_make and _SELFTEST.fullmatch(wanted):
            tenant = await self._make(caller, wanted, "Self-test", tenant_id=new_id())
        if tenant is None or tenant.tenant_id == SYSTEM_TENANT or tenant.status != "active":
            raise TenantNotFound("There is no such tenant.")
        return tenant

    async def find(self, tenant_id: str) -> TenantRecord | None:
        """Return a tenant by id or slug, if there is one."""
        return await self._store.find(tenant_id)

    async def get(self, tenant_id: str) -> TenantRecord:
        """Return a tenant by id or slug. Raises: TenantNotFound."""
        tenant = await self._store.find(tenant_id)
        if tenant is None:
            raise TenantNotFound("There is no such tenant.")
        return tenant

    async def add(self, caller: Caller, tenant: NewTenant) -> Tenant:
        """Make a tenant. Raises: Conflict when the slug is taken or reserved."""
        if tenant.slug in _RESERVED or tenant.slug.startswith(SELFTEST_PREFIX):
            raise Conflict("That slug is reserved.")
        tenant_id = new_id()
        made = await self._make(caller, tenant.slug, tenant.name, tenant_id=tenant_id)
        if made.tenant_id != tenant_id:
            raise Conflict("That slug is taken.")
        return Tenant(
            tenant_id=made.tenant_id,
            slug=made.slug,
            name=made.name,
            created_at=rfc3339(made.created_us),
            status=made.status,
        )

    async def page(self, page: Page) -> tenancy.Tenants:
        """List all tenants."""
        records = await self._store.page(read_cursor(page.cursor), page.limit + 1)
        shown = records[: page.limit]
        return tenancy.Tenants(
            items=[details(record) for record in shown],
            next_cursor=write_cursor(shown[-1].tenant_id) if len(records) > page.limit else None,
        )

    async def change(self, caller: Caller, id_or_slug: str, change: TenantChange) -> TenantDetails:
        """Rename, set quotas, suspend or resume. Raises: TenantNotFound, TenantReserved."""
        tenant = await self.get(id_or_slug)
        if tenant.tenant_id == SYSTEM_TENANT:
            raise TenantReserved("`system` is for those who run the installation.")
        origin = await self._journal.origin(caller, SYSTEM_TENANT)
        changed: TenantRecord | None = tenant
        if change.name is not msgspec.UNSET or change.quotas is not msgspec.UNSET:
            name = None if change.name is msgspec.UNSET else change.name
            wanted = QuotaChange() if change.quotas is msgspec.UNSET else change.quotas
            event = self._told(Kind.TENANT_CHANGED, origin, tenant, **_said(wanted))
            changed = await self._store.change(
                tenant.tenant_id, name=name, quotas=lambda now: _merged(now, wanted), events=[event]
            )
        if change.status == "suspended":
            event = self._told(Kind.TENANT_SUSPENDED, origin, tenant)
            revocation = self._revoker.tenant(tenant.tenant_id, Reason.SUSPENDED)
            changed = await self._store.suspend(tenant.tenant_id, revocation, [event])
        elif change.status == "active":
            event = self._told(Kind.TENANT_RESUMED, origin, tenant)
            changed = await self._store.resume(tenant.tenant_id, [event])
        if changed is None:
            raise TenantNotFound("There is no such tenant.")
        return details(changed)

    async def remove(self, caller: Caller, tenant_id: str) -> None:
        """Remove a throwaway tenant for good. Raises: Forbidden for any other."""
        tenant = await self._store.find(tenant_id)
        if tenant is None:
            return
        if not tenant.slug.startswith(SELFTEST_PREFIX):
            raise Forbidden("Only tenants of the self-test can be removed like this.")
        await self._remove(caller, tenant)

    async def sweep(self) -> None:
        """Remove throwaway tenants that nobody removed."""
        before_us = self._clock.now_us() - SELFTEST_LIFE_S * US_PER_S
        for tenant in await self._store.made_before(SELFTEST_PREFIX, before_us, _SWEPT_AT_ONCE):
            await self._remove(service_caller("auth", SYSTEM_TENANT), tenant)

    async def _make(self, caller: Caller, slug: str, name: str, *, tenant_id: str) -> TenantRecord:
        record = TenantRecord(tenant_id=tenant_id, slug=slug, name=name, created_us=self._clock.now_us())
        origin = await self._journal.origin(caller, SYSTEM_TENANT)
        event = self._journal.event(Kind.TENANT_ADDED, origin, resource_type="tenant", resource_id=tenant_id, slug=slug)
        return await self._store.add(record, [event])

    def _told(self, kind: Kind, origin: Origin, tenant: TenantRecord, **facts: Any) -> NewEvent:
        return self._journal.event(kind, origin, resource_type="tenant", resource_id=tenant.tenant_id, **facts)

    async def _remove(self, caller: Caller, tenant: TenantRecord) -> None:
        origin = await self._journal.origin(caller, SYSTEM_TENANT)
        event = self._journal.event(
            Kind.TENANT_REMOVED, origin, resource_type="tenant", resource_id=tenant.tenant_id, slug=tenant.slug
        )
        await self._store.remove(tenant.tenant_id, self._revoker.tenant(tenant.tenant_id, Reason.TENANT), [event])
        await self._vault.forget_tenant(tenant.tenant_id)


def is_throwaway(tenant: TenantRecord) -> bool:
    """Whether it is one of the self-test's."""
    return tenant.slug.startswith(SELFTEST_PREFIX)


def details(tenant: TenantRecord) -> TenantDetails:
    """Return a tenant as operators see it."""
    return TenantDetails(
        tenant_id=tenant.tenant_id,
        slug=tenant.slug,
        name=tenant.name,
        created_at=rfc3339(tenant.created_us),
        status=tenant.status,
        users=tenant.users,
        owned=tenant.owner_claimed,
        quotas=tenant.quotas,
    )


def _merged(now: Quotas, change: QuotaChange) -> Quotas:
    return msgspec.structs.replace(now, **_said(change))


def _said(change: QuotaChange) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(change).items() if value is not msgspec.UNSET}
