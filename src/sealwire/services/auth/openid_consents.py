"""Consents: what a person allowed which app, seen and taken back by them."""

from __future__ import annotations

from sealwire.contracts.openid import Consent, ConsentNotFound, Consents
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.openid_ports import GrantStore


class ConsentBook:
    """A person's consents. They are given on the page (openid_pages.py) and end here."""

    def __init__(self, *, store: GrantStore, journal: Journal, clock: Clock) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock

    async def page(self, caller: Caller, page: Page) -> Consents:
        """List the apps the caller signed in to."""
        found = await self._store.consents(caller.user_id, read_cursor(page.cursor), page.limit + 1)
        items = [
            Consent(
                client_id=client.client_id,
                name=client.name,
                scopes=list(consent.scopes),
                given_at=rfc3339(consent.given_us),
            )
            for consent, client in found[: page.limit]
        ]
        return Consents(items=items, next_cursor=write_cursor(items[-1].client_id) if len(found) > page.limit else None)

    async def end(self, caller: Caller, client_id: str) -> None:
        """Take a consent back. Raises: ConsentNotFound."""
        event = self._journal.event(
            Kind.CONSENT_WITHDRAWN, await self._journal.origin(caller), subject_id=caller.user_id,
            resource_type="openid_client", resource_id=client_id,
        )  # fmt: skip
        if not await self._store.withdraw(caller.user_id, client_id, self._clock.now_us(), [event]):
            raise ConsentNotFound("You gave that app no consent.")
