"""A segment of the spool on disk: sealed frames, each bound to its segment and place.

    frame = length of the envelope (4 bytes, big-endian) ‖ envelope
    envelope = the bulk envelope of kit/envelopes.py over a JSON array of audit entries, context (segment, index)

An empty array ends a segment. So a frame that was changed, moved, doubled or taken out is found, and so is an end cut
off a segment that was closed. A segment without its end was being written when the process died: its last frame may be
torn, which loses only what was never promised.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from sealwire.contracts.audit_log import AuditEntry
from sealwire.kit.envelopes import BULK_OVERHEAD_BYTES, EnvelopeRefused, SealingKey, bind

SUFFIX = ".spool"
MAX_FRAME_BYTES = 64 * 1024 * 1024
_USUAL_FRAME_BYTES = 96 * 1024
_LENGTH_BYTES = 4
_PURPOSE = "api-record-spool"
_encode_into = msgspec.json.Encoder().encode_into
_decode = msgspec.json.Decoder(list[AuditEntry]).decode


class Contents(NamedTuple):
    """What a segment held. `damaged` counts frames that don't open or are missing, a torn last one excepted."""

    entries: list[AuditEntry]
    damaged: int
    ended: bool


def path_of(folder: Path, number: int) -> Path:
    """Return where a segment lies."""
    return folder / f"{number:012d}{SUFFIX}"


def numbers_in(folder: Path) -> list[int]:
    """Return the numbers of the segments in a folder, oldest first."""
    return sorted(int(p.stem) for p in folder.glob(f"*{SUFFIX}") if p.stem.isdigit())


class SegmentWriter:
    """Appends frames to a new segment."""

    def __init__(self, *, folder: Path, number: int, key: SealingKey) -> None:
        """Make the file. Raises: OSError; FileExistsError when there is such a segment, which is never continued."""
        self.number = number
        self.path = path_of(folder, number)
        self.bytes = 0
        self._key = key
        self._index = 0
        self._plain = bytearray(_USUAL_FRAME_BYTES)
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def append(self, entries: Sequence[AuditEntry]) -> None:
        """Write one frame; it outlives this process now, and the machine once `fd` is synced.

        Raises: OSError; then nothing of the frame is left in the file.
        """
        _encode_into(entries, self._plain)  # one piece of memory for all frames: a new one grows step by step
        envelope = self._key.seal(self._plain, _context(self.number, self._index))
        frame = memoryview(len(envelope).to_bytes(_LENGTH_BYTES, "big") + envelope)
        written = 0
        try:
            while written < len(frame):
                written += os.write(self.fd, frame[written:])
        except OSError:
            os.ftruncate(self.fd, self.bytes)
            os.lseek(self.fd, self.bytes, os.SEEK_SET)
            raise
        self.bytes += len(frame)
        self._index += 1

    def end(self) -> None:
        """Write the end. Raises: OSError."""
        self.append([])

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


def read_segment(path: Path, key: SealingKey) -> Contents:
    """Read a segment. Frames that don't open are counted and passed over. Raises: OSError."""
    content = path.read_bytes()
    number = int(path.stem)
    entries: list[AuditEntry] = []
    damaged = index = at = 0
    while at < len(content):
        start = at + _LENGTH_BYTES
        length = int.from_bytes(content[at:start], "big")
        end = start + length
        if length < BULK_OVERHEAD_BYTES or length > MAX_FRAME_BYTES or end > len(content):
            return Contents(entries, damaged + _lost(content, at, number, index, key), ended=False)
        try:
            found = _decode(key.open(content[start:end], _context(number, index)))
        except (EnvelopeRefused, msgspec.MsgspecError):
            if not content[end:].strip(b"\0"):  # the last frame of a segment without its end: torn
                return Contents(entries, damaged, ended=False)
            damaged += 1
        else:
            if not found:
                return Contents(entries, damaged + (end < len(content)), ended=True)
            entries += found
        at, index = end, index + 1
    return Contents(entries, damaged, ended=False)


def _lost(content: bytes, at: int, number: int, index: int, key: SealingKey) -> int:
    """Tell a torn last frame from a damaged length in the middle: is there any sealed frame behind it?"""
    head = key.seal(b"", _context(number, index))[: 1 + len(key.key_id)]
    return int(content.find(head, at + _LENGTH_BYTES + 1) >= 0)


def _context(number: int, index: int) -> bytes:
    return bind(_PURPOSE, str(number), str(index))
