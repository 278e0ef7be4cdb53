"""Streaming encryption for blobs: 64 KiB chunks, random access, memory flat in the size.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO 2015): AES-256-GCM per chunk with the nonce
prefix (7 bytes) ‖ counter (4 bytes, big-endian) ‖ final flag (1 byte), so that a chunk dropped, moved, doubled, or an
end cut off is refused. Key, prefix and commitment come from HKDF-SHA256 over the data key with a fresh 256-bit salt
and with the header and the context in `info`: a segment opens under one key, one context and in one place only.

    header = 0x01 ‖ log2 of the chunk size (1) ‖ key id (16) ‖ salt (32) ‖ commitment (32)
    segment = header ‖ chunk 0 ‖ … ‖ last chunk       each chunk = ciphertext ‖ tag (16); all but the last are full
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from hmac import compare_digest
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealwire.kit.envelopes import (
    COMMITMENT_BYTES,
    KEY_BYTES,
    KEY_ID_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    EnvelopeRefused,
    SealingKey,
    wipe,
)

CHUNK_LOG2: Final = 16
CHUNK_BYTES: Final = 1 << CHUNK_LOG2
SEALED_CHUNK_BYTES: Final = CHUNK_BYTES + TAG_BYTES
HEADER_BYTES: Final = 2 + KEY_ID_BYTES + SALT_BYTES + COMMITMENT_BYTES
MAX_CHUNKS: Final = 1 << 32
_FORMAT: Final = bytes((1, CHUNK_LOG2))
_PREFIX_BYTES: Final = 7
_INFO: Final = b"sealwire segment v1"
_OPEN_END: Final = b"\x00"
_FINAL: Final = b"\x01"


class Span(NamedTuple):
    """Which sealed bytes hold a range of plain ones: chunks `first` … `last`, bytes `start` … `end` (exclusive)."""

    first: int
    last: int
    start: int
    end: int


def chunk_count(plain_bytes: int) -> int:
    """Return how many chunks `plain_bytes` take; an empty segment has one empty chunk."""
    return max(1, -(-plain_bytes // CHUNK_BYTES))


def sealed_bytes(plain_bytes: int) -> int:
    """Return the size of the segment that holds `plain_bytes`."""
    return HEADER_BYTES + plain_bytes + TAG_BYTES * chunk_count(plain_bytes)


def span(plain_bytes: int, start: int, end: int) -> Span:
    """Return where the plain bytes `start` … `end` (exclusive, at least one) of a segment lie in its sealed form.

    Raises: ValueError outside the segment.
    """
    if not 0 <= start < end <= plain_bytes:
        raise ValueError("the range lies outside the segment")
    first, last = start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
    stop = min(HEADER_BYTES + (last + 1) * SEALED_CHUNK_BYTES, sealed_bytes(plain_bytes))
    return Span(first, last, HEADER_BYTES + first * SEALED_CHUNK_BYTES, stop)


class _Secrets(NamedTuple):
    cipher: AESGCM
    prefix: bytes
    commitment: bytes


def _derive(key: SealingKey, head: bytes, context: bytes) -> _Secrets:
    """Derive cipher, nonce prefix and commitment; `head` is the header before the commitment.

    Whether the key is wiped is looked at last: snapshots are sealed in threads, and the key ring wipes in another. What
    comes from a root of zeros everybody could derive. Raises: EnvelopeRefused when the key has been wiped.
    """
    okm = bytearray(KEY_BYTES + COMMITMENT_BYTES + _PREFIX_BYTES)
    info = _INFO + sha256(head).digest() + sha256(context).digest()
    HKDF(SHA256(), len(okm), head[-SALT_BYTES:], info).derive_into(key.segment_root, okm)
    if key.wiped:
        wipe(okm)
        raise EnvelopeRefused
    cipher = AESGCM(memoryview(okm)[:KEY_BYTES])
    commitment = bytes(okm[KEY_BYTES : KEY_BYTES + COMMITMENT_BYTES])
    prefix = bytes(okm[-_PREFIX_BYTES:])
    wipe(okm)
    return _Secrets(cipher, prefix, commitment)


class SegmentSealer:
    """Seals one segment as its bytes come; holds back at most one chunk, because only the last one carries the flag."""

    __slots__ = ("_buffer", "_done", "_index", "_secrets", "header", "plain_bytes")

    def __init__(self, *, key: SealingKey, context: bytes) -> None:
        """Draw a salt and derive; `key` may be wiped afterwards. `context` says what this is and where it belongs.

        Raises: EnvelopeRefused when the key has been wiped; ValueError without a context.
        """
        if not context:
            raise ValueError("a segment needs a context")
        head = _FORMAT + key.key_id + os.urandom(SALT_BYTES)
        self._secrets = _derive(key, head, context)
        self.header = head + self._secrets.commitment
        self.plain_bytes = 0
        self._buffer = bytearray()
        self._index = 0
        self._done = False

    def update(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take plain bytes, return the sealed chunks that are certain now (often none)."""
        if self._done:
            raise ValueError("the segment is finished")
        self.plain_bytes += len(data)
        buffer = self._buffer
        buffer += data
        if len(buffer) <= CHUNK_BYTES:
            return b""
        sealed = []
        at = 0
        with memoryview(buffer) as view:
            while len(buffer) - at > CHUNK_BYTES:
                sealed.append(self._seal(view[at : at + CHUNK_BYTES], _OPEN_END))
                at += CHUNK_BYTES
        del buffer[:at]
        return b"".join(sealed)

    def finish(self) -> bytes:
        """Return the last chunk, with the final flag. Nothing can be added afterwards."""
        if self._done:
            raise ValueError("the segment is finished")
        self._done = True
        last = self._seal(self._buffer, _FINAL)
        wipe(self._buffer)
        return last

    def _seal(self, chunk: bytearray | memoryview, flag: bytes) -> bytes:
        if self._index >= MAX_CHUNKS:
            raise ValueError("a segment can't have more than 2^32 chunks")
        nonce = self._secrets.prefix + self._index.to_bytes(4, "big") + flag
        self._index += 1
        return self._secrets.cipher.encrypt(nonce, chunk, None)


