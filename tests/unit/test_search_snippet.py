"""Queries are read leniently; snippets mark what the index matched and escape everything else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.kit.problem import Invalid
from sealwire.services.search.model import read_query
from sealwire.services.search.snippet import SNIPPET_CHARS, Highlighter, one_typo


def mark(query: str, text: str) -> str:
    return Highlighter(read_query(query)).snippet(text)


@pytest.mark.parametrize(
    ("query", "words", "phrases", "without"),
    [
        ("red fox", ("red", "fox"), (), ()),
        ('red "brown fox" -dog -"lazy cat"', ("red",), ("brown fox",), ("dog", "lazy cat")),
        ('"not closed', (), ("not closed",), ()),
        ("- -- a-b", ("-", "a-b"), (), ("-",)),
        (
            "AND OR (NOT) field:value [a TO b] x^2 ~ *",
            ("AND", "OR", "(NOT)", "field:value", "[a", "TO", "b]", "x^2", "~", "*"),
            (),
            (),
        ),
        ("   ", (), (), ()),
    ],
)
def test_queries_are_read_leniently(query: str, words: tuple, phrases: tuple, without: tuple) -> None:
    wanted = read_query(query)
    assert (wanted.words, wanted.phrases, wanted.without) == (words, phrases, without)


def test_a_query_of_too_many_parts_is_refused() -> None:
    with pytest.raises(Invalid):
        read_query("a " * 33)


@pytest.mark.parametrize(
    ("query", "text", "snippet"),
    [
        ("fox", "the Fox ran", "the <mark>Fox</mark> ran"),
        ("fo", "the foxes ran", "the <mark>foxes</mark> ran"),
        ("a", "a cat and a dog", "<mark>a</mark> cat and <mark>a</mark> dog"),
        ("cafe", "im Café dort", "im <mark>Café</mark> dort"),
        ("cafe", "im Cafe\u0301 dort", "im <mark>Cafe\u0301</mark> dort"),
        ("strasse", "die Straße da", "die <mark>Straße</mark> da"),
        ("wrold", "hello world", "hello <mark>world</mark>"),
        ("天气", "今天天气很好", "今天<mark>天气</mark>很好"),
        ("fox -dog", "fox dog", "<mark>fox</mark> dog"),
        ('"red fox"', "red fox", "<mark>red</mark> <mark>fox</mark>"),
        ("fox", "no match here", "no match here"),
        ("fox", "a\n\n  fox\tran", "a <mark>fox</mark> ran"),
        ("b", "<b>b</b>", "&lt;<mark>b</mark>&gt;<mark>b</mark>&lt;/<mark>b</mark>&gt;"),
        ("!!!", "what!!!", "what!!!"),
    ],
)
def test_what_matched_is_marked(query: str, text: str, snippet: str) -> None:
    assert mark(query, text) == snippet


def test_a_long_text_is_cut_around_the_match() -> None:
    text = "filler " * 200 + "kingfisher " + "filler " * 200
    snippet = mark("kingfisher", text)
    assert "<mark>kingfisher</mark>" in snippet
    assert snippet.startswith("…filler")
    assert snippet.endswith("filler…")
    assert len(snippet) < SNIPPET_CHARS + 30


@given(st.text(max_size=400), st.text(min_size=1, max_size=40))
def test_nothing_but_marks_is_markup(text: str, query: str) -> None:
    try:
        snippet = mark(query, text)
    except Invalid:
        return
    assert not re.search("[<>\"']", re.sub("</?mark>", "", snippet))
    assert snippet.count("<mark>") == snippet.count("</mark>")


@given(st.text("abc", min_size=1, max_size=6), st.text("abc", min_size=1, max_size=6))
def test_one_typo_is_a_distance_of_one(a: str, b: str) -> None:
    assert one_typo(a, b) == one_typo(b, a) == (_distance(a, b) == 1)


def _distance(a: str, b: str) -> int:
    """Optimal string alignment distance, by the book."""
    d = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            d[i][j] = min(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                d[i][j] = min(d[i][j], d[i - 2][j - 2] + 1)
    return d[-1][-1]
