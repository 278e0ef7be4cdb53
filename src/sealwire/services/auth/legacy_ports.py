"""What auth asks of storage to know who still uses legacy tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from sealwire.contracts.legacy import LegacyUse


class LegacyCount(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one tenant. Times in Unix seconds, 0 when nothing was."""

    tenant_id: str
    sessions: int
    users: int
    live: int
    first_s: int
    last_s: int
    refused_sessions: int
    refused_users: int


class LegacyStore(Protocol):
    """Legacy tokens by their hashes, with who used them and when. MongoDB: upserts by hash, an index on the tenant."""

    async def note(self, uses: Sequence[LegacyUse]) -> None:
        """Store uses of users that are there; a token known already is moved forward, never back."""

    async def count(self, tenant_id: str, *, now_s: int, refuse_from_s: int) -> Sequence[LegacyCount]:
        """Count by tenant ("": all of them).

        Refused would be: tokens used at `refuse_from_s` or later; where that is to come, those good until then. Good no
        more, as at the boundary, is one that was logged out, or issued before all of its person's or tenant's ended.
        """
