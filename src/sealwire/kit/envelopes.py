"""Envelopes: the plain AES-256-GCM of the public API, and the committing envelope of our own uses.

AES-GCM is not key-committing: whoever knows two keys can make one ciphertext that opens under both (Len, Grubbs,
Ristenpart, "Partitioning Oracle Attacks", USENIX Security 2021). So what we store ourselves is never plain GCM. From
the data key HKDF-SHA256 (RFC 5869) derives an encryption key and a commitment key, and every envelope carries
SHA-256(commitment key ‖ key id ‖ nonce ‖ context). Opening checks it before GCM runs: an envelope opens under one key
and one context only, unless SHA-256 collides (the property called CMT-4 in Bellare, Hoang, EUROCRYPT 2022).

Here and not in the crypto service, because services and clients seal with the data keys they were given.

    bulk    0x01 ‖ key id (16) ‖ nonce (12) ‖ commitment (32) ‖ ciphertext ‖ tag (16)    keys derived once per data key
    single  0x02 ‖ salt (32) ‖ nonce (12) ‖ commitment (32) ‖ ciphertext ‖ tag (16)      keys derived per envelope
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from hmac import compare_digest
from struct import unpack
from typing import Final, NamedTuple

import msgspec
import rfc8785
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_ID_BYTES: Final = 16
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32

BULK: Final = b"\x01"
SINGLE: Final = b"\x02"
_BULK_INFO: Final = b"sealwire envelope bulk v1"
_SINGLE_INFO: Final = b"sealwire envelope single v1"

_BULK_ID: Final = 1 + KEY_ID_BYTES
_BULK_NONCE: Final = _BULK_ID + NONCE_BYTES
_BULK_HEADER: Final = _BULK_NONCE + COMMITMENT_BYTES
_SINGLE_SALT: Final = 1 + SALT_BYTES
_SINGLE_NONCE: Final = _SINGLE_SALT + NONCE_BYTES
_SINGLE_HEADER: Final = _SINGLE_NONCE + COMMITMENT_BYTES
BULK_OVERHEAD_BYTES: Final = _BULK_HEADER + TAG_BYTES
SINGLE_OVERHEAD_BYTES: Final = _SINGLE_HEADER + TAG_BYTES

_NONCES_A_DRAW: Final = 256
_nonces: Final[list[bytes]] = []
"""Random nonces not used yet, shared by all keys of the process: a nonce must be new, not of a certain key."""
os.register_at_fork(after_in_child=_nonces.clear)  # or the child would use the same ones again
_sorted: Final = msgspec.json.Encoder(order="sorted").encode


class EnvelopeRefused(Exception):
    """The envelope does not open under this key and context. Says nothing more, on purpose."""


class Sealed(NamedTuple):
    """What AES-256-GCM gives: ciphertext without its tag, the 96-bit nonce, the 128-bit tag."""

    ciphertext: bytes
    iv: bytes
    auth_tag: bytes


def canonical_context(context: Mapping[str, str] | None) -> bytes:
    """Return the encryption context as RFC 8785 canonical JSON; no context and an empty one are the same: `{}`.

    RFC 8785 sorts names by UTF-16 code units and escapes no character beyond the control ones, `"` and `\\`; for names
    in ASCII without control characters that is what msgspec writes, 50 times faster.
    """
    if not context:
        return b"{}"
    for name in context:
        if not (name.isascii() and name.isprintable()):
            return rfc8785.dumps(dict(context))
    return _sorted(context)


def gcm_encrypt(key: AESGCM, plaintext: bytes, aad: bytes) -> Sealed:
    """Encrypt under a fresh random nonce (NIST SP 800-38D section 8.2.2); the caller counts the uses of the key."""
    iv = os.urandom(NONCE_BYTES)
    sealed = key.encrypt(iv, plaintext, aad)
    return Sealed(sealed[:-TAG_BYTES], iv, sealed[-TAG_BYTES:])


def gcm_decrypt(key: AESGCM, sealed: Sealed, aad: bytes) -> bytes:
    """Decrypt. Raises: EnvelopeRefused on any mismatch, wrong lengths included (a short tag is no tag)."""
    if len(sealed.iv) != NONCE_BYTES or len(sealed.auth_tag) != TAG_BYTES:
        raise EnvelopeRefused
    try:
        return key.decrypt(sealed.iv, sealed.ciphertext + sealed.auth_tag, aad)
    except InvalidTag:
        raise EnvelopeRefused from None


def bind(*parts: str) -> bytes:
    """Join tenant, purpose, record id … to an envelope's context. The parts hold no NUL: one reading only."""
    return "\0".join(parts).encode()


