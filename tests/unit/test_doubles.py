"""A member that stands twice in a body is refused, and named; nothing else is."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.contracts.custody import DueQuery, HoldPlacement
from sealwire.contracts.logins import MfaAnswer, StepUp
from sealwire.contracts.messages import Draft
from sealwire.contracts.openid import NewClient
from sealwire.kit.codec import Input, decode_body
from sealwire.kit.doubles import double_path
from sealwire.kit.problem import Invalid

TEXTS = st.text(alphabet='ab":\\,{}[] \n\u00e9\U0001f600', max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_stands_once_is_taken(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert double_path(text.encode()) == ""


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3), VALUES, st.booleans(), st.data())
def test_what_stands_twice_is_found(members: dict[str, Any], again: Any, ascii_only: bool, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(members)))
    pairs = [*members.items(), (name, again)]

    def write(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only)

    text = "{" + ", ".join(f"{write(key)} : {write(value)}" for key, value in pairs) + "}"
    assert double_path(text.encode()) == f"$.{name}"
    assert double_path(f'{{"outside": [1, {text}]}}'.encode()) == f"$.outside[1].{name}"


class Inner(Input):
    n: int = 0


class Outer(Input):
    email: str = ""
    items: list[Inner] = []
    free: dict[str, str] = {}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ('{"email":"a","email":"b"}', "$.email"),
        ('{"email":"a","e\\u006dail":"b"}', "$.email"),
        ('{"email" : "a",\n"email"\t:"b"}', "$.email"),
        ('{"items":[{"n":1},{"n":1,"n":2}]}', "$.items[1].n"),
        ('{"email":"x","free":{"a":"b:\\"","a":"c"}}', "$.free.a"),
    ],
)
def test_a_body_is_refused_with_the_member_that_stands_twice(body: str, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        decode_body(msgspec.json.Decoder(Outer), body.encode())
    assert refused.value.extra["path"] == path


def test_what_only_looks_so_is_taken() -> None:
    body = (
        b'{"email":"\\"email\\":\\"email\\"","items":[{"n":1},{"n":1}],'
        b'"free":{"email":"a","items":"{\\"a\\":1,\\"a\\":2}"}}'
    )
    assert decode_body(msgspec.json.Decoder(Outer), body).items == [Inner(n=1), Inner(n=1)]
    assert decode_body(msgspec.json.Decoder(Draft), b'{"body":"a: b: c","client_message_id":"c-1"}').body == "a: b: c"


class Wrapped(Input):
    holds: Annotated[list[HoldPlacement], msgspec.Meta(max_length=9)]


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        (MfaAnswer, {"mfa_token": "t", "method": "totp", "code": "éééééé"}, "$.code"),
        (StepUp, {"method": "recovery", "code": "1 2 3 4"}, "$.code"),
        (NewClient, {"name": "n", "redirect_uris": ["https://a.example", "ftp://b.example"]}, "$.redirect_uris[1]"),
        (NewClient, {"name": "n", "redirect_uris": ["https://a.example"], "scopes": ["email"]}, "$.scopes"),
        (HoldPlacement, {}, "$.subject_id"),
        (Wrapped, {"holds": [{"subject_id": "s"}, {"subject_id": "s", "conversation_id": "c"}]},
         "$.holds[1].conversation_id"),
        (DueQuery, {"before": "the day before yesterday"}, "$.before"),
    ],
)  # fmt: skip
def test_a_rule_of_a_whole_struct_names_the_member_at_fault(kind: Any, body: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refused:
        decode_body(msgspec.json.Decoder(kind), json.dumps(body).encode())
    assert refused.value.extra["path"] == path
