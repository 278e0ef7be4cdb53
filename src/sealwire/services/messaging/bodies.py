"""Bodies and titles: sealed on the way in, opened on the way out, each bound to where it belongs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyDamaged, KeyUnusable
from sealwire.contracts.messages import Message, Reaction
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.envelopes import EnvelopeRefused, bind
from sealwire.services.messaging.model import Content, StoredMessage, read_meta
from sealwire.services.messaging.ports import Keys

TITLES = "titles"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Content).decode
_log = logging.getLogger("sealwire.messaging")


def body_context(tenant_id: str, conversation_id: str, message_id: str, version: int) -> bytes:
    """Return what a sealed body is bound to, so that no row can stand in for another or for its own past."""
    return bind(tenant_id, "message", conversation_id, message_id, str(version))


def pack(content: Content) -> bytes:
    """Return the bytes of a content, to be sealed."""
    return _encode(content)


class Bodies:
    """Opens what the store holds."""

    def __init__(self, *, keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def seal(
        self, tenant_id: str, conversation_id: str, author_id: str, message_id: str, version: int, content: Content
    ) -> bytes:
        """Seal a content under the key of its author in the conversation. Raises: Unavailable."""
        key = self._keys.ready(tenant_id, conversation_id, author_id)
        if key is None:
            key = await self._keys.sealing_key(tenant_id, conversation_id, author_id)
        return key.seal(_encode(content), body_context(tenant_id, conversation_id, message_id, version))

    async def open(self, message: StoredMessage) -> Content | None:
        """Return the content, None for a tombstone.

        Raises: KeyUnusable when its key was destroyed; EnvelopeRefused when it was tampered with; Unavailable.
        """
        m = message
        if m.sealed is None or m.deleted_at_us is not None:
            return None
        if m.expires_at_us is not None and m.expires_at_us <= self._clock.now_us():
            return None
        key = self._keys.ready_for(m.tenant_id, m.sealed)
        if key is None:
            key = await self._keys.opening_key(m.tenant_id, m.conversation_id, m.sender_id, m.sealed)
        return _decode(key.open(m.sealed, body_context(m.tenant_id, m.conversation_id, m.message_id, m.version)))

    async def view(self, messages: Sequence[StoredMessage], *, of_all: bool = False) -> list[Message]:
        """Return messages as callers see them.

        One whose key was destroyed is a tombstone. One that doesn't open has no body and is logged: the rest of a page
        must not go with it. `of_all`: the page is of all tenants; then this goes for one whose keys are damaged, too.
        Raises: KeyDamaged, unless `of_all`; Unavailable.
        """
        return [view_of(message, *await self._look(message, of_all=of_all)) for message in messages]

    async def content(self, message: StoredMessage) -> Content | None:
        """Return the content, None for a tombstone and for what doesn't open. Raises: Unavailable."""
        return (await self._look(message))[0]

    async def _look(self, message: StoredMessage, *, of_all: bool = False) -> tuple[Content | None, bool]:
        """Return the content of a message, and whether it is gone for good."""
        try:
            content = await self.open(message)
        except KeyUnusable:
            return None, True
        except KeyDamaged:
            if not of_all:
                raise
            _log.error("message %s does not open: keys of %s are damaged", message.message_id, message.tenant_id)
            return None, False
        except (EnvelopeRefused, DecryptionFailed):
            _log.error("message %s does not open: it was changed outside of messaging", message.message_id)
            return None, False
        return content, content is None

    async def seal_title(self, tenant_id: str, conversation_id: str, title: str | None) -> bytes | None:
        """Seal a title under the tenant's key for titles. Raises: Unavailable."""
        if title is None:
            return None
        key = self._keys.ready(tenant_id, TITLES, "") or await self._keys.sealing_key(tenant_id, TITLES, "")
        return key.seal(title.encode(), bind(tenant_id, "title", conversation_id))

    async def open_title(self, tenant_id: str, conversation_id: str, sealed: bytes | None) -> str | None:
        """Open a title; None when there is none, or none that opens."""
        if sealed is None:
            return None
        try:
            key = self._keys.ready_for(tenant_id, sealed)
            if key is None:
                key = await self._keys.opening_key(tenant_id, TITLES, "", sealed)
            return key.open(sealed, bind(tenant_id, "title", conversation_id)).decode()
        except KeyUnusable:
            return None
        except (EnvelopeRefused, DecryptionFailed):
            _log.error("the title of %s does not open: it was changed outside of messaging", conversation_id)
            return None


def view_of(message: StoredMessage, content: Content | None, gone: bool) -> Message:
    """Return a stored message as callers see it."""
    meta = read_meta(message.meta)
    reactions: dict[str, list[str]] = {}
    for emoji, user_id in message.reactions:
        reactions.setdefault(emoji, []).append(user_id)
    return Message(
        message_id=message.message_id,
        conversation_id=message.conversation_id,
        seq=message.seq,
        sender_id=message.sender_id,
        body=None if content is None else content.body,
        client_message_id=message.client_message_id,
        created_at=rfc3339(message.created_at_us),
        content_type=meta.content_type,
        ciphertexts=None if content is None else content.ciphertexts,
        edited_at=None if message.edited_at_us is None else rfc3339(message.edited_at_us),
        deleted=gone,
        reply_to=meta.reply_to,
        attachments=meta.attachments,
        mentions=meta.mentions,
        expires_at=None if message.expires_at_us is None else rfc3339(message.expires_at_us),
        reactions=[Reaction(emoji=emoji, user_ids=users) for emoji, users in reactions.items()],
    )
