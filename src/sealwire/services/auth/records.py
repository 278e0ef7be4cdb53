"""What auth stores: one struct per noun, times in microseconds since the Unix epoch."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from sealwire.contracts.tenancy import Quotas
from sealwire.kit.codec import FrozenMeta
from sealwire.kit.permission import Role


class Record(msgspec.Struct, metaclass=FrozenMeta):
    """A stored thing."""


class TenantRecord(Record):
    """A tenant. `owner_claimed`: it had an owner; set once and never taken back. `users`: how many it has."""

    tenant_id: str
    slug: str
    name: str
    created_us: int
    status: Literal["active", "suspended"] = "active"
    owner_claimed: bool = False
    users: int = 0
    quotas: Quotas = Quotas()


UserStatus = Literal["active", "disabled", "restricted"]


class UserRecord(Record):
    """A user. `email_index` is a keyed hash of the folded address, `sealed` holds address and display name.

    `restricted`: kept without being processed (GDPR Art. 18). Of an erased user there is a stub elsewhere, no record.
    `service`: no person but a service account, which has keys and can't log in.
    """

    user_id: str
    tenant_id: str
    email_index: bytes
    sealed: bytes
    role: Role
    password_hash: str
    created_us: int
    status: UserStatus = "active"
    epoch: int = 1
    mfa: bool = False
    service: bool = False


class RefreshUse(msgspec.Struct, frozen=True, array_like=True):
    """Refresh token `number` of a family was used, or given out again, at `at_us`: its grace runs from there.

    `client` is a keyed hash of the user agent that did it; nobody else may repeat it. Empty in what was stored before
    clients were told apart.
    """

    number: int
    at_us: int
    client: bytes = b""


class SessionRecord(Record):
    """A session and its family of refresh tokens, of which `refresh_head` is the newest.

    `epoch`: the least security epoch a token of it may have. `sealed_secret`: what its refresh tokens are derived from.
    `sealed_origin`: address and user agent last seen. `ended_us` 0 while it lives.
    """

    session_id: str
    tenant_id: str
    user_id: str
    epoch: int
    created_us: int
    seen_us: int
    expires_us: int
    auth_us: int
    amr: tuple[str, ...]
    client_id: str
    sealed_secret: bytes
    sealed_origin: bytes
    refresh_head: int = 1
    refresh_uses: tuple[RefreshUse, ...] = ()
    ended_us: int = 0


class Challenge(Record):
    """A login that waits for its second factor. Stored under the hash of its token; `amr` is what was proved so far."""

    token_hash: bytes
    tenant_id: str
    user_id: str
    expires_us: int
    attempts: int = 0
    amr: tuple[str, ...] = ("pwd",)


class TotpRecord(Record):
    """An authenticator app. `last_step` is the newest time step a code was accepted for; pending until confirmed."""

    user_id: str
    sealed_secret: bytes | None = None
    last_step: int = 0
    pending_sealed: bytes | None = None
    pending_until_us: int = 0


class ResetRecord(Record):
    """A letter's right to set a user's password anew, once. Stored under the hash of its token.

    `by_other`: an administrator had it sent; otherwise anybody may have.
    """

    token_hash: bytes
    tenant_id: str
    user_id: str
    created_us: int
    expires_us: int
    by_other: bool = False


class InvitationRecord(Record):
    """An open invitation. `sealed` holds the address, `email_index` is its keyed hash as for users.

    `by_operator` is not stored: it follows from who `invited_by` is now (`system`: a command on the machine).
    """

    invitation_id: str
    token_hash: bytes
    tenant_id: str
    email_index: bytes
    sealed: bytes
    role: Role
    invited_by: str
    created_us: int
    expires_us: int
    by_operator: bool = False


class ApiKeyRecord(Record):
    """An API key, known by the hash of its whole text. `epoch` is its owner's when it was made."""

    key_id: str
    tenant_id: str
    owner_id: str
    prefix: str
    secret_hash: bytes
    name: str
    scopes: tuple[str, ...]
    epoch: int
    created_by: str
    created_us: int
    expires_us: int
    used_us: int = 0


class LetterRecord(Record):
    """A letter that has not been handed over yet, sealed: it holds an address and a token."""

    letter_id: str
    tenant_id: str
    sealed: bytes
    created_us: int
    due_us: int
    attempts: int = 0


class SigningKeyRecord(Record):
    """A signing key, its private half sealed."""

    kid: str
    alg: str
    state: str
    sealed_pem: bytes
    created_us: int
    verify_until_us: int | None = None


class Reason(StrEnum):
    """Why sessions end or a user's epoch is raised."""

    LOGOUT = "logout"
    LOGOUT_ALL = "logout_all"
    ENDED_BY_USER = "ended_by_user"
    ENDED_BY_ADMIN = "ended_by_admin"
    REUSED = "refresh_reused"
    LIMIT = "session_limit"
    PASSWORD = "password_changed"  # noqa: S105 - the name of a reason
    RESET = "password_reset"
    ROLE = "role_changed"
    DISABLED = "user_disabled"
    ENABLED = "user_enabled"
    TOKEN = "token_revoked"  # noqa: S105 - the name of a reason
    API_KEY = "api_key_ended"
    TENANT = "tenant_removed"
    SUSPENDED = "tenant_suspended"
    ERASED = "user_erased"
    RESTRICTED = "user_restricted"
    RECTIFIED = "user_rectified"
    EMAIL = "email_changed"
    FACTORS = "factors_reset"
    KEY = "signing_key_compromised"


class NewRevocation(Record):
    """An entry for the feed, before it has a number. Fields as in `contracts.revocations.Revocation`."""

    change_id: str
    kind: Literal["session", "subject", "role", "token", "tenant"]
    tenant_id: str
    at_us: int
    expires_at_s: int
    reason: Reason
    subject: str = ""
    session_id: str = ""
    token_id: str = ""


class Cut(Record):
    """A deactivation: what changes of a user, and that every token given before is looked at anew.

    `keep_session` survives it. `ends_sessions` False is for a change that only has to be noticed (a role).
    `expected_hash`: the password hash the change was decided on; another one by now refuses it.
    `spends_reset`: the hash of a reset token that this uses up; one that is gone or too old refuses it.
    `expected_sealed`: the same for the sealed profile. `spends_email_change`: as `spends_reset`, of a new address.
    `drops_factors`: authenticator app, passkeys and recovery codes go.
    `expected_role`: the role that whoever asks was measured against; another one by now refuses it.
    `from_status`: the status the change was decided on; a restricted user is changed by naming that only.
    """

    tenant_id: str
    user_id: str
    reason: Reason
    revocation: NewRevocation
    ends_sessions: bool = True
    keep_session: str = ""
    role: Role | None = None
    expected_role: Role | None = None
    status: UserStatus | None = None
    from_status: UserStatus | None = None
    password_hash: str | None = None
    expected_hash: str | None = None
    spends_reset: bytes | None = None
    sealed: bytes | None = None
    email_index: bytes | None = None
    expected_sealed: bytes | None = None
    spends_email_change: bytes | None = None
    drops_factors: bool = False
