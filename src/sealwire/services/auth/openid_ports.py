"""What OpenID Connect asks of storage, and of the way out to other people's servers.

Events, durability and families as `services/auth/ports.py` says. MongoDB: a document per app, grant and consent;
unique index on a grant's `code_hash`, indexes on `session_id` and on (`user_id`, `client_id`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from sealwire.ports.events import NewEvent
from sealwire.services.auth.model import Rotation
from sealwire.services.auth.openid_records import ClientRecord, ConsentRecord, Fate, GrantRecord, Notice, Standing


class ClientStore(Protocol):
    """Apps."""

    async def add(self, client: ClientRecord, *, most: int, events: Sequence[NewEvent]) -> None:
        """Store an app. Atomic. Raises: QuotaExceeded past `most` live ones in the tenant."""

    async def get(self, client_id: str) -> ClientRecord | None:
        """Return a live app."""

    async def page(self, tenant_id: str, after: str, limit: int) -> Sequence[ClientRecord]:
        """Return live apps in the order of their ids, from above `after`."""

    async def end(self, tenant_id: str, client_id: str, now_us: int, events: Sequence[NewEvent]) -> bool:
        """End an app and every grant it has. Atomic. Returns whether it lived."""


class GrantStore(Protocol):
    """Codes, what they gave, and consents."""

    async def give(self, grant: GrantRecord, consent: ConsentRecord | None, events: Sequence[NewEvent]) -> bool:
        """Store a grant that waits for its code, and widen the consent. Atomic.

        Nothing is stored and False returned unless session, user, tenant and app live at that moment: a code decided
        before a deactivation doesn't survive it.
        """

    async def redeem(
        self, code_hash: bytes, judge: Callable[[Standing], bool], *, client_id: str, now_us: int,
        events_of: Callable[[GrantRecord, Fate], Sequence[NewEvent]],
    ) -> tuple[Fate, Standing | None]:  # fmt: skip
        """Use up the code of an app: for exactly one caller, and if `judge` allows it. Atomic.

        A code used before ends its grant (REPLAYED). One of another app is unknown and stays as it is.
        """

    async def rotate(
        self, grant_id: str, judge: Callable[[Standing], Rotation], *, client_id: str, now_us: int,
        events_of: Callable[[GrantRecord, Rotation], Sequence[NewEvent]],
    ) -> tuple[Standing, Rotation] | None:  # fmt: skip
        """Let `judge` decide about a refresh token and store the family afterwards; REUSED ends the grant. Atomic.

        None when the grant is not this app's or lives no more; `judge` is not asked then.
        """

    async def get(self, grant_id: str) -> Standing | None:
        """Return a grant with what it hangs on, alive or not."""

    async def end(self, grant_id: str, client_id: str, now_us: int, events: Sequence[NewEvent]) -> bool:
        """End a grant of the app. Returns whether it had not ended."""

    async def consent(self, user_id: str, client_id: str) -> ConsentRecord | None:
        """Return what the person allowed the app."""

    async def consents(self, user_id: str, after: str, limit: int) -> Sequence[tuple[ConsentRecord, ClientRecord]]:
        """Return the person's consents with their apps, in the order of the apps' ids, from above `after`."""

    async def withdraw(self, user_id: str, client_id: str, now_us: int, events: Sequence[NewEvent]) -> bool:
        """Delete a consent and end every grant it allowed. Atomic. Returns whether there was one."""


class NoticeStore(Protocol):
    """Logouts that apps have to be told of. The grants are the queue: nothing can be lost between a logout and it.

    A grant that goes with its session or person leaves its notice, in the same transaction.
    """

    async def due(self, now_us: int, limit: int) -> Sequence[Notice]:
        """Return what has to be told now: one notice per app and session, of grants redeemed and over."""

    async def done(self, notice: Notice, events: Sequence[NewEvent]) -> None:
        """The app was told, or never will be."""

    async def later(self, notice: Notice, due_us: int) -> None:
        """Count an attempt and try again at that time."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody else's server answered."""

    status: int
    body: bytes
    content_type: str


class Outward(Protocol):
    """Calls to other people's servers: https (http on this machine only), no redirects, bounded in time and size.

    An address that is neither public nor in a network the settings name is refused, after the name was resolved and
    for exactly the address connected to, so no name can lead inside (SSRF). No Redis or MongoDB is involved.
    """

    async def get(self, url: str, bearer: str = "") -> Answer:
        """Read a document. Raises: OutwardRefused for an address that may not be called, OSError for an outage."""

    async def post(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None) -> Answer:
        """Post a form. Raises: as `get`."""


class OutwardRefused(Exception):
    """The address may not be called; asking again is no use."""


class OpenIdStores(msgspec.Struct, frozen=True, kw_only=True):
    """Storage of OpenID Connect, over the same place as `AuthStores`."""

    clients: ClientStore
    grants: GrantStore
    notices: NoticeStore
