"""A value that is none of those allowed: the answer lists them, wherever it stands, for every operation."""

from __future__ import annotations

import enum
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import msgspec.inspect
import pytest

from sealwire import contracts
from sealwire.kit.codec import Input, convert_query, decode_body
from sealwire.kit.operation import Operation
from sealwire.kit.problem import Invalid

WRONG = "no-such-value"


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Circle(msgspec.Struct, tag="circle", tag_field="shape"):
    radius: int = 1


class Square(msgspec.Struct, tag="square", tag_field="shape"):
    side: int = 1


class Everything(Input):
    plain: Literal["b", "a"] = "a"
    absent: Literal["a", "b"] | msgspec.UnsetType | None = msgspec.UNSET
    noted: Annotated[Literal["a", "b"], msgspec.Meta(description="noted")] = "a"
    many: list[Literal["a", "b"]] = []
    few: tuple[int, Literal["a", "b"]] = (1, "a")
    by_name: dict[Literal["k", "l"], Literal["a", "b"]] = {}
    deep: dict[str, list[Colour]] = {}
    count: int | Literal["all"] = 1
    numbers: list[Literal[1, 2]] = []
    figure: Circle | Square | None = None
    renamed: Colour = msgspec.field(name="also-known-as", default=Colour.RED)
    inner: Everything | None = None
    free: Any = None


AB = ["a", "b"]
WRONGS: list[tuple[str, str, list[Any]]] = [
    ('{"plain": "c"}', "$.plain", AB),
    ('{"plain": 3}', "$.plain", AB),
    ('{"absent": "c"}', "$.absent", AB),
    ('{"noted": "c"}', "$.noted", AB),
    ('{"many": ["a", "c"]}', "$.many[1]", AB),
    ('{"few": [1, "c"]}', "$.few[1]", AB),
    ('{"by_name": {"m": "a"}}', "$.by_name", ["k", "l"]),
    ('{"by_name": {"k": "c"}}', "$.by_name[...]", AB),
    ('{"deep": {"x": ["red", "c"]}}', "$.deep[...][1]", ["blue", "red"]),
    ('{"count": "none"}', "$.count", ["all"]),
    ('{"numbers": [1, 7]}', "$.numbers[1]", [1, 2]),
    ('{"figure": {"shape": "star"}}', "$.figure.shape", ["circle", "square"]),
    ('{"also-known-as": "c"}', "$.also-known-as", ["blue", "red"]),
    ('{"inner": {"inner": {"many": ["c"]}}}', "$.inner.inner.many[0]", AB),
]


@pytest.mark.parametrize(("body", "path", "allowed"), WRONGS)
def test_the_answer_lists_what_is_allowed_there(body: str, path: str, allowed: list[Any]) -> None:
    with pytest.raises(Invalid) as refused:
        decode_body(msgspec.json.Decoder(Everything), body.encode())
    assert refused.value.extra["path"] == path
    assert sorted(refused.value.extra["allowed"]) == allowed
    for value in allowed:
        assert f"`{value}`" in refused.value.detail
    assert "`c`" not in refused.value.detail, "never the value that broke the rule"
    assert "'c'" not in refused.value.detail


@pytest.mark.parametrize(
    "body", ['{"count": 1.5}', '{"count": [1]}', '{"many": "a"}', '{"plane": "a"}', '{"by_name": []}', '{"few": [1]}']
)
def test_what_breaks_another_rule_lists_nothing_that_is_not_the_whole_truth(body: str) -> None:
    with pytest.raises(Invalid) as refused:
        decode_body(msgspec.json.Decoder(Everything), body.encode())
    assert "allowed" not in refused.value.extra


def test_a_query_lists_them_too() -> None:
    with pytest.raises(Invalid) as refused:
        convert_query({"plain": "c"}, Everything)
    assert (refused.value.extra["path"], sorted(refused.value.extra["allowed"])) == ("$.plain", AB)


# ---- every operation


def operations() -> Iterator[Operation]:
    for module in pkgutil.iter_modules(contracts.__path__):
        for found in vars(importlib.import_module(f"sealwire.contracts.{module.name}")).values():
            if isinstance(found, Operation) and found.takes is not None:
                yield found


def faults(kind: msgspec.inspect.Type, seen: tuple[type, ...] = ()) -> Iterator[tuple[Any, str, set[Any]]]:
    """Return documents that hold one value that is not allowed: document, path of the value, what is allowed."""
    if isinstance(kind, msgspec.inspect.Metadata):
        yield from faults(kind.type, seen)
    elif isinstance(kind, msgspec.inspect.LiteralType):
        if any(isinstance(value, str) for value in kind.values):
            yield WRONG, "", set(kind.values)
    elif isinstance(kind, msgspec.inspect.EnumType):
        yield WRONG, "", {member.value for member in kind.cls}
    elif isinstance(kind, msgspec.inspect.UnionType):
        if not any(isinstance(other, msgspec.inspect.StrType) for other in kind.types):
            for other in kind.types:
                yield from faults(other, seen)
    elif isinstance(kind, msgspec.inspect.ListType | msgspec.inspect.SetType | msgspec.inspect.FrozenSetType):
        yield from (([value], f"[0]{path}", allowed) for value, path, allowed in faults(kind.item_type, seen))
    elif isinstance(kind, msgspec.inspect.DictType):
        yield from (({"x": value}, f"[...]{path}", allowed) for value, path, allowed in faults(kind.value_type, seen))
    elif isinstance(kind, msgspec.inspect.StructType) and kind.cls not in seen:
        for field in kind.fields:
            for value, path, allowed in faults(field.type, (*seen, kind.cls)):
                yield {field.encode_name: value}, f".{field.encode_name}{path}", allowed


FAULTS = {
    f"{operation.service}.{operation.name} ${path}": (operation, document, f"${path}", allowed)
    for operation in operations()
    for document, path, allowed in faults(msgspec.inspect.type_info(operation.takes))
}


def test_there_is_much_to_look_at() -> None:
    assert len(FAULTS) >= 20
    assert {name.partition(".")[0] for name in FAULTS} >= {"auth", "compliance", "crypto", "messaging", "search"}


def read(operation: Operation, document: Any) -> None:
    """Read what an operation takes as the edge does."""
    if operation.verb in ("GET", "DELETE"):
        convert_query(document, operation.takes or Input)
    else:
        decode_body(msgspec.json.Decoder(operation.takes), msgspec.json.encode(document))


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_operation_lists_what_it_allows(name: str) -> None:
    operation, document, path, allowed = FAULTS[name]
    assert operation.takes is not None
    with pytest.raises(Invalid) as refused:
        read(operation, document)
    assert refused.value.extra["path"] == path
    assert set(refused.value.extra["allowed"]) == allowed - {None}
    assert WRONG not in refused.value.detail
