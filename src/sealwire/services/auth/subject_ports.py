"""What auth asks of storage for the rights of one person: erased, put right, restricted, told, looked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from sealwire.ports.events import NewEvent
from sealwire.ports.holds import HoldBook
from sealwire.services.auth.records import Cut, UserRecord

KeptStatus = Literal["active", "disabled"]
RowKind = Literal["session", "api_key", "passkey", "consent", "identity", "former"]


class Erasing(msgspec.Struct, frozen=True, kw_only=True):
    """An erasure that is under way: what is needed to find the rest, gone with the last step."""

    user_id: str
    tenant_id: str
    sealed: bytes
    email_index: bytes


class SubjectRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something stored of a person. `facts` are plain; `sealed` is opened by who reads it."""

    kind: RowKind
    row_id: str
    at_us: int
    facts: Mapping[str, str | int]
    sealed: bytes = b""


class SubjectStore(Protocol):
    """The rows of one person, wherever they are. Atomic and durable as in `ports`."""

    @property
    def holds(self) -> HoldBook:
        """The copy of the legal holds that erasures look at."""

    async def require_erasable(self, user: UserRecord) -> None:
        """Raises: LegalHold; LastOwner."""

    async def begin_erasing(self, user: UserRecord, cut: Cut, events: Sequence[NewEvent]) -> Mapping[str, int] | None:
        """Cut the user off as `UserStore.cut` does, then leave a nameless stub and nothing else. Atomic.

        Everything that refers to the user goes with the record, and what refers to it later is refused: the id never
        comes back. Events of before are left for `forget_events`. Returns how many rows went, by kind; None when the
        user was changed or erased meanwhile. Raises: LegalHold; LastOwner.
        """

    async def erasing(self, tenant_id: str, user_id: str) -> Erasing | None:
        """Return the erasure of a user that is under way."""

    async def forget_events(
        self, user_id: str, strip: Callable[[bytes], bytes | None], *, limit: int
    ) -> tuple[int, bool]:
        """Let `strip` rewrite up to `limit` events of before the erasure (None: it stays as it is).

        Only events that every consumer has passed, so that none is sent twice with different content. Returns how many
        changed and whether all were looked at.
        """

    async def finish_erasing(self, user_id: str, attempts: Sequence[bytes]) -> int:
        """Forget failures counted under the keys `attempts` and what was kept to go on with."""

    async def compact(self) -> None:
        """Leave nothing of what was deleted in the files, their log included. Raises: Unavailable."""

    async def restrict(self, cut: Cut, events: Sequence[NewEvent]) -> bool:
        """Restrict a user and keep the status they had; False when they are not as the cut says any more. Atomic."""

    async def kept_status(self, user_id: str) -> KeptStatus | None:
        """Return the status a restricted user had before."""

    async def release(self, cut: Cut, events: Sequence[NewEvent]) -> bool:
        """Lift a restriction; False when they are not as the cut says any more. Atomic."""

    async def rows(self, user_id: str, kind: RowKind, after: str, limit: int) -> Sequence[SubjectRow]:
        """Return rows of a kind in the order of their ids, ended or not."""

    async def places(
        self, tenant_id: str, user_id: str, email_index: bytes, words: Sequence[bytes]
    ) -> Mapping[str, int]:
        """Count rows that refer to the user by table, none for one of another tenant, and the words in the file
        itself."""
