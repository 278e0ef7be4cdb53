"""Snippets: the part of a text around what was found, as HTML with `<mark>` and nothing else of the text's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from html import escape

from sealwire.kit.fold import WORD, analyse, fold
from sealwire.services.search.model import Wanted

SNIPPET_CHARS = 200
LEAD_CHARS = 60
SEARCHED_CHARS = 20_000
TYPO_WORDS = 3_000
PREFIX_FROM, TYPO_FROM = 2, 4
# Controls, and marks that turn the direction of what follows: a snippet must not reorder the page around it.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SPACE = re.compile(r"\s+")


class Highlighter:
    """Finds what a query matched in a text, by the folding that the index uses. Made once per search."""

    def __init__(self, wanted: Wanted) -> None:
        terms, runs = set(), set()
        for text in (*wanted.words, *wanted.phrases):
            folded, unspaced = analyse(text)
            terms.update(WORD.findall(folded))
            runs.update(unspaced)
        self._typos = [term for term in terms if len(term) >= TYPO_FROM and term.isalpha()]
        ways = [re.escape(run) for run in sorted(runs, key=len, reverse=True)]
        for term in sorted(terms, key=len, reverse=True):
            tail = rf"(?:{WORD.pattern})?" if len(term) >= PREFIX_FROM else rf"(?!{WORD.pattern})"
            ways.append(rf"(?<![^\W_]){re.escape(term)}{tail}")
        self._pattern = re.compile("|".join(ways)) if ways else None

    def snippet(self, text: str) -> str:
        """Return the snippet of a text; without a match its beginning."""
        text = _CONTROL.sub("", text[:SEARCHED_CHARS])
        spans = self._spans(text)
        start, end = _window(text, spans[0][0] if spans else 0)
        parts, at = ["…" if start else ""], start
        for low, high in spans:
            if low < at or high > end:
                continue
            parts += [_plain(text[at:low]), "<mark>", _plain(text[low:high]), "</mark>"]
            at = high
        parts += [_plain(text[at:end]), "…" if end < len(text) else ""]
        return "".join(parts).strip()

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Return where the matches are, in order; where several lie on one another, the first and longest."""
        if self._pattern is None:
            return []
        folded, place = _fold_with_places(text)
        spans = [(match.start(), match.end()) for match in self._pattern.finditer(folded)]
        if not spans and self._typos:
            spans = list(self._near(folded))
        # A letter may fold to two; what ends between them ends behind the letter.
        return [(place[low], max(place[high], place[high - 1] + 1)) if place else (low, high) for low, high in spans]

    def _near(self, folded: str) -> Iterator[tuple[int, int]]:
        known: dict[str, bool] = {}
        for number, match in enumerate(WORD.finditer(folded)):
            if number >= TYPO_WORDS:
                return
            word = match.group()
            near = known.get(word)
            if near is None:
                near = known[word] = any(one_typo(word, term) for term in self._typos)
            if near:
                yield match.span()


def one_typo(a: str, b: str) -> bool:
    """Whether two different words are one letter more, less, other, or two swapped apart."""
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) > 1 or a == b:
        return False
    i = 0
    while i < len(a) and a[i] == b[i]:
        i += 1
    if len(a) < len(b):
        return a[i:] == b[i + 1 :]
    return a[i + 1 :] == b[i + 1 :] or (a[i : i + 2] == b[i : i + 2][::-1] and a[i + 2 :] == b[i + 2 :])


def _fold_with_places(text: str) -> tuple[str, list[int]]:
    """Return the folded text, and for each of its characters where it comes from (empty: the same places)."""
    if text.isascii():
        return text.lower(), []
    parts, place = [], []
    for at, character in enumerate(text):
        folded = _fold_character(character)
        parts.append(folded)
        place += [at] * len(folded)
    place.append(len(text))
    return "".join(parts), place


@lru_cache(maxsize=8192)
def _fold_character(character: str) -> str:
    return fold(character)


def _window(text: str, first: int) -> tuple[int, int]:
    """Return which part to show: some of what comes before the first match, cut between words where there are any."""
    start = 0
    if first > LEAD_CHARS:
        start = first - LEAD_CHARS
        gap = text.find(" ", start, first)
        start = gap + 1 if gap >= 0 else start
    end = min(len(text), start + SNIPPET_CHARS)
    if end < len(text):
        gap = text.rfind(" ", start + SNIPPET_CHARS * 3 // 4, end)
        end = gap if gap >= 0 else end
    return start, end


def _plain(text: str) -> str:
    return escape(_SPACE.sub(" ", text), quote=True)
