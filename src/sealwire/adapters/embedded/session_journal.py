"""The session journal in one file: sealed, numbered entries, fsynced. Its promises: boundary/ports.py."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from sealwire.boundary.ports import JournalEntry
from sealwire.kit.envelopes import EnvelopeRefused, SealingKey
from sealwire.kit.files import sync_folder, write_all

_LOG = logging.getLogger("sealwire.boundary")
_MAGIC: Final = b"sealwire-sessions-1\n"
_ID_BYTES: Final = 16
_HEAD_BYTES: Final = len(_MAGIC) + _ID_BYTES
_LENGTH_BYTES: Final = 4
MAX_ENTRY_BYTES: Final = 64 * 1024
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(JournalEntry).decode


class SealedSessionJournal:
    """Frames of `length (4) ‖ envelope`; each envelope is bound to the file's id and its own number.

    So no frame opens in another place or another file. A frame that does not open ends the journal: the rest of the
    file is set aside under `.damaged` (a torn last frame is simply cut off).
    """

    def __init__(self, path: Path, key: SealingKey) -> None:
        self._path = path
        self._key = key
        self._file_id = b""
        self._count = 0
        self._handle = -1
        self.damaged = False

    def __len__(self) -> int:
        return self._count

    def load(self) -> Sequence[JournalEntry]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = self._path.read_bytes() if self._path.exists() else b""
        if not content.startswith(_MAGIC) or len(content) < _HEAD_BYTES:
            if len(content) >= _HEAD_BYTES:
                self._set_aside()
            self.replace(())
            return ()
        self._file_id = content[len(_MAGIC) : _HEAD_BYTES]
        entries, end, torn = self._read(content)
        self._count = len(entries)
        if end < len(content) and not torn:
            _LOG.error("the session journal is damaged after entry %d; the rest is set aside", len(entries))
            self._set_aside()
            self.replace(entries)
        else:
            self._open()
            os.ftruncate(self._handle, end)
            os.lseek(self._handle, end, os.SEEK_SET)
        return entries

    def append(self, entries: Sequence[JournalEntry]) -> None:
        if not entries:
            return
        end = os.lseek(self._handle, 0, os.SEEK_CUR)
        try:
            write_all(self._handle, self._frames(entries))
            os.fdatasync(self._handle)
        except OSError:
            os.ftruncate(self._handle, end)  # a part of a frame must not stand before the next one
            os.lseek(self._handle, end, os.SEEK_SET)
            raise
        self._count += len(entries)

    def replace(self, entries: Sequence[JournalEntry]) -> None:
        self.close()
        self._file_id = os.urandom(_ID_BYTES)
        self._count = 0
        draft = self._path.with_name(self._path.name + ".new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(handle, _MAGIC + self._file_id + self._frames(entries))
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.replace(self._path)
        sync_folder(self._path.parent)
        self._count = len(entries)
        self._open()
        os.lseek(self._handle, 0, os.SEEK_END)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        self.close()
        self._handle = os.open(self._path, os.O_WRONLY)

    def _context(self, number: int) -> bytes:
        return b"session-journal\0" + self._file_id + number.to_bytes(8, "big")

    def _frames(self, entries: Iterable[JournalEntry]) -> bytes:
        parts = []
        for number, entry in enumerate(entries, self._count):
            envelope = self._key.seal(_encode(entry), self._context(number))
            parts += [len(envelope).to_bytes(_LENGTH_BYTES, "big"), envelope]
        return b"".join(parts)

    def _read(self, content: bytes) -> tuple[list[JournalEntry], int, bool]:
        """Return the good entries, where they end, and whether what follows is a torn last frame."""
        entries: list[JournalEntry] = []
        at = _HEAD_BYTES
        while at < len(content):
            start = at + _LENGTH_BYTES
            length = int.from_bytes(content[at:start], "big")
            if start + length > len(content) and length <= MAX_ENTRY_BYTES:
                return entries, at, True
            try:
                entries.append(_decode(self._key.open(content[start : start + length], self._context(len(entries)))))
            except (EnvelopeRefused, msgspec.MsgspecError):
                # A crash can leave the last frame's blocks unwritten; more than that is somebody's hand or a bad disk.
                return entries, at, start + length >= len(content)
            at = start + length
        return entries, at, False

    def _set_aside(self) -> None:
        self.damaged = True
        self._path.replace(self._path.with_name(self._path.name + ".damaged"))
