"""What auth promises: tenants, users, credentials, tokens, sessions, revocations."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import msgspec

from sealwire.contracts.webauthn import Assertion, Proof, check_proof
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page, ShortText
from sealwire.kit.operation import Degraded, Operation, Policy, RateClass, Repeat, table
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    StepUpRequired,
    Unauthenticated,
)

SERVICE = "auth"
ACCESS_TYP = "at+jwt"
"""Media type of our access tokens (RFC 9068 section 2.1)."""
COOKIE = "__Host-sealwire"
COOKIE_LOOPBACK = "sealwire"
"""The session cookie holds the access token; the plain name is for http on loopback, where `__Host-` needs https."""
CSRF_HEADER = "X-Sealwire-CSRF"

Email = Annotated[
    str, msgspec.Meta(min_length=3, max_length=254, pattern=r"^[^\s@\x00-\x20\x7f]+@[^\s@\x00-\x20\x7f]+\.[^\s@.]+$")
]
Password = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Slug = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9-]*$")]
Token = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
Code = Annotated[str, msgspec.Meta(min_length=6, max_length=32, pattern=r"^[A-Za-z0-9-]+$")]
UserRole = Literal["owner", "admin", "auditor", "member", "guest", "operator"]


class BadCredentials(Unauthenticated):
    """Login failed. The same for an unknown user, a wrong password and a locked account."""

    code, title = "bad_credentials", "E-mail or password is wrong"


class MfaFailed(Unauthenticated):
    """The second factor was wrong, used before, or its token is spent."""

    code, title = "mfa_failed", "The code is not valid"


class RefreshReused(Unauthenticated):
    """An old refresh token came back; its whole family is revoked."""

    code, title = "refresh_reused", "The refresh token was used before"


class RefreshInvalid(Unauthenticated):
    """The refresh token is unknown, expired or revoked."""

    code, title = "refresh_invalid", "The refresh token is not valid"


class TooManyAttempts(RateLimited):
    """Too many attempts for this account or address; `Retry-After` says when to come back."""

    code, title = "too_many_attempts", "Too many attempts"


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


class SessionNotFound(NotFound):
    """No such session of this user."""

    code, title = "session_not_found", "No such session"


# ---- structs
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


class Login(Input):
    """`cookie` asks for the session cookie beside the tokens (browsers)."""

    email: Email
    password: Password
    tenant: Slug | Id | None = None
    cookie: bool = False


class Grant(Output):
    """Tokens of a session."""

    access_token: str
    refresh_token: str
    expires_in: int
    session_id: str
    user: User
    token_type: str = "Bearer"  # noqa: S105 - the scheme's name, no secret


class LoginResult(Output, omit_defaults=True):
    """Either a grant or the wish for a second factor: the members of the one or of the other."""

    access_token: str = ""
    refresh_token: str = ""
    token_type: str = ""
    expires_in: int = 0
    session_id: str = ""
    user: User | None = None
    mfa_required: bool = False
    mfa_token: str = ""
    methods: list[str] = []


class MfaAnswer(Input):
    """The second factor. `code` of a passkey is the assertion, as JSON or as the same JSON in a text."""

    mfa_token: Token
    method: Literal["totp", "recovery", "passkey"]
    code: Proof | Assertion
    cookie: bool = False

    def __post_init__(self) -> None:
        check_proof(self.method, self.code)


class RefreshRequest(Input):
    """The refresh token last received."""

    refresh_token: Token


class StepUp(Input):
    """A fresh proof of identity; `code` as for the second factor."""

    method: Literal["password", "totp", "recovery", "passkey"]
    password: Password | None = None
    code: Proof | Assertion | None = None

    def __post_init__(self) -> None:
        if self.code is not None:
            check_proof(self.method, self.code)


class TokenQuery(Input):
    """RFC 7009 and RFC 7662, form encoded."""

    token: Token
    token_type_hint: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class Introspection(Output, omit_defaults=True):
    """RFC 7662 section 2.2; only `active` when the token is not valid."""

    active: bool
    sub: str = ""
    client_id: str = ""
    tid: str = ""
    sid: str = ""
    role: str = ""
    scope: str = ""
    token_type: str = ""
    iss: str = ""
    aud: str = ""
    exp: int = 0
    iat: int = 0
    jti: str = ""

    def __post_init__(self) -> None:
        if not self.active and self.sub:
            raise ValueError("an inactive token tells nothing else")


class ProfileChange(Input):
    """What a person may change of their own profile."""

    display_name: ShortText | msgspec.UnsetType = msgspec.UNSET


class Session(Output):
    """A session as its owner sees it."""

    session_id: str
    created_at: str
    last_seen_at: str
    expires_at: str
    ip: str
    user_agent: str
    current: bool = False


class Sessions(Output):
    """The caller's live sessions."""

    items: list[Session]
    next_cursor: str | None = None