def derive(key: bytes | bytearray, *, salt: bytes, info: bytes, keys: int = 2) -> tuple[AESGCM, bytearray]:
    """Derive `keys` keys of 32 bytes by HKDF-SHA256: the first as a cipher, the rest side by side."""
    okm = bytearray(keys * KEY_BYTES)
    HKDF(SHA256(), len(okm), salt, info).derive_into(key, okm)
    cipher = AESGCM(memoryview(okm)[:KEY_BYTES])
    rest = okm[KEY_BYTES:]
    wipe(okm)
    return cipher, rest


def draw_key() -> bytearray:
    """Draw a key into memory that can be wiped: what `os.urandom` returns can't."""
    os.urandom(1)  # waits, on a machine that has just started, until the source below is seeded
    key = bytearray(KEY_BYTES)
    with open("/dev/urandom", "rb", buffering=0) as source:
        if source.readinto(key) != KEY_BYTES:
            raise OSError("the system's source of randomness gave too little")
    return key


def wipe(material: bytearray) -> None:
    """Overwrite key material with zeros. Copies in `bytes` are beyond our reach, so none are made of a key."""
    material[:] = bytes(len(material))


def require_own_copy(cipher_of: Callable[[bytearray], AESGCM]) -> None:
    """See that a cipher keeps a copy of its key and not the caller's memory, which is wiped. Raises: RuntimeError.

    pyca/cryptography over OpenSSL 3.0 or 3.1 reads that memory again for each use: all would be sealed under zeros, and
    open again, so that nobody noticed.
    """
    key, nonce = bytearray(b"k" * KEY_BYTES), bytes(NONCE_BYTES)
    cipher = cipher_of(key)
    before = cipher.encrypt(nonce, b"", None)
    wipe(key)
    if cipher.encrypt(nonce, b"", None) != before:
        raise RuntimeError(
            "this build of the package `cryptography` keeps no copy of keys, so wiping one would leave a key of zeros "
            "in use; take one over OpenSSL 3.2 or newer, as its wheels are"
        )


require_own_copy(AESGCM)


@contextmanager
def wiping(material: bytearray) -> Iterator[bytearray]:
    """Wipe a key at the end, whatever happens."""
    try:
        yield material
    finally:
        wipe(material)


class SealingKey:
    """A data key made ready: seals and opens bulk envelopes at the cost of one AES-GCM and one SHA-256.

    Random 96-bit nonces: the holder limits `uses` (see KeyRing), far below the 2^32 of SP 800-38D.
    """

    __slots__ = ("_cipher", "_commitment", "_head", "_rest", "key_id", "segment_root", "uses")

    def __init__(self, *, key_id: bytes, key: bytes | bytearray) -> None:
        """Derive from `key` (32 bytes), which the caller may wipe afterwards; `key_id` (16 bytes) goes in front.

        Raises: ValueError on wrong lengths.
        """
        if len(key_id) != KEY_ID_BYTES or len(key) != KEY_BYTES:
            raise ValueError("a sealing key needs a 16-byte id and 32 bytes of key")
        self.key_id = key_id
        self.uses = 0
        cipher, self._rest = derive(key, salt=key_id, info=_BULK_INFO, keys=3)
        self._cipher: AESGCM | None = cipher
        self._head = BULK + key_id
        self._commitment = sha256(memoryview(self._rest)[:KEY_BYTES])  # begun once; copied for each envelope
        self._commitment.update(key_id)
        self.segment_root = memoryview(self._rest)[KEY_BYTES:]
        """The key that streaming segments derive theirs from (kit.segments)."""

    def seal(self, plaintext: bytes | bytearray, aad: bytes) -> bytes:
        """Seal under a fresh random nonce; `aad` is the context (tenant, purpose, record id) and isn't stored.

        Raises: EnvelopeRefused when the key has been wiped; ValueError without a context: what belongs nowhere in
        particular could be moved anywhere.
        """
        cipher = self._cipher
        if cipher is None:
            raise EnvelopeRefused
        if not aad:
            raise ValueError("an envelope needs a context")
        try:
            nonce = _nonces.pop()
        except IndexError:
            nonce = _draw()
        self.uses += 1
        commitment = self._commitment.copy()
        commitment.update(nonce + aad)
        return self._head + nonce + commitment.digest() + cipher.encrypt(nonce, plaintext, aad)

    def open(self, envelope: bytes, aad: bytes) -> bytes:
        """Return the plaintext. Raises: EnvelopeRefused on any mismatch of key, context or bytes, or once wiped."""
        cipher = self._cipher
        if cipher is None or len(envelope) < BULK_OVERHEAD_BYTES or envelope[:_BULK_ID] != self._head:
            raise EnvelopeRefused
        nonce = envelope[_BULK_ID:_BULK_NONCE]
        commitment = self._commitment.copy()
        commitment.update(nonce + aad)
        if not compare_digest(commitment.digest(), envelope[_BULK_NONCE:_BULK_HEADER]):
            raise EnvelopeRefused
        try:
            return cipher.decrypt(nonce, envelope[_BULK_HEADER:], aad)
        except InvalidTag:
            raise EnvelopeRefused from None

    @property
    def wiped(self) -> bool:
        """Whether the key has been forgotten."""
        return self._cipher is None

    def wipe(self) -> None:
        """Forget the key; afterwards nothing is sealed or opened. `wiped` is true before the first byte is gone."""
        self._cipher = None
        self._commitment = sha256()
        wipe(self._rest)


