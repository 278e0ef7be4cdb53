"""Identities elsewhere: what is stored of them, and what that asks of storage.

MongoDB: a document per identity, unique index on (`tenant_id`, `subject_index`), index on `user_id`; spent flows are
documents with a TTL. Otherwise as `services/auth/ports.py` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sealwire.ports.events import NewEvent
from sealwire.services.auth.records import Record


class IdentityRecord(Record):
    """An identity of a person elsewhere. `subject_index` is a keyed hash of issuer and subject, and nothing else."""

    identity_id: str
    tenant_id: str
    user_id: str
    provider: str
    issuer: str
    subject_index: bytes
    created_us: int


class IdentityStore(Protocol):
    """Identities and spent flows. An identity made with its user is stored by `UserStore.add`."""

    async def find(self, tenant_id: str, subject_index: bytes) -> IdentityRecord | None:
        """Return the identity."""

    async def of(self, user_id: str) -> Sequence[IdentityRecord]:
        """Return a user's identities, oldest first."""

    async def add(self, identity: IdentityRecord, events: Sequence[NewEvent]) -> None:
        """Link an identity; nothing happens when it is linked to this user already. Atomic.

        Raises: IdentityTaken when it is linked to somebody else.
        """

    async def remove(self, user_id: str, identity_id: str, events: Sequence[NewEvent]) -> bool:
        """Unlink. Returns whether it was there."""

    async def spend(self, flow_id: str, until_us: int) -> bool:
        """Use a flow up: True for exactly one caller. Remembered until `until_us`, when the flow is too old anyway."""