class PasswordChange(Input):
    """The password now and the one wanted."""

    current_password: Password
    new_password: Password


class TotpEnrollment(Output):
    """Shown once; active only after `confirm`."""

    secret: str
    otpauth_uri: str


class TotpCode(Input):
    """A code of the authenticator app."""

    code: Code


class RecoveryCodes(Output):
    """Shown once; each works once."""

    recovery_codes: list[str]


class Users(Output):
    """Users of the caller's tenant."""

    items: list[User]
    next_cursor: str | None = None


class NewUser(Input):
    """A user an administrator makes."""

    email: Email
    display_name: ShortText
    password: Password
    role: UserRole = "member"


class UserChange(Input):
    """What an administrator may change of a user."""

    role: UserRole | msgspec.UnsetType = msgspec.UNSET
    status: Literal["active", "disabled"] | msgspec.UnsetType = msgspec.UNSET


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


# ---- for services
class AccessClaims(Output):
    """The claims of an enhanced access token (RFC 9068 and ours).

    `role` and `email` are hints; the user record decides. `epoch` is the user's security epoch when it was issued.
    `enrol_only`, left out when false: the tenant asks for a second factor and the session was opened without one.
    """

    iss: str
    aud: str
    sub: str
    client_id: str
    email: str
    role: Role
    tid: str
    sid: str
    jti: str
    iat: int
    exp: int
    auth_time: int
    amr: list[str]
    epoch: int = 0
    enrol_only: bool = False


class SessionState(Output):
    """What the session boundary needs to know of one session.

    A token of the session is good exactly while `active` and the token's `epoch` is not below `epoch` (the least one
    this session accepts; a password change leaves the session it was made in as it is). `enrol_only`: the tenant asks
    for a second factor and the session has none.
    """

    session_id: str
    tenant_id: str
    user_id: str
    role: Role
    email: str
    epoch: int
    active: bool
    expires_at_s: int
    enrol_only: bool = False


class SessionQuery(Input):
    """Which session."""

    session_id: Id


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


class Revocation(Output):
    """One entry of the numbered feed: what ended, for whom.

    `kind`: `session` (this one is dead), `subject` (every session of the user is dead, and every token with an epoch
    below `epoch`, but not the session `session_id` when one is given), `role` (the role changed: forget what was
    cached of the user and ask again; sockets are re-authorised), `token` (the `jti` `token_id` is dead), `tenant`
    (every session of the tenant is dead). After `expires_at_s` (0: never) no token it speaks of can be valid any more.
    """

    number: int
    change_id: str
    kind: Literal["session", "subject", "role", "token", "tenant"]
    tenant_id: str
    subject: str = ""
    session_id: str = ""
    token_id: str = ""
    epoch: int = 0
    at_us: int = 0
    expires_at_s: int = 0
    reason: str = ""


class FeedQuery(Input):
    """Entries after this number; waits up to `wait_ms` for one."""

    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 500
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0


class Revocations(Output):
    """Entries in order, and the number of the newest: an empty answer is the feed's heartbeat."""

    items: list[Revocation]
    newest: int


class SeenSession(Input):
    """A session was used at that time."""

    session_id: Id
    at_us: int


class Seen(Input):
    """Uses of sessions, coalesced by the boundary: the newest per session, some seconds apart."""

    items: Annotated[list[SeenSession], msgspec.Meta(max_length=1000)]


