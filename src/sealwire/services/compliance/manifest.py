"""An export's frame: the manifest before the records, the end behind them, and the notes in between.

    {"manifest": {...}}                   what the file holds, the checkpoint over the log, the keys
    {"action": ..., "hash": ...}          a record a line
    {"checkpoint": "<signed note>"}       anywhere: a checkpoint more; with `rotations` that came since
    {"end": {"records": n, "sha256": h}}  how many records, and the hash over all lines above

The frame is the server's word and saves work; what counts is what the key signed. Where retention took records while
they were read, the records that came since follow, and a checkpoint over those too: among them are those that say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

import msgspec

from sealwire.services.compliance.canonical import NotCanonical
from sealwire.services.compliance.chain import refuse_doubles
from sealwire.services.compliance.cut import line_is_cut
from sealwire.services.compliance.key_chain import KeyChain, refuse_other_keys
from sealwire.services.compliance.notes import NoteInvalid, TreeHead, VerifierKey, parse_checkpoint, parse_note

FORMAT = "sealwire-audit-export/1"
_MANIFEST_LINE = b'{"manifest":'
_CHECKPOINT_LINE = b'{"checkpoint":'
_END_LINE = b'{"end":'
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, NotCanonical)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an export holds."""

    format: str
    origin: str
    tenant_id: str
    from_seq: int
    to_seq: int
    tree_size: int
    made_at: str
    checkpoint: str
    public_key: str
    first_key: str
    rotations: list[str] = []
    cosigned: str = ""
    """The newest checkpoint that a witness cosigned; empty without one."""


class ManifestLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line."""

    manifest: Manifest


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file should have held."""

    records: int
    sha256: str


class EndLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last line."""

    end: End


class CheckpointLine(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A checkpoint between the records, and the rotations that lead to its key from those known before."""

    checkpoint: str
    rotations: list[str] = []


write_line = msgspec.json.Encoder().encode
_read_manifest = msgspec.json.Decoder(ManifestLine).decode
_read_end = msgspec.json.Decoder(EndLine).decode
_read_checkpoint = msgspec.json.Decoder(CheckpointLine).decode


class Frame:
    """Reads an export: hands the records on, and keeps what stands around them."""

    def __init__(self, given: Sequence[str], keys: Sequence[VerifierKey], rotations: Sequence[str]) -> None:
        """`given` are the checkpoints held; they are believed when a trusted key signed them, as all others."""
        self._keys = keys
        self._rotations = list(rotations)
        self._waiting = list(given)
        self._beyond: list[str] = []
        self._believed: list[str] = []
        self._chain: KeyChain | None = None
        self._origin: str | None = None
        self._hash = sha256()
        self._lines = 0
        self.manifest: Manifest | None = None
        self.end: End | None = None
        self.end_hash = ""
        self.cut = False
        """Whether the file ends in the middle of one of its lines around the records."""
        self.heads: list[TreeHead] = []
        """Checkpoints known before the first record."""
        self.late: list[TreeHead] = []
        """Checkpoints that came after it."""

    def records(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the records on. Raises: NoteInvalid for a frame that can't be read or a note nobody trusted signed."""
        for line in lines:
            if self.end is not None and line.strip():
                raise NoteInvalid("a line stands behind the end")
            if line.startswith((_MANIFEST_LINE, _CHECKPOINT_LINE, _END_LINE)):
                self._read(line)
                continue
            if self.manifest is not None:
                self._hash.update(line)
            if line.strip():
                if self._chain is None:
                    self._begin()
                yield line
        if self._chain is None:
            self._begin()

    @property
    def intact(self) -> bool:
        """Whether a file with a manifest has its end, and is as it was written. True for one without a manifest."""
        return self.manifest is None or (self.end is not None and self.end.sha256 == self.end_hash)

    def _read(self, line: bytes) -> None:
        try:
            refuse_doubles(line)
            if line.startswith(_END_LINE):
                if self.manifest is not None and not line.endswith(b"\n"):
                    self.cut = True
                    return
                self.end, self.end_hash = _read_end(line).end, self._hash.hexdigest()
                return
            if self.manifest is not None or line.startswith(_MANIFEST_LINE):
                self._hash.update(line)
            if line.startswith(_CHECKPOINT_LINE):
                self._take(_read_checkpoint(line))
                return
            first, self.manifest = self.manifest is None and self._chain is None, _read_manifest(line).manifest
        except _UNREADABLE:
            if line_is_cut(line):
                self.cut = True
                return
            raise NoteInvalid("a line around the records can't be read") from None
        if self.manifest.format != FORMAT or not first:
            raise NoteInvalid("the manifest is of another format, or not the first line")
        if not self.manifest.origin.endswith(f"/{self.manifest.tenant_id}"):
            raise NoteInvalid("the manifest names two logs")
        self._origin = self.manifest.origin
        self._rotations += self.manifest.rotations
        for note in filter(None, (self.manifest.checkpoint, self.manifest.cosigned)):
            # What ends before the log does can't be compared with a checkpoint over all of it.
            here = parse_checkpoint(parse_note(note).text).size <= self.manifest.to_seq
            (self._waiting if here else self._beyond).append(note)

    def _take(self, line: CheckpointLine) -> None:
        """Take a checkpoint in. Raises: NoteInvalid."""
        self._rotations += line.rotations
        if self._chain is None:
            self._waiting.append(line.checkpoint)
            return
        if line.rotations:
            self._chain = KeyChain.of(self._keys, self._rotations)
            for note in self._believed:
                self._chain.checkpoint(note)  # its key may have been followed by then
        self.late.append(self._head(line.checkpoint))

    def _begin(self) -> None:
        """Settle which keys count, and read the checkpoints that wait for it."""
        if self._keys and (m := self.manifest) is not None:
            refuse_other_keys(
                self._keys, m.rotations, first_key=m.first_key, public_key=m.public_key, note=m.checkpoint,
                where="the manifest",
            )  # fmt: skip
        self._chain = KeyChain.of(self._keys, self._rotations)
        self.heads = [self._head(note) for note in self._waiting]
        for note in self._beyond:
            self._head(note)

    def _head(self, note: str) -> TreeHead:
        assert self._chain is not None  # settled before
        head = self._chain.checkpoint(note)
        if self._origin not in {None, head.origin}:
            raise NoteInvalid("the checkpoints are of different logs")
        self._origin = head.origin
        self._believed.append(note)
        return head
