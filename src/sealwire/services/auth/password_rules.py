"""Which passwords are good enough: long, and not made of what is tried first or of what everybody knows."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from sealwire.services.auth.breached import BreachedFile
from sealwire.services.auth.known_passwords import KnownPasswords
from sealwire.services.auth.weak_words import WeakWords

MIN_CHARS: Final = 10
MAX_CHARS: Final = 1_024
MIN_DISTINCT_CHARS: Final = 5
MIN_OWN_CHARS: Final = 6
"""How many characters have to be left once everything predictable is taken out."""
_LONG_CHARS: Final = 64
"""Past this length a password that does not repeat itself has enough of its own."""

_ROWS: Final = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "yxcvbnm",
    "azertyuiop",
    "qsdfghjklm",
    "wxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm",
    "qazwsxedcrfvtgbyhnujm",
    "1q2w3e4r5t6y7u8i9o0p",
    "q1w2e3r4t5y6u7i8o9p0",
    "qawsedrftgyhujikolp",
    "1a2s3d4f5g6h7j8k9l0",
    "a1s2d3f4g5h6j7k8l9",
    "a1b2c3d4e5f6g7h8i9j0",
    "1a2b3c4d5e6f7g8h9i0j",
    "1z2x3c4v5b6n7m",
    "z1x2c3v4b5n6m7",
    "qweasdzxc",
    "zxcasdqwe",
    "123qweasdzxc",
    "qazxswedc",
    "q1q2q3q4q5q6",
    "1q1q2w2w3e3e",
    "a1a2a3a4a5a6",
    "aabbccddeeffgghh",
    "1020304050607080901",
    "0102030405060708091",
    "1029384756102938",
    "0192837465019283",
    "4815162342",
    "112233445566778899001122",
    "13579246801357924680",
    "0246813579",
    "147258369147",
    "159753159357456852",
    "789456123789",
    "741852963741",
    "123654789",
    "3141592653589793",
    "1123581321345589",
    "!@#$%^&*()",
    "!1@2#3$4%5^6&7*8(9)0",
    "!qaz@wsx#edc$rfv%tgb",
)
"""Along the keyboard, the alphabet and the digits, straight, in columns and in zigzag; backwards too."""
_ROW_CHARS: Final = 4
_YEAR: Final = re.compile(r"(?:19|20)\d\d")
_SHIPPED: Final = KnownPasswords()


def normalised(password: str) -> str:
    """Return the form that is hashed: NFKC, so that one password typed on two keyboards stays one (NIST SP 800-63B)."""
    return unicodedata.normalize("NFKC", password)


class PasswordRules:
    """Judges new passwords. `breached`: a list of the machine's own beside what comes with it.

    `known`: the passwords that were found in breaches most often; the file of this package, unless told otherwise.
    """

    def __init__(self, breached: BreachedFile | None = None, *, known: KnownPasswords | None = _SHIPPED) -> None:
        """Raises: ValueError where the file of known passwords can't be used."""
        if known is not None:
            known.require()
        self._breached = breached
        self._known = known
        self._words = WeakWords()
        rows = [row + row[::-1] for row in _ROWS]
        self._row_parts = frozenset(
            row[at : at + _ROW_CHARS] for row in rows for at in range(len(row) - _ROW_CHARS + 1)
        )

    def weakness(self, password: str, *, about: tuple[str, ...] = ()) -> str | None:
        """Say what is wrong with `password` and what would be better, or None when it is good enough.

        `about`: what everybody knows of the person (e-mail, display name, tenant).
        """
        if len(normalised(password)) < MIN_CHARS:
            return f"The password needs at least {MIN_CHARS} characters; a few words in a row are easy to keep in mind."
        if len(password) > MAX_CHARS:
            return f"The password may have at most {MAX_CHARS} characters."
        folded = normalised(password).casefold()
        if len(set(folded)) < MIN_DISTINCT_CHARS:
            return f"The password needs at least {MIN_DISTINCT_CHARS} different characters."
        if self._breached is not None and self._breached.holds(password):
            return "The password is in a list of passwords that were stolen somewhere; use one that nobody else had."
        own = _period(folded)
        if len(own) < MIN_OWN_CHARS:
            return "The password repeats itself; use words that don't follow each other."
        if len(own) > _LONG_CHARS:
            return None
        own = _without(own, about)
        if len(own) < MIN_OWN_CHARS:
            return "The password is little more than your name or e-mail address; use something nobody knows of you."
        own, phrase = self._words.take_out(own)
        own = _YEAR.sub("", own)
        if len(own) + phrase < MIN_OWN_CHARS:
            return "The password is among those that are tried first; add words of your own."
        if len(self._without_rows(own)) + phrase < MIN_OWN_CHARS:
            return "The password is a row of keys with little else; use words that don't follow each other."
        if self._known is not None and self._known.holds(folded):
            return "The password is among those that are tried first: many people had it, or one much like it."
        return None

    def _without_rows(self, text: str) -> str:
        """Take out what is typed by running along the keyboard, the alphabet or the digits, and repeated characters."""
        covered = bytearray(len(text))
        for at in range(len(text) - _ROW_CHARS + 1):
            part = text[at : at + _ROW_CHARS]
            if part in self._row_parts or len(set(part)) == 1:
                covered[at : at + _ROW_CHARS] = b"\x01" * _ROW_CHARS
        return "".join(char for char, hidden in zip(text, covered, strict=True) if not hidden)


def _period(text: str) -> str:
    """Return the shortest text that `text` is a repetition of."""
    return text[: (text + text).find(text, 1)]


def _without(text: str, about: tuple[str, ...]) -> str:
    """Take out the person's own words: whole values, and their parts of three characters and more."""
    parts = {part for value in about for part in (value.casefold(), *re.split(r"[\W_]+", value.casefold()))}
    for part in sorted((p for p in parts if len(p) >= 3), key=len, reverse=True):
        text = text.replace(part, "")
    return text
