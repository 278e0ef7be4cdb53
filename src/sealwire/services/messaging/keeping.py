"""Use cases of keeping and letting go: legal holds, retention, disk space; for compliance and media alone."""

from __future__ import annotations

from sealwire.contracts.custody import Disposal, Disposed, Due, DueQuery, HoldDesk, HoldPlacement, Known, Reclaimed
from sealwire.contracts.custody import require_custodian as custodian
from sealwire.contracts.messaging_stream import (
    Forgotten,
    ForgottenConversation,
    ForgottenQuery,
    HeldFile,
    HeldFiles,
    HeldFilesQuery,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, parse_rfc3339
from sealwire.kit.cursors import read_number
from sealwire.kit.problem import Forbidden
from sealwire.services.messaging.keeping_ports import Keeping
from sealwire.services.messaging.model import Actor

MESSAGES = "messages"
CHUNK = 200
_COMPLIANCE = Actor("service", "compliance")


class KeepingCases:
    """What compliance asks; and the purge of what a hold kept."""

    def __init__(self, *, store: Keeping, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._desk = HoldDesk(store.holds, clock)
        self._released = True  # a kill may have come between a release and its purge

    async def put_hold(self, caller: Caller, hold_id: str, placement: HoldPlacement) -> None:
        """See `HoldCustody`."""
        await self._desk.put_hold(caller, hold_id, placement)

    async def release_hold(self, caller: Caller, hold_id: str) -> None:
        """See `HoldCustody`; what was deleted or replaced meanwhile is purged soon."""
        await self._desk.release_hold(caller, hold_id)
        self._released = True

    async def knows_conversation(self, caller: Caller, conversation_id: str) -> Known:
        """See `ConversationCustody`."""
        return Known(known=await self._store.knows_conversation(custodian(caller), conversation_id))

    async def purge_released(self) -> None:
        """Purge what no hold keeps any more, if one was released since the last look."""
        if not self._released:
            return
        self._released = False
        try:
            place = 0
            while place := await self._store.purge_released(place, CHUNK):
                pass
            await self._store.former.purge(CHUNK)
        except BaseException:
            self._released = True
            raise

    async def due(self, caller: Caller, resource_type: str, query: DueQuery) -> Due:
        """See `RetentionCustody`."""
        tenant_id = custodian(caller)
        if resource_type != MESSAGES:
            return Due(items=[])
        return await self._store.due(
            tenant_id,
            parse_rfc3339(query.before),
            rows=query.action == "delete",
            cursor=read_number(query.cursor),
            limit=query.limit,
        )

    async def dispose(self, caller: Caller, resource_type: str, disposal: Disposal) -> Disposed:
        """See `RetentionCustody`."""
        tenant_id = custodian(caller)
        if resource_type != MESSAGES:
            return Disposed(disposed=0, missing=len(disposal.ids))
        return await self._store.dispose(
            tenant_id,
            disposal.run_id,
            disposal.ids,
            rows=disposal.action == "delete",
            actor=_COMPLIANCE,
            at_us=self._clock.now_us(),
        )

    async def reclaim(self, caller: Caller) -> Reclaimed:
        """See `RetentionCustody`."""
        custodian(caller)
        return Reclaimed(reclaimed_bytes=await self._store.reclaim())

    async def forgotten(self, caller: Caller, query: ForgottenQuery) -> Forgotten:
        """Return conversations of all tenants whose content is gone, oldest first. For services only."""
        if not caller.is_service:
            raise Forbidden("Only a service may follow all conversations.")
        found = await self._store.forgotten(query.after, query.limit)
        return Forgotten(items=[ForgottenConversation(number=n, tenant_id=t, conversation_id=c) for n, t, c in found])

    async def held_files(self, caller: Caller, query: HeldFilesQuery) -> HeldFiles:
        """Return which of these files are attached to messages that holds keep, and which holds. For services only."""
        if not caller.is_service:
            raise Forbidden("Only a service may ask what holds keep.")
        found = await self._store.held_files(caller.tenant_id, query.media_ids)
        return HeldFiles(items=[HeldFile(media_id=id_, hold_ids=list(hold_ids)) for id_, hold_ids in found.items()])
