"""What has not the form it needs is refused in words: nobody who signs in reads regular expressions."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import inspect

from sealwire import contracts
from sealwire.contracts.logins import Login
from sealwire.kit.codec import convert_query, decode_body, invalid
from sealwire.kit.operation import Operation
from sealwire.kit.problem import Invalid


def patterns(kind: Any) -> set[str]:
    """Return every pattern that a type holds texts to."""
    found: set[str] = set()
    waiting, known = [inspect.type_info(kind)], set[int]()
    while waiting:
        at = waiting.pop()
        if isinstance(at, inspect.StrType) and at.pattern is not None:
            found.add(at.pattern)
        for name in ("type", "item_type", "key_type", "value_type"):
            if isinstance(inner := getattr(at, name, None), inspect.Type):
                waiting.append(inner)
        waiting += getattr(at, "types", ())
        if isinstance(at, inspect.StructType) and id(at.cls) not in known:
            known.add(id(at.cls))
            waiting += [field.type for field in at.fields]
    return found


def taken() -> Iterator[type]:
    for module in pkgutil.iter_modules(contracts.__path__):
        for thing in vars(importlib.import_module(f"sealwire.contracts.{module.name}")).values():
            if isinstance(thing, Operation) and thing.takes is not None:
                yield thing.takes


def test_every_pattern_that_callers_are_held_to_is_told_in_words() -> None:
    found = set().union(*map(patterns, taken()))
    assert len(found) >= 6
    for pattern in found:
        with pytest.raises(msgspec.ValidationError) as refused:
            msgspec.convert({"text": " \n "}, _holding(pattern))
        said = invalid(refused.value, _holding(pattern))
        assert "regex" not in said.detail, pattern
        assert "^" not in said.detail
        assert (said.extra["path"], said.detail[-1]) == ("$.text", ".")


@pytest.mark.parametrize("email", ["", "a", "anna", "anna@", "@example.org", "anna@example", "a nna@example.org"])
def test_what_is_no_address_is_told_so(email: str) -> None:
    decoder = msgspec.json.Decoder(Login)
    with pytest.raises(Invalid) as refused:
        decode_body(decoder, msgspec.json.encode({"email": email, "password": "x"}))
    assert (refused.value.detail, refused.value.extra["path"]) == (
        "Write a whole e-mail address, such as anna@example.org.",
        "$.email",
    )
    with pytest.raises(Invalid, match="whole e-mail address"):
        convert_query({"email": email, "password": "x"}, Login)


def _holding(pattern: str) -> type[msgspec.Struct]:
    return msgspec.defstruct("Holding", [("text", Annotated[str, msgspec.Meta(pattern=pattern)])])
