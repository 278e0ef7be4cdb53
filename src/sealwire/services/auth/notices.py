"""Notices: people hear by mail of every change of what lets them in, and of what looks like somebody else there
(ASVS 5.0, 6.3.5 and 6.3.7).

The outbox tells it: an event is stored with its change, so a notice can't be lost, and its letter is stored with how
far the herald came, under the event's id, so it is written once. It holds no secret and no link that does anything.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyDamaged, KeyUnusable
from sealwire.kit.envelopes import EnvelopeRefused
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.events import Event, EventFeed, Positions
from sealwire.services.auth.events import Body, Journal, Kind
from sealwire.services.auth.notice_letters import TELLING, Change, change_of, notice_subject, notice_text
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import LetterStore, UserStore
from sealwire.services.auth.postman import Postman
from sealwire.services.auth.records import LetterRecord, UserRecord
from sealwire.services.auth.vault import Person

_LOG = logging.getLogger("sealwire.auth")

CONSUMER: Final = "notices"
AT_ONCE: Final = 200
IDLE_S: Final = 15.0
LINGER_S: Final = 0.2
"""Between an event and its notice, so that a flood of logins does not cost a position each."""
_read_body: Final = msgspec.msgpack.Decoder(Body).decode


class Herald:
    """One background task that follows the outbox and writes notices for the postman."""

    def __init__(
        self, *, feed: EventFeed, positions: Positions, letters: LetterStore, users: UserStore, people: People,
        postman: Postman, journal: Journal, site: str,
    ) -> None:  # fmt: skip
        self._feed = feed
        self._positions = positions
        self._letters = letters
        self._users = users
        self._people = people
        self._postman = postman
        self._journal = journal
        self._site = site
        self._position: int | None = None
        self._round = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="auth-herald")

    async def stop(self) -> None:
        """End; what was not written yet is the next start's. Safe to call twice."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def tell(self) -> int:
        """Write the notices of all that happened; return how many."""
        wrote = 0
        async with self._round:
            if self._position is None:
                self._position = await self._positions.load(CONSUMER)
            while events := await self._feed.read(self._position, AT_ONCE):
                found = [await self._letter(event) for event in events if event.kind in _TOLD]
                letters = [letter for letter in found if letter is not None]
                reached = events[-1].position
                if letters:
                    await self._letters.tell(letters, CONSUMER, reached)
                    self._postman.wake()
                else:
                    await self._positions.save(CONSUMER, reached)
                self._position = reached
                wrote += len(letters)
        return wrote

    async def _letter(self, event: Event) -> LetterRecord | None:
        """Word the notice of an event; None when there is nobody to tell any more."""
        body = _read_body(event.data)
        change = change_of(Kind(event.kind), body)
        user = await self._told(event, body) if change is not None else None
        if change is None or user is None:
            return None
        try:
            person = await self._people.person(user)
            personal = (await self._journal.audit_entry(event)).personal
            return await self._sealed(event, body, change, user, person, personal)
        except (EnvelopeRefused, DecryptionFailed, KeyUnusable):
            return None  # the tenant's keys are destroyed
        except KeyDamaged:  # all tenants' events stand in one row: nobody else's notices wait for that
            _LOG.error("nobody is told of event %s: the keys of its tenant are damaged", event.event_id)
            return None

    async def _sealed(
        self, event: Event, body: Body, change: Change, user: UserRecord, person: Person, personal: dict[str, str]
    ) -> LetterRecord:
        before = personal.get("email_before", "")
        text = notice_text(
            change,
            # An address that is theirs no longer may be somebody else's: no name goes there.
            display_name="" if before else person.display_name,
            site=self._site,
            at_us=event.at_us,
            ip=personal.get("ip_address", "") if not before else "",
            by_other=body.actor_type != "anonymous" and body.actor_id != user.user_id,
        )
        return await self._postman.seal(
            user.tenant_id, to=before or person.email, subject=notice_subject(change), text=text,
            letter_id=event.event_id,
        )  # fmt: skip

    async def _told(self, event: Event, body: Body) -> UserRecord | None:
        """Return whom it concerns; for a service account its keeper, or who did it, as that has no mail."""
        user = await self._users.get(body.subject_id)
        if user is not None and user.service:
            keeper = body.facts.get("keeper") or (body.actor_id if body.actor_type == "user" else "")
            user = await self._users.get(str(keeper))
        return user if user is not None and user.tenant_id == event.tenant_id and not user.service else None

    async def _run(self) -> None:
        while True:
            try:
                await self.tell()
            except Exception as error:
                _LOG.warning("notices wait, will try again: %r", error)
                await asyncio.sleep(IDLE_S)
            if await self._feed.wait(self._position or 0, IDLE_S):
                await asyncio.sleep(LINGER_S)


_TOLD: Final = frozenset(
    kind.value for kind in Kind if change_of(kind, Body(actor_type="user", actor_id="", facts=dict(TELLING)))
)
