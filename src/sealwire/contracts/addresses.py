"""What auth promises of changing an e-mail address: the new one is proved first, until then the old one holds."""

from __future__ import annotations

from typing import Any, Protocol

from sealwire.contracts.auth_terms import SERVICE, Email, Token
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output
from sealwire.kit.operation import Degraded, Operation, Policy, RateClass, table
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Invalid


class EmailChangeInvalid(Invalid):
    """The token is unknown, used, replaced or too old, or the account was changed since: one answer for all of them."""

    code, title = "email_change_invalid", "The link is not valid any more; ask for another one"


class EmailChange(Input):
    """The address wanted. A letter with a token goes to it; another request replaces this one."""

    email: Email


class EmailChangeAsked(Output):
    """A person gets the same for an address that somebody else in the tenant has: no letter goes there then."""

    accepted: bool = True


class EmailConfirmation(Input):
    """The token of the letter."""

    token: Token


class EmailChanged(Output):
    """The new address holds."""

    changed: bool = True


_ASKS: dict[str, Any] = {
    "service": SERVICE,
    "takes": EmailChange,
    "gives": EmailChangeAsked,
    "step_up": True,
    "rate": RateClass.AUTH,
}

CHANGE_EMAIL = Operation(
    name="change_email",
    verb="POST",
    path="/auth/email",
    needs=Permission.OWN_PROFILE,
    summary="Ask for another e-mail address; it is proved by a letter",
    **_ASKS,
)
CHANGE_EMAIL_OF = Operation(
    name="change_email_of",
    verb="POST",
    path="/auth/users/{user_id}/email",
    needs=Permission.MANAGE_USERS,
    summary="Ask for another e-mail address of a user, who proves it by a letter",
    **_ASKS,
)
CONFIRM_EMAIL = Operation(
    name="confirm_email",
    verb="POST",
    path="/auth/email/confirm",
    takes=EmailConfirmation,
    gives=EmailChanged,
    service=SERVICE,
    policy=Policy.PUBLIC,
    rate=RateClass.AUTH,
    degraded=Degraded.ALLOW,
    summary="Prove a new e-mail address by the token of its letter",
)

OPERATIONS = table(CHANGE_EMAIL, CHANGE_EMAIL_OF, CONFIRM_EMAIL)


class Addresses(Protocol):
    """The part of auth that changes addresses."""

    async def change_email(self, caller: Caller, change: EmailChange) -> EmailChangeAsked:
        """Raises: Invalid when it is the address they have; TooManyAttempts; Forbidden (only a person has mail)."""

    async def change_email_of(self, caller: Caller, user_id: str, change: EmailChange) -> EmailChangeAsked:
        """Raises: UserNotFound, EmailTaken, Invalid, TooManyAttempts; Forbidden for who ranks as high or higher."""

    async def confirm_email(self, caller: Caller, confirmation: EmailConfirmation) -> EmailChanged:
        """Let the new address hold. Raises: EmailChangeInvalid, EmailTaken."""
