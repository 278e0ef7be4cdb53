"""What auth promises of passkeys: made, used to log in, listed, renamed, removed."""

from __future__ import annotations

from typing import Literal, Protocol

from sealwire.contracts.auth_terms import OPEN, PROFILE, SERVICE, Email, Slug, Token
from sealwire.contracts.logins import LoginResult
from sealwire.contracts.webauthn import Assertion, CreationOptions, RegistrationResponse, RequestOptions
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, ShortText
from sealwire.kit.operation import Degraded, Operation, Policy, RateClass, Repeat, table
from sealwire.kit.problem import Conflict, Invalid, NotFound, Unauthenticated

BODY_LIMIT_BYTES = 96 * 1024


class PasskeyRefused(Unauthenticated):
    """The passkey does not prove who this is: unknown, not ours, used before, too late. One answer for all of them."""

    code, title = "passkey_refused", "The passkey was not accepted"


class PasskeyInvalid(Invalid):
    """The new credential is not one that answers our options, or comes too late."""

    code, title = "passkey_invalid", "The passkey can't be registered"


class PasskeysUnusable(Conflict):
    """Browsers make no passkeys for the address of this installation: they need https and a name, or `localhost`."""

    code, title = "passkeys_unusable", "This installation has no address that passkeys work for"


class PasskeyTaken(Conflict):
    """The credential is registered already."""

    code, title = "passkey_taken", "This passkey is registered already"


class PasskeyNotFound(NotFound):
    """No such passkey of this user."""

    code, title = "passkey_not_found", "No such passkey"


class Passkey(Output):
    """A passkey as its owner sees it.

    `status`: `suspended` when its counter went back, which means that a copy of it may exist; it proves nothing any
    more and is to be removed. `backed_up`: it may be synchronised between devices by who keeps it.
    """

    passkey_id: str
    name: str
    created_at: str
    last_used_at: str | None
    status: Literal["active", "suspended"]
    backed_up: bool


class Passkeys(Output):
    """The caller's passkeys, oldest first. There are few: one page holds them."""

    items: list[Passkey]
    next_cursor: str | None = None


class NewPasskey(RegistrationResponse):
    """The credential as the browser gives it, and what its owner calls it."""

    name: ShortText = "Passkey"


class PasskeyAdded(Output):
    """The new passkey. `recovery_codes` where the person had none: shown once, each works once."""

    passkey: Passkey
    recovery_codes: list[str] = []


class PasskeyLoginStart(Input):
    """Who wants to log in, where that is known.

    Nothing: whoever the passkey belongs to. `email` and `tenant` as at login: that person only. `mfa_token`: the second
    factor of a login whose password was right; the answer then names the passkeys that will do.
    """

    email: Email | None = None
    tenant: Slug | Id | None = None
    mfa_token: Token | None = None


class PasskeyLogin(Assertion):
    """The assertion as the browser gives it. `cookie` asks for the session cookie beside the tokens."""

    cookie: bool = False


class PasskeyChange(Input):
    """What its owner may change of a passkey."""

    name: ShortText


class FactorsQuery(Input):
    """Whose."""

    user_id: Id


class Factors(Output):
    """The proofs of identity a person can give in a session: exactly what `POST /auth/step-up` would take.

    `second_factor`: the person has one, usable or not, and no proof without one counts.
    """

    methods: list[str]
    second_factor: bool = False