class SigningRotation(Input):
    """`compromised`: the old key counts no longer, at once, and every session ends."""

    compromised: bool = False


class Jwks(Output):
    """RFC 7517 section 5."""

    keys: list[dict[str, str]]


_PROFILE: dict[str, Any] = {"service": SERVICE, "needs": Permission.OWN_PROFILE}
_ADMIN: dict[str, Any] = {"service": SERVICE, "needs": Permission.MANAGE_USERS}
_OPEN: dict[str, Any] = {
    "service": SERVICE,
    "policy": Policy.PUBLIC,
    "rate": RateClass.AUTH,
    "degraded": Degraded.ALLOW,
}
_INTERNAL: dict[str, Any] = {
    "service": SERVICE,
    "policy": Policy.SERVICE,
    "degraded": Degraded.ALLOW,
    "repeat": Repeat.SAFE,
}

REGISTER = Operation(
    name="register",
    verb="POST",
    path="/auth/register",
    takes=Registration,
    gives=Registered,
    status=201,
    summary="Register a person",
    **_OPEN,
)
LOGIN = Operation(
    name="login",
    verb="POST",
    path="/auth/login",
    takes=Login,
    gives=LoginResult,
    summary="Log in with e-mail and password",
    **_OPEN,
)
MFA_VERIFY = Operation(
    name="mfa_verify",
    verb="POST",
    path="/auth/mfa/verify",
    takes=MfaAnswer,
    gives=LoginResult,
    summary="Finish a login with the second factor",
    **_OPEN,
)
REFRESH = Operation(
    name="refresh",
    verb="POST",
    path="/auth/refresh",
    takes=RefreshRequest,
    gives=LoginResult,
    summary="Exchange a refresh token for a new pair",
    **_OPEN,
)
STEP_UP = Operation(
    name="step_up",
    verb="POST",
    path="/auth/step-up",
    takes=StepUp,
    gives=LoginResult,
    rate=RateClass.AUTH,
    summary="Prove again that it is you",
    **_PROFILE,
)
LOGOUT = Operation(
    name="logout",
    verb="POST",
    path="/auth/logout",
    repeat=Repeat.IDEMPOTENT,
    status=204,
    degraded=Degraded.ALLOW,
    summary="End this session",
    **_PROFILE,
)
LOGOUT_ALL = Operation(
    name="logout_all",
    verb="POST",
    path="/auth/logout-all",
    repeat=Repeat.IDEMPOTENT,
    status=204,
    degraded=Degraded.ALLOW,
    summary="End every session of the caller",
    **_PROFILE,
)
REVOKE = Operation(
    name="revoke",
    verb="POST",
    path="/auth/revoke",
    takes=TokenQuery,
    form=True,
    repeat=Repeat.IDEMPOTENT,
    degraded=Degraded.ALLOW,
    summary="Revoke a token (RFC 7009)",
    **_PROFILE,
)
INTROSPECT = Operation(
    name="introspect",
    verb="POST",
    path="/auth/introspect",
    takes=TokenQuery,
    gives=Introspection,
    form=True,
    repeat=Repeat.SAFE,
    summary="Ask about a token (RFC 7662)",
    **_PROFILE,
)
ME = Operation(
    name="me",
    verb="GET",
    path="/auth/me",
    gives=User,
    repeat=Repeat.SAFE,
    degraded=Degraded.ALLOW,
    summary="The caller's profile",
    **_PROFILE,
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
    **_PROFILE,
)
SESSIONS = Operation(
    name="sessions",
    verb="GET",
    path="/auth/sessions",
    takes=Page,
    gives=Sessions,
    repeat=Repeat.SAFE,
    summary="The caller's sessions",
    **_PROFILE,
)
END_SESSION = Operation(
    name="end_session",
    verb="DELETE",
    path="/auth/sessions/{session_id}",
    status=204,
    repeat=Repeat.IDEMPOTENT,
    degraded=Degraded.ALLOW,
    summary="End one session",
    **_PROFILE,
)
CHANGE_PASSWORD = Operation(
    name="change_password",
    verb="POST",
    path="/auth/password/change",
    takes=PasswordChange,
    status=204,
    rate=RateClass.AUTH,
    summary="Change the password; other sessions end",
    **_PROFILE,
)
TOTP_ENROLL = Operation(
    name="totp_enroll",
    verb="POST",
    path="/auth/mfa/totp/enroll",
    gives=TotpEnrollment,
    summary="Begin to use an authenticator app",
    step_up=True,
    **_PROFILE,
)
TOTP_CONFIRM = Operation(
    name="totp_confirm",
    verb="POST",
    path="/auth/mfa/totp/confirm",
    takes=TotpCode,
    gives=RecoveryCodes,
    rate=RateClass.AUTH,
    summary="Switch the authenticator app on",
    **_PROFILE,
)
TOTP_REMOVE = Operation(
    name="totp_remove",
    verb="DELETE",
    path="/auth/mfa/totp",
    status=204,
    step_up=True,
    repeat=Repeat.IDEMPOTENT,
    summary="Switch the authenticator app off",
    **_PROFILE,
)
USERS = Operation(
    name="users",
    verb="GET",
    path="/auth/users",
    takes=Page,
    gives=Users,
    repeat=Repeat.SAFE,
    summary="Users of the tenant",
    **_ADMIN,
)
ADD_USER = Operation(
    name="add_user",
    verb="POST",
    path="/auth/users",
    takes=NewUser,
    gives=User,
    status=201,
    step_up=True,
    summary="Make a user",
    **_ADMIN,
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
    **_ADMIN,
)
ADD_TENANT = Operation(
    name="add_tenant",
    verb="POST",
    path="/auth/tenants",
    takes=NewTenant,
    gives=Tenant,
    status=201,
    service=SERVICE,
    needs=Permission.MANAGE_TENANTS,
    step_up=True,
    summary="Make a tenant (operators)",
)
REMOVE_TENANT = Operation(
    name="remove_tenant",
    verb="DELETE",
    path="/auth/tenants/{tenant_id}",
    status=204,
    repeat=Repeat.IDEMPOTENT,
    service=SERVICE,
    needs=Permission.OWN_PROFILE,
    step_up=True,
    summary="Remove a throwaway tenant of the self-test (its owner, or an operator)",
)
JWKS = Operation(
    name="jwks",
    verb="GET",
    path="/.well-known/jwks.json",
    gives=Jwks,
    service=SERVICE,
    policy=Policy.PUBLIC,
    repeat=Repeat.SAFE,
    degraded=Degraded.ALLOW,
    rate=RateClass.NONE,
    summary="The keys that verify access tokens (RFC 7517)",
)
SESSION = Operation(
    name="session",
    verb="GET",
    path="/auth/internal/session",
    takes=SessionQuery,
    gives=SessionState,
    summary="State of one session, for the boundary",
    **_INTERNAL,
)
PROFILES = Operation(
    name="profiles",
    verb="POST",
    path="/auth/internal/profiles",
    takes=UserQuery,
    gives=Profiles,
    summary="Users by id, for services",
    **_INTERNAL,
)
REVOCATIONS = Operation(
    name="revocations",
    verb="GET",
    path="/auth/internal/revocations",
    takes=FeedQuery,
    gives=Revocations,
    summary="The numbered feed of what ended",
    **_INTERNAL,
)
SEEN = Operation(
    name="seen",
    verb="POST",
    path="/auth/internal/seen",
    takes=Seen,
    status=204,
    summary="Note when sessions were last used",
    **_INTERNAL,
)
ROTATE_SIGNING = Operation(
    name="rotate_signing",
    verb="POST",
    path="/auth/signing-keys/rotate",
    takes=SigningRotation,
    gives=Jwks,
    service=SERVICE,
    needs=Permission.MANAGE_TENANTS,
    step_up=True,
    summary="Begin to sign with a new key (operators)",
)

