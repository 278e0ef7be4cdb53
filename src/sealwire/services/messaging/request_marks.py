"""Keyed hashes of requests, so that a repetition is known and the store reveals nothing of what was asked."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from sealwire.contracts.crypto import Crypto
from sealwire.contracts.data_keys import SystemDataKeyRequest
from sealwire.contracts.messages import Draft
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import wiping
from sealwire.kit.problem import Invalid

DIGEST_BYTES = 16
MAX_AGE_S = 600.0
MOST_TENANTS = 1_000
SCOPE = "request-marks"
_encode = msgspec.msgpack.Encoder().encode


class MarkingKey:
    """A tenant's key, made ready for both uses. BLAKE2b with a key is a MAC (RFC 7693); `person` keeps them apart."""

    __slots__ = ("_keys", "_requests")

    def __init__(self, key: bytes | bytearray) -> None:
        self._keys = blake2b(digest_size=DIGEST_BYTES, key=key, person=b"message-key")
        self._requests = blake2b(digest_size=DIGEST_BYTES, key=key, person=b"message-request")

    def marks(self, conversation_id: str, sender_id: str, draft: Draft) -> tuple[bytes, bytes]:
        """Return the mark of (conversation, sender, client_message_id) and the mark of the whole request.

        Raises: Invalid for numbers that no store holds.
        """
        name = self._keys.copy()
        name.update(_encode((conversation_id, sender_id, draft.client_message_id)))
        request = self._requests.copy()
        said = (
            draft.body,
            draft.content_type,
            draft.ciphertexts,
            draft.reply_to,
            draft.attachments,
            draft.mentions,
            draft.expires_in_s,
        )
        try:
            request.update(_encode(said))
        except OverflowError:
            raise Invalid("A number in `ciphertexts` has more than 64 bits.", path="$.ciphertexts") from None
        return name.digest(), request.digest()


class RequestMarks:
    """The marking keys of tenants: crypto keeps them, this holds each for ten minutes."""

    def __init__(self, *, crypto: Crypto, service: str, clock: Clock) -> None:
        self._crypto = crypto
        self._service = service
        self._clock = clock
        self._keys: dict[str, tuple[float, MarkingKey]] = {}

    def held(self, tenant_id: str) -> MarkingKey | None:
        """Return the tenant's key when it is in memory."""
        held = self._keys.get(tenant_id)
        if held is None or self._clock.monotonic() >= held[0]:
            return None
        return held[1]

    async def key(self, tenant_id: str) -> MarkingKey:
        """Return the tenant's key. Raises: Unavailable."""
        if (held := self.held(tenant_id)) is not None:
            return held
        answer = await self._crypto.system_data_key(
            service_caller(self._service, tenant_id),
            SystemDataKeyRequest(context={"scope": SCOPE, "subject_id": ""}),
        )
        with wiping(answer.plaintext):
            key = MarkingKey(answer.plaintext)
        while len(self._keys) >= MOST_TENANTS:
            del self._keys[next(iter(self._keys))]
        self._keys[tenant_id] = (self._clock.monotonic() + MAX_AGE_S, key)
        return key

    def clear(self) -> None:
        """Forget all keys."""
        self._keys.clear()
