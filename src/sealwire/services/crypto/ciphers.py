"""Encrypting, decrypting and authenticating under a key at hand: each use counted, and recorded without its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag

from sealwire.contracts.ciphers import Ciphertext, Opened, Plaintext, Sealed
from sealwire.contracts.crypto_terms import DecryptionFailed, KeyNotFound, KeyUnusable
from sealwire.contracts.signatures import Signable, Signature
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import NONCE_BYTES, TAG_BYTES, canonical_context, nonces
from sealwire.services.crypto.events import KeyEvent, Outcome, key_event
from sealwire.services.crypto.journal import UseJournal
from sealwire.services.crypto.keys import KeyChain, LiveKey
from sealwire.services.crypto.material import Material
from sealwire.services.crypto.model import KeyUse

_TAG: Final = -TAG_BYTES


class Ciphers:
    """What is done under a tenant's keys. The loops over a batch are the hot path: an item costs what AES-GCM costs,
    and half of that again for its nonce and its struct. What is the same for all items is done once.
    """

    def __init__(self, *, chain: KeyChain, journal: UseJournal, clock: Clock) -> None:
        self._chain = chain
        self._journal = journal
        self._clock = clock

    async def encrypt(self, caller: Caller, live: LiveKey, items: Sequence[Plaintext], action: str) -> list[Sealed]:
        """Encrypt all, or none. Raises: KeyUnusable, Unavailable."""
        count = len(items)
        material = await self._protecting(caller, live, count, action)
        encrypt, version, key_id = material.cipher.encrypt, material.version, live.stored.key_id
        sealed = []
        context: dict[str, str] | None = None
        aad = b""
        for item, iv in zip(items, nonces(count), strict=True):
            if item.context is not context and item.context != context:  # mostly the same all through a batch
                context = item.context
                aad = canonical_context(context)
            both = encrypt(iv, item.plaintext, aad)
            sealed.append(Sealed(ciphertext=both[:_TAG], iv=iv, auth_tag=both[_TAG:], key_id=key_id, version=version))
        self.note(caller, live, action, version, count=count)
        return sealed

    async def decrypt(
        self, caller: Caller, live: LiveKey, items: Sequence[Ciphertext], action: str, *, named: bool = False
    ) -> list[Opened]:
        """Decrypt all, or none. Raises: DecryptionFailed on any mismatch, `named`: by which item; KeyUnusable,
        Unavailable."""
        item = items[0]
        opened = []
        version = 0
        context: dict[str, str] | None = None
        aad = b""
        try:
            live.require(KeyUse.PROCESS)
            for item in items:
                iv, tag = item.iv, item.auth_tag
                if item.version != version:
                    decrypt = (await self._chain.material(live, item.version)).cipher.decrypt
                    version = item.version
                if item.context is not context and item.context != context:
                    context = item.context
                    aad = canonical_context(context)
                if len(iv) != NONCE_BYTES or len(tag) != TAG_BYTES:  # a short tag is no tag
                    raise InvalidTag
                opened.append(Opened(plaintext=decrypt(iv, item.ciphertext + tag, aad)))
        except (InvalidTag, KeyNotFound, DecryptionFailed):
            self.refuse(caller, live, action, item.version, path=f"$.items[{len(opened)}]" if named else "")
        except KeyUnusable:
            self.note(caller, live, action, item.version, outcome="denied", count=len(items))
            raise
        self.note(caller, live, action, items[0].version, count=len(opened))
        return opened

    async def authenticate(
        self, caller: Caller, live: LiveKey, message: Signable, action: str, sign: Callable[[Material, bytes], bytes]
    ) -> Signature:
        """Sign or tag a message. Raises: KeyUnusable, Unavailable."""
        material = await self._protecting(caller, live, 1, action)
        signature = sign(material, message.message)
        self.note(caller, live, action, material.version)
        return Signature(signature=signature, key_id=live.stored.key_id, version=material.version)

    def refuse(self, caller: Caller, live: LiveKey, action: str, version: int, *, path: str = "") -> NoReturn:
        """Record a failure, and tell nothing of its reason; `path`: which of many it was. Raises: DecryptionFailed."""
        self.note(caller, live, action, version, outcome="failure")
        raise DecryptionFailed(path=path) if path else DecryptionFailed

    def note(
        self, caller: Caller, live: LiveKey, action: str, version: int, *, outcome: Outcome = "success", count: int = 1
    ) -> None:
        """Record a use. Raises: Unavailable when that can't be done for now."""
        self._journal.note(self._event(caller, live, action, version, outcome, count))

    def refusals(self, caller: Caller, live: LiveKey, action: str, version: int = 0) -> AbstractContextManager[None]:
        """Record that the key's state forbids what is done in here, when it does."""
        return self._journal.refusals(lambda outcome: self._event(caller, live, action, version, outcome, 1))

    def _event(
        self, caller: Caller, live: LiveKey, action: str, version: int, outcome: Outcome, count: int
    ) -> KeyEvent:
        stored = live.stored
        return key_event(
            caller,
            action,
            key_id=stored.key_id,
            at_us=self._clock.now_us(),
            version=version,
            outcome=outcome,
            count=count,
            purpose=stored.purpose,
        )

    async def _protecting(self, caller: Caller, live: LiveKey, count: int, action: str) -> Material:
        try:
            return await self._chain.protecting(live, count)
        except KeyUnusable:
            self.note(caller, live, action, 0, outcome="denied", count=count)
            raise
        except DecryptionFailed:
            self.note(caller, live, action, 0, outcome="failure", count=count)
            raise KeyUnusable("What is stored of the key does not open; it can be rotated.") from None
