"""What auth promises of credentials beside the password: its reset by mail, invitations."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import msgspec

from sealwire.contracts.auth_terms import OPEN, SERVICE, Email, Password, Slug, Token, UserRole
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page
from sealwire.kit.operation import Operation, Repeat, table
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Invalid, NotFound


class ResetInvalid(Invalid):
    """The reset token is unknown, used, replaced or too old: one answer for all of them."""

    code, title = "reset_invalid", "The link is not valid any more; ask for another one"


class InvitationInvalid(Invalid):
    """The invitation is unknown, used, withdrawn or too old, or is for another address: one answer for all of them."""

    code, title = "invitation_invalid", "The invitation is not valid; ask for another one"


class InvitationNotFound(NotFound):
    """No such open invitation in this tenant."""

    code, title = "invitation_not_found", "No such invitation"


class ResetRequest(Input):
    """Whose password. `tenant` as at login."""

    email: Email
    tenant: Slug | Id | None = None


class ResetAsked(Output):
    """The same for an address that is known and for one that is not."""

    accepted: bool = True


class ResetConfirmation(Input):
    """The token of the letter and the password wanted."""

    token: Token
    new_password: Password


class ResetDone(Output):
    """The password is changed and every session has ended."""

    changed: bool = True


class NewInvitation(Input):
    """Who is invited, and as what. `expires_in_s` is at most what the settings allow."""

    email: Email
    role: UserRole = "member"
    expires_in_s: Annotated[int, msgspec.Meta(ge=60, le=31_536_000)] | None = None


class Invitation(Output):
    """An open invitation. Its token is in the letter and nowhere else."""

    invitation_id: str
    email: str
    role: Role
    invited_by: str
    created_at: str
    expires_at: str


class Invitations(Output):
    """The tenant's open invitations."""

    items: list[Invitation]
    next_cursor: str | None = None


_INVITE: dict[str, Any] = {"service": SERVICE, "needs": Permission.INVITE}

RESET_PASSWORD = Operation(
    name="reset_password",
    verb="POST",
    path="/auth/password/reset",
    takes=ResetRequest,
    gives=ResetAsked,
    summary="Have a letter sent that lets the password be set anew",
    **OPEN,
)
CONFIRM_RESET = Operation(
    name="confirm_reset",
    verb="POST",
    path="/auth/password/reset/confirm",
    takes=ResetConfirmation,
    gives=ResetDone,
    summary="Set the password with the token of the letter",
    **OPEN,
)
INVITE = Operation(
    name="invite",
    verb="POST",
    path="/auth/invitations",
    takes=NewInvitation,
    gives=Invitation,
    summary="Invite a person by mail; an older invitation to the address is withdrawn",
    **_INVITE,
)
INVITATIONS = Operation(
    name="invitations",
    verb="GET",
    path="/auth/invitations",
    takes=Page,
    gives=Invitations,
    repeat=Repeat.SAFE,
    summary="Open invitations of the tenant",
    **_INVITE,
)
WITHDRAW_INVITATION = Operation(
    name="withdraw_invitation",
    verb="DELETE",
    path="/auth/invitations/{invitation_id}",
    repeat=Repeat.IDEMPOTENT,
    summary="Withdraw an invitation",
    **_INVITE,
)

OPERATIONS = table(RESET_PASSWORD, CONFIRM_RESET, INVITE, INVITATIONS, WITHDRAW_INVITATION)


class Credentials(Protocol):
    """The part of auth that deals with them."""

    async def reset_password(self, caller: Caller, request: ResetRequest) -> ResetAsked:
        """Send a letter, if there is such a person; nothing in the answer, its time or its work tells."""

    async def confirm_reset(self, caller: Caller, confirmation: ResetConfirmation) -> ResetDone:
        """Set the password; every session of the user ends. Raises: ResetInvalid, WeakPassword."""

    async def invite(self, caller: Caller, invitation: NewInvitation) -> Invitation:
        """Raises: Forbidden (a role the caller may not give), EmailTaken, QuotaExceeded."""

    async def invitations(self, caller: Caller, page: Page) -> Invitations: ...
    async def withdraw_invitation(self, caller: Caller, invitation_id: str) -> None:
        """Raises: InvitationNotFound."""
