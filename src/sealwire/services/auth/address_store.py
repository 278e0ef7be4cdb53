"""What auth asks of storage for changes of addresses. Events, atomicity and durability as in `ports.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sealwire.ports.events import NewEvent
from sealwire.services.auth.records import LetterRecord, Record


class EmailChangeRecord(Record):
    """A change that waits for its proof, or did. Stored under the hash of its token; `sealed` holds the new address.

    It is kept sealed, confirming nothing, for as long as a letter to the address may lie somewhere. `asked_by` is the
    user who asked: the person, or an administrator. Empty in one that confirms nothing any more.
    """

    token_hash: bytes
    tenant_id: str
    user_id: str
    asked_by: str
    email_index: bytes
    sealed: bytes
    created_us: int
    expires_us: int
    proved: bool = False


class EmailChangeStore(Protocol):
    """Changes of addresses, by hash. Spent and voided by `UserStore.cut`.

    MongoDB: documents with a TTL, indexes on `user_id` and `asked_by`.
    """

    async def ask(
        self, change: EmailChangeRecord, letter: LetterRecord | None, *, most: int, since_us: int,
        events: Sequence[NewEvent],
    ) -> bool:  # fmt: skip
        """Store a change and its letter; those of the user before it are void. Atomic.

        Without a letter nothing can confirm it: it only counts. Returns False, and stores nothing, when the user
        asked `most` times since `since_us`.
        """

    async def find(self, token_hash: bytes, now_us: int) -> EmailChangeRecord | None:
        """Return the live change of that hash."""

    async def of(self, user_id: str) -> Sequence[EmailChangeRecord]:
        """Return all that are kept of a user, the newest first, those that confirm nothing any more too."""
