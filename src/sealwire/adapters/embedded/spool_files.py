"""The request spool in segment files: sealed, numbered frames, fsynced. Its promises: services/gateway/ports.py."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from sealwire.contracts.compliance import AuditEntry
from sealwire.kit.envelopes import EnvelopeRefused, SealingKey
from sealwire.services.gateway.ports import Place

log = structlog.get_logger("sealwire.spool")

SEGMENT_BYTES: Final = 4 * 1024 * 1024
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_LENGTH_BYTES: Final = 4
_SUFFIX: Final = ".spool"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[AuditEntry]).decode


class SealedSpoolFiles:
    """`<number>.spool` files of frames `length (4) ‖ envelope`; an envelope is bound to segment and frame number."""

    def __init__(self, folder: Path, key: SealingKey, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._key = key
        self._segment_bytes = segment_bytes
        self._sizes: dict[int, int] = {}
        self._handle = -1
        self._number = 0
        self._frames = 0
        self.lost = 0

    def open(self) -> Place:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sizes = {int(path.stem): path.stat().st_size for path in self._folder.glob(f"*{_SUFFIX}")}
        first = min(self._sizes, default=0)
        self._number = max(self._sizes, default=0)
        self.rotate()
        return Place(first or self._number)

    def append(self, entries: Sequence[AuditEntry]) -> None:
        if self._sizes[self._number] >= self._segment_bytes:
            self.rotate()
        number, frame, size = self._number, self._frames, self._sizes[self._number]
        sealed = self._key.seal(_encode(entries), _context(number, frame))
        content = len(sealed).to_bytes(_LENGTH_BYTES, "big") + sealed
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(self._handle, content[written:], size + written)
            os.fdatasync(self._handle)
        except OSError:
            os.ftruncate(self._handle, size)
            raise
        self._frames += 1
        self._sizes[number] = size + len(content)

    def read(self, place: Place) -> tuple[Sequence[AuditEntry], Place] | None:
        while place.segment not in self._sizes or place.offset >= self._sizes[place.segment]:
            following = min((number for number in self._sizes if number > place.segment), default=0)
            if not following:
                return None
            place = Place(following)
        path = self._path(place.segment)
        try:
            with path.open("rb") as file:
                file.seek(place.offset)
                length = int.from_bytes(file.read(_LENGTH_BYTES), "big")
                sealed = file.read(length) if length <= MAX_FRAME_BYTES else b""
            if len(sealed) < length or length == 0 or length > MAX_FRAME_BYTES:
                return self._cut(place, torn=place.offset + _LENGTH_BYTES + length > self._sizes[place.segment])
            entries = _decode(self._key.open(sealed, _context(place.segment, place.frame)))
        except (EnvelopeRefused, msgspec.MsgspecError):
            return self._cut(place, torn=False)
        return entries, Place(place.segment, place.offset + _LENGTH_BYTES + length, place.frame + 1)

    def forget(self, before: Place) -> None:
        for number in [n for n in self._sizes if n < before.segment and n != self._number]:
            self._path(number).unlink(missing_ok=True)
            del self._sizes[number]

    def rotate(self) -> None:
        if self._handle >= 0 and not self._sizes[self._number]:
            return
        self._close_segment()
        self._number += 1
        self._frames = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._handle = os.open(self._path(self._number), flags, 0o600)
        self._sizes[self._number] = 0
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes.values())

    def close(self) -> None:
        self._close_segment()

    def _close_segment(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _cut(self, place: Place, *, torn: bool) -> tuple[Sequence[AuditEntry], Place]:
        """End a segment early: a torn end was never acknowledged; anything else is damage and is kept aside."""
        if not torn:
            self.lost += 1
            log.error("spool segment damaged", segment=place.segment, frame=place.frame)
            path = self._path(place.segment)
            path.with_suffix(".damaged").write_bytes(path.read_bytes()[place.offset :])
        self._sizes[place.segment] = place.offset
        return (), place

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{_SUFFIX}"


def _context(segment: int, frame: int) -> bytes:
    return b"spool:%d:%d" % (segment, frame)
