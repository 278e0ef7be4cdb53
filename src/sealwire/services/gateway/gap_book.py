"""The book of gaps: what was lost and is not recorded yet, in a file, so that a kill doesn't lose the count with it.

    file = two copies of the book, each its length (4 bytes, big-endian) ‖ envelope, in BOOK_BYTES

The bytes are written when the file is made: a disk that is full later has nothing to refuse (one that copies on write
may). A save overwrites the older copy in place, so a torn one leaves the other. It costs one sealed write and no wait;
the spool's sync makes it last.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from sealwire.kit.envelopes import EnvelopeRefused, SealingKey, bind
from sealwire.kit.files import write_all

NAME: Final = "gaps.book"
BOOK_BYTES: Final = 256 * 1024
_LENGTH_BYTES: Final = 4
_PURPOSE: Final = "api-record-gaps"


class Gap(msgspec.Struct, kw_only=True):
    """What one tenant lost for one reason. Once closed its record is made, and is the same however often it is sent."""

    gap_id: str
    tenant_id: str
    reason: str
    count: int
    first_us: int
    last_us: int
    closed: bool = False
    """Whether its record is made; else it counts on."""


class Book(msgspec.Struct, kw_only=True):
    """All gaps, and by tenant what is kept in memory alone and dies with the process (count, first and last time)."""

    generation: int = 0
    gaps: list[Gap] = []
    held: dict[str, tuple[int, int, int]] = {}


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Book).decode


class BookUnreadable(Exception):
    """The file is there and neither copy can be opened."""


class GapBook:
    """The file of one spool."""

    def __init__(self, *, folder: Path, key: SealingKey) -> None:
        self._path = folder / NAME
        self._key = key
        self._generation = 0
        self._fd = -1
        self.unsynced = False

    def open(self) -> Book:
        """Open the file, or make it; return what it says. Blocks. Raises: OSError, BookUnreadable (open, and empty)."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if (lacking := 2 * BOOK_BYTES - os.lseek(fd, 0, os.SEEK_END)) > 0:
                write_all(fd, bytes(lacking))
                os.fsync(fd)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        copies = [self._read(copy) for copy in (0, 1)]
        found = [book for book in copies if book is not None]
        if not found:
            if any(os.pread(self._fd, _LENGTH_BYTES, copy * BOOK_BYTES).strip(b"\0") for copy in (0, 1)):
                raise BookUnreadable(str(self._path))
            return Book()
        newest = max(found, key=lambda book: book.generation)
        self._generation = newest.generation
        return newest

    def _read(self, copy: int) -> Book | None:
        content = os.pread(self._fd, BOOK_BYTES, copy * BOOK_BYTES)
        end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
        try:
            return _decode(self._key.open(content[_LENGTH_BYTES:end], bind(_PURPOSE, str(copy))))
        except (EnvelopeRefused, msgspec.MsgspecError):
            return None

    @property
    def is_open(self) -> bool:
        """Whether `open` succeeded."""
        return self._fd >= 0

    def save(self, book: Book) -> bool:
        """Write the book, so that it outlives this process; False when it is too long. Raises: OSError."""
        book.generation = self._generation + 1
        copy = book.generation % 2
        envelope = self._key.seal(_encode(book), bind(_PURPOSE, str(copy)))
        if len(envelope) + _LENGTH_BYTES > BOOK_BYTES:
            return False
        content = len(envelope).to_bytes(_LENGTH_BYTES, "big") + envelope
        if os.pwrite(self._fd, content, copy * BOOK_BYTES) != len(content):
            raise OSError("the book of gaps was written in part")
        self._generation = book.generation
        self.unsynced = True
        return True

    def sync(self) -> None:
        """Make what was saved outlive the machine too. Raises: OSError."""
        if self.unsynced and self._fd >= 0:
            self.unsynced = False
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
