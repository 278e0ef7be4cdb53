"""What auth promises to who lost a factor or a device: new recovery codes, and what who ranks higher does."""

from __future__ import annotations

from typing import Final, Protocol

from sealwire.contracts.auth_terms import SERVICE, Email, Slug
from sealwire.contracts.credentials import ResetAsked
from sealwire.contracts.logins import RecoveryCodes
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input
from sealwire.kit.operation import Operation, Policy, RateClass, Repeat, table
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict

CARRIER: Final = "gateway"
"""The service that carries what commands on the machine ask: `rescue` is taken from no other."""


class NoSecondFactor(Conflict):
    """Recovery codes stand in for a second factor, and there is none."""

    code, title = "no_second_factor", "You have no second factor"


class LockedOut(Input):
    """Who: in which tenant (`system` for operators), by their address."""

    tenant: Slug | Id
    email: Email


NEW_RECOVERY_CODES = Operation(
    name="new_recovery_codes",
    verb="POST",
    path="/auth/mfa/recovery-codes",
    gives=RecoveryCodes,
    service=SERVICE,
    needs=Permission.OWN_PROFILE,
    step_up=True,
    rate=RateClass.AUTH,
    summary="Make new recovery codes; those before them count no longer",
)
RESET_FACTORS = Operation(
    name="reset_factors",
    verb="DELETE",
    path="/auth/users/{user_id}/factors",
    service=SERVICE,
    needs=Permission.MANAGE_USERS,
    step_up=True,
    repeat=Repeat.IDEMPOTENT,
    summary="Take all second factors of a user who is locked out; their sessions and keys end",
)
SEND_RESET = Operation(
    name="send_reset",
    verb="POST",
    path="/auth/users/{user_id}/password-reset",
    gives=ResetAsked,
    service=SERVICE,
    needs=Permission.MANAGE_USERS,
    step_up=True,
    rate=RateClass.AUTH,
    summary="Send a user the letter by which they set their password anew; nobody else gets to know it",
)
END_SESSIONS_OF = Operation(
    name="end_sessions_of",
    verb="DELETE",
    path="/auth/users/{user_id}/sessions",
    service=SERVICE,
    needs=Permission.MANAGE_USERS,
    step_up=True,
    repeat=Repeat.IDEMPOTENT,
    summary="End every session and API key of a user, who may log in again",
)

RESCUE = Operation(
    name="rescue",
    verb="POST",
    path="/auth/internal/rescue",
    takes=LockedOut,
    status=204,
    service=SERVICE,
    policy=Policy.SERVICE,
    repeat=Repeat.IDEMPOTENT,
    callers=frozenset({CARRIER}),
    summary="Take all second factors of anybody: for commands on the machine",
)

OPERATIONS = table(NEW_RECOVERY_CODES, RESET_FACTORS, SEND_RESET, END_SESSIONS_OF, RESCUE)


class Recovery(Protocol):
    """The part of auth that lets people in again."""

    async def new_recovery_codes(self, caller: Caller) -> RecoveryCodes:
        """Raises: NoSecondFactor."""

    async def reset_factors(self, caller: Caller, user_id: str) -> None:
        """Remove authenticator app, passkeys and recovery codes of another person.

        Raises: UserNotFound; Forbidden for oneself, for who ranks as high or higher (but to an owner), and by a key;
        Conflict when their role changes at that moment.
        """

    async def send_reset(self, caller: Caller, user_id: str) -> ResetAsked:
        """Send a letter to the address the account has; what it was asked for changes nothing until it is used.

        Raises: UserNotFound; Conflict for who is disabled; TooManyAttempts; Forbidden as `reset_factors`.
        """

    async def end_sessions_of(self, caller: Caller, user_id: str) -> None:
        """End all of another person's sessions. Raises: as `reset_factors`."""

    async def rescue(self, caller: Caller, who: LockedOut) -> None:
        """The same for whom nobody outranks: an operator, a tenant's only owner.

        Raises: UserNotFound; Forbidden to every other service than `CARRIER`.
        """
