"""The process that holds a PKCS#11 session: one token, one key, one request after the other.

Started by `adapters.hsm.worker` with the number of a socket. A vendor's library runs here and nowhere else: it may
crash, hang or print without hurting the service, and after any fault of the session the process ends, because a fresh
one is the only state that every library returns from (SoftHSM answers CKR_GENERAL_ERROR to everything once its token's
folder was away for a moment). Ends by itself when the socket closes.

A key is wrapped by CKM_AES_GCM in the token, over 32 zero bytes and the key: the zeros commit the ciphertext to this
key, which GCM alone doesn't (Albertini et al., "How to Abuse and Fix Authenticated Encryption Without Key Commitment",
USENIX Security 2022, section 5.2). The header and the caller's context (tenant, key, version) are additional data.

    wrapped = 0x02 ‖ fingerprint of the key's CKA_ID (16) ‖ nonce (12) ‖ AES-256-GCM(32 zeros ‖ key) ‖ tag (16)
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final

import msgspec
import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
from pkcs11 import exceptions as ck
from pkcs11.mechanisms import GCMParams

from sealwire.adapters.hsm.wire import (
    FINGERPRINT_BYTES,
    FORMAT,
    HEADER_BYTES,
    LENGTH,
    MOST_BYTES,
    Answer,
    Fault,
    Opening,
    Request,
    framed,
)
from sealwire.kit.dumps import forbid_dumps

KEY_BITS: Final = 256
ID_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
COMMITMENT: Final = bytes(32)
_SESSION_ENDED: Final = (
    ck.SessionHandleInvalid, ck.SessionClosed, ck.UserNotLoggedIn, ck.ObjectHandleInvalid, ck.KeyHandleInvalid,
    ck.DeviceError, ck.DeviceRemoved, ck.DeviceMemory, ck.HostMemory, ck.TokenNotPresent, ck.TokenNotRecognised,
)  # fmt: skip
_TEMPLATE: Final[dict[Attribute, Any]] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.MODIFIABLE: False,
    Attribute.ENCRYPT: True,
    Attribute.DECRYPT: True,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.SIGN: False,
    Attribute.VERIFY: False,
    Attribute.DERIVE: False,
}


class TokenFault(Exception):
    """The token can't be used."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault: Fault = fault
        self.detail = detail


class Refused(Exception):
    """The wrapped key doesn't open; the token is well."""


