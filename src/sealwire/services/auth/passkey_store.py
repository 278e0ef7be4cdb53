"""What auth asks of storage for passkeys. Events, atomicity and durability as in `ports.py`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from sealwire.ports.events import NewEvent
from sealwire.services.auth.records import Record


class Purpose(StrEnum):
    """What a challenge is for; it is good for nothing else."""

    REGISTER = "register"
    LOGIN = "login"
    MFA = "mfa"
    STEP_UP = "step_up"


class PasskeyRecord(Record):
    """A passkey. `credential_index` is a keyed hash of its id; id, public key and transports are in `sealed_key`.

    `sign_count` is the newest one seen. `backup_eligible` never changes (WebAuthn Level 3, section 6.1.3).
    `suspended_us` is above 0 from when its counter went back.
    """

    passkey_id: str
    tenant_id: str
    user_id: str
    credential_index: bytes
    sealed_key: bytes
    sealed_name: bytes
    sign_count: int
    backup_eligible: bool
    created_us: int
    used_us: int = 0
    suspended_us: int = 0


class Use(StrEnum):
    """What became of a use."""

    COUNTED = "counted"
    WENT_BACK = "went_back"
    """The counter is not above the last one: the passkey is suspended now."""
    GONE = "gone"
    """Removed, or suspended before."""


class Removal(StrEnum):
    """What became of a removal."""

    REMOVED = "removed"
    ABSENT = "absent"
    LAST_FACTOR = "last_factor"
    """It was to stay unless there is another second factor, and there is none."""


class PasskeyStore(Protocol):
    """Passkeys and spent challenges. MongoDB: unique index on `credential_index`; hashes of challenges as `_id`, with a
    TTL; a use is an update on the condition of its counter."""

    async def spend(self, challenge_hash: bytes, until_us: int) -> bool:
        """Note a challenge as spent, at least until then; True to exactly one caller. Atomic."""

    async def add(
        self, passkey: PasskeyRecord, *, most: int, recovery: Sequence[bytes], events: Sequence[NewEvent]
    ) -> bool:
        """Store a passkey; the user has a second factor from then on. Atomic.

        Returns whether the recovery codes were stored too: they are when the user has none left.
        Raises: PasskeyTaken; QuotaExceeded past `most`; Conflict unless the user is active.
        """

    async def by_credential(self, credential_index: bytes) -> PasskeyRecord | None:
        """Return the passkey with that credential, suspended or not."""

    async def of_user(self, user_id: str) -> Sequence[PasskeyRecord]:
        """Return all passkeys of a user, oldest first, suspended ones too."""

    async def is_usable(self, user_id: str) -> bool:
        """Whether the user has a passkey that is not suspended."""

    async def use(self, passkey_id: str, *, sign_count: int, now_us: int, suspended_events: Sequence[NewEvent]) -> Use:
        """Count a use whose signature holds. Atomic: of two uses with one counter, one is counted.

        The counter has to rise, unless the authenticator keeps none (both are 0). When it does not, the passkey is
        suspended, with `suspended_events`. Source: WebAuthn Level 3, section 7.2 step 22.
        """

    async def note(self, events: Sequence[NewEvent]) -> None:
        """Store events alone: those of a use that was refused."""

    async def rename(
        self, user_id: str, passkey_id: str, sealed_name: bytes, events: Sequence[NewEvent]
    ) -> PasskeyRecord | None:
        """Replace the name. None when the user has no such passkey."""

    async def remove(
        self, user_id: str, passkey_id: str, *, keeps_a_factor: bool, events: Sequence[NewEvent]
    ) -> Removal:
        """Delete a passkey; with the last second factor the recovery codes go too. Atomic.

        `keeps_a_factor`: not when neither a usable passkey nor an authenticator app would be left.
        """
