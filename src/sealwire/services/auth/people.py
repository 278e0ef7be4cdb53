"""People: a user's record with its sealed part opened, in the forms that others may see."""

from __future__ import annotations

from sealwire.contracts.users import Profile, User
from sealwire.kit.clock import rfc3339
from sealwire.services.auth.records import TenantRecord, UserRecord
from sealwire.services.auth.vault import Person, Vault


class People:
    """Opens records."""

    def __init__(self, *, vault: Vault) -> None:
        self._vault = vault

    async def person(self, user: UserRecord) -> Person:
        """Open a user's address and name."""
        return await self._vault.open_person(user.tenant_id, user.user_id, user.sealed)

    async def show(self, user: UserRecord) -> User:
        """Return a user as others in the tenant may see them."""
        return self.shown(user, await self.person(user))

    async def profile(self, user: UserRecord, tenant: TenantRecord, *, needs_mfa: bool) -> Profile:
        """Return what other services may know of a user. Nobody in a suspended tenant is active."""
        person = await self.person(user)
        return Profile(
            user_id=user.user_id,
            tenant_id=user.tenant_id,
            display_name=person.display_name,
            email=person.email,
            role=user.role,
            active=user.status == "active" and tenant.status == "active",
            epoch=user.epoch,
            needs_mfa=needs_mfa,
        )

    @staticmethod
    def shown(user: UserRecord, person: Person) -> User:
        """Return the public form of a record that is open already."""
        return User(
            user_id=user.user_id,
            tenant_id=user.tenant_id,
            email=person.email,
            display_name=person.display_name,
            role=user.role,
            status=user.status,
            mfa=user.mfa,
            created_at=rfc3339(user.created_us),
        )
