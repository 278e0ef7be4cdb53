"""What messaging asks of storage about one person: to find, to erase, to keep without processing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from sealwire.services.messaging.model import StoredMessage


class WrittenMessage(NamedTuple):
    """A message of the person, its place, and whether a hold keeps it."""

    place: int
    message: StoredMessage
    held: bool


class FormerMessage(NamedTuple):
    """A message of the person as it was until `until_us`. Its place is (place, version)."""

    place: tuple[int, int]
    message: StoredMessage
    until_us: int


class Sat(NamedTuple):
    """A membership of the person; `title` is sealed."""

    place: int
    conversation_id: str
    kind: str
    title: bytes | None
    role: str
    joined_at_us: int
    read_seq: int


class SubjectReaction(NamedTuple):
    """A reaction of the person to the message with this place."""

    key: int
    emoji: str
    at_us: int
    conversation_id: str
    seq: int


class Mention(NamedTuple):
    """A message (its place) whose encoded meta names the person."""

    key: int
    meta: bytes


class HeldPlace(NamedTuple):
    """How many things of a kind a hold keeps here: `message`, `mention`, `reaction`, `membership`, `conversation`.

    Of a `conversation`, that the person made it or that it is their pair's.
    """

    conversation_id: str
    kind: str
    things: int


class Remains(NamedTuple):
    """How much of the person is left, by place, and what of them holds keep, all of one moment: each thing is in one of
    the two, and for each that is held a hold is named.

    `kept_in` are those of the conversations that a hold is on, `kept_by` the holds on people that keep any of it: no
    others. Seats, and who made a conversation, are kept by a hold on anybody who was ever there.
    """

    left: Mapping[str, int]
    held: Sequence[HeldPlace]
    kept_in: Sequence[str]
    kept_by: Sequence[str]


class Rewritten(NamedTuple):
    """A message of the person, of this version, as it is to be kept for the others."""

    key: int
    version: int
    sealed: bytes
    meta: bytes | None


class SubjectStore(Protocol):
    """The data of one person in messaging's store.

    Every change is atomic, durable on return, with its events in the same transaction, and refused inside of it while
    a hold covers the person (LegalHold); what another hold covers is left as it is. Finding reads
    a snapshot that holds everything committed before the call. `place`s rise.
    Finding looks through the conversations where the person ever sat or was mentioned, and no others; `counts` alone
    looks at everything, as it is what a probe trusts. Changes give way to other writers and rest in between: they take
    longer the more others write.
    MongoDB: as `ConversationStore`; an index on `sender_id` makes finding cheap there. Embedded it would cost every
    send more than reading those conversations costs an erasure.
    """

    @property
    def step(self) -> int:
        """How many things to change in the next call, so that who writes besides hardly notices."""

    async def marks(self) -> Sequence[tuple[str, str, str]]:
        """Return (tenant, person, `restricted` or `erased`) of all who are marked."""

    async def restrict(self, tenant_id: str, subject_id: str, restricted: bool) -> None:
        """Mark or unmark; sends on their way with an older seat are refused from then on."""

    async def require_free(self, tenant_id: str, subject_id: str) -> None:
        """Raises: LegalHold while a hold covers the person."""

    async def begin_erasing(self, tenant_id: str, subject_id: str) -> None:
        """Mark as erased, for good. Raises: LegalHold."""

    async def messages(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[WrittenMessage]:
        """Return messages of the person, tombstones too, above a place."""

    async def seats(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[Sat]:
        """Return memberships above a place."""

    async def reactions(
        self, tenant_id: str, subject_id: str, after: tuple[int, str], limit: int
    ) -> Sequence[SubjectReaction]:
        """Return reactions above (key, emoji)."""

    async def former_messages(
        self, tenant_id: str, subject_id: str, after: tuple[int, int], limit: int, *, deleted: bool
    ) -> Sequence[FormerMessage]:
        """Return what messages were before they were edited, or what holds keep of `deleted` ones, above a place."""

    async def mentions(self, tenant_id: str, subject_id: str, after: int, limit: int) -> Sequence[Mention]:
        """Return messages that name the person, above a place, those under a hold left out."""

    async def counts(self, tenant_id: str, subject_id: str) -> Mapping[str, int]:
        """Return how much of the person is left, by place, what holds keep left out. Looks at everything there is."""

    async def remains(self, tenant_id: str, subject_id: str) -> Remains:
        """Return what is left, found as everything else is, and what holds keep."""

    async def leave(self, tenant_id: str, subject_id: str, limit: int, at_us: int) -> int:
        """End up to `limit` memberships, kept apart as `FormerStore` says.

        A group whose last owner goes gets the eldest of the highest role as one.
        """

    async def tombstone(self, tenant_id: str, subject_id: str, keys: Sequence[int], pseudonym: str, at_us: int) -> int:
        """Leave tombstones of a pseudonym: no body, no former bodies, no reactions. Return how many messages."""

    async def rewrite(
        self, tenant_id: str, subject_id: str, messages: Sequence[Rewritten], pseudonym: str, at_us: int
    ) -> int:
        """Replace body, author and version of those that didn't change since; former bodies go. Return how many."""

    async def unreact(self, tenant_id: str, subject_id: str, reactions: Sequence[SubjectReaction], at_us: int) -> int:
        """Take reactions back; what a hold covers of them is kept as `FormerStore` says. Return how many."""

    async def unmention(self, tenant_id: str, changed: Sequence[tuple[Mention, bytes | None]], at_us: int) -> int:
        """Replace the meta of messages that didn't change since. Return how many."""

    async def unname(self, tenant_id: str, subject_id: str, pseudonym: str) -> int:
        """Take the person's id out of conversations (who made them, a pair) that no hold covers. Return how many."""

    async def forget_traces(self, tenant_id: str, subject_id: str) -> None:
        """Forget where the person was: nothing is left there to be found."""

    async def count_in_files(self, texts: Sequence[bytes]) -> int:
        """Return how often these texts stand in the raw bytes of the files, deleted pages and logs included."""

    async def compact(self) -> None:
        """See to it that nothing overwritten is left in the files. Raises: Unavailable when it can't be done now."""
