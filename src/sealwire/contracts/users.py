"""What auth promises of users: registering, the own profile, administration."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from sealwire.contracts.auth_terms import (
    ADMIN,
    BOUNDARY,
    INTERNAL,
    OPEN,
    PROFILE,
    Email,
    Password,
    Slug,
    UserRole,
)
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page, ShortText
from sealwire.kit.operation import Degraded, Operation, Repeat, table
from sealwire.kit.permission import Role
from sealwire.kit.problem import Conflict, Forbidden, Invalid, NotFound


class EmailTaken(Conflict):
    """The address is registered in this tenant."""

    code, title = "email_taken", "The e-mail address is registered already"


class WeakPassword(Invalid):
    """The password is too short, too common, or made of the person's own data."""

    code, title = "weak_password", "Choose another password"


class RegistrationClosed(Forbidden):
    """This installation does not let people register themselves."""

    code, title = "registration_closed", "Registration is not open"


class LastOwner(Conflict):
    """The tenant's last owner can't be demoted, disabled or erased."""

    code, title = "last_owner", "A tenant keeps at least one owner"


class UserNotFound(NotFound):
    """No such user in this tenant."""

    code, title = "user_not_found", "No such user"


class User(Output):
    """A person as others in the tenant may see them."""

    user_id: str
    tenant_id: str
    email: str
    display_name: str
    role: Role
    status: Literal["active", "disabled", "restricted"] = "active"
    mfa: bool = False
    created_at: str = ""


class Registration(Input):
    """A person who registers. `tenant` is an id or a slug; without it `default`. `owner_token`: see `sealwire up`.

    `invitation` is the token of an invitation's letter: it decides tenant and role, and is for its address only.
    """

    email: Email
    password: Password
    display_name: ShortText
    tenant: Slug | Id | None = None
    owner_token: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    invitation: Annotated[str, msgspec.Meta(max_length=256)] | None = None


class Registered(Output):
    """The new user."""

    user: User


class ProfileChange(Input):
    """What a person may change of their own profile."""

    display_name: ShortText | msgspec.UnsetType = msgspec.UNSET


class Users(Output):
    """Users of the caller's tenant."""

    items: list[User]
    next_cursor: str | None = None


class NewUser(Input):
    """A user an administrator makes. Without `password` the person gets a letter by which they set it themself."""

    email: Email
    display_name: ShortText
    password: Password | None = None
    role: UserRole = "member"


class UserChange(Input):
    """What an administrator may change of a user."""

    role: UserRole | msgspec.UnsetType = msgspec.UNSET
    status: Literal["active", "disabled"] | msgspec.UnsetType = msgspec.UNSET


class UserQuery(Input):
    """Which users, by id."""

    user_ids: list[Id]


class Profile(Output):
    """What other services may know of a user. `needs_mfa`: their tenant asks for a second factor."""

    user_id: str
    tenant_id: str
    display_name: str
    email: str
    role: Role
    active: bool
    epoch: int
    needs_mfa: bool = False


class Profiles(Output):
    """The users found; an id that is unknown in the tenant is left out."""

    items: list[Profile]


REGISTER = Operation(
    name="register",
    verb="POST",
    path="/auth/register",
    takes=Registration,
    gives=Registered,
    status=201,
    summary="Register a person",
    **OPEN,
)
ME = Operation(
    name="me",
    verb="GET",
    path="/auth/me",
    gives=User,
    repeat=Repeat.SAFE,
    degraded=Degraded.ALLOW,
    summary="The caller's profile",
    **PROFILE,
)
CHANGE_ME = Operation(
    name="change_me",
    verb="PATCH",
    path="/auth/me",
    takes=ProfileChange,
    gives=User,
    repeat=Repeat.IDEMPOTENT,
    degraded=Degraded.ALLOW,
    summary="Change the own profile",
    **PROFILE,
)
USERS = Operation(
    name="users",
    verb="GET",
    path="/auth/users",
    takes=Page,
    gives=Users,
    repeat=Repeat.SAFE,
    summary="Users of the tenant",
    **ADMIN,
)
ADD_USER = Operation(
    name="add_user",
    verb="POST",
    path="/auth/users",
    takes=NewUser,
    gives=User,
    step_up=True,
    summary="Make a user",
    **ADMIN,
)
CHANGE_USER = Operation(
    name="change_user",
    verb="PATCH",
    path="/auth/users/{user_id}",
    takes=UserChange,
    gives=User,
    step_up=True,
    repeat=Repeat.IDEMPOTENT,
    summary="Change a user's role or status",
    **ADMIN,
)
PROFILES = Operation(
    name="profiles",
    verb="POST",
    path="/auth/internal/profiles",
    takes=UserQuery,
    gives=Profiles,
    callers=BOUNDARY | {"messaging"},
    summary="Users by id, for services",
    **INTERNAL,
)

OPERATIONS = table(REGISTER, ME, CHANGE_ME, USERS, ADD_USER, CHANGE_USER, PROFILES)


class UserDirectory(Protocol):
    """The part of auth that knows people."""

    async def register(self, caller: Caller, registration: Registration) -> Registered:
        """Make a user; see `remove_tenant` for throwaway tenants.

        Raises: EmailTaken, WeakPassword, RegistrationClosed, NotFound (tenant), QuotaExceeded.
        """

    async def me(self, caller: Caller) -> User: ...

    async def change_me(self, caller: Caller, change: ProfileChange) -> User: ...

    async def users(self, caller: Caller, page: Page) -> Users: ...

    async def add_user(self, caller: Caller, user: NewUser) -> User: ...

    async def change_user(self, caller: Caller, user_id: str, change: UserChange) -> User:
        """Raises: UserNotFound, LastOwner, Forbidden (an admin can't make or change owners)."""

    async def profiles(self, caller: Caller, query: UserQuery) -> Profiles: ...
