"""Token keys: each bound to one algorithm, with a state, in sets that never mix secrets with public keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Final, Self

from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from sealwire.kit.weak_keys import has_roca_fingerprint, is_of_small_order

KID: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9._@:=+~/-]{1,128}")
"""What a key id may look like: no quote, no blank, no `..`. It is only ever a key of a dict, so a slash does no harm,
and identity providers have it: some ids are base64 (RFC 7517 section 4.5 allows any text)."""
MIN_RSA_BITS: Final = 2_048
MAX_RSA_BITS: Final = 4_096
MIN_RSA_EXPONENT: Final = 65_537
MIN_SECRET_BYTES: Final = 32
"""RFC 7518 section 3.2: an HMAC key at least as long as the hash output."""

Jwk = OKPKey | RSAKey | ECKey | OctKey


class Algorithm(StrEnum):
    """The signature algorithms we know. HS256 is only for a legacy issuer that is named with it."""

    EDDSA = "EdDSA"
    RS256 = "RS256"
    ES256 = "ES256"
    HS256 = "HS256"


class KeyState(StrEnum):
    """Where a key stands in its rotation: published before it signs, verifying after it stopped signing."""

    NEXT = "next"
    SIGNING = "signing"
    RETIRING = "retiring"
    REVOKED = "revoked"


class Key:
    """One key with its id, its only algorithm and its state; made by the class methods. A Key that exists is fit."""

    __slots__ = ("alg", "is_private", "jwk", "kid", "signature_bytes", "state", "verify_until_us")

    def __init__(
        self, *, jwk: Jwk, alg: Algorithm, kid: str | None, state: KeyState, verify_until_us: int | None
    ) -> None:
        self.signature_bytes = _check_strength(jwk, alg)
        self.jwk = jwk
        self.alg = alg
        self.kid = jwk.thumbprint() if kid is None else kid
        self.state = state
        self.verify_until_us = verify_until_us
        self.is_private = jwk.is_private and alg is not Algorithm.HS256
        if KID.fullmatch(self.kid) is None:
            raise ValueError("a key id is 1 to 64 of A-Z a-z 0-9 . _ -")
        if kid is None and alg is Algorithm.HS256:
            raise ValueError("a secret needs a given key id: its thumbprint would let it be guessed")

    @classmethod
    def generate(cls, alg: Algorithm, *, kid: str | None = None, state: KeyState = KeyState.SIGNING) -> Self:
        """Make a fresh pair; its id is its RFC 7638 thumbprint unless given. Raises: ValueError for HS256."""
        jwk: Jwk
        match alg:
            case Algorithm.EDDSA:
                jwk = OKPKey.generate_key("Ed25519")
            case Algorithm.ES256:
                jwk = ECKey.generate_key("P-256")
            case Algorithm.RS256:
                jwk = RSAKey.generate_key(MIN_RSA_BITS)
            case _:
                raise ValueError("secrets come from a legacy issuer, they are not made here")
        return cls(jwk=jwk, alg=alg, kid=kid, state=state, verify_until_us=None)

    @classmethod
    def from_pem(
        cls,
        pem: bytes,
        alg: Algorithm,
        *,
        kid: str | None = None,
        state: KeyState = KeyState.SIGNING,
        verify_until_us: int | None = None,
    ) -> Self:
        """Read a private (PKCS #8) or public (SPKI) key in PEM. Raises: ValueError when weak or of another kind."""
        if b"-----BEGIN" not in pem[:64]:
            raise ValueError("not a PEM key")
        return cls(jwk=_import(alg, pem), alg=alg, kid=kid, state=state, verify_until_us=verify_until_us)

    @classmethod
    def from_public_jwk(cls, jwk: dict[str, Any], *, state: KeyState = KeyState.RETIRING) -> Self:
        """Read one entry of a JWKS; `alg` and `kid` must be in it, and nothing that says it is for something else.

        Raises: ValueError when it is weak, incomplete, or not for signatures (RFC 7517 sections 4.2 and 4.3).
        """
        try:
            alg, kid = Algorithm(jwk["alg"]), jwk["kid"]
        except KeyError as error:
            raise ValueError("a published key needs `alg` and `kid`") from error
        if jwk.get("kty") != _KTY.get(alg) or jwk.get("use", "sig") != "sig" or not _may_verify(jwk):
            raise ValueError("not a key to check signatures with")
        if type(kid) is not str or alg is Algorithm.HS256 or not jwk.keys().isdisjoint({"d", "k", "p", "q", "oth"}):
            raise ValueError("not a published key")
        return cls(jwk=_import(alg, dict(jwk)), alg=alg, kid=kid, state=state, verify_until_us=None)

    @classmethod
    def from_secret(cls, secret: bytes, *, kid: str) -> Self:
        """Take the HS256 secret of a legacy issuer; it verifies and never signs. Raises: ValueError when weak."""
        if b"-----BEGIN" in secret or secret.startswith((b"ssh-", b"ecdsa-")):
            raise ValueError("that secret is a public key: anybody could sign with it")
        if len(secret) < MIN_SECRET_BYTES or len(set(secret)) < 8:
            raise ValueError(f"an HS256 secret has at least {MIN_SECRET_BYTES} random bytes")
        jwk = OctKey.import_key(secret)
        return cls(jwk=jwk, alg=Algorithm.HS256, kid=kid, state=KeyState.RETIRING, verify_until_us=None)

    def verifies(self, now_us: int) -> bool:
        """Tell whether a signature of this key counts at that time."""
        if self.state is KeyState.REVOKED:
            return False
        return self.verify_until_us is None or now_us < self.verify_until_us

    def in_state(self, state: KeyState, *, verify_until_us: int | None = None) -> Key:
        """Return the same key in another state."""
        return Key(jwk=self.jwk, alg=self.alg, kid=self.kid, state=state, verify_until_us=verify_until_us)

    def private_pem(self) -> bytes:
        """Return the private half as PKCS #8 PEM, to be sealed at once. Raises: ValueError when there is none."""
        if not self.is_private or isinstance(self.jwk, OctKey):
            raise ValueError(f"key {self.kid} has no private half to give")
        return self.jwk.as_pem(private=True)

    def public_jwk(self) -> dict[str, Any]:
        """Return the public half as a JWKS entry. Raises: ValueError for a secret."""
        if isinstance(self.jwk, OctKey):
            raise ValueError("a secret has no public half")
        public = self.jwk.as_dict(private=False)
        return {**public, "kid": self.kid, "alg": self.alg.value, "use": "sig"}

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, alg={self.alg.value}, state={self.state.value})"


