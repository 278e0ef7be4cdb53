"""How deep a document nests: told fast, and as counting byte by byte would tell it."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.kit.codec import MAX_DEPTH, decode_body, too_deep
from sealwire.kit.problem import Malformed

ANY = msgspec.json.Decoder()
texts = st.text(st.sampled_from('[]{}"\\ax'), max_size=12)
documents = st.recursive(
    st.none() | texts,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=40,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


def nested(levels: int, core: object) -> object:
    for level in range(levels):
        core = [core] if level % 2 else {'k"[': core, "wide": [[], {}, "]}"]}
    return core


@given(documents, st.integers(0, MAX_DEPTH + 2))
def test_it_tells_what_counting_tells(document: object, levels: int) -> None:
    whole = nested(levels, document)
    assert too_deep(json.dumps(whole).encode()) == (depth(whole) > MAX_DEPTH)


def test_width_is_not_depth() -> None:
    for inner in ({"a": "[", "b": ["{"]}, ["]", '"', "\\"], "[[["):
        wide = [inner] * 1000
        assert not too_deep(json.dumps(wide).encode())
        assert too_deep(json.dumps(nested(MAX_DEPTH, wide)).encode())


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 1_000, 100_000])
def test_a_bomb_is_refused_open_or_closed(levels: int) -> None:
    for body in (b"[" * levels, b"[" * levels + b"]" * levels, b'{"a":' * levels, b'[{"a":' * levels):
        with pytest.raises(Malformed, match="deeper"):
            decode_body(ANY, body)


@pytest.mark.parametrize(
    "body",
    [b'"' * 4_000_000 + b"[" * 100, b'\\"' * 2_000_000 + b"[]" * 100, b"[]" * 2_000_000, b'"' + b"[" * 4_000_000,
     b"\\" * 4_000_000 + b"[]" * 100, b"][" * 2_000_000],
    ids=["quotes", "escaped quotes", "pairs", "in a string", "backslashes", "crossed"],
)  # fmt: skip
def test_no_body_of_four_megabytes_holds_the_loop_for_long(body: bytes) -> None:
    began_s = time.thread_time()
    too_deep(body)
    assert time.thread_time() - began_s < 5.0, "byte by byte it was no faster, and that was for every body"
