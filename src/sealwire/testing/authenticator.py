"""An authenticator in software, with the browser around it: makes and uses passkeys as tests ask, rightly or not.

It writes what Web Authentication Level 3 says in sections 5.8.1 (client data) and 6.1 (authenticator data), with
`cryptography` and CBOR only, so that it shares no code with what checks it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, Literal

import cbor2
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from sealwire.contracts.passkeys import NewPasskey, PasskeyLogin
from sealwire.contracts.webauthn import CreationOptions, RequestOptions

ES256, EDDSA, RS256 = -7, -8, -257
PRESENT, VERIFIED, BACKUP_ELIGIBLE, BACKED_UP, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class Bent(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer is bent; what is None is as it should be. What is `tampered` with, is so after it was signed."""

    origin: str | None = None
    rp_id: str | None = None
    kind: str | None = None
    challenge: str | None = None
    cross_origin: bool = False
    top_origin: str | None = None
    present: bool = True
    verified: bool = True
    backup_eligible: bool | None = None
    sign_count: int | None = None
    user_handle: str | None = None
    tampered: Literal["signature", "authenticator_data", "client_data", ""] = ""
    credential_id: bytes | None = None


STRAIGHT = Bent()


class Held(msgspec.Struct, kw_only=True):
    """A passkey on the authenticator."""

    credential_id: bytes
    key: Any
    alg: int
    rp_id: str
    user_handle: str
    sign_count: int = 0


class SoftAuthenticator:
    """Keeps passkeys and answers for the page at `origin`. `counts`: whether it keeps a signature counter."""

    def __init__(
        self, origin: str, *, algs: Sequence[int] = (ES256,), counts: bool = True, backup_eligible: bool = False
    ) -> None:
        self.origin = origin
        self.held: list[Held] = []
        self._algs = algs
        self._counts = counts
        self._backup_eligible = backup_eligible

    def create(self, options: CreationOptions, bent: Bent = STRAIGHT, *, name: str = "Key") -> NewPasskey:
        """Make a passkey as `navigator.credentials.create()` does. Raises: ValueError when it holds one already."""
        excluded = {descriptor.id for descriptor in options.exclude_credentials}
        if any(_text(held.credential_id) in excluded for held in self.held):
            raise ValueError("InvalidStateError: a credential of this authenticator is excluded")
        alg = next(p.alg for p in options.pub_key_cred_params if p.alg in self._algs)
        held = Held(
            credential_id=bent.credential_id or os.urandom(32),
            key=_new_key(alg),
            alg=alg,
            rp_id=options.rp.id,
            user_handle=options.user.id,
            sign_count=1 if self._counts else 0,
        )
        self.held.append(held)
        client_data = self._client_data("webauthn.create", options.challenge, bent)
        length = len(held.credential_id).to_bytes(2, "big")
        attested = bytes(16) + length + held.credential_id + cbor2.dumps(_cose(held.key, alg))
        data = self._data(held, bent, ATTESTED) + attested
        if bent.tampered == "authenticator_data":
            data = data[:-1]
        statement = {"fmt": "none", "attStmt": {}, "authData": data}
        return msgspec.convert(
            {
                "id": _text(held.credential_id),
                "rawId": _text(held.credential_id),
                "type": "public-key",
                "authenticatorAttachment": "platform",
                "clientExtensionResults": {},
                "name": name,
                "response": {
                    "clientDataJSON": _text(client_data),
                    "attestationObject": _text(cbor2.dumps(statement)),
                    "transports": ["internal"],
                },
            },
            NewPasskey,
        )

    def get(self, options: RequestOptions, bent: Bent = STRAIGHT, *, held: Held | None = None) -> PasskeyLogin:
        """Use a passkey as `navigator.credentials.get()` does. Raises: ValueError when none fits."""
        used = held or self._fitting(options)
        if self._counts:
            used.sign_count += 1
        client_data = self._client_data("webauthn.get", options.challenge, bent)
        data = self._data(used, bent, 0)
        signature = _sign(used, data + hashlib.sha256(client_data).digest())
        if bent.tampered == "signature":
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        elif bent.tampered == "authenticator_data":
            data = data[:-1] + bytes([data[-1] ^ 0x40])
        elif bent.tampered == "client_data":
            client_data = client_data.replace(b"{", b'{"extra":"member",', 1)
        return msgspec.convert(
            {
                "id": _text(bent.credential_id or used.credential_id),
                "rawId": _text(bent.credential_id or used.credential_id),
                "type": "public-key",
                "authenticatorAttachment": "platform",
                "clientExtensionResults": {},
                "response": {
                    "clientDataJSON": _text(client_data),
                    "authenticatorData": _text(data),
                    "signature": _text(signature),
                    "userHandle": used.user_handle if bent.user_handle is None else bent.user_handle,
                },
            },
            PasskeyLogin,
        )

    def _fitting(self, options: RequestOptions) -> Held:
        allowed = {descriptor.id for descriptor in options.allow_credentials}
        for held in self.held:
            if held.rp_id == options.rp_id and (not allowed or _text(held.credential_id) in allowed):
                return held
        raise ValueError("NotAllowedError: no passkey of this authenticator fits")

    def _client_data(self, kind: str, challenge: str, bent: Bent) -> bytes:
        told: dict[str, Any] = {
            "type": bent.kind or kind,
            "challenge": bent.challenge or challenge,
            "origin": bent.origin or self.origin,
            "crossOrigin": bent.cross_origin,
        }
        if bent.top_origin is not None:
            told["topOrigin"] = bent.top_origin
        return json.dumps(told).encode()

    def _data(self, held: Held, bent: Bent, flags: int) -> bytes:
        eligible = self._backup_eligible if bent.backup_eligible is None else bent.backup_eligible
        flags |= (PRESENT if bent.present else 0) | (VERIFIED if bent.verified else 0)
        flags |= (BACKUP_ELIGIBLE | BACKED_UP) if eligible else 0
        count = held.sign_count if bent.sign_count is None else bent.sign_count
        return hashlib.sha256((bent.rp_id or held.rp_id).encode()).digest() + bytes([flags]) + count.to_bytes(4, "big")


def _new_key(alg: int) -> PrivateKey:
    if alg == EDDSA:
        return ed25519.Ed25519PrivateKey.generate()
    if alg == RS256:
        return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    return ec.generate_private_key(ec.SECP256R1())


def _cose(key: PrivateKey, alg: int) -> dict[int, Any]:
    """Return the public key as a COSE_Key (RFC 9053 section 7, RFC 8230 section 4)."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {1: 1, 3: alg, -1: 6, -2: key.public_key().public_bytes_raw()}
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return {1: 3, 3: alg, -1: numbers.n.to_bytes(256, "big"), -2: numbers.e.to_bytes(3, "big")}
    point = key.public_key().public_numbers()
    return {1: 2, 3: alg, -1: 1, -2: point.x.to_bytes(32, "big"), -3: point.y.to_bytes(32, "big")}


def _sign(held: Held, data: bytes) -> bytes:
    key: PrivateKey = held.key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
