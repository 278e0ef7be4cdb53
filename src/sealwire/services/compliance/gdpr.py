"""Consents of the people themselves, with their history (R4.4)."""

from __future__ import annotations

from sealwire.contracts.consents import Consent, ConsentHistory, NewConsent
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import number_of, write_cursor
from sealwire.kit.problem import Forbidden, Invalid, NotFound
from sealwire.services.compliance.events import change_event
from sealwire.services.compliance.ports import ConsentStore


class Consents:
    """What a person agreed to; a person sees and changes the own consents only."""

    def __init__(self, *, store: ConsentStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def history(self, caller: Caller, page: Page) -> ConsentHistory:
        """Return all consents of the caller, given and withdrawn, oldest first."""
        after = number_of(page.cursor)
        found = await self._store.history(caller.tenant_id, _person(caller), after=after, limit=page.limit + 1)
        more = len(found) > page.limit
        found = found[: page.limit]
        return ConsentHistory(
            items=[consent for _, consent in found], next_cursor=write_cursor(str(found[-1][0])) if more else None
        )

    async def give(self, caller: Caller, consent: NewConsent) -> Consent:
        """Store a consent. To the same version again: the one in force; to another: that one replaces it.

        Raises: Invalid for a purpose that no path can name, as nobody could withdraw that.
        """
        if consent.purpose in (".", "..") or "/" in consent.purpose or "\0" in consent.purpose:
            raise Invalid(
                "No path names it to withdraw it: write it without `/`, not as `.` or `..`.", path="$.purpose"
            )
        now_us = self._clock.now_us()
        person = _person(caller)
        event = change_event(
            caller,
            "consent.given",
            resource_type="consent",
            resource_id=person,
            at_us=now_us,
            purpose=consent.purpose,
            policy_version=consent.policy_version,
        )
        given = Consent(
            subject_id=person,
            purpose=consent.purpose,
            policy_version=consent.policy_version,
            given_at=rfc3339(now_us),
        )
        return await self._store.give(caller.tenant_id, given, event)

    async def withdraw(self, caller: Caller, purpose: str) -> None:
        """End the consent in force. Raises: NotFound when there is none."""
        now_us = self._clock.now_us()
        person = _person(caller)
        event = change_event(
            caller, "consent.withdrawn", resource_type="consent", resource_id=person, at_us=now_us, purpose=purpose
        )
        if not await self._store.withdraw(caller.tenant_id, person, purpose, rfc3339(now_us), event):
            raise NotFound("There is no consent in force for this purpose.")


def _person(caller: Caller) -> str:
    """Return whose consents these are. Raises: Forbidden for a caller that is no person."""
    if caller.principal.kind != "user":
        raise Forbidden("Only a person gives consent.")
    return caller.user_id
