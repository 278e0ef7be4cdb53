"""What auth promises of proving who one is: logging in, second factors, stepping up, the password."""

from __future__ import annotations

from typing import Literal, Protocol

from sealwire.contracts.auth_terms import OPEN, PROFILE, Code, Email, Password, Slug, Token
from sealwire.contracts.users import User
from sealwire.contracts.webauthn import Assertion, Proof, check_proof
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output
from sealwire.kit.operation import Operation, RateClass, Repeat, table
from sealwire.kit.problem import RateLimited, Unauthenticated


class BadCredentials(Unauthenticated):
    """Login failed. The same for an unknown user, a wrong password and a locked account."""

    code, title = "bad_credentials", "E-mail or password is wrong"


class MfaFailed(Unauthenticated):
    """The second factor was wrong, used before, or its token is spent."""

    code, title = "mfa_failed", "The code is not valid"


class TooManyAttempts(RateLimited):
    """Too many attempts for this account or address; `Retry-After` says when to come back."""

    code, title = "too_many_attempts", "Too many attempts"


class Login(Input):
    """`cookie` asks for the session cookie beside the tokens (browsers)."""

    email: Email
    password: Password
    tenant: Slug | Id | None = None
    cookie: bool = False


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


class StepUp(Input):
    """A fresh proof of identity; `code` as for the second factor."""

    method: Literal["password", "totp", "recovery", "passkey"]
    password: Password | None = None
    code: Proof | Assertion | None = None

    def __post_init__(self) -> None:
        if self.code is not None:
            check_proof(self.method, self.code)


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


LOGIN = Operation(
    name="login",
    verb="POST",
    path="/auth/login",
    takes=Login,
    gives=LoginResult,
    summary="Log in with e-mail and password",
    **OPEN,
)
MFA_VERIFY = Operation(
    name="mfa_verify",
    verb="POST",
    path="/auth/mfa/verify",
    takes=MfaAnswer,
    gives=LoginResult,
    summary="Finish a login with the second factor",
    **OPEN,
)
STEP_UP = Operation(
    name="step_up",
    verb="POST",
    path="/auth/step-up",
    takes=StepUp,
    gives=LoginResult,
    rate=RateClass.AUTH,
    summary="Prove again that it is you",
    **PROFILE,
)
CHANGE_PASSWORD = Operation(
    name="change_password",
    verb="POST",
    path="/auth/password/change",
    takes=PasswordChange,
    status=204,
    rate=RateClass.AUTH,
    summary="Change the password; other sessions end",
    **PROFILE,
)
TOTP_ENROLL = Operation(
    name="totp_enroll",
    verb="POST",
    path="/auth/mfa/totp/enroll",
    gives=TotpEnrollment,
    summary="Begin to use an authenticator app",
    step_up=True,
    **PROFILE,
)
TOTP_CONFIRM = Operation(
    name="totp_confirm",
    verb="POST",
    path="/auth/mfa/totp/confirm",
    takes=TotpCode,
    gives=RecoveryCodes,
    rate=RateClass.AUTH,
    summary="Switch the authenticator app on",
    **PROFILE,
)
TOTP_REMOVE = Operation(
    name="totp_remove",
    verb="DELETE",
    path="/auth/mfa/totp",
    step_up=True,
    repeat=Repeat.IDEMPOTENT,
    summary="Switch the authenticator app off",
    **PROFILE,
)

OPERATIONS = table(LOGIN, MFA_VERIFY, STEP_UP, CHANGE_PASSWORD, TOTP_ENROLL, TOTP_CONFIRM, TOTP_REMOVE)


class LoginDesk(Protocol):
    """The part of auth that takes proofs of identity."""

    async def login(self, caller: Caller, login: Login) -> LoginResult:
        """Open a session. Raises: BadCredentials, TooManyAttempts."""

    async def mfa_verify(self, caller: Caller, answer: MfaAnswer) -> LoginResult:
        """Finish a login. Raises: MfaFailed, TooManyAttempts."""

    async def step_up(self, caller: Caller, proof: StepUp) -> LoginResult:
        """Give new tokens with a new `auth_time`. Raises: BadCredentials, MfaFailed, TooManyAttempts."""

    async def change_password(self, caller: Caller, change: PasswordChange) -> None:
        """Raises: BadCredentials, WeakPassword, TooManyAttempts."""

    async def totp_enroll(self, caller: Caller) -> TotpEnrollment: ...

    async def totp_confirm(self, caller: Caller, code: TotpCode) -> RecoveryCodes: ...

    async def totp_remove(self, caller: Caller) -> None: ...
