"""Key material in use: unwrapped, derived for each purpose, counted, and wiped."""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealwire.contracts.crypto_terms import KeyType
from sealwire.kit.envelopes import KEY_BYTES, draw_key, open_single, seal_single, wipe
from sealwire.services.crypto.model import UseBudget

_API_INFO: Final = b"sealwire api aes-256-gcm v1"
_WRAP_INFO: Final = b"sealwire key wrap v1"


def new_material(key_type: KeyType) -> tuple[bytearray, bytes | None]:
    """Draw 32 bytes for a version of any type, and the public key of an ed25519 one."""
    material = draw_key()
    if key_type != "ed25519":
        return material, None
    return material, Ed25519PrivateKey.from_private_bytes(material).public_key().public_bytes_raw()


class Material:
    """One version of a key, ready for use. One purpose, one derived key: wrapping never shares a key with the API."""

    __slots__ = ("_cipher", "_root", "_signer", "_wiped", "_wrapping", "budget", "expires_s", "version")

    def __init__(
        self, *, key_type: KeyType, version: int, root: bytearray, budget: UseBudget, expires_s: float
    ) -> None:
        """Own `root` (32 bytes) from now on; `expires_s` is on the monotonic clock."""
        self.version = version
        self.budget = budget
        self.expires_s = expires_s
        self._root = root
        self._wiped = False
        self._signer = Ed25519PrivateKey.from_private_bytes(root) if key_type == "ed25519" else None
        self._cipher: AESGCM | None = None
        self._wrapping: bytearray | None = None
        if key_type == "aes-256-gcm":
            derived = _derive(root, _API_INFO)
            self._cipher = AESGCM(derived)
            wipe(derived)
            self._wrapping = _derive(root, _WRAP_INFO)

    @property
    def cipher(self) -> AESGCM:
        """The cipher of the public API's encrypt and decrypt; only for aes-256-gcm."""
        assert self._cipher is not None
        return self._cipher

    def wrap(self, key: bytes | bytearray, context: bytes) -> bytes:
        """Wrap another key under this one (a committing envelope of its own salt: no nonce limit to count)."""
        assert self._wrapping is not None
        return seal_single(self._wrapping, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        """Unwrap. Raises: EnvelopeRefused."""
        assert self._wrapping is not None
        return open_single(self._wrapping, wrapped, context)

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (RFC 8032)."""
        assert self._signer is not None
        return self._signer.sign(message)

    def tag(self, message: bytes) -> bytes:
        """Return the HMAC-SHA256 (RFC 2104). Raises: RuntimeError once wiped: under zeros everybody can make tags."""
        if self._wiped:
            raise RuntimeError("the key has been wiped")
        return hmac.digest(self._root, message, "sha256")

    def verify_tag(self, message: bytes, tag: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.tag(message), tag)

    def wipe(self) -> None:
        """Forget everything."""
        self._wiped = True
        wipe(self._root)
        if self._wrapping is not None:
            wipe(self._wrapping)
        self._wrapping = self._cipher = self._signer = None


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether an Ed25519 signature is right."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _derive(root: bytearray, info: bytes) -> bytearray:
    derived = bytearray(KEY_BYTES)
    HKDF(SHA256(), KEY_BYTES, None, info).derive_into(root, derived)
    return derived
