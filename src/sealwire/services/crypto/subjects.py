"""Crypto's part of a person's rights: no data key of theirs outlives their data."""

from __future__ import annotations

from typing import Final

from sealwire.contracts.custody import (
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectFindings,
    SubjectItem,
    SubjectItems,
    SubjectProbe,
    SubjectQuery,
    SubjectRectified,
    SubjectRestriction,
    require_custodian,
)
from sealwire.contracts.data_keys import DataKeyDestruction
from sealwire.contracts.holds import LegalHold
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import rfc3339
from sealwire.kit.problem import Invalid
from sealwire.services.crypto.data_keys import DataKeys
from sealwire.services.crypto.ports import KeyStore

SERVICES: Final = ("auth", "messaging", "media", "search", "socket", "gateway")
"""Whose data keys are looked through. Compliance destroys its own at the end: until then the records are readable."""


class SubjectKeys:
    """`SubjectCustody` over the data keys. What services didn't destroy themselves is destroyed here."""

    def __init__(self, *, store: KeyStore, data_keys: DataKeys) -> None:
        self._store = store
        self._data_keys = data_keys

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        """See `SubjectCustody`: that there are keys, and since when; never what they are."""
        tenant_id = require_custodian(caller)
        if query.cursor is not None and not query.cursor.replace("-", "").isalnum():
            raise Invalid("Give a `next_cursor` as it was.", path="$.cursor")
        found = await self._store.subject_keys(tenant_id, subject_id, after=query.cursor or "", limit=query.limit)
        items = [
            SubjectItem(
                kind="data_key", resource_id=key.data_key_id, at=rfc3339(key.created_at_us),
                data={"service": key.service, "scope": key.scope},
            )
            for key in found
        ]  # fmt: skip
        return SubjectItems(items=items, next_cursor=found[-1].data_key_id if len(found) == query.limit else None)

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        """See `SubjectCustody`. Raises: LegalHold while a hold covers the person."""
        tenant_id = require_custodian(caller)
        if await self._store.holds.covers(tenant_id, subject_id=subject_id):
            raise LegalHold("A legal hold covers this person.")
        if erasure.check_only:
            return SubjectErased(done=False)
        destroyed = kept = 0
        scopes: set[str] = set()
        # What a hold on a conversation keeps stays readable, and nothing else.
        which = DataKeyDestruction(subject_id=subject_id, spare_held=True)
        for service in SERVICES:
            answer = await self._data_keys.destroy(service_caller(service, tenant_id), which)
            destroyed, kept = destroyed + answer.destroyed, kept + answer.kept
            scopes.update(answer.kept_scopes)
        return SubjectErased(
            done=True,
            erased={"data_key": destroyed} if destroyed else {},
            kept={"data_key": kept} if kept else {},
            kept_in=sorted(scopes),
        )

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        """See `SubjectCustody`. Keys know ids alone."""
        require_custodian(caller)
        return SubjectRectified()

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        """See `SubjectCustody`. Data that is kept keeps its keys."""
        require_custodian(caller)

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        """See `SubjectCustody`: keys that still open something, those under a hold left out."""
        left = await self._store.live_subject_keys(require_custodian(caller), subject_id)
        return SubjectFindings(places={"data_keys": left})
