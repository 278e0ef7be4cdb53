"""Search's part of a person's rights: what was indexed of them leaves memory and disk."""

from __future__ import annotations

import asyncio
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
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import FROM_NOW, PublicationQuery
from sealwire.contracts.search import SERVICE
from sealwire.kit.caller import SYSTEM_TENANT, Caller, service_caller
from sealwire.kit.problem import Invalid, Unavailable
from sealwire.ports.index import IndexFault, SearchIndex
from sealwire.services.search.indexer import Indexer

WAIT_S: Final = 0.02


class SubjectEntries:
    """`SubjectCustody` over the index. The index holds copies only: there is nothing of a person to export here."""

    def __init__(self, *, index: SearchIndex, indexer: Indexer, messaging: Messaging) -> None:
        self._index = index
        self._indexer = indexer
        self._messaging = messaging
        self._goals: dict[str, int] = {}
        """Up to which position of messaging's stream an erasure has to have been indexed."""

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        """See `SubjectCustody`."""
        require_custodian(caller)
        if query.cursor is not None:
            raise Invalid("Give a `next_cursor` as it was.", path="$.cursor")
        return SubjectItems(items=[])

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        """See `SubjectCustody`: once messaging's stream is indexed up to here, so that nothing older follows.

        Raises: Unavailable while the index can't be written.
        """
        tenant_id = require_custodian(caller)
        if erasure.check_only:
            return SubjectErased(done=False)
        asking = service_caller(SERVICE, SYSTEM_TENANT)
        stands = await self._messaging.publications(asking, PublicationQuery(after=FROM_NOW, limit=1))
        # Ended before the goal, the stream is another: messaging came back from an older copy.
        goal = self._goals[erasure.job_id] = min(self._goals.get(erasure.job_id, stands.newest), stands.newest)
        if not self._indexer.built or self._indexer.position < goal:
            await asyncio.sleep(WAIT_S)  # whoever asks again does not spin
            return SubjectErased(done=False)
        try:
            left = await self._index.count(tenant_id, "sender_id", subject_id)
            gone = await self._index.purge(tenant_id, "sender_id", subject_id) if left else 0
        except (IndexFault, OSError) as error:
            raise Unavailable("The index can't be purged for the moment.") from error
        del self._goals[erasure.job_id]
        return SubjectErased(done=True, erased={"entry": gone} if gone else {})

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        """See `SubjectCustody`. The index knows people by their ids alone."""
        require_custodian(caller)
        return SubjectRectified()

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        """See `SubjectCustody`. The copies stay with what they are copies of; nothing new comes from messaging. No hit
        is shown that messaging does not return, and it leaves a restricted person's messages out.
        """
        require_custodian(caller)

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        """See `SubjectCustody`. Words alone are not looked for: others may have written the same."""
        tenant_id = require_custodian(caller)
        try:
            left = await self._index.count(tenant_id, "sender_id", subject_id)
        except IndexFault as error:
            raise Unavailable("The index can't be searched for the moment.") from error
        return SubjectFindings(places={"index": left})
