"""What may stand at a path of a type: the values of an enumeration, so that a refusal can list them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

from msgspec import inspect

Value = str | int
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\.\.\.|\d+)\]")
_shape: Final = lru_cache(maxsize=256)(inspect.type_info)


def allowed_at(kind: Any, path: str, *, key: bool = False, solely: bool = False) -> list[Value]:
    """Return the values allowed at a path as msgspec writes it (`$.items[3].kind`); none where no enumeration stands.

    `key` means the keys of the mapping there. With `solely` nothing where anything else is allowed beside them.
    """
    places: list[Any] = list(_each(_shape(kind)))
    for name, index in _STEP.findall(path):
        last, places = places, [there for place in places for there in _step(place, name, index)]
        if not places and name:
            return [place.tag for place in last if getattr(place, "tag_field", None) == name]
    if key:
        places = [there for place in places if isinstance(place, inspect.DictType) for there in _each(place.key_type)]
    values = [value for place in places for value in _values(place)]
    others = [place for place in places if not isinstance(place, inspect.LiteralType | inspect.EnumType)]
    return [] if solely and any(not isinstance(place, inspect.NoneType) for place in others) else values


def _each(kind: inspect.Type) -> Iterator[inspect.Type]:
    """Return the alternatives of a union, without what is only noted about them."""
    if isinstance(kind, inspect.Metadata):
        yield from _each(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _each(one)
    else:
        yield kind


def _step(place: inspect.Type, name: str, index: str) -> Iterable[inspect.Type]:
    if name:
        fields = place.fields if isinstance(place, inspect.StructType) else ()
        return [kind for field in fields if field.encode_name == name for kind in _each(field.type)]
    if isinstance(place, inspect.DictType):
        return _each(place.value_type) if index == "..." else ()
    if isinstance(place, inspect.TupleType):
        return _each(place.item_types[int(index)]) if index != "..." and int(index) < len(place.item_types) else ()
    if isinstance(place, inspect.CollectionType):
        return _each(place.item_type)
    return ()


def _values(place: inspect.Type) -> list[Value]:
    if isinstance(place, inspect.EnumType):
        return [member.value for member in place.cls]
    return [value for value in place.values if value is not None] if isinstance(place, inspect.LiteralType) else []
