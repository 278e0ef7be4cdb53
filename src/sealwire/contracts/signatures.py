"""What crypto promises of signing and authenticating: Ed25519, HMAC-SHA256."""

from __future__ import annotations

from typing import Protocol

from sealwire.contracts.crypto_terms import INTERNAL, USE, Bytes, VersionNumber
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, ShortText
from sealwire.kit.operation import Operation, table


class Signable(Input):
    """The bytes to sign or to authenticate, base64."""

    message: Bytes


class Signature(Output):
    """Ed25519 signature or HMAC-SHA256 tag, base64."""

    signature: bytes
    key_id: str
    version: int


class SignedMessage(Input):
    """A message, and its signature or tag as `sign` or `hmac` gave it; its `key_id` has to be the one in the path.

    `version` is the one they named: a signature under another is not valid, and the first is meant without it.
    """

    message: Bytes
    signature: Bytes
    version: VersionNumber = 1
    key_id: Id | None = None


class Verdict(Output):
    """Whether the signature is right."""

    valid: bool


class SystemSignable(Input):
    """Sign under the calling service's own Ed25519 key named `name` in the caller's tenant (made on first use).

    `version` asks for an older version, so that it can vouch for its successor; without it the newest signs.
    """

    name: ShortText
    message: Bytes
    version: VersionNumber | None = None


class SystemSignature(Output):
    """The signature and the raw public key that verifies it, base64."""

    signature: bytes
    public_key: bytes
    key_id: str
    version: int


SIGN = Operation(
    name="sign",
    verb="POST",
    path="/crypto/keys/{key_id}/sign",
    takes=Signable,
    gives=Signature,
    summary="Sign (ed25519)",
    **USE,
)
VERIFY = Operation(
    name="verify",
    verb="POST",
    path="/crypto/keys/{key_id}/verify",
    takes=SignedMessage,
    gives=Verdict,
    summary="Verify a signature or tag",
    **USE,
)
HMAC = Operation(
    name="hmac",
    verb="POST",
    path="/crypto/keys/{key_id}/hmac",
    takes=Signable,
    gives=Signature,
    summary="Authenticate (hmac-sha256)",
    **USE,
)
SYSTEM_SIGN = Operation(
    name="system_sign",
    verb="POST",
    path="/crypto/internal/sign",
    takes=SystemSignable,
    gives=SystemSignature,
    callers=frozenset({"compliance"}),
    summary="Sign under the calling service's own key",
    **INTERNAL,
)

OPERATIONS = table(
    SIGN,
    VERIFY,
    HMAC,
    SYSTEM_SIGN,
)


class SignatureDesk(Protocol):
    """Signs and verifies. Calls with a key id may raise `KeyNotFound` and `KeyUnusable`."""

    async def sign(self, caller: Caller, key_id: str, message: Signable) -> Signature: ...
    async def verify(self, caller: Caller, key_id: str, message: SignedMessage) -> Verdict:
        """Raises: Invalid for what is said to be signed by another key."""

    async def hmac(self, caller: Caller, key_id: str, message: Signable) -> Signature: ...
    async def system_sign(self, caller: Caller, message: SystemSignable) -> SystemSignature: ...
