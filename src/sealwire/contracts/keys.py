"""What crypto promises of keys: their versions and their life."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import msgspec

from sealwire.contracts.crypto_terms import SERVICE, KeyState, KeyType
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output, Page, ShortText
from sealwire.kit.operation import Operation, Repeat, table
from sealwire.kit.permission import Permission


class KeyVersion(Output):
    """A version of a key and how often it was used to encrypt or sign (an upper bound)."""

    version: int
    created_at: str
    uses: int


class Key(Output):
    """A key, without its material. `public_key` (base64, raw) for ed25519, of the newest version."""

    key_id: str
    tenant_id: str
    key_type: KeyType
    state: KeyState
    versions: list[KeyVersion]
    name: str | None = None
    purpose: str = "tenant"
    created_at: str = ""
    destroy_at: str | None = None
    public_key: bytes | None = None


class Keys(Output):
    """Keys of the tenant."""

    items: list[Key]
    next_cursor: str | None = None


class NewKey(Input):
    """A key to be made, with a name for people."""

    key_type: KeyType = "aes-256-gcm"
    name: ShortText | None = None


class KeyChange(Input):
    """The state wanted."""

    state: Literal["enabled", "decrypt_only", "disabled"]


class RewrapStep(Input):
    """Up to how many keys to move in this call."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200


class Rewrapped(Output):
    """How many wrapped keys moved now, and how many are still under an older version."""

    moved: int
    remaining: int


class Destruction(Input):
    """After how many days the key is destroyed for good."""

    delay_days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 30


_READ: dict[str, Any] = {"service": SERVICE, "needs": Permission.USE_KEYS, "repeat": Repeat.SAFE}
_MANAGE: dict[str, Any] = {"service": SERVICE, "needs": Permission.MANAGE_KEYS}
GENERATE_KEY = Operation(
    name="generate_key",
    verb="POST",
    path="/crypto/keys",
    takes=NewKey,
    gives=Key,
    status=201,
    summary="Make a key",
    **_MANAGE,
)
KEYS = Operation(
    name="keys", verb="GET", path="/crypto/keys", takes=Page, gives=Keys, summary="Keys of the tenant", **_READ
)
KEY = Operation(name="key", verb="GET", path="/crypto/keys/{key_id}", gives=Key, summary="One key", **_READ)
ROTATE = Operation(
    name="rotate",
    verb="POST",
    path="/crypto/keys/{key_id}/rotate",
    gives=Key,
    summary="Add a version",
    callers=frozenset({"compliance"}),
    **_MANAGE,
)
CHANGE_KEY = Operation(
    name="change_key",
    verb="PATCH",
    path="/crypto/keys/{key_id}",
    takes=KeyChange,
    gives=Key,
    repeat=Repeat.IDEMPOTENT,
    step_up=True,
    summary="Enable or disable a key",
    **_MANAGE,
)
SCHEDULE = Operation(
    name="schedule_destruction",
    verb="POST",
    path="/crypto/keys/{key_id}/schedule-destruction",
    takes=Destruction,
    gives=Key,
    step_up=True,
    summary="Destroy a key after a delay",
    **_MANAGE,
)
CANCEL = Operation(
    name="cancel_destruction",
    verb="POST",
    path="/crypto/keys/{key_id}/cancel-destruction",
    gives=Key,
    summary="Keep the key after all",
    **_MANAGE,
)
REWRAP_KEYS = Operation(
    name="rewrap_keys",
    verb="POST",
    path="/crypto/master/rewrap",
    takes=RewrapStep,
    gives=Rewrapped,
    repeat=Repeat.IDEMPOTENT,
    summary="Move the tenant's stored keys to the newest versions of what wraps them",
    **_MANAGE,
)

OPERATIONS = table(
    GENERATE_KEY,
    KEYS,
    KEY,
    ROTATE,
    CHANGE_KEY,
    SCHEDULE,
    CANCEL,
    REWRAP_KEYS,
)


class KeyDesk(Protocol):
    """Keys of the tenant. Calls with a key id may raise `KeyNotFound` and `KeyUnusable`."""

    async def generate_key(self, caller: Caller, key: NewKey) -> Key: ...
    async def keys(self, caller: Caller, page: Page) -> Keys: ...
    async def key(self, caller: Caller, key_id: str) -> Key: ...
    async def rotate(self, caller: Caller, key_id: str) -> Key: ...
    async def change_key(self, caller: Caller, key_id: str, change: KeyChange) -> Key: ...
    async def schedule_destruction(self, caller: Caller, key_id: str, destruction: Destruction) -> Key: ...
    async def cancel_destruction(self, caller: Caller, key_id: str) -> Key: ...
    async def rewrap_keys(self, caller: Caller, step: RewrapStep) -> Rewrapped:
        """Move a part of the tenant's keys and data keys; ask again until nothing remains. Safe to repeat."""
