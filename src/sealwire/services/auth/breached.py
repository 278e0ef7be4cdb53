"""Breached passwords: a file of the machine's own, looked into where it lies, however large it is.

Two forms. Sorted lines of upper-case SHA-1 in hex, each perhaps followed by a colon and a count, as published
collections are: found by bisection, a few dozen reads. Or one password a line, read into memory as hashes.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import unicodedata
from pathlib import Path
from typing import Final

from sealwire.services.auth.config import AuthConfig

PLAIN_MAX_BYTES: Final = 256 * 1024 * 1024
"""A list of words larger than that belongs into the sorted form: it would fill the memory."""
_HASHED: Final = re.compile(rb"[0-9A-F]{40}(:[0-9]+)?\r?")
_DIGITS: Final = 40
_SAMPLES: Final = 64


class BreachedFile:
    """Says whether a password is in a file."""

    def __init__(self, path: Path) -> None:
        """Raises: ValueError naming what is wrong with the file; OSError."""
        size_bytes = path.stat().st_size
        if not size_bytes:
            raise ValueError(f"{path}: is empty")
        with path.open("rb") as file:
            first = file.readline(4_096).rstrip(b"\n")
            self._sorted = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if _HASHED.fullmatch(first) else None
        self._words: frozenset[bytes] = frozenset()
        if self._sorted is not None:
            self._require_sorted(path, size_bytes)
        elif size_bytes > PLAIN_MAX_BYTES:
            raise ValueError(f"{path}: a plain list of more than {PLAIN_MAX_BYTES} bytes; give sorted SHA-1 instead")
        else:
            lines = path.read_text("utf-8", errors="replace").splitlines()
            self._words = frozenset(_hash(line) for line in lines if line)

    def holds(self, password: str) -> bool:
        """Whether the password is in the file; to a plain list case and form of Unicode make no difference."""
        if self._sorted is None:
            return _hash(password) in self._words or _hash(password.casefold()) in self._words
        spellings = {password, unicodedata.normalize("NFKC", password)}
        return any(self._find(hashlib.sha1(word.encode()).hexdigest().upper().encode()) for word in spellings)  # noqa: S324 - the form of the list, no protection

    def close(self) -> None:
        """Let go of the file."""
        if self._sorted is not None:
            self._sorted.close()

    def _find(self, wanted: bytes) -> bool:
        assert self._sorted is not None
        low, high = 0, len(self._sorted)
        while low < high:
            start, end = self._line_at((low + high) // 2)
            found = self._sorted[start : start + _DIGITS]
            if found == wanted:
                return True
            if found < wanted:
                low = end
            else:
                high = start
        return False

    def _line_at(self, at: int) -> tuple[int, int]:
        """Return where the line around a place begins, and where the next one does."""
        assert self._sorted is not None
        start = self._sorted.rfind(b"\n", 0, at) + 1
        end = self._sorted.find(b"\n", at)
        return start, len(self._sorted) if end < 0 else end + 1

    def _require_sorted(self, path: Path, size_bytes: int) -> None:
        """Look at lines all over the file: an unsorted one would find nothing and say nothing."""
        assert self._sorted is not None
        before = b""
        for at in range(0, size_bytes, max(1, size_bytes // _SAMPLES)):
            start, end = self._line_at(min(at, size_bytes - 1))
            line = self._sorted[start:end].rstrip(b"\n")
            if not _HASHED.fullmatch(line):
                raise ValueError(f"{path}: at byte {start} is no upper-case SHA-1 in hex")
            if line[:_DIGITS] < before:
                raise ValueError(f"{path}: is not sorted by hash (at byte {start})")
            before = line[:_DIGITS]


def breached_in(config: AuthConfig) -> BreachedFile | None:
    """Open the file that a setting names. Raises: ValueError naming the setting."""
    if not config.breached_passwords:
        return None
    try:
        return BreachedFile(Path(config.breached_passwords))
    except (OSError, ValueError) as error:
        raise ValueError(f"auth.breached_passwords: {error}") from None


def _hash(password: str) -> bytes:
    return hashlib.blake2b(unicodedata.normalize("NFKC", password).encode(), digest_size=12).digest()
