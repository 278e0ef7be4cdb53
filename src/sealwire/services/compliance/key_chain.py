"""The checkpoint key's succession: each key vouches for the next, so that who trusts the first trusts them all.

A rotation is a signed note whose text is

    <origin>
    key-rotation/v1
    <tree size up to which the old key signs, and from which on the new one does>
    <old key line>
    <new key line>

signed by both: the old key says who follows, the new one that it is held by somebody. It can't be taken for a
checkpoint, whose second line is a number. An old key that is stolen later signs nothing that counts above that size.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sealwire.services.compliance.notes import (
    NoteInvalid,
    TreeHead,
    VerifierKey,
    parse_checkpoint,
    parse_key,
    parse_note,
    verify_note,
)

MARK = "key-rotation/v1"
_LINES = 5
_MAX_SIZE_DIGITS = 19


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """Who follows whom, and at which size of the tree."""

    origin: str
    size: int
    old: VerifierKey
    new: VerifierKey

    @property
    def text(self) -> str:
        """The text that both keys sign."""
        return "".join(f"{line}\n" for line in (self.origin, MARK, str(self.size), self.old.text, self.new.text))


class _Reign(msgspec.Struct, frozen=True):
    """A key, and the sizes of trees whose checkpoints it signs; `until` None: any from `since` on."""

    key: VerifierKey
    since: int
    until: int | None


class KeyChain:
    """The keys of one log that are trusted, each for the sizes it signed."""

    def __init__(self, reigns: Sequence[_Reign]) -> None:
        """Use `of`."""
        self._reigns = tuple(reigns)

    @classmethod
    def of(cls, keys: Sequence[VerifierKey], rotations: Sequence[str] = ()) -> KeyChain:
        """Trust these keys, and whom they vouch for by the rotations given, oldest first.

        Rotations by keys nobody trusts (those before the first key held) are passed over.
        Raises: NoteInvalid for a rotation that a trusted key signed wrongly, or that two of them contradict.
        """
        reigns = [_Reign(key, 0, None) for key in keys]
        for note in rotations:
            rotation = read_rotation(note)
            at = next((i for i, r in enumerate(reigns) if r.key == rotation.old), None)
            if at is None:
                continue
            reign = reigns[at]
            verify_rotation(note)
            if reign.until is not None:
                if not any(r.key == rotation.new and r.since == rotation.size for r in reigns):
                    raise NoteInvalid(f"the key {rotation.old.key_id.hex()} vouches for two successors")
                continue
            if rotation.size < reign.since:
                raise NoteInvalid("a rotation lies before the one that made its key")
            reigns[at] = _Reign(reign.key, reign.since, rotation.size)
            if not any(r.key == rotation.new for r in reigns):
                reigns.append(_Reign(rotation.new, rotation.size, None))
        return cls(reigns)

    @property
    def keys(self) -> list[VerifierKey]:
        """All keys that are trusted for some size."""
        return [reign.key for reign in self._reigns]

    def checkpoint(self, note: str) -> TreeHead:
        """Return what a checkpoint says. Raises: NoteInvalid unless a key trusted for its size signed it."""
        signed = parse_note(note)
        head = parse_checkpoint(signed.text)
        trusted = [r.key for r in self._reigns if r.since <= head.size and (r.until is None or head.size <= r.until)]
        verify_note(note, trusted)
        return head


def refuse_other_keys(
    keys: Sequence[VerifierKey], rotations: Sequence[str], *, first_key: str, public_key: str, note: str, where: str
) -> None:
    """Compare the keys that evidence names with those it is judged by; without names there is nothing to compare.

    Another first key is fine if it leads to one that is trusted: who holds a later key knows what it vouches for.
    `public_key` is the one that signed `note`. Raises: NoteInvalid naming the difference.
    """
    if first_key:
        first = parse_key(first_key)
        if first not in keys and not any(key in keys for key in KeyChain.of([first], rotations).keys):
            raise NoteInvalid(f"{where} names {first_key} as the log's first key, and the key given is {keys[0].text}")
    if public_key:
        signer = parse_key(public_key)
        if signer not in KeyChain.of(keys, rotations).keys:
            raise NoteInvalid(f"{where} names {public_key} as the key of its checkpoint, which nothing vouches for")
        try:
            verify_note(note, [signer])
        except NoteInvalid:
            raise NoteInvalid(
                f"{where} names {public_key} as the key of its checkpoint, which it did not sign"
            ) from None


def read_rotation(note: str) -> Rotation:
    """Read a rotation; nothing in it may be believed before `verify_rotation`. Raises: NoteInvalid."""
    text = parse_note(note).text
    lines = text[:-1].split("\n")
    if len(lines) != _LINES or lines[1] != MARK:
        raise NoteInvalid("not a key rotation")
    origin, _, size, old, new = lines
    if not (size.isascii() and size.isdigit()) or len(size) > _MAX_SIZE_DIGITS or str(int(size)) != size:
        raise NoteInvalid("a rotation states a tree size")
    rotation = Rotation(origin=origin, size=int(size), old=parse_key(old), new=parse_key(new))
    if rotation.text != text or rotation.old == rotation.new:
        raise NoteInvalid("not a key rotation")
    return rotation


def verify_rotation(note: str) -> Rotation:
    """Check that both keys signed. Raises: NoteInvalid."""
    rotation = read_rotation(note)
    verify_note(note, [rotation.old])
    verify_note(note, [rotation.new])
    return rotation
