"""Numbers that callers set: none is larger than every reader of JSON reads alike (RFC 7493 section 2.2)."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import msgspec

import sealwire.contracts
from sealwire.kit.operation import Operation


def operations() -> list[Operation]:
    modules = [
        importlib.import_module(f"sealwire.contracts.{found.name}")
        for found in pkgutil.iter_modules(sealwire.contracts.__path__)
    ]
    return [one for module in modules for one in vars(module).values() if isinstance(one, Operation)]


def maxima(schema: object) -> list[float]:
    if isinstance(schema, list):
        return [found for part in schema for found in maxima(part)]
    if not isinstance(schema, dict):
        return []
    own: list[Any] = [schema["maximum"]] if isinstance(schema.get("maximum"), int | float) else []
    return own + [found for part in schema.values() for found in maxima(part)]


def test_no_bound_lies_where_a_record_of_the_change_could_not_be_canonical() -> None:
    """A change whose audit record can't be written would be told as `audit.refused`, without what was changed."""
    taken = {one.takes for one in operations() if one.takes is not None}
    assert len(taken) > 30
    for struct in taken:
        for bound in maxima(msgspec.json.schema(struct)):
            assert bound <= 2**53 - 1, struct
