"""Known passwords: digests of those that were found in breaches most often, in a file that comes with the package.

What the words and rows of password_rules.py don't refuse by themselves and people, or machines that opened accounts by
the thousand, used all the same. The file holds the first five bytes of a hash of each, sorted: no password can be read
from it, and one in millions that nobody used is refused by chance. `scripts/known_passwords.py` makes it.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path
from typing import Final

from sealwire.services.auth.weak_words import canonical

DIGEST_BYTES: Final = 5
FILE: Final = Path(__file__).with_name("known_passwords.bin")
MIN_STEM_CHARS: Final = 6
_TAIL: Final = "0123456789!?.,-_*#+$@"
"""What is put behind a word so that it passes for another."""


def digest(folded: str) -> bytes:
    """Return what the file holds of a case-folded password; look-alike letters count as the letter."""
    return hashlib.blake2b(canonical(folded).encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def stem(folded: str) -> str:
    """Return a password without the digits and signs at its end; the whole where too little would be left."""
    bare = folded.rstrip(_TAIL)
    return bare if len(bare) >= MIN_STEM_CHARS else folded


class KnownPasswords:
    """Looks into the file where it lies."""

    def __init__(self, path: Path = FILE) -> None:
        self._path = path
        self._digests: mmap.mmap | None = None

    def require(self) -> None:
        """Open the file now. Raises: ValueError where it is missing or cut off: no password could be judged by it."""
        try:
            if len(self._opened()) % DIGEST_BYTES:
                raise ValueError("it is cut off")
        except (OSError, ValueError) as error:
            raise ValueError(f"the list of known passwords that comes along can't be used: {error}") from None

    def holds(self, folded: str) -> bool:
        """Whether a case-folded password, or what is left of it without its tail, is known."""
        return self._find(digest(folded)) or self._find(digest(stem(folded)))

    def __len__(self) -> int:
        return len(self._opened()) // DIGEST_BYTES

    def _find(self, wanted: bytes) -> bool:
        digests = self._opened()
        low, high = 0, len(digests) // DIGEST_BYTES
        while low < high:
            middle = (low + high) // 2
            found = digests[middle * DIGEST_BYTES : (middle + 1) * DIGEST_BYTES]
            if found == wanted:
                return True
            if found < wanted:
                low = middle + 1
            else:
                high = middle
        return False

    def _opened(self) -> mmap.mmap:
        if self._digests is None:
            with self._path.open("rb") as file:
                self._digests = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._digests