class KeySet:
    """Keys found by id: all public-key keys or (for one legacy issuer) all secrets (RFC 8725 section 2.1)."""

    __slots__ = ("_by_kid",)

    def __init__(self, keys: Iterable[Key]) -> None:
        listed = tuple(keys)
        self._by_kid = {key.kid: key for key in listed}
        if len(self._by_kid) != len(listed):
            raise ValueError("two keys with one id")
        if len({key.alg is Algorithm.HS256 for key in listed}) > 1:
            raise ValueError("secrets and public keys never stand in one set")

    def find(self, kid: str) -> Key | None:
        """Return the key of that id."""
        return self._by_kid.get(kid)

    def signing_key(self) -> Key:
        """Return the key that signs now. Raises: LookupError when there is none."""
        for key in self._by_kid.values():
            if key.state is KeyState.SIGNING and key.is_private:
                return key
        raise LookupError("no signing key")

    def jwks(self, now_us: int) -> dict[str, list[dict[str, Any]]]:
        """Return the published set (RFC 7517 section 5): what signs, what will, and what still verifies."""
        return {"keys": [key.public_jwk() for key in self._by_kid.values() if key.verifies(now_us)]}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_kid.values())

    def __len__(self) -> int:
        return len(self._by_kid)


_KTY: Final = {Algorithm.EDDSA: "OKP", Algorithm.RS256: "RSA", Algorithm.ES256: "EC"}


def _may_verify(jwk: dict[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return type(operations) is list and "verify" in operations


def _import(alg: Algorithm, source: Any) -> Jwk:
    kinds: dict[Algorithm, type[OKPKey | RSAKey | ECKey]] = {
        Algorithm.EDDSA: OKPKey,
        Algorithm.RS256: RSAKey,
        Algorithm.ES256: ECKey,
    }
    try:
        return kinds[alg].import_key(source)
    except Exception as error:
        raise ValueError(f"not a key for {alg.value}") from error


def _check_strength(jwk: Jwk, alg: Algorithm) -> int:
    """Return the exact signature length in bytes of a key fit for `alg`. Raises: ValueError when it is not fit."""
    if alg is Algorithm.EDDSA and isinstance(jwk, OKPKey) and jwk.curve_name == "Ed25519":
        if is_of_small_order(jwk.public_key.public_bytes_raw()):
            raise ValueError("an Ed25519 key of small order: anybody could sign with it")
        return 64
    if alg is Algorithm.ES256 and isinstance(jwk, ECKey) and jwk.curve_name == "P-256":
        return 64
    if alg is Algorithm.HS256 and isinstance(jwk, OctKey):
        return 32
    if alg is Algorithm.RS256 and isinstance(jwk, RSAKey):
        bits = jwk.public_key.key_size
        if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS or jwk.public_key.public_numbers().e < MIN_RSA_EXPONENT:
            raise ValueError(f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits and exponent 65537 or more")
        if has_roca_fingerprint(jwk.public_key.public_numbers().n):
            raise ValueError("an RSA key of a generator that lets its factors be found (CVE-2017-15361)")
        return (bits + 7) // 8
    raise ValueError(f"not a key for {alg.value}")
