"""Canonical JSON gives RFC 8785's bytes for every value that has some, and refuses the others."""

from __future__ import annotations

import json
import math

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from sealwire.services.compliance.canonical import MAX_DEPTH, NotCanonical, canonical, canonical_members

numbers = (
    st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(1e-5, 1e-3)
    | st.floats(1e14, 1e22)
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
keys = texts | st.sampled_from(["\U0001f600", "\ufb01", "\r", "é", "a", "B", "\x7f", "\x80"])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_equals_the_reference(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(values)
def test_reading_and_writing_again_changes_nothing(value: object) -> None:
    once = canonical(value)
    again = json.loads(once, parse_int=lambda t: int(t) if abs(int(t)) < 2**53 else float(t))
    assert canonical(again) == once


def test_the_example_of_the_rfc() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert (
        canonical(value)
        == (
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        ).encode()
    )


def test_keys_sort_by_utf16_code_units() -> None:
    ordered = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    written = canonical(dict.fromkeys(reversed(ordered), 0))
    assert list(json.loads(written)) == ordered


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**53, -(2**53), "\ud800", {1: 2}, {"a": {b"b"}}, b"bytes", {"\udfff": 1}]
)
def test_refuses_what_is_not_json(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)


def test_refuses_deep_nesting() -> None:
    value: object = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    canonical(value)
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotCanonical):
        canonical(value)


scalars = st.none() | st.booleans() | numbers | texts


@given(st.dictionaries(keys, scalars, max_size=6), st.dictionaries(st.text("abz_", min_size=1), texts, max_size=2))
def test_members_are_written_as_the_reference_writes_them(
    members: dict[str, object], envelopes: dict[str, str]
) -> None:
    sealed = {name: {"of": "u1", "sealed": "AQ==", "why": text} for name, text in envelopes.items()}
    fractions = [value for value in members.values() if type(value) is float]
    if any(abs(value) >= 2**53 for value in fractions) or not sealed.keys().isdisjoint(members):
        with pytest.raises(NotCanonical):
            canonical_members(members, sealed)
    else:
        assert canonical_members(members, sealed) == rfc8785.dumps({**members, **sealed})


@pytest.mark.parametrize("value", [[], {}, (), b"", 2**53, -(2**53), 1e300, math.nan, math.inf, "\ud800", 1j])
def test_members_that_are_refused(value: object) -> None:
    for name in ("a", "é"):
        with pytest.raises(NotCanonical):
            canonical_members({name: value}, {})
