"""MFA policy: which tenants ask for a second factor, and what people without one may do: enrol."""

from __future__ import annotations

from sealwire.kit.problem import Forbidden
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.ports import TenantStore


class MfaKept(Forbidden):
    """The tenant asks for a second factor: the last one can be replaced and not removed."""

    code, title = "mfa_kept", "Your organisation asks for a second factor"


class MfaPolicy:
    """Reads the setting `auth.mfa_tenants`."""

    def __init__(self, *, tenants: TenantStore, config: AuthConfig) -> None:
        self._tenants = tenants
        self._named = frozenset(config.mfa_tenants)

    async def demands(self, tenant_id: str) -> bool:
        """Whether people of the tenant need a second factor."""
        if not self._named:
            return False
        if "*" in self._named or tenant_id in self._named:
            return True
        tenant = await self._tenants.find(tenant_id)
        return tenant is not None and tenant.slug in self._named
