"""Auth's part of retention: the records of sessions that are over (implements `contracts.custody.RetentionCustody`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from sealwire.contracts.custody import Disposal, Disposed, Due, DueQuery, Reclaimed, require_custodian
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, parse_rfc3339

SESSIONS: Final = "sessions"


class SessionKeeping(Protocol):
    """What retention asks of storage. A session is held by a hold on its user; one that lives is nobody's to delete.

    Every change is one transaction, durable on return, and looks at the holds inside of it.
    """

    async def due(self, tenant_id: str, before_us: int, *, after: str, limit: int) -> Due:
        """Return sessions that were over before `before_us`, with ids above `after`, in the order of their ids."""

    async def dispose(self, tenant_id: str, run_id: str, session_ids: Sequence[str], *, at_us: int) -> Disposed:
        """Delete these but for what is held; the same batch again does nothing."""

    async def reclaim(self) -> int:
        """Give the next part of the free space back; return how many bytes."""


class RetentionService:
    """The part of `AuthService` that deals with retention."""

    def __init__(self, *, keeping: SessionKeeping, clock: Clock) -> None:
        self._session_records = keeping
        self._now_us = clock.now_us

    async def due(self, caller: Caller, resource_type: str, query: DueQuery) -> Due:
        tenant_id = require_custodian(caller)
        if resource_type != SESSIONS:
            return Due(items=[])
        before_us = min(parse_rfc3339(query.before), self._now_us())
        return await self._session_records.due(tenant_id, before_us, after=query.cursor or "", limit=query.limit)

    async def dispose(self, caller: Caller, resource_type: str, disposal: Disposal) -> Disposed:
        tenant_id = require_custodian(caller)
        if resource_type != SESSIONS:
            return Disposed(disposed=0, missing=len(disposal.ids))
        return await self._session_records.dispose(tenant_id, disposal.run_id, disposal.ids, at_us=self._now_us())

    async def reclaim(self, caller: Caller) -> Reclaimed:
        require_custodian(caller)
        return Reclaimed(reclaimed_bytes=await self._session_records.reclaim())
