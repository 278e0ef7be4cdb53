"""The gateway's part of a person's rights: records on their way are delivered, caches have heard of the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sealwire.contracts.custody import (
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectFindings,
    SubjectItems,
    SubjectProbe,
    SubjectQuery,
    SubjectRectified,
    SubjectRestriction,
    require_custodian,
)
from sealwire.kit.caller import Caller
from sealwire.kit.problem import Unavailable
from sealwire.services.gateway.spool import Mark, RecordSpool

WAIT_S: Final = 0.05


class SubjectTraces:
    """`SubjectCustody` of a process with a spool and with caches. It keeps nothing of a person for long."""

    def __init__(
        self, *, spool: Callable[[], Awaitable[RecordSpool]], caught_up: Callable[[], Awaitable[bool]]
    ) -> None:
        """`caught_up` has the numbered feed of ended sessions read now, by which every cache drops a person."""
        self._spool = spool
        self._caught_up = caught_up
        self._marks: dict[str, Mark] = {}

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        """See `SubjectCustody`. What passes here is exported from where it arrives: the audit log."""
        require_custodian(caller)
        return SubjectItems(items=[])

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        """See `SubjectCustody`: done when every record put before is delivered and its segment deleted.

        Raises: Unavailable while the feed of ended sessions can't be read.
        """
        require_custodian(caller)
        if erasure.check_only:
            return SubjectErased(done=False)
        spool = await self._spool()
        mark = self._marks.get(erasure.job_id)
        if mark is None:
            if not await self._caught_up():
                raise Unavailable("Caches have not heard yet of the sessions that ended.")
            mark = self._marks[erasure.job_id] = spool.mark()
        if not spool.passed(mark):
            await asyncio.sleep(WAIT_S)  # whoever asks again does not spin
            return SubjectErased(done=False)
        self._marks.pop(erasure.job_id, None)
        return SubjectErased(done=True)

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        """See `SubjectCustody`: caches drop the old by the same feed."""
        require_custodian(caller)
        if not await self._caught_up():
            raise Unavailable("Caches have not heard yet of the change.")
        return SubjectRectified()

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        """See `SubjectCustody`: in force here once the feed is read."""
        require_custodian(caller)
        if not await self._caught_up():
            raise Unavailable("Caches have not heard yet of the change.")

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        """See `SubjectCustody`. The spool's files are sealed; the bytes of all files are looked through together."""
        require_custodian(caller)
        return SubjectFindings(places={})
