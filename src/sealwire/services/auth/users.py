"""Users: registered by themselves or made by an administrator, changed, disabled, and told about."""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from typing import Final

import msgspec

from sealwire.contracts.api_keys import NewServiceAccount
from sealwire.contracts.credentials import InvitationInvalid
from sealwire.contracts.users import (
    NewUser,
    Profile,
    ProfileChange,
    Profiles,
    Registered,
    Registration,
    RegistrationClosed,
    User,
    UserChange,
    UserNotFound,
    UserQuery,
    Users,
    WeakPassword,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Role
from sealwire.kit.problem import Conflict, Forbidden
from sealwire.ports.events import NewEvent
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind, Origin
from sealwire.services.auth.external_records import IdentityRecord
from sealwire.services.auth.invitations import Guestbook
from sealwire.services.auth.mfa_policy import MfaPolicy
from sealwire.services.auth.model import DEFAULT_TENANT, check_role_change, check_role_given
from sealwire.services.auth.password_rules import PasswordRules
from sealwire.services.auth.passwords import NO_PASSWORD, PasswordHasher
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import EventsOf, UserStore
from sealwire.services.auth.records import Cut, Reason, TenantRecord, UserRecord, UserStatus
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.tenants import Tenants, is_throwaway
from sealwire.services.auth.vault import Person, Vault

_AT_ONCE: Final = 500
_TRIES: Final = 3


class Roster:
    """The users of every tenant."""

    def __init__(
        self, *, store: UserStore, tenants: Tenants, vault: Vault, hasher: PasswordHasher, rules: PasswordRules,
        people: People, guestbook: Guestbook, policy: MfaPolicy, journal: Journal, revoker: Revoker, clock: Clock,
        config: AuthConfig,
    ) -> None:  # fmt: skip
        self._store = store
        self._guestbook = guestbook
        self._policy = policy
        self._tenants = tenants
        self._vault = vault
        self._hasher = hasher
        self._rules = rules
        self._people = people
        self._journal = journal
        self._revoker = revoker
        self._clock = clock
        self._config = config

    # ---- coming in

    async def register(self, caller: Caller, registration: Registration) -> Registered:
        """Make a user; the tenant's first one becomes its owner.

        Raises: RegistrationClosed, InvitationInvalid, TenantNotFound, WeakPassword, EmailTaken, QuotaExceeded.
        """
        if registration.invitation is not None:
            return await self._register_invited(caller, registration, registration.invitation)
        is_open = self._config.registration == "open"
        shown = registration.owner_token or ""
        token_holds = bool(self._config.owner_token) and hmac.compare_digest(
            shown.encode(), self._config.owner_token.encode()
        )
        if not is_open and not token_holds:
            raise RegistrationClosed("Ask an administrator of your organisation for an invitation.")
        tenant = await self._tenants.for_registration(caller, registration.tenant, may_make=is_open)
        is_default = tenant.tenant_id == DEFAULT_TENANT
        if not is_open and not is_default:
            raise RegistrationClosed("The token is for the first owner of `default`.")
        # A tenant that an operator made belongs to whom they invite, not to who comes first.
        claim_owner = token_holds or not self._config.owner_token if is_default else is_throwaway(tenant)
        user = await self._store.add(
            await self._new(tenant, registration.email, registration.display_name, registration.password, Role.MEMBER),
            most=self._most(tenant),
            claim_owner=claim_owner,
            needs_claim=not is_open,
            events_of=self._added_by(
                Kind.USER_REGISTERED, await self._journal.origin(caller, tenant.tenant_id), as_subject=True
            ),
        )
        return Registered(user=await self._people.show(user))

    async def _register_invited(self, caller: Caller, registration: Registration, token: str) -> Registered:
        invitation = await self._guestbook.shown_by(token, registration.email)
        tenant = await self._tenants.get(invitation.tenant_id)
        if self._config.registration == "closed" and not invitation.by_operator:
            raise RegistrationClosed("Registration is closed, with an invitation too.")
        # Whom an operator invites owns a tenant only while it has no owner; later its own people decide.
        first_owner = invitation.role is Role.OWNER and invitation.by_operator
        if tenant.status != "active" or registration.tenant not in (None, tenant.tenant_id, tenant.slug):
            raise InvitationInvalid
        origin = await self._journal.origin(caller, tenant.tenant_id)
        user = await self._store.add(
            await self._new(
                tenant,
                registration.email,
                registration.display_name,
                registration.password,
                Role.MEMBER if first_owner else invitation.role,
            ),
            most=self._most(tenant),
            claim_owner=first_owner,
            needs_claim=first_owner,
            events_of=self._added_by(
                Kind.USER_REGISTERED, origin, as_subject=True, invitation=invitation.invitation_id
            ),
            spends_invitation=invitation.invitation_id,
        )
        return Registered(user=await self._people.show(user))

    async def add(self, caller: Caller, new: NewUser) -> UserRecord:
        """Make a user in the caller's tenant; without a password none matches.

        Raises: Forbidden, WeakPassword, EmailTaken, QuotaExceeded.
        """
        role = Role(new.role)
        check_role_given(by=caller.principal.role, role=role, tenant_id=caller.tenant_id)
        tenant = await self._tenants.get(caller.tenant_id)
        return await self._store.add(
            await self._new(tenant, new.email, new.display_name, new.password, role),
            most=self._most(tenant),
            claim_owner=False,
            needs_claim=False,
            events_of=self._added_by(Kind.USER_ADDED, await self._journal.origin(caller), as_subject=False),
        )

    async def add_external(
        self, caller: Caller, tenant: TenantRecord, email: str, display_name: str, identity: IdentityRecord
    ) -> UserRecord:
        """Make a member whom an identity provider vouches for, with that identity and no password.

        Raises: EmailTaken, QuotaExceeded, IdentityTaken.
        """
        user_id = new_id()
        record = UserRecord(
            user_id=user_id,
            tenant_id=tenant.tenant_id,
            email_index=self._vault.email_index(tenant.tenant_id, email),
            sealed=await self._vault.seal_person(tenant.tenant_id, user_id, Person(email, display_name)),
            role=Role.MEMBER,
            password_hash=NO_PASSWORD,
            created_us=self._clock.now_us(),
        )
        origin = await self._journal.origin(caller, tenant.tenant_id)
        return await self._store.add(
            record,
            most=self._most(tenant),
            claim_owner=False,
            needs_claim=False,
            events_of=self._added_by(Kind.USER_REGISTERED, origin, as_subject=True),
            identity=msgspec.structs.replace(identity, user_id=user_id),
        )

    async def add_service_account(self, caller: Caller, new: NewServiceAccount) -> UserRecord:
        """Make a member that is no person; its password is chance. Raises: Forbidden, QuotaExceeded."""
        role = Role(new.role)
        check_role_given(by=caller.principal.role, role=role, tenant_id=caller.tenant_id)
        tenant = await self._tenants.get(caller.tenant_id)
        user_id = new_id()
        email = f"{user_id}@service.invalid"
        record = UserRecord(
            user_id=user_id,
            tenant_id=caller.tenant_id,
            email_index=self._vault.email_index(caller.tenant_id, email),
            sealed=await self._vault.seal_person(caller.tenant_id, user_id, Person(email, new.display_name)),
            role=role,
            password_hash=await self._hasher.hash(os.urandom(32).hex()),
            created_us=self._clock.now_us(),
            service=True,
        )
        return await self._store.add(
            record,
            most=self._most(tenant),
            claim_owner=False,
            needs_claim=False,
            events_of=self._added_by(Kind.USER_ADDED, await self._journal.origin(caller), as_subject=False),
        )

    async def _new(
        self, tenant: TenantRecord, email: str, display_name: str, password: str | None, role: Role
    ) -> UserRecord:
        if password is not None:
            weakness = self._rules.weakness(password, about=(email, display_name, tenant.slug))
            if weakness is not None:
                raise WeakPassword(weakness, path="$.password")
        user_id = new_id()
        return UserRecord(
            user_id=user_id,
            tenant_id=tenant.tenant_id,
            email_index=self._vault.email_index(tenant.tenant_id, email),
            sealed=await self._vault.seal_person(tenant.tenant_id, user_id, Person(email, display_name)),
            role=role,
            password_hash=NO_PASSWORD if password is None else await self._hasher.hash(password),
            created_us=self._clock.now_us(),
        )

    def _most(self, tenant: TenantRecord) -> int:
        own = tenant.quotas.users
        return self._config.users_per_tenant if own is None else min(own, self._config.users_per_tenant)

    def _added_by(self, kind: Kind, origin: Origin, *, as_subject: bool, invitation: str | None = None) -> EventsOf:
        def events_of(user: UserRecord) -> Sequence[NewEvent]:
            return [
                self._journal.event(
                    kind,
                    origin,
                    subject_id=user.user_id,
                    as_subject=as_subject,
                    role=user.role.value,
                    invitation=invitation,
                )
            ]

        return events_of

    # ---- telling

    async def get(self, caller: Caller) -> UserRecord:
        """Return the caller's own record. Raises: UserNotFound."""
        user = await self._store.get(caller.user_id)
        if user is None or user.tenant_id != caller.tenant_id:
            raise UserNotFound("There is no such user.")
        return user

    async def me(self, caller: Caller) -> User:
        """Return the caller's profile."""
        return await self._people.show(await self.get(caller))

    async def show(self, user: UserRecord) -> User:
        """Return a user as others in the tenant may see them."""
        return await self._people.show(user)

    async def page(self, caller: Caller, page: Page) -> Users:
        """List the users of the caller's tenant."""
        records = await self._store.page(caller.tenant_id, read_cursor(page.cursor), page.limit + 1)
        shown = records[: page.limit]
        items = [await self._people.show(record) for record in shown]
        return Users(items=items, next_cursor=write_cursor(shown[-1].user_id) if len(records) > page.limit else None)

    async def profiles(self, caller: Caller, query: UserQuery) -> Profiles:
        """Return users of the caller's tenant by id."""
        wanted = list(dict.fromkeys(query.user_ids))
        items: list[Profile] = []
        tenant = await self._tenants.find(caller.tenant_id)
        if tenant is None:
            return Profiles(items=items)
        needs_mfa = await self._policy.demands(tenant.tenant_id)
        for at in range(0, len(wanted), _AT_ONCE):
            records = await self._store.many(caller.tenant_id, wanted[at : at + _AT_ONCE])
            items += [await self._people.profile(record, tenant, needs_mfa=needs_mfa) for record in records]
        return Profiles(items=items)

    # ---- changing

    async def change_me(self, caller: Caller, change: ProfileChange) -> User:
        """Change the caller's own profile."""
        user = await self.get(caller)
        if change.display_name is msgspec.UNSET:
            return await self._people.show(user)
        event = self._journal.event(
            Kind.PROFILE_CHANGED, await self._journal.origin(caller), subject_id=user.user_id, member="display_name"
        )
        for _ in range(_TRIES):  # an address that is changed at the same moment is not lost
            person = msgspec.structs.replace(await self._people.person(user), display_name=change.display_name)
            sealed = await self._vault.seal_person(user.tenant_id, user.user_id, person)
            changed = await self._store.set_sealed(user.user_id, sealed, [event], expected=user.sealed)
            if changed is not None:
                return await self._people.show(changed)
            user = await self.get(caller)
        raise Conflict("Your profile was changed meanwhile; try again.")

    async def change(self, caller: Caller, user_id: str, change: UserChange) -> User:
        """Change a user's role or status. Raises: UserNotFound, Forbidden, LastOwner, Conflict."""
        for _ in range(_TRIES):  # who may do it depends on the role there is; what another changes is not undone
            changed = await self._change(caller, user_id, change)
            if changed is not None:
                return await self._people.show(changed)
        raise Conflict("The user was changed meanwhile; try again.")

    async def _change(self, caller: Caller, user_id: str, change: UserChange) -> UserRecord | None:
        """Change a user as they are now; None when they are not so any more."""
        user = await self._store.get(user_id)
        if user is None or user.tenant_id != caller.tenant_id:
            raise UserNotFound("There is no such user.")
        if user.status == "restricted":
            raise Forbidden("The user's data is restricted; whoever restricted it (GDPR) lifts that.")
        role = user.role if change.role is msgspec.UNSET else Role(change.role)
        status = user.status if change.status is msgspec.UNSET else change.status
        if role is user.role and status == user.status:
            return user
        if user.service and role is Role.OWNER:
            raise Forbidden("A service account owns no tenant.")
        check_role_change(by=caller.principal.role, before=user.role, after=role, tenant_id=user.tenant_id)
        cut = self._cut_for(user, role, status)
        event = self._journal.event(
            Kind.USER_CHANGED, await self._journal.origin(caller), subject_id=user_id,
            role_before=user.role.value, role=role.value, status_before=user.status, status=status,
        )  # fmt: skip
        return await self._store.cut(cut, [event])

    def _cut_for(self, user: UserRecord, role: Role, status: UserStatus) -> Cut:
        disabled = status == "disabled"
        if disabled:
            reason = Reason.DISABLED
            revocation = self._revoker.subject(user.tenant_id, user.user_id, reason)
        else:
            reason = Reason.ROLE if role is not user.role else Reason.ENABLED
            revocation = self._revoker.role(user.tenant_id, user.user_id, reason)
        return Cut(
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            reason=reason,
            revocation=revocation,
            ends_sessions=disabled,
            role=role,
            expected_role=user.role,
            status=status,
            from_status=user.status,
        )

    async def end_all_sessions(self, caller: Caller) -> None:
        """End every session of the caller."""
        cut = Cut(
            tenant_id=caller.tenant_id,
            user_id=caller.user_id,
            reason=Reason.LOGOUT_ALL,
            revocation=self._revoker.subject(caller.tenant_id, caller.user_id, Reason.LOGOUT_ALL),
        )
        event = self._journal.event(
            Kind.SESSIONS_ENDED, await self._journal.origin(caller), subject_id=caller.user_id,
            reason=Reason.LOGOUT_ALL.value,
        )  # fmt: skip
        await self._store.cut(cut, [event])
