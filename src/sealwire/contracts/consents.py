"""What compliance promises of consents."""

from __future__ import annotations

from typing import Any, Protocol

from sealwire.contracts.compliance_terms import SERVICE
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output, Page, ShortText
from sealwire.kit.operation import Operation, Repeat, table
from sealwire.kit.permission import Permission


class NewConsent(Input):
    """What the person agrees to. `purpose` is a segment of the path to withdraw it: no slash, not `.` or `..`."""

    purpose: ShortText
    policy_version: ShortText


class Consent(Output):
    """A consent as it stands."""

    subject_id: str
    purpose: str
    policy_version: str
    given_at: str
    withdrawn_at: str | None = None


class ConsentHistory(Output):
    """All consents of the person, given and withdrawn, oldest first."""

    items: list[Consent]
    next_cursor: str | None = None


_OWN: dict[str, Any] = {"service": SERVICE, "needs": Permission.OWN_DATA}
CONSENTS = Operation(
    name="consents",
    verb="GET",
    path="/compliance/gdpr/consents",
    takes=Page,
    gives=ConsentHistory,
    repeat=Repeat.SAFE,
    summary="The caller's consents",
    **_OWN,
)
CONSENT = Operation(
    name="consent",
    verb="POST",
    path="/compliance/gdpr/consents",
    takes=NewConsent,
    gives=Consent,
    summary="Give a consent",
    **_OWN,
)
WITHDRAW = Operation(
    name="withdraw",
    verb="DELETE",
    path="/compliance/gdpr/consents/{purpose}",
    repeat=Repeat.IDEMPOTENT,
    summary="Withdraw a consent",
    **_OWN,
)

OPERATIONS = table(
    CONSENTS,
    CONSENT,
    WITHDRAW,
)


class ConsentDesk(Protocol):
    """Consents of the caller, with their history."""

    async def consents(self, caller: Caller, page: Page) -> ConsentHistory: ...
    async def consent(self, caller: Caller, consent: NewConsent) -> Consent: ...
    async def withdraw(self, caller: Caller, purpose: str) -> None: ...
