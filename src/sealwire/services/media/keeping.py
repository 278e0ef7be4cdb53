"""Use cases of keeping and letting go: legal holds, retention, files of conversations that are gone, disk space."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from sealwire.contracts.custody import Disposal, Disposed, Due, DueItem, DueQuery, HoldDesk, HoldPlacement, Reclaimed
from sealwire.contracts.custody import require_custodian as custodian
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.media import SERVICE
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import ForgottenQuery
from sealwire.kit.caller import SYSTEM_TENANT, Caller, service_caller
from sealwire.kit.clock import Clock, parse_rfc3339
from sealwire.kit.cursors import read_number
from sealwire.ports.events import NewEvent
from sealwire.services.media.events import media_event
from sealwire.services.media.keeping_ports import EventOf, MediaKeeping, Spared
from sealwire.services.media.ports import DataKeys
from sealwire.services.media.sparing import Sparing

MEDIA = "media"
CHUNK = 100
_FORGOTTEN = "messaging.forgotten"


class KeepingCases:
    """What compliance asks; the purge of what a hold kept; and what follows from messaging forgetting conversations."""

    def __init__(
        self,
        *,
        store: MediaKeeping,
        sparing: Sparing,
        messaging: Messaging,
        keys: DataKeys,
        clock: Clock,
        bury: Callable[[], None],
    ) -> None:
        """`bury` has doomed blobs deleted soon."""
        self._store = store
        self._sparing = sparing
        self._messaging = messaging
        self._keys = keys
        self._clock = clock
        self._bury = bury
        self._desk = HoldDesk(store.holds, clock)
        self._released = True  # a kill may have come between a release and its purge

    async def put_hold(self, caller: Caller, hold_id: str, placement: HoldPlacement) -> None:
        """See `HoldCustody`."""
        await self._desk.put_hold(caller, hold_id, placement)

    async def release_hold(self, caller: Caller, hold_id: str) -> None:
        """See `HoldCustody`; what was deleted meanwhile is purged soon.

        The list of forgotten conversations is walked anew: keys that the hold kept can go.
        """
        await self._desk.release_hold(caller, hold_id)
        await self._store.follow(_FORGOTTEN, 0)
        self._released = True
        self._bury()

    async def purge_released(self) -> None:
        """Delete for good what no hold keeps any more, if one was released since the last look."""
        if not self._released:
            return
        self._released = False
        try:
            place = ""
            while hidden := await self._store.hidden(place, CHUNK):
                place = hidden[-1][0]
                free: dict[str, list[str]] = {}
                for media_id, tenant_id, held in hidden:
                    if not held:
                        free.setdefault(tenant_id, []).append(media_id)
                for tenant_id, media_ids in free.items():
                    purge = partial(self._purge, tenant_id, media_ids)
                    await self._sparing.deciding(tenant_id, media_ids, purge)
        except BaseException:
            self._released = True
            raise

    async def _purge(self, tenant_id: str, media_ids: Sequence[str], spared: Spared) -> None:
        await self._store.purge(tenant_id, media_ids, spared=spared)

    async def follow_forgotten(self) -> None:
        """Delete the files of conversations that messaging forgot, then their keys; what a hold covers stays."""
        caller = service_caller(SERVICE, SYSTEM_TENANT)
        number = await self._store.followed(_FORGOTTEN)
        while found := (await self._messaging.forgotten(caller, ForgottenQuery(after=number, limit=CHUNK))).items:
            for gone in found:
                await self._forget(gone.tenant_id, gone.conversation_id)
            number = found[-1].number
            await self._store.follow(_FORGOTTEN, number)

    async def _forget(self, tenant_id: str, conversation_id: str) -> None:
        event = self._event_of(service_caller(SERVICE, tenant_id), "media.deleted", "conversation")
        while files := await self._store.of_conversation(tenant_id, conversation_id, CHUNK):
            await asyncio.gather(
                *(self._sparing.delete(f, event(f.media_id, f.owner_id, conversation_id, f.offset)) for f in files)
            )
        if await self._store.keeps_any(tenant_id, conversation_id):
            return  # the files that are kept need their keys
        with suppress(LegalHold):
            await self._keys.destroy(tenant_id, scope=conversation_id)

    async def due(self, caller: Caller, resource_type: str, query: DueQuery) -> Due:
        """See `RetentionCustody`."""
        tenant_id = custodian(caller)
        if resource_type != MEDIA:
            return Due(items=[])
        made, _, media_id = (query.cursor or "0:").partition(":")
        before_us = parse_rfc3339(query.before)
        after = (read_number(made), media_id)
        found = await self._store.due(tenant_id, before_us, after=after, limit=query.limit)
        spared = await self._sparing.ask(tenant_id, [item.id for item in found.items if not item.held])
        items = [DueItem(id=item.id, held=item.held or item.id in spared.holds) for item in found.items]
        return Due(items=items, next_cursor=found.next_cursor)

    async def dispose(self, caller: Caller, resource_type: str, disposal: Disposal) -> Disposed:
        """See `RetentionCustody`. The bytes go right after."""
        tenant_id = custodian(caller)
        if resource_type != MEDIA:
            return Disposed(disposed=0, missing=len(disposal.ids))
        done = await self._sparing.deciding(
            tenant_id,
            disposal.ids,
            lambda spared: self._store.dispose(
                tenant_id,
                disposal.run_id,
                disposal.ids,
                at_us=self._clock.now_us(),
                event=self._event_of(caller, "media.deleted", "retention"),
                spared=spared,
            ),
        )
        self._bury()
        return done

    async def reclaim(self, caller: Caller) -> Reclaimed:
        """See `RetentionCustody`."""
        custodian(caller)
        return Reclaimed(reclaimed_bytes=await self._store.reclaim())

    def _event_of(self, caller: Caller, kind: str, why: str) -> EventOf:
        def event(media_id: str, owner_id: str, conversation_id: str | None, size_bytes: int) -> NewEvent:
            return media_event(
                caller,
                kind,
                media_id=media_id,
                at_us=self._clock.now_us(),
                owner_id=owner_id,
                conversation_id=conversation_id,
                size_bytes=size_bytes,
                detail=why,
            )

        return event
