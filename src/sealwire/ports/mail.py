"""Mail: letters to people. What they say is decided by who sends them; how they travel is a setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A letter in plain text. `letter_id` is unique for good; `at_us` is when it was written."""

    letter_id: str
    to: str
    subject: str
    text: str
    at_us: int

    def __post_init__(self) -> None:
        if any(character in value for value in (self.to, self.subject) for character in "\r\n\0"):
            raise ValueError("a line break in an address or subject would let somebody write headers")


class MailRefused(Exception):
    """This letter will never be taken (an address that does not exist): sending it again is no use."""


class Mailer(Protocol):
    """Takes letters over.

    Durable: once `send` returned, the letter is on its way and survives a crash here. At least once: the same letter
    may be handed over again after a crash, under the same `letter_id` (which becomes its Message-ID). Embedded: one
    RFC 5322 file per letter in a folder, written aside, fsynced and renamed, so that a second hand-over replaces it.
    SMTP: taken over by the server's answer 250 to the end of DATA. Until then a letter waits, sealed, in the store
    of the service that wrote it (SQLite or MongoDB), stored in one transaction with what it is about.
    """

    async def send(self, letter: Letter) -> None:
        """Hand a letter over. Raises: MailRefused for good; Unavailable or OSError for now."""

    async def forget(self, address: str) -> int:
        """Destroy what is still here of letters to an address and return how many; what left can't be called back."""

    async def find(self, words: Sequence[str]) -> int:
        """Return how many letters that are still here hold one of the words."""

    async def check(self) -> None:
        """Raise when letters can't be handed over at the moment."""
