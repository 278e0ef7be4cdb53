"""What crypto promises of data keys: wrapped ones for tenants; for services one per context, kept and ended here."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from sealwire.contracts.crypto_terms import INTERNAL, USE, Context
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output
from sealwire.kit.operation import Operation, table

_Scopes = Annotated[list[Annotated[str, msgspec.Meta(max_length=128)]], msgspec.Meta(max_length=100_000)]
DATA_KEY_USES = 1 << 20
"""How often one loading of a system data key may seal; counted durably by crypto, so that no nonce limit is passed."""


class DataKeyRequest(Input):
    """`context` binds the wrapped key. `plain` asks for the key in the clear too: given to services only."""

    context: Context = {}
    plain: bool = False


class DataKey(Output, omit_defaults=True):
    """A fresh 256-bit key: wrapped (opaque, base64), and in the clear for services that asked."""

    wrapped: str
    key_id: str
    version: int
    plaintext: bytes = b""

    def __repr__(self) -> str:
        return f"DataKey(wrapped={self.wrapped!r}, plaintext=***)"


class SystemDataKeyRequest(Input):
    """The data key of the calling service for this context in the caller's tenant: made on first use, then the same.

    Two members of `context` have a meaning: `subject_id` is the person whose data the key protects, `scope` what it is
    for (a conversation's id, a day …); either can be named to destroy. `fresh` makes a new key, current from then on.
    """

    context: Context
    fresh: bool = False


class SystemDataKey(Output):
    """The data key, base64, and its name (`wrapped`). In this process who asked owns `plaintext`, and wipes it."""

    wrapped: str
    key_id: str
    version: int
    plaintext: bytearray

    def __repr__(self) -> str:
        return f"SystemDataKey(wrapped={self.wrapped!r}, plaintext=***)"


class DataKeyDestruction(Input):
    """Which data keys of the calling service: those with this `subject_id` or `scope` (or both).

    When a legal hold covers one of them none is destroyed (409 `legal_hold`); with `spare_held` those under a hold stay
    and the others go. `spare_scopes`, of a person's: those stay too, as the service knows that a hold covers what they
    open, until another call by it doesn't name them; without it, what was spared before stays so.
    """

    subject_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    scope: Annotated[str, msgspec.Meta(max_length=128)] = ""
    spare_held: bool = False
    spare_scopes: _Scopes | None = None


class Destroyed(Output, omit_defaults=True):
    """How many data keys were destroyed now (none on a repeat), and how many stay; the scopes of those that a hold
    names, not of those that were spared."""

    destroyed: int
    kept: int = 0
    kept_scopes: list[str] = []


class WrappedKey(Input):
    """A wrapped data key and the context it was made with."""

    wrapped: Annotated[str, msgspec.Meta(max_length=4096)]
    context: Context


class PlainKey(Output):
    """A data key in the clear, base64. Services only. In this process who asked owns it, and wipes it."""

    plaintext: bytearray

    def __repr__(self) -> str:
        return "PlainKey(plaintext=***)"


DATA_KEY = Operation(
    name="data_key",
    verb="POST",
    path="/crypto/keys/{key_id}/data-key",
    takes=DataKeyRequest,
    gives=DataKey,
    summary="A wrapped data key for envelope encryption, which services alone can open",
    **USE,
)
SYSTEM_DATA_KEY = Operation(
    name="system_data_key",
    verb="POST",
    path="/crypto/internal/data-key",
    takes=SystemDataKeyRequest,
    gives=SystemDataKey,
    callers=frozenset({"auth", "compliance", "media", "messaging", "search"}),
    summary="A data key of the calling service",
    **INTERNAL,
)
OPEN_DATA_KEY = Operation(
    name="open_data_key",
    verb="POST",
    path="/crypto/internal/open-data-key",
    takes=WrappedKey,
    gives=PlainKey,
    callers=frozenset({"auth", "compliance", "media", "messaging", "search"}),
    summary="Unwrap a data key of the calling service",
    **INTERNAL,
)
DESTROY_DATA_KEYS = Operation(
    name="destroy_data_keys",
    verb="POST",
    path="/crypto/internal/destroy-data-keys",
    takes=DataKeyDestruction,
    gives=Destroyed,
    callers=frozenset({"auth", "compliance", "media", "messaging"}),
    summary="Destroy data keys of the calling service for good",
    **INTERNAL,
)

OPERATIONS = table(
    DATA_KEY,
    SYSTEM_DATA_KEY,
    OPEN_DATA_KEY,
    DESTROY_DATA_KEYS,
)


class DataKeyDesk(Protocol):
    """Data keys. Calls with a key id may raise `KeyNotFound` and `KeyUnusable`."""

    async def data_key(self, caller: Caller, key_id: str, request: DataKeyRequest) -> DataKey: ...
    async def system_data_key(self, caller: Caller, request: SystemDataKeyRequest) -> SystemDataKey:
        """Return the data key, in the clear too, and how to name it later (`wrapped`). Audited.

        `caller.service` names the system key above it. The key itself stays in crypto's store, wrapped, so that
        destroying it there ends it in every backup and log of the service that used it.
        """

    async def open_data_key(self, caller: Caller, key: WrappedKey) -> PlainKey:
        """Raises: DecryptionFailed; KeyUnusable when the key was destroyed."""

    async def destroy_data_keys(self, caller: Caller, which: DataKeyDestruction) -> Destroyed:
        """Destroy for good: nobody opens what was sealed under them.

        Raises: Invalid when none is named; LegalHold, and none destroyed, when a hold covers one of them.
        """
