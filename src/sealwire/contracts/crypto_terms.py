"""What the contracts of crypto have in common: its name, the kinds of keys, what goes wrong with them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from sealwire.kit.operation import Policy, Repeat
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, Invalid, NotFound, PartOut

SERVICE = "crypto"
MAX_PLAINTEXT_BYTES = 1024 * 1024
KeyType = Literal["aes-256-gcm", "ed25519", "hmac-sha256"]
KeyState = Literal["enabled", "decrypt_only", "disabled", "scheduled_for_destruction", "destroyed"]
Bytes = Annotated[bytes, msgspec.Meta(max_length=MAX_PLAINTEXT_BYTES)]
"""Bytes in this process, strict base64 with its padding in JSON: only what crosses a wire is written as text."""
Context = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=128)], Annotated[str, msgspec.Meta(max_length=1024)]],
    msgspec.Meta(max_length=16),
]
VersionNumber = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
USE: Final[dict[str, Any]] = {
    "service": SERVICE,
    "needs": Permission.USE_KEYS,
    "repeat": Repeat.SAFE,
    "body_limit_bytes": 4 * 1024 * 1024,
}
INTERNAL: Final[dict[str, Any]] = {"service": SERVICE, "policy": Policy.SERVICE, "repeat": Repeat.SAFE}


class KeyNotFound(NotFound):
    """No such key in this tenant, or one that the caller may not use."""

    code, title = "key_not_found", "No such key"


class KeyUnusable(Conflict):
    """The key's state or type does not allow this."""

    code, title = "key_unusable", "The key can't be used for this"


class DataKeyDestroyed(KeyUnusable):
    """The data key was destroyed, and with it what was sealed under it."""

    code, title = "data_key_destroyed", "The data key is destroyed"


class KeyDamaged(PartOut):
    """What is stored of the tenant's keys was changed or lost. Once it is put back, all is as it was.

    It says nothing against crypto, nor against any other tenant's keys.
    """

    code, title = "key_damaged", "A stored key is damaged"


class DecryptionFailed(Invalid):
    """Wrong key, version, context or bytes: which of them is not told."""

    code, title = "decryption_failed", "Decryption failed"
