"""What search promises: full text over what the caller may read at that moment."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from sealwire.contracts import custody
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output
from sealwire.kit.operation import Operation, RateClass, Repeat, table
from sealwire.kit.permission import Permission

SERVICE = "search"


class SearchQuery(Input):
    """What is looked for, and filters that must all hold. Times are RFC 3339."""

    q: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    conversation_id: Id | None = None
    sender_id: Id | None = None
    kind: Literal["message", "file"] | None = None
    from_: Annotated[str, msgspec.Meta(max_length=40)] | None = msgspec.field(default=None, name="from")
    to: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class Hit(Output):
    """A message found. `snippet` is HTML: escaped text with `<mark>` around what matched."""

    message_id: str
    conversation_id: str
    seq: int
    sender_id: str
    snippet: str
    score: float
    created_at: str
    kind: str = "message"


class Hits(Output):
    """Best first. `indexed_up_to`: per conversation asked for, the `seq` up to which messages can be found."""

    items: list[Hit]
    next_cursor: str | None = None
    indexed_up_to: dict[str, int] = {}


SEARCH = Operation(
    name="search",
    service=SERVICE,
    verb="GET",
    path="/search",
    takes=SearchQuery,
    gives=Hits,
    needs=Permission.SEARCH,
    repeat=Repeat.SAFE,
    rate=RateClass.SEARCH,
    summary="Search messages and files",
)

OPERATIONS = table(SEARCH, *custody.operations(SERVICE, custody.SUBJECT))


class Search(custody.SubjectCustody, Protocol):
    """Search, in this process or another."""

    async def search(self, caller: Caller, query: SearchQuery) -> Hits:
        """Raises: ConversationNotFound when `conversation_id` is not one the caller may read."""