class Token:
    """A session with a token, and the key-encryption key in it."""

    def __init__(self, *, key: Any) -> None:
        """Use the key (`pkcs11.SecretKey`) of an open session."""
        self._key = key
        self._header = FORMAT + sha256(b"sealwire token key v1" + bytes(key[Attribute.ID])).digest()[:FINGERPRINT_BYTES]
        self._probe = self.wrap(bytes(32), b"probe")
        self.check()

    @classmethod
    def open(cls, opening: Opening) -> Token:
        """Load the library, log in once, find the key, or make it if asked to. Raises: TokenFault."""
        try:
            library = pkcs11.lib(opening.module)
        except RuntimeError as fault:  # the loader's words, or the library's own code
            raise TokenFault("library", f"the PKCS#11 library does not start: {str(fault) or _name(fault)}") from None
        try:
            token = library.get_token(token_label=opening.token)
            mechanisms = token.slot.get_mechanisms()
        except (ck.NoSuchToken, ck.MultipleTokensReturned):
            raise TokenFault("token", f"there is no token, or not just one, labelled {opening.token!r}") from None
        except ck.PKCS11Error as fault:
            raise TokenFault("token", f"the token does not answer: {_name(fault)}") from None
        if Mechanism.AES_GCM not in mechanisms:
            raise TokenFault("mechanism", "the token offers no CKM_AES_GCM")
        session = _log_in(token, opening.pin)
        try:
            return cls(key=_find(session, opening.key, create=opening.create))
        except ck.PKCS11Error as fault:
            raise TokenFault("key", f"the key {opening.key!r} can't be used: {_name(fault)}") from None

    @property
    def fingerprint(self) -> bytes:
        """Names the key without telling anything about it."""
        return self._header[1:]

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Encrypt a key in the token. Raises: PKCS11Error."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._key.encrypt(
            COMMITMENT + key, mechanism=Mechanism.AES_GCM, mechanism_param=self._param(nonce, context)
        )
        return self._header + nonce + bytes(sealed)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt a key in the token. Raises: Refused; PKCS11Error when the token is to blame."""
        sealed = wrapped[HEADER_BYTES + NONCE_BYTES :]
        if wrapped[:HEADER_BYTES] != self._header or len(sealed) < len(COMMITMENT) + TAG_BYTES:
            raise Refused
        nonce = wrapped[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES]
        try:
            opened = self._decrypt(nonce, sealed, context)
        except _SESSION_ENDED:
            raise
        except ck.PKCS11Error:  # which code says "wrong tag" is every library's own choice: ask for what must open
            self.check()
            raise Refused from None
        if not compare_digest(opened[: len(COMMITMENT)], COMMITMENT):
            raise Refused
        return opened[len(COMMITMENT) :]

    def check(self) -> None:
        """Prove that the key works, without using up a nonce. Raises: PKCS11Error."""
        nonce = self._probe[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES]
        if self._decrypt(nonce, self._probe[HEADER_BYTES + NONCE_BYTES :], b"probe") != COMMITMENT + bytes(32):
            raise ck.GeneralError

    def _decrypt(self, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
        param = self._param(nonce, context)
        return bytes(self._key.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=param))

    def _param(self, nonce: bytes, context: bytes) -> GCMParams:
        return GCMParams(nonce=nonce, aad=self._header + context, tag_bits=TAG_BYTES * 8)


def _log_in(token: Any, pin: str) -> Any:
    """Open a session, with at most one try of the PIN, and none when it is the last one. Raises: TokenFault."""
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise TokenFault("pin_locked", "the token has locked its PIN; its security officer has to set a new one")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise TokenFault("pin_last_try", "one wrong PIN more locks the token; log in by hand once to reset the count")
    try:
        return token.open(user_pin=pin, rw=True)
    except (ck.PinIncorrect, ck.PinInvalid, ck.PinLenRange, ck.PinExpired, ck.UserPinNotInitialized) as fault:
        raise TokenFault("pin", f"the token refuses the PIN: {_name(fault)}") from None
    except ck.PinLocked:
        raise TokenFault(
            "pin_locked", "the token has locked its PIN; its security officer has to set a new one"
        ) from None
    except ck.PKCS11Error as fault:
        raise TokenFault("token", f"the token opens no session: {_name(fault)}") from None


def _find(session: Any, label: str, *, create: bool) -> Any:
    """Return the key with this label, made in the token if there is none and `create`. Raises: TokenFault."""
    wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.LABEL: label}
    found = list(session.get_objects(wanted))
    if not found and create:
        session.generate_key(
            KeyType.AES, KEY_BITS, id=os.urandom(ID_BYTES), label=label, store=True, template=_TEMPLATE
        )
        found = list(session.get_objects(wanted))
    if len(found) != 1:
        raise TokenFault("key", f"the token holds {len(found) or 'no'} AES keys labelled {label!r}; one is needed")
    key = found[0]
    if key[Attribute.VALUE_LEN] * 8 != KEY_BITS or not bytes(key[Attribute.ID]):
        raise TokenFault("key", f"the key {label!r} is no AES-256 key with an id")
    if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
        raise TokenFault("key", f"the key {label!r} could leave the token (it has to be sensitive and not extractable)")
    return key


def _name(fault: Exception) -> str:
    return type(fault).__name__


def _answer(token: Token, request: Request) -> Answer:
    """Do what is asked. Raises: TokenFault when the session is of no more use."""
    try:
        if request.do == "wrap":
            return Answer(data=token.wrap(request.data, request.context))
        if request.do == "unwrap":
            return Answer(data=token.unwrap(request.data, request.context))
        token.check()
        return Answer()
    except Refused:
        return Answer(refused=True)
    except ck.PKCS11Error as fault:
        raise TokenFault("session", f"the token ended the session: {_name(fault)}") from None


def _receive(sock: socket.socket) -> bytes | None:
    """Return the next message; None when the service is gone."""
    head = _exactly(sock, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    return _exactly(sock, length) if length <= MOST_BYTES else None


def _exactly(sock: socket.socket, count: int) -> bytes | None:
    taken = bytearray()
    while len(taken) < count:
        some = sock.recv(count - len(taken))
        if not some:
            return None
        taken += some
    return bytes(taken)


def serve(sock: socket.socket) -> int:
    """Say that the process is up, then answer until the service closes the socket, or the token fails."""
    sock.sendall(framed(Answer()))
    first = _receive(sock)
    if first is None:
        return 0
    try:
        token = Token.open(msgspec.msgpack.decode(first, type=Opening))
        del first
        sock.sendall(framed(Answer(data=token.fingerprint)))
        decoder = msgspec.msgpack.Decoder(Request)
        while (asked := _receive(sock)) is not None:
            sock.sendall(framed(_answer(token, decoder.decode(asked))))
    except TokenFault as fault:
        sock.sendall(framed(Answer(fault=fault.fault, detail=fault.detail)))
        return 1
    return 0


def main() -> int:
    """Serve on the socket whose descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for the service, which closes the socket in time
    forbid_dumps()  # a crash of the library leaves no PIN on the disk
    try:
        with socket.socket(fileno=int(sys.argv[1])) as sock:
            return serve(sock)
    except (BrokenPipeError, ConnectionResetError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