PASSKEY_REGISTER_OPTIONS = Operation(
    name="passkey_register_options",
    verb="POST",
    path="/auth/passkeys/register/options",
    gives=CreationOptions,
    step_up=True,
    rate=RateClass.AUTH,
    summary="Begin to make a passkey",
    **PROFILE,
)
PASSKEY_REGISTER = Operation(
    name="passkey_register",
    verb="POST",
    path="/auth/passkeys/register",
    takes=NewPasskey,
    gives=PasskeyAdded,
    step_up=True,
    rate=RateClass.AUTH,
    body_limit_bytes=BODY_LIMIT_BYTES,
    summary="Register the passkey that was made",
    **PROFILE,
)
PASSKEY_LOGIN_OPTIONS = Operation(
    name="passkey_login_options",
    verb="POST",
    path="/auth/passkeys/login/options",
    takes=PasskeyLoginStart,
    gives=RequestOptions,
    summary="Begin to log in, or to finish a login, with a passkey",
    **OPEN,
)
PASSKEY_LOGIN = Operation(
    name="passkey_login",
    verb="POST",
    path="/auth/passkeys/login",
    takes=PasskeyLogin,
    gives=LoginResult,
    body_limit_bytes=BODY_LIMIT_BYTES,
    summary="Log in with a passkey; it counts as both factors",
    **OPEN,
)
PASSKEY_STEP_UP_OPTIONS = Operation(
    name="passkey_step_up_options",
    verb="POST",
    path="/auth/passkeys/step-up/options",
    gives=RequestOptions,
    rate=RateClass.AUTH,
    summary="Begin to prove again with a passkey that it is you",
    **PROFILE,
)
PASSKEYS = Operation(
    name="passkeys",
    verb="GET",
    path="/auth/passkeys",
    gives=Passkeys,
    repeat=Repeat.SAFE,
    summary="The caller's passkeys",
    **PROFILE,
)
RENAME_PASSKEY = Operation(
    name="rename_passkey",
    verb="PATCH",
    path="/auth/passkeys/{passkey_id}",
    takes=PasskeyChange,
    gives=Passkey,
    repeat=Repeat.IDEMPOTENT,
    summary="Call a passkey something else",
    **PROFILE,
)
REMOVE_PASSKEY = Operation(
    name="remove_passkey",
    verb="DELETE",
    path="/auth/passkeys/{passkey_id}",
    step_up=True,
    repeat=Repeat.IDEMPOTENT,
    summary="Remove a passkey",
    **PROFILE,
)
FACTORS = Operation(
    name="factors",
    verb="GET",
    path="/auth/internal/factors",
    takes=FactorsQuery,
    gives=Factors,
    service=SERVICE,
    policy=Policy.SERVICE,
    degraded=Degraded.ALLOW,
    repeat=Repeat.SAFE,
    callers=frozenset({"gateway", "auth", "compliance", "crypto"}),
    summary="How a person can prove again who they are, for who asks them to",
)

OPERATIONS = table(
    PASSKEY_REGISTER_OPTIONS,
    PASSKEY_REGISTER,
    PASSKEY_LOGIN_OPTIONS,
    PASSKEY_LOGIN,
    PASSKEY_STEP_UP_OPTIONS,
    PASSKEYS,
    RENAME_PASSKEY,
    REMOVE_PASSKEY,
    FACTORS,
)


class PasskeyRing(Protocol):
    """The part of auth that deals with them."""

    async def passkey_register_options(self, caller: Caller) -> CreationOptions:
        """Raises: QuotaExceeded, PasskeysUnusable, Forbidden (only a person has passkeys)."""

    async def passkey_register(self, caller: Caller, new: NewPasskey) -> PasskeyAdded:
        """Raises: PasskeyInvalid, PasskeyTaken, QuotaExceeded, Forbidden."""

    async def passkey_login_options(self, caller: Caller, start: PasskeyLoginStart) -> RequestOptions:
        """The same answer and work for an address that is known and for one that is not.

        Raises: MfaFailed for an `mfa_token` that is spent or too old, Invalid for one beside an e-mail address.
        """

    async def passkey_login(self, caller: Caller, login: PasskeyLogin) -> LoginResult:
        """Open a session. Raises: PasskeyRefused."""

    async def passkey_step_up_options(self, caller: Caller) -> RequestOptions:
        """Raises: StepUpRequired with `methods` when the person has no passkey to prove it with."""

    async def passkeys(self, caller: Caller) -> Passkeys: ...
    async def rename_passkey(self, caller: Caller, passkey_id: str, change: PasskeyChange) -> Passkey:
        """Raises: PasskeyNotFound."""

    async def remove_passkey(self, caller: Caller, passkey_id: str) -> None:
        """Raises: PasskeyNotFound; MfaKept when the tenant asks for a second factor and this is the last one."""

    async def factors(self, caller: Caller, query: FactorsQuery) -> Factors:
        """Raises: UserNotFound."""
