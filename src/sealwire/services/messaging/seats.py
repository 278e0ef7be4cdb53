"""Who sits where: memberships held in memory, dropped by the events that change them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from sealwire.contracts.custody import ProcessingRestricted
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.kit.caller import Caller
from sealwire.services.messaging.events import MEMBERSHIP_KINDS, Announcement
from sealwire.services.messaging.model import Seat
from sealwire.services.messaging.ports import ConversationStore


class Seats:
    """A cache of seats by conversation. Not being a member is never cached."""

    def __init__(self, store: ConversationStore, *, most: int) -> None:
        """`most` is how many conversations are held; the one looked up longest ago leaves first."""
        self._store = store
        self._most = most
        self._rooms: OrderedDict[str, dict[str, Seat]] = OrderedDict()
        self._changes = 0
        self._refused: set[tuple[str, str]] = set()

    def refuse(self, tenant_id: str, user_id: str) -> None:
        """Let a person, erased or restricted, have no seat anywhere."""
        self._refused.add((tenant_id, user_id))
        self._changes += 1
        for room in self._rooms.values():
            room.pop(user_id, None)

    def admit(self, tenant_id: str, user_id: str) -> None:
        """Let a person have seats again."""
        self._refused.discard((tenant_id, user_id))

    def refuses(self, tenant_id: str, user_id: str) -> bool:
        """Whether this person has no seat anywhere."""
        return (tenant_id, user_id) in self._refused

    def held(self, caller: Caller, conversation_id: str) -> Seat | None:
        """Return the caller's seat when it is in memory."""
        room = self._rooms.get(conversation_id)
        if room is None:
            return None
        principal = caller.principal
        seat = room.get(principal.subject)
        if seat is None or seat.tenant_id != principal.tenant_id:
            return None
        return seat

    async def require(self, caller: Caller, conversation_id: str) -> Seat:
        """Return the caller's seat. Raises: ConversationNotFound."""
        seat = self.held(caller, conversation_id)
        if seat is not None:
            return seat
        changes = self._changes
        seat = await self._store.seat(conversation_id, caller.user_id)
        if seat is None or seat.tenant_id != caller.tenant_id:
            raise ConversationNotFound
        if self._refused and (caller.tenant_id, caller.user_id) in self._refused:
            raise ProcessingRestricted("The data of this person is kept, and not processed.")
        if changes == self._changes:  # else what was read may be older than a change already announced
            self._keep(seat)
        return seat

    def drop(self, conversation_id: str) -> None:
        """Forget the seats of a conversation."""
        self._changes += 1
        self._rooms.pop(conversation_id, None)

    def announced(self, announcements: Sequence[Announcement]) -> None:
        """Hear of committed events."""
        for announcement in announcements:
            if announcement.event.kind in MEMBERSHIP_KINDS:
                self.drop(announcement.event.conversation_id)

    def _keep(self, seat: Seat) -> None:
        room = self._rooms.get(seat.conversation_id)
        if room is None:
            room = self._rooms[seat.conversation_id] = {}
            if len(self._rooms) > self._most:
                self._rooms.popitem(last=False)
        else:
            self._rooms.move_to_end(seat.conversation_id)
        room[seat.user_id] = seat
