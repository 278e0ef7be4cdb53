"""Encrypting, decrypting and authenticating under a key at hand: each use counted, and recorded without its text."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Sequence
from typing import NoReturn

from cryptography.exceptions import InvalidTag

from sealwire.contracts.crypto import (
    Ciphertext,
    DecryptionFailed,
    KeyNotFound,
    KeyUnusable,
    Opened,
    Plaintext,
    Sealed,
    Signable,
    Signature,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import NONCE_BYTES, TAG_BYTES, canonical_context
from sealwire.kit.problem import Invalid
from sealwire.services.crypto.events import Outcome, key_event
from sealwire.services.crypto.journal import UseJournal
from sealwire.services.crypto.keys import KeyChain, LiveKey
from sealwire.services.crypto.material import Material
from sealwire.services.crypto.model import KeyUse


class Ciphers:
    """What is done under a tenant's keys. The loops over a batch are the hot path: an item costs about 4 µs."""

    def __init__(self, *, chain: KeyChain, journal: UseJournal, clock: Clock) -> None:
        self._chain = chain
        self._journal = journal
        self._clock = clock

    async def encrypt(self, caller: Caller, live: LiveKey, items: Sequence[Plaintext], action: str) -> list[Sealed]:
        """Encrypt all, or none. Raises: Invalid for what is no base64, KeyUnusable, Unavailable."""
        count = len(items)
        material = await self._protecting(caller, live, count, action)
        encrypt, version, key_id = material.cipher.encrypt, material.version, live.stored.key_id
        sealed = []
        context: dict[str, str] | None = None
        aad = b""
        for item, (iv, iv_text) in zip(items, material.nonces(count), strict=True):
            if item.context != context:  # mostly the same all through a batch
                context = item.context
                aad = canonical_context(context)
            try:
                text = a2b_base64(item.plaintext, strict_mode=True)
            except ValueError:
                raise Invalid("Expected base64 with its padding.", path="$.plaintext") from None
            both = encrypt(iv, text, aad)
            sealed.append(
                Sealed(
                    ciphertext=b2a_base64(both[:-TAG_BYTES], newline=False).decode(),
                    iv=iv_text,
                    auth_tag=b2a_base64(both[-TAG_BYTES:], newline=False).decode(),
                    key_id=key_id,
                    version=version,
                )
            )
        self.note(caller, live, action, version, count=count)
        return sealed

    async def decrypt(self, caller: Caller, live: LiveKey, items: Sequence[Ciphertext], action: str) -> list[Opened]:
        """Decrypt all, or none. Raises: DecryptionFailed on any mismatch; Invalid, KeyUnusable, Unavailable."""
        try:
            live.require(KeyUse.PROCESS)
        except KeyUnusable:
            self.note(caller, live, action, items[0].version, outcome="denied", count=len(items))
            raise
        opened = []
        version = 0
        context: dict[str, str] | None = None
        aad = b""
        for item in items:
            ciphertext, iv, tag = _sealed(item)
            try:
                if item.version != version:
                    decrypt = (await self._chain.material(live, item.version)).cipher.decrypt
                    version = item.version
                if item.context != context:
                    context = item.context
                    aad = canonical_context(context)
                if len(iv) != NONCE_BYTES or len(tag) != TAG_BYTES:  # a short tag is no tag
                    raise InvalidTag
                text = decrypt(iv, ciphertext + tag, aad)
            except (InvalidTag, KeyNotFound):
                self.refuse(caller, live, action, item.version)
            opened.append(Opened(plaintext=b2a_base64(text, newline=False).decode()))
        self.note(caller, live, action, items[0].version, count=len(opened))
        return opened

    async def authenticate(
        self, caller: Caller, live: LiveKey, message: Signable, action: str, sign: Callable[[Material, bytes], bytes]
    ) -> Signature:
        """Sign or tag a message. Raises: Invalid, KeyUnusable, Unavailable."""
        text = to_bytes(message.message, "$.message")
        material = await self._protecting(caller, live, 1, action)
        signature = sign(material, text)
        self.note(caller, live, action, material.version)
        return Signature(signature=to_text(signature), key_id=live.stored.key_id, version=material.version)

    def refuse(self, caller: Caller, live: LiveKey, action: str, version: int) -> NoReturn:
        """Record a failure, and tell nothing of its reason. Raises: DecryptionFailed."""
        self.note(caller, live, action, version, outcome="failure")
        raise DecryptionFailed

    def note(
        self, caller: Caller, live: LiveKey, action: str, version: int, *, outcome: Outcome = "success", count: int = 1
    ) -> None:
        """Record a use. Raises: Unavailable when that can't be done for now."""
        stored = live.stored
        self._journal.note(
            key_event(
                caller,
                action,
                key_id=stored.key_id,
                at_us=self._clock.now_us(),
                version=version,
                outcome=outcome,
                count=count,
                purpose=stored.purpose,
            )
        )

    async def _protecting(self, caller: Caller, live: LiveKey, count: int, action: str) -> Material:
        try:
            return await self._chain.protecting(live, count)
        except KeyUnusable:
            self.note(caller, live, action, 0, outcome="denied", count=count)
            raise


def _sealed(item: Ciphertext) -> tuple[bytes, bytes, bytes]:
    try:
        return (
            a2b_base64(item.ciphertext, strict_mode=True),
            a2b_base64(item.iv, strict_mode=True),
            a2b_base64(item.auth_tag, strict_mode=True),
        )
    except ValueError:
        for name in ("ciphertext", "iv", "auth_tag"):
            to_bytes(getattr(item, name), f"$.{name}")
        raise


def to_bytes(text: str, path: str) -> bytes:
    """Read strict base64. Raises: Invalid."""
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError:
        raise Invalid("Expected base64 with its padding.", path=path) from None


def to_text(data: bytes) -> str:
    """Write base64."""
    return b2a_base64(data, newline=False).decode("ascii")