OPERATIONS = table(
    REGISTER,
    LOGIN,
    MFA_VERIFY,
    REFRESH,
    STEP_UP,
    LOGOUT,
    LOGOUT_ALL,
    REVOKE,
    INTROSPECT,
    ME,
    CHANGE_ME,
    SESSIONS,
    END_SESSION,
    CHANGE_PASSWORD,
    TOTP_ENROLL,
    TOTP_CONFIRM,
    TOTP_REMOVE,
    USERS,
    ADD_USER,
    CHANGE_USER,
    ADD_TENANT,
    REMOVE_TENANT,
    JWKS,
    SESSION,
    PROFILES,
    REVOCATIONS,
    SEEN,
    ROTATE_SIGNING,
)

__all__ = ["OPERATIONS", "StepUpRequired"]


class Auth(Protocol):
    """Auth, in this process or another. Every method may raise `Unavailable` when it is out of reach."""

    async def register(self, caller: Caller, registration: Registration) -> Registered:
        """Make a user; see `remove_tenant` for throwaway tenants.

        Raises: EmailTaken, WeakPassword, RegistrationClosed, NotFound (tenant), QuotaExceeded.
        """

    async def login(self, caller: Caller, login: Login) -> LoginResult:
        """Open a session. Raises: BadCredentials, TooManyAttempts."""

    async def mfa_verify(self, caller: Caller, answer: MfaAnswer) -> LoginResult:
        """Finish a login. Raises: MfaFailed, TooManyAttempts."""

    async def refresh(self, caller: Caller, request: RefreshRequest) -> LoginResult:
        """Rotate. Raises: RefreshReused (family revoked), RefreshInvalid."""

    async def step_up(self, caller: Caller, proof: StepUp) -> LoginResult:
        """Give new tokens with a new `auth_time`. Raises: BadCredentials, MfaFailed, TooManyAttempts."""

    async def logout(self, caller: Caller) -> None:
        """End the caller's session; durable before it returns."""

    async def logout_all(self, caller: Caller) -> None:
        """End every session of the caller."""

    async def revoke(self, caller: Caller, query: TokenQuery) -> None:
        """Revoke an access or refresh token of the caller; silent when it is unknown (RFC 7009 section 2.2)."""

    async def introspect(self, caller: Caller, query: TokenQuery) -> Introspection:
        """Tell about a token of the caller's tenant."""

    async def me(self, caller: Caller) -> User: ...
    async def change_me(self, caller: Caller, change: ProfileChange) -> User: ...
    async def sessions(self, caller: Caller, page: Page) -> Sessions: ...
    async def end_session(self, caller: Caller, session_id: str) -> None:
        """Raises: SessionNotFound."""

    async def change_password(self, caller: Caller, change: PasswordChange) -> None:
        """Raises: BadCredentials, WeakPassword, TooManyAttempts."""

    async def totp_enroll(self, caller: Caller) -> TotpEnrollment: ...
    async def totp_confirm(self, caller: Caller, code: TotpCode) -> RecoveryCodes: ...
    async def totp_remove(self, caller: Caller) -> None: ...
    async def users(self, caller: Caller, page: Page) -> Users: ...
    async def add_user(self, caller: Caller, user: NewUser) -> User: ...
    async def change_user(self, caller: Caller, user_id: str, change: UserChange) -> User:
        """Raises: UserNotFound, LastOwner, Forbidden (an admin can't make or change owners)."""

    async def add_tenant(self, caller: Caller, tenant: NewTenant) -> Tenant: ...
    async def remove_tenant(self, caller: Caller, tenant_id: str) -> None:
        """Remove users and sessions of a throwaway tenant of the self-test.

        Registering in a tenant named `selftest-<id>` makes it while registration is open; its first user owns it.
        Raises: Forbidden for any other tenant, and for a caller who is neither its owner nor an operator.
        """

    async def jwks(self, caller: Caller) -> Jwks: ...
    async def session(self, caller: Caller, query: SessionQuery) -> SessionState:
        """Raises: SessionNotFound."""

    async def profiles(self, caller: Caller, query: UserQuery) -> Profiles: ...
    async def revocations(self, caller: Caller, query: FeedQuery) -> Revocations: ...
    async def seen(self, caller: Caller, seen: Seen) -> None:
        """Note uses; unknown sessions are passed over. Stored some seconds later, off the path of any request."""

    async def rotate_signing(self, caller: Caller, rotation: SigningRotation) -> Jwks:
        """Publish a new key, sign with it once verifiers know it, keep the old one until its last token expired."""