class SegmentOpener:
    """Opens a segment, whole or by ranges of chunks."""

    __slots__ = ("_count", "_secrets", "plain_bytes")

    def __init__(self, *, key: SealingKey, header: bytes, context: bytes, plain_bytes: int) -> None:
        """Check the header against key and context. `plain_bytes`: what the keeper of the segment knows of its size.

        Raises: EnvelopeRefused when the header doesn't belong to this key and context.
        """
        if header_key_id(header) != key.key_id:
            raise EnvelopeRefused
        head = header[:-COMMITMENT_BYTES]
        self._secrets = _derive(key, head, context)
        if not compare_digest(self._secrets.commitment, header[-COMMITMENT_BYTES:]):
            raise EnvelopeRefused
        self.plain_bytes = plain_bytes
        self._count = chunk_count(plain_bytes)

    def chunk(self, index: int, sealed: bytes | memoryview) -> bytes:
        """Open chunk `index`. Raises: EnvelopeRefused when it isn't that chunk of this segment, or is cut."""
        if not 0 <= index < self._count:
            raise EnvelopeRefused
        final = index == self._count - 1
        full = self.plain_bytes - index * CHUNK_BYTES if final else CHUNK_BYTES
        if len(sealed) != full + TAG_BYTES:
            raise EnvelopeRefused
        nonce = self._secrets.prefix + index.to_bytes(4, "big") + (_FINAL if final else _OPEN_END)
        try:
            return self._secrets.cipher.decrypt(nonce, sealed, None)
        except InvalidTag:
            raise EnvelopeRefused from None

    def chunks(self, first: int, last: int, sealed: bytes) -> Iterator[bytes]:
        """Open the chunks `first` … `last` that lie side by side in `sealed`. Raises: EnvelopeRefused."""
        view = memoryview(sealed)
        for index in range(first, last + 1):
            at = (index - first) * SEALED_CHUNK_BYTES
            yield self.chunk(index, view[at : at + SEALED_CHUNK_BYTES])
        if len(sealed) > (last - first + 1) * SEALED_CHUNK_BYTES:
            raise EnvelopeRefused


def header_key_id(header: bytes) -> bytes:
    """Return the id of the data key that a segment's header names. Raises: EnvelopeRefused if it is no header."""
    if len(header) != HEADER_BYTES or header[:2] != _FORMAT:
        raise EnvelopeRefused
    return header[2 : 2 + KEY_ID_BYTES]
