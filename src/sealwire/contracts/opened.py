"""What auth promises of logins: the sessions that were opened, in order, for whoever tells people's front ends."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from sealwire.contracts.auth_terms import BOUNDARY, INTERNAL
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output
from sealwire.kit.operation import Operation, table


class Opened(Output):
    """A session of a person was opened, by whatever kind of login. `change_id` is the id of its audit record too.

    `number` orders them and leaves gaps: it is the place among all that auth announces.
    """

    number: int
    change_id: str
    tenant_id: str
    subject: str
    session_id: str
    at_us: int
    kind: Literal["login"] = "login"


class OpenedQuery(Input):
    """Those with a number above `after`; with -1 none, and where they end is told. Of what auth announced, `limit`
    entries are looked at."""

    after: Annotated[int, msgspec.Meta(ge=-1, le=2**53 - 1)] = -1
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 500


class OpenedSessions(Output):
    """`upto`: where to go on reading. It is below `after` when auth came back from an older copy; what that one has
    was opened before. Below `newest`, there is more to read now."""

    items: list[Opened]
    upto: int
    newest: int


OPENED = Operation(
    name="opened",
    verb="GET",
    path="/auth/internal/opened",
    takes=OpenedQuery,
    gives=OpenedSessions,
    callers=BOUNDARY,
    summary="The sessions that were opened",
    **INTERNAL,
)

OPERATIONS = table(OPENED)


class OpenedFeed(Protocol):
    """The part of auth that tells of logins."""

    async def opened(self, caller: Caller, query: OpenedQuery) -> OpenedSessions: ...
