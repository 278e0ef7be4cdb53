"""Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint, tlog-cosignature): reading, writing, checking.

Signing itself happens where the key is; this module says what to sign and how a signature stands in the note.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealwire.services.compliance.merkle import HASH_BYTES

ED25519 = 0x01
COSIGNATURE_V1 = 0x04
"""Signature types of the signed-note specification: plain, and timestamped by a witness."""
MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
_SIGNATURE_BYTES = 64
_KEY_BYTES = 32
_PREFIX = "— "


class NoteInvalid(ValueError):
    """The text is no note, no key, or not signed by the key it should be signed by."""


class VerifierKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key as a note names it. `text` is its one-line form: `name+id+base64(type ‖ key)`."""

    name: str
    type: int
    public_key: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.type not in (ED25519, COSIGNATURE_V1) or len(self.public_key) != _KEY_BYTES:
            raise NoteInvalid("not an Ed25519 key")

    @property
    def key_id(self) -> bytes:
        """The four bytes that stand before a signature: SHA-256(name ‖ LF ‖ type ‖ key), cut."""
        return key_id(self.name, self.type, self.public_key)

    @property
    def text(self) -> str:
        """The key on one line."""
        material = b64encode(bytes([self.type]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"


class NoteSignature(msgspec.Struct, frozen=True):
    """One signature line: who, which key, the bytes."""

    name: str
    key_id: bytes
    signature: bytes


class Note(msgspec.Struct, frozen=True):
    """A text (its last newline included) and the signatures under it."""

    text: str
    signatures: tuple[NoteSignature, ...]


class TreeHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says: which log, how many leaves, the root over them; and lines we don't interpret."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


def key_id(name: str, signature_type: int, public_key: bytes) -> bytes:
    """Return the key id a note names a key by."""
    return sha256(name.encode() + b"\n" + bytes([signature_type]) + public_key).digest()[:4]


def parse_key(text: str) -> VerifierKey:
    """Read `name+id+base64`, nothing before or after it. Raises: NoteInvalid when the id is not the key's."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise NoteInvalid("a public key line reads name+id+base64")
    material = _base64(parts[2])
    if len(material) != 1 + _KEY_BYTES:
        raise NoteInvalid("not an Ed25519 key")
    key = VerifierKey(name=parts[0], type=material[0], public_key=material[1:])
    if key.key_id.hex() != parts[1]:
        raise NoteInvalid("the key's id does not belong to the key")
    return key


def write_note(text: str, signatures: Sequence[NoteSignature]) -> str:
    """Put signatures under a text. Raises: NoteInvalid for a text or a name a note can't hold."""
    _check_text(text)
    if not text.endswith("\n"):
        raise NoteInvalid("a note's text ends in a newline")
    lines = []
    for s in signatures:
        _check_name(s.name)
        lines.append(f"{_PREFIX}{s.name} {b64encode(s.key_id + s.signature).decode()}\n")
    if not lines:
        raise NoteInvalid("a note has a signature")
    return f"{text}\n{''.join(lines)}"


def parse_note(note: str) -> Note:
    """Take a note apart; nothing in it may be believed before `verify_note`. Raises: NoteInvalid."""
    if len(note) > MAX_NOTE_BYTES:
        raise NoteInvalid("the note is too long")
    _check_text(note)
    text, gap, tail = note.rpartition("\n\n")
    if not gap or not tail:
        raise NoteInvalid("a note is a text, an empty line and signature lines; this ends before they do")
    if not tail.endswith("\n"):
        raise NoteInvalid("the note was cut: it ends in the middle of a line")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteInvalid("the note has too many signatures")
    return Note(f"{text}\n", tuple(_parse_signature(line) for line in lines))


def _parse_signature(line: str) -> NoteSignature:
    if not line.startswith(_PREFIX):
        raise NoteInvalid("a signature line starts with an em dash")
    name, gap, encoded = line[len(_PREFIX) :].partition(" ")
    _check_name(name)
    material = _base64(encoded)
    if not gap or len(material) < 5:
        raise NoteInvalid("a signature line has a name and a signature")
    return NoteSignature(name, material[:4], material[4:])


def verify_note(note: str, keys: Sequence[VerifierKey]) -> Note:
    """Check that a known key signed the note; signatures of unknown keys are passed over, as the format demands.

    Raises: NoteInvalid when none of the keys signed it, or when one signed it wrongly.
    """
    parsed = parse_note(note)
    known = {(k.name, k.key_id): k for k in keys}
    verified = 0
    for signature in parsed.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            verify_signature(parsed.text, signature, key)
            verified += 1
    if not verified:
        raise NoteInvalid("the note is not signed by a key that is trusted here")
    return parsed


def verify_signature(text: str, signature: NoteSignature, key: VerifierKey) -> None:
    """Check one signature line of a note's text against the key it names. Raises: NoteInvalid."""
    message, raw = text.encode(), signature.signature
    if key.type == COSIGNATURE_V1:
        if len(raw) != 8 + _SIGNATURE_BYTES:
            raise NoteInvalid("a cosignature is a time and a signature")
        message, raw = cosigned_message(text, int.from_bytes(raw[:8], "big")), raw[8:]
    if len(raw) != _SIGNATURE_BYTES:
        raise NoteInvalid(f"the signature of {key.name} was cut, or is none: it has {len(raw)} bytes")
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(raw, message)
    except (InvalidSignature, ValueError):
        raise NoteInvalid(f"the signature of {key.name} is wrong") from None


def verify_cosignatures(note: str, witnesses: Sequence[VerifierKey]) -> dict[str, int]:
    """Check that every witness cosigned the note; return by name when each saw it, in seconds since the epoch.

    Raises: NoteInvalid naming a witness that did not, or whose line is wrong.
    """
    parsed = parse_note(note)
    seen: dict[str, int] = {}
    for witness in witnesses:
        for signature in parsed.signatures:
            if (signature.name, signature.key_id) == (witness.name, witness.key_id):
                verify_signature(parsed.text, signature, witness)
                at_s = int.from_bytes(signature.signature[:8], "big") if witness.type == COSIGNATURE_V1 else 0
                seen[witness.name] = max(at_s, seen.get(witness.name, 0))
        if witness.name not in seen:
            raise NoteInvalid(f"{witness.name} did not cosign the checkpoint")
    return seen


def cosigned_message(text: str, at_s: int) -> bytes:
    """Return what a witness signs: the checkpoint's text with the time it was seen, in seconds since the epoch."""
    return f"cosignature/v1\ntime {at_s}\n{text}".encode()


def cosignature(key: VerifierKey, at_s: int, signature: bytes) -> NoteSignature:
    """Return the signature line of a witness. `signature` is over `cosigned_message`."""
    return NoteSignature(key.name, key.key_id, at_s.to_bytes(8, "big") + signature)


def checkpoint_text(head: TreeHead) -> str:
    """Return the note text of a checkpoint. Raises: NoteInvalid for a head that can't be written."""
    if not head.origin or head.size < 0 or len(head.root) != HASH_BYTES:
        raise NoteInvalid("a checkpoint has an origin, a size and a root")
    lines = [head.origin, str(head.size), b64encode(head.root).decode(), *head.extensions]
    if any(not line or "\n" in line for line in lines):
        raise NoteInvalid("a checkpoint's lines are not empty")
    return "".join(f"{line}\n" for line in lines)


def parse_checkpoint(text: str) -> TreeHead:
    """Read a checkpoint's note text. Raises: NoteInvalid."""
    if not text.endswith("\n"):
        raise NoteInvalid("a checkpoint ends in a newline")
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise NoteInvalid("a checkpoint has an origin, a size and a root, and no empty line")
    origin, size, root, *extensions = lines
    if not (size.isascii() and size.isdigit()) or len(size) > 19 or (size[0] == "0" and size != "0"):
        raise NoteInvalid("the tree size is not a decimal number")
    raw = _base64(root)
    if len(raw) != HASH_BYTES:
        raise NoteInvalid("the root is not a SHA-256 hash")
    return TreeHead(origin=origin, size=int(size), root=raw, extensions=tuple(extensions))


def _base64(text: str) -> bytes:
    """Decode standard base64 in its one spelling only. Raises: NoteInvalid."""
    try:
        raw = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteInvalid("not base64") from None
    if b64encode(raw).decode() != text:
        raise NoteInvalid("not canonical base64")
    return raw


def _check_name(name: str) -> None:
    if not name or "+" in name or any(c.isspace() or "\ud800" <= c <= "\udfff" for c in name):
        raise NoteInvalid("a key's name is not empty and holds neither spaces nor plus signs")


def _check_text(text: str) -> None:
    if any(c < " " and c != "\n" for c in text):
        raise NoteInvalid("a note holds no control characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NoteInvalid("a note is UTF-8") from None
