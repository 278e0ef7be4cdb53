"""Erasure certificates: a statement of what was erased where, signed as a note (C2SP) that anybody can verify.

The note's text is two lines: the name of the key, and the statement as canonical JSON (RFC 8785).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from sealwire.contracts.crypto import Crypto
from sealwire.contracts.custody import MessagePolicy
from sealwire.contracts.signatures import SystemSignable
from sealwire.kit.caller import service_caller
from sealwire.services.compliance.canonical import canonical
from sealwire.services.compliance.notes import (
    ED25519,
    NoteInvalid,
    NoteSignature,
    VerifierKey,
    parse_note,
    verify_note,
    write_note,
)

SERVICE: Final = "compliance"
KEY_NAME: Final = "erasure-certificate"
KIND: Final = "sealwire.erasure-certificate.v1"


class Certificate(NamedTuple):
    """A signed note, the line of the public key that verifies it, and the SHA-256 (hex) of the note's bytes."""

    note: str
    public_key: str
    sha256: str


class Certificates:
    """Signs statements with a key that never leaves the crypto service."""

    def __init__(self, *, crypto: Crypto, origin: str) -> None:
        self._crypto = crypto
        self._origin = origin

    async def sign(self, tenant_id: str, statement: Mapping[str, Any]) -> Certificate:
        """Sign. Raises: Unavailable."""
        name = f"{self._origin}/{tenant_id}/erasure"
        text = f"{name}\n{canonical(dict(statement)).decode()}\n"
        message = SystemSignable(name=KEY_NAME, message=text.encode())
        signed = await self._crypto.system_sign(service_caller(SERVICE, tenant_id), message)
        key = VerifierKey(name=name, type=ED25519, public_key=signed.public_key)
        note = write_note(text, [NoteSignature(name, key.key_id, signed.signature)])
        read_certificate(note, [key])
        return Certificate(note, key.text, digest(note))


def digest(note: str) -> str:
    """Return the SHA-256 of a certificate, as the audit log names it."""
    return sha256(note.encode()).hexdigest()


def policy_of(note: str) -> MessagePolicy:
    """Return what became of the messages, as a certificate of our own says."""
    return "anonymise" if '"messages":"anonymise"' in parse_note(note).text else "tombstone"


def read_certificate(note: str, keys: Sequence[VerifierKey]) -> dict[str, Any]:
    """Return what a certificate states.

    Raises: NoteInvalid when none of the keys signed it, when it was changed, or when it is another kind of note.
    """
    text = verify_note(note, keys).text
    name, _, rest = text.partition("\n")
    body = rest.removesuffix("\n")
    try:
        statement: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise NoteInvalid("the note is no certificate") from None
    if not isinstance(statement, dict) or statement.get("kind") != KIND or not name.endswith("/erasure"):
        raise NoteInvalid("the note is no certificate of an erasure")
    if canonical(statement) != body.encode():
        raise NoteInvalid("the statement is not written as it was signed")
    return {str(member): value for member, value in statement.items()}
