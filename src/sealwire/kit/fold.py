"""Text made comparable: case, accents and widths folded; scripts written without spaces cut into overlapping pairs.

Index and highlighter use this one rule, so that what is found is what is marked.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

# Marks that readers leave out when they type: Latin/Greek/Cyrillic accents, Hebrew points, Arabic vowels and tatweel,
# variation selectors, soft hyphen, zero-width joiners. Marks of other scripts carry meaning and stay.
_DROPPED = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u064b-\u065f\u0670\u0640\ufe00-\ufe0f\u00ad\u200b-\u200d\u2060\ufeff]+"
)
# Letters that Unicode does not decompose and people type without their stroke or ligature.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ŋ": "n", "ς": "σ"}
)
# Scripts written without spaces between words (and emoji, where every sign is a word): UAX #29 leaves them to
# dictionaries; overlapping pairs find any part of a sentence without one.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\u2600-\u27bf\U0001f1e6-\U0001faff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{UNSPACED}]+")
# Indic vowel signs are no letters to `\w`; without them a word would fall apart.
WORD = re.compile("(?:[^\\W_]|[\u0900-\u0963\u0966-\u0dff])+")


def fold(text: str) -> str:
    """Return the text in lower case, without accents, one form per character. Never fails; the length may change."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFC", _DROPPED.sub("", text)).translate(_LETTERS)


def analyse(text: str) -> tuple[str, list[str]]:
    """Return the folded text, to be cut at all that is no letter or digit, and the runs of unspaced script in it."""
    if text.isascii():
        return text.lower(), []
    folded = fold(text)
    runs = _RUN.findall(folded)
    return (_RUN.sub(" ", folded), runs) if runs else (folded, runs)


def pairs(run: str) -> list[str]:
    """Return the overlapping pairs of a run and its last character alone, so that every character begins one."""
    return [*map("".join, pairwise(run)), run[-1]]
