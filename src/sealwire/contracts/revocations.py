"""What auth promises of revocations: the numbered feed of what ended."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from sealwire.contracts.auth_terms import BOUNDARY, INTERNAL, Count
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output
from sealwire.kit.operation import Operation, table


class Revocation(Output):
    """One entry of the numbered feed: what ended, for whom.

    `kind`: `session` (this one is dead), `subject` (every session of the user is dead, and every token with an epoch
    below `epoch`, but not the session `session_id` when one is given), `role` (the role changed: forget what was
    cached of the user and ask again; sockets are re-authorised), `token` (the `jti` `token_id` is dead), `tenant`
    (every session of the tenant is dead, and every token issued before that second; of one issued in it, or held while
    `at_us` is still to come, auth knows whether its session began after the entry). After `expires_at_s` (0: never) no
    token it speaks of can be valid any more.
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
    """Entries after this number; waits up to `wait_ms` for one. `last` is the `change_id` of the entry `after`: with it
    the answer says whether that is still the feed which the reader has read so far."""

    after: Count = 0
    last: Annotated[str, msgspec.Meta(max_length=64)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 500
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0


class Revocations(Output):
    """Entries in order, and the number of the newest: an empty answer is the feed's heartbeat.

    `broken`: the entry `after` is not the one that the reader knows by that number. Auth came back from an older copy
    (or the entry was over and is gone), so nothing is given but the advice to read from the start. `run` is an id that
    lasts from one opening of auth's storage to the next: as long as it is the same, so is the feed.
    """

    items: list[Revocation]
    newest: int
    broken: bool = False
    run: str = ""


REVOCATIONS = Operation(
    name="revocations",
    verb="GET",
    path="/auth/internal/revocations",
    takes=FeedQuery,
    gives=Revocations,
    callers=BOUNDARY,
    summary="The numbered feed of what ended",
    **INTERNAL,
)

OPERATIONS = table(REVOCATIONS)


class RevocationFeed(Protocol):
    """The part of auth that tells what ended."""

    async def revocations(self, caller: Caller, query: FeedQuery) -> Revocations: ...
