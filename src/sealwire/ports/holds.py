"""A service's own copy of the legal holds, kept where its data is: a hold and a deletion can't miss each other.

A deletion looks at the copy in the transaction that deletes. So either the deletion was committed before the hold, or
it sees the hold and keeps the data: there is no moment in which both believe they were first.
"""

from __future__ import annotations

from typing import Protocol


class HoldBook(Protocol):
    """The holds a service knows of. Every method is atomic; what it changed is durable on return.

    Embedded: a table in the service's own SQLite file, read inside the deleting write. MongoDB: a collection read
    inside the deleting transaction; a hold raises a counter in the tenant's document that every deletion raises too, so
    that the two conflict and one of them is tried again (snapshot isolation alone would let both through).
    """

    async def put(self, tenant_id: str, hold_id: str, *, subject_id: str, conversation_id: str, at_us: int) -> None:
        """Keep what the hold covers from now on; one of the two is empty. The same again changes nothing.

        A hold that was released is not put again: a request that was delayed on its way must not bring it back.
        """

    async def release(self, tenant_id: str, hold_id: str, *, at_us: int) -> None:
        """End a hold, also one that hasn't arrived yet. What waited for it goes on by itself."""

    async def covers(self, tenant_id: str, *, subject_id: str = "", conversation_id: str = "") -> bool:
        """Whether a hold in force covers this person or this conversation. To decide a deletion this is too early."""
