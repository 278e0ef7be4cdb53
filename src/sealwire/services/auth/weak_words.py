"""Words that passwords are made of, and how much of a password is nothing else; look-alike letters count as the letter.

Two lists: what is tried first, which never counts, and common words, of which one or two don't count either. Three of
these are a phrase: with thousands to choose from that is more than a guesser of one account gets to try.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

TRIED_FIRST: Final = "weak_passwords.txt"
COMMON: Final = "common_words.txt"
PHRASE_WORDS: Final = 3
CHARS_A_WORD: Final = 2
"""What each word of a phrase counts, in characters of the person's own."""
_SHORTEST: Final = 3
_SHORTEST_OF_A_PHRASE: Final = 4
_LOOK_ALIKE: Final = str.maketrans("4@310!|l5$789", "aaeioiiisstbg")


def canonical(text: str) -> str:
    """Return the text with look-alikes as one letter each; it stays as long as it is."""
    return text.translate(_LOOK_ALIKE)


class WeakWords:
    """Both lists, read when the first password is judged."""

    def __init__(self) -> None:
        self._common: frozenset[str] | None = None
        self._words: frozenset[str] = frozenset()
        self._longest = 0

    def take_out(self, text: str) -> tuple[str, int]:
        """Return what is left of a case-folded text without listed words, and what a phrase of them counts."""
        common = self._common if self._common is not None else self._load()
        plain, left, used, at = canonical(text), [], set(), 0
        while at < len(text):
            for length in range(min(self._longest, len(text) - at), _SHORTEST - 1, -1):
                word = plain[at : at + length]
                if word in self._words:
                    if word in common and length >= _SHORTEST_OF_A_PHRASE:
                        used.add(word)
                    at += length
                    break
            else:
                left.append(text[at])
                at += 1
        return "".join(left), CHARS_A_WORD * len(used) if len(used) >= PHRASE_WORDS else 0

    def __len__(self) -> int:
        if self._common is None:
            self._load()
        return len(self._words)

    def _load(self) -> frozenset[str]:
        self._common, self._words, self._longest = _lists()
        return self._common


@cache
def _lists() -> tuple[frozenset[str], frozenset[str], int]:
    """Return the common words, all words, and how long the longest is: read once, whoever asks."""
    first = _read(TRIED_FIRST)
    common = _read(COMMON) - first
    words = first | common
    return common, words, max(map(len, words))


def _read(name: str) -> frozenset[str]:
    text = resources.files(__package__).joinpath(name).read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return frozenset(canonical(word) for line in lines for word in line.split() if len(word) >= _SHORTEST)
