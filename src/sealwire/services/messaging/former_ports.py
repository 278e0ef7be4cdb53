"""What messaging asks of storage about titles, reactions and seats of before, while a legal hold covers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class FormerTitle(NamedTuple):
    """A title that a conversation had until `until_us`, sealed."""

    place: int
    conversation_id: str
    title: bytes
    until_us: int


class FormerReaction(NamedTuple):
    """A reaction of the person that was there until `until_us`."""

    place: int
    emoji: str
    at_us: int
    until_us: int
    conversation_id: str
    seq: int


class FormerSeat(NamedTuple):
    """A membership of the person, as it was until it ended, or until its role changed, at `until_us`."""

    place: int
    conversation_id: str
    kind: str
    role: str
    joined_at_us: int
    read_seq: int
    until_us: int


class FormerStore(Protocol):
    """Former versions, in the same place as the messages, written in the transaction that replaces what they were.

    One is written only when a hold covers it then, and every deletion looks at the holds inside of it. A title is
    covered by a hold on the conversation, or on anybody who was in it or mentioned there, and so is a seat; a reaction
    by one on who put it, and by what holds its message. MongoDB: documents in a collection of their own.
    """

    async def titles(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[FormerTitle]:
        """Return those of the person's conversations that a hold on the person or the conversation keeps."""

    async def reactions(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[FormerReaction]:
        """Return those the person put, above a place."""

    async def seats(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[FormerSeat]:
        """Return former memberships of the person, above a place."""

    async def erase(self, tenant_id: str, subject_id: str, limit: int) -> int:
        """Delete up to `limit` reactions, and as many seats, of the person that no hold keeps; return how many."""

    async def purge(self, limit: int) -> None:
        """Delete all that no hold covers any more, `limit` looked at a time."""
