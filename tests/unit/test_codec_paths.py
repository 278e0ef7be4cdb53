"""A refusal of a document points at the member at fault, wherever it is known which one that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sealwire.kit.codec import Input, convert_query, decode_body, encode
from sealwire.kit.exchange import read_form
from sealwire.kit.problem import Invalid


class Inner(Input):
    """What stands in a list, or beside it."""

    y: int


class Outer(Input):
    """A body."""

    x: int
    items: list[Inner] = []
    named: dict[str, Inner] = {}


class Asked(Input):
    """A query."""

    q: str = ""


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"x": 1, "foo": 1}, "$.foo"),
        ({"x": 1, "items": [{"y": 1}, {"y": 1, "z": 2}]}, "$.items[1].z"),
        ({"x": 1, "named": {"a": {"y": 1, "z": 2}}}, "$.named[...].z"),
        ({}, "$.x"),
        ({"x": 1, "items": [{}]}, "$.items[0].y"),
        ({"x": "1"}, "$.x"),
        ({"x": 1, "a`b": 1}, "$.a`b"),
        ({"x": 1, "a\nb": 1}, "$.a\nb"),
        ({"x": 1, "items": [{"y": 1, " - at `$.x": 1}]}, "$.items[0]. - at `$.x"),
        ([], "$"),
    ],
)
def test_the_path_of_a_body(document: Any, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        decode_body(msgspec.json.Decoder(Outer), encode(document))
    assert refused.value.extra["path"] == path


@pytest.mark.parametrize(
    ("query", "path"), [({"foo": "1"}, "$.foo"), ({"q": "a\0"}, "$.q"), ({"a\0": "b"}, "$"), ({"a\0": "\0"}, "$")]
)
def test_the_path_of_a_query(query: dict[str, str], path: str) -> None:
    with pytest.raises(Invalid) as refused:
        convert_query(query, Asked)
    assert refused.value.extra["path"] == path


def test_a_name_that_stands_twice_in_a_form() -> None:
    with pytest.raises(Invalid) as refused:
        read_form(b"a=1&b=2&c=3&b=4&a=5")
    assert refused.value.extra["path"] == "$.b", "the first that is there again"


def test_a_long_name_is_not_said_back() -> None:
    with pytest.raises(Invalid) as refused:
        decode_body(msgspec.json.Decoder(Outer), encode({"x": 1, "k" * 200_000: 1}))
    assert refused.value.extra["path"] == "$." + "k" * 64 + "…"
    assert len(encode(refused.value.document())) < 600


@pytest.mark.parametrize(
    "read",
    [
        lambda name: read_form(f"{name}=1&{name}=2".encode()),
        lambda name: convert_query({name: "\0"}, Asked),
        lambda name: decode_body(msgspec.json.Decoder(dict[str, int]), f'{{"{name}":1,"{name}":2}}'.encode()),
        lambda name: decode_body(msgspec.json.Decoder(dict[str, str]), f'{{"{name}":"\\u0000"}}'.encode()),
    ],
    ids=["twice in a form", "NUL in a query", "twice in a body", "NUL in a body"],
)
def test_nor_is_one_of_what_is_read_by_its_own_name(read: Callable[[str], Any]) -> None:
    with pytest.raises(Invalid) as refused:
        read("k" * 200_000)
    assert refused.value.extra["path"] == "$." + "k" * 510 + "…"
    assert len(encode(refused.value.document())) < 1_200
