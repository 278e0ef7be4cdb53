"""What messaging asks of storage about titles and reactions that were replaced while a legal hold covered them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class FormerStore(Protocol):
    """Former versions, in the same place as the messages, written in the transaction that replaces what they were.

    One is written only when a hold covers it then, and every deletion looks at the holds inside of it. A title is
    covered by a hold on the conversation, or on anybody who was in it or mentioned there; a reaction by one on who put
    it, on the conversation, or on who wrote the message. MongoDB: documents in a collection of their own.
    """

    async def titles(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[FormerTitle]:
        """Return those of the person's conversations that a hold on the person or the conversation keeps."""

    async def reactions(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[FormerReaction]:
        """Return those the person put, above a place."""

    async def held(self, tenant_id: str, subject_id: str) -> Mapping[str, int]:
        """Return how many reactions of the person holds keep, by conversation."""

    async def erase(self, tenant_id: str, subject_id: str, limit: int) -> int:
        """Delete up to `limit` reactions of the person that no hold keeps; return how many."""

    async def purge(self, limit: int) -> None:
        """Delete all that no hold covers any more, `limit` looked at a time."""