def nonces(count: int) -> Sequence[bytes]:
    """Return `count` fresh random 96-bit nonces; who encrypts counts the uses of the key."""
    if count > 1:
        return unpack(f"{NONCE_BYTES}s" * count, os.urandom(NONCE_BYTES * count))
    try:
        return (_nonces.pop(),)
    except IndexError:
        return (_draw(),)


def _draw() -> bytes:
    """Draw a block of nonces in one system call (os.urandom costs as much as the encryption of 200 bytes)."""
    first, *rest = nonces(_NONCES_A_DRAW)
    _nonces.extend(rest)
    return first


def envelope_key_id(envelope: bytes) -> bytes:
    """Return the 16-byte id of the data key that a bulk envelope names. Raises: EnvelopeRefused if it is none."""
    if len(envelope) < BULK_OVERHEAD_BYTES or envelope[:1] != BULK:
        raise EnvelopeRefused
    return envelope[1:_BULK_ID]


def seal_single(key: bytes | bytearray, plaintext: bytes | bytearray, aad: bytes) -> bytes:
    """Seal one thing under keys derived for it alone (fresh 256-bit salt): for keys and fields, at about 8 µs.

    Raises: ValueError without a context.
    """
    if not aad:
        raise ValueError("an envelope needs a context")
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    cipher, commitment_key = derive(key, salt=salt, info=_SINGLE_INFO)
    commitment = sha256(b"".join((commitment_key, salt, nonce, aad))).digest()
    wipe(commitment_key)
    return b"".join((SINGLE, salt, nonce, commitment, cipher.encrypt(nonce, plaintext, aad)))


def open_single(key: bytes | bytearray, envelope: bytes, aad: bytes) -> bytearray:
    """Open what `seal_single` sealed, into memory that the caller can wipe. Raises: EnvelopeRefused on any mismatch."""
    if len(envelope) < SINGLE_OVERHEAD_BYTES or envelope[:1] != SINGLE:
        raise EnvelopeRefused
    salt = envelope[1:_SINGLE_SALT]
    nonce = envelope[_SINGLE_SALT:_SINGLE_NONCE]
    cipher, commitment_key = derive(key, salt=salt, info=_SINGLE_INFO)
    commitment = sha256(b"".join((commitment_key, salt, nonce, aad))).digest()
    wipe(commitment_key)
    if not compare_digest(commitment, envelope[_SINGLE_NONCE:_SINGLE_HEADER]):
        raise EnvelopeRefused
    opened = bytearray(len(envelope) - SINGLE_OVERHEAD_BYTES)
    try:
        cipher.decrypt_into(nonce, envelope[_SINGLE_HEADER:], aad, opened)
    except InvalidTag:
        raise EnvelopeRefused from None
    return opened
