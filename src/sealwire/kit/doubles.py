"""Members that stand twice in one JSON object: of those some readers take the first and others the last (RFC 8259,
section 4), so what is checked in front of us need not be what we do."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

_ANY: Final = msgspec.json.Decoder()


class _Twice:
    """Stands for an object in which a member stands twice."""

    def __init__(self, name: str) -> None:
        self.name = name


def double_path(body: bytes) -> str:
    """Return where in a JSON document, known to be one, a member stands twice; an empty string where none does.

    Reading it once more by a decoder that looks at each member cost as much as all else that is done with a large
    body. So members are counted in the text, and again in the document, where those that stand twice are one.
    """
    if body.count(b":") < 2:
        return ""
    text = body
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    members = b"".join(text.split(b'"')[::2]).count(b":")  # what stands between the strings
    if members < 2:
        return ""
    value = _ANY.decode(body)
    if (type(value) is dict and len(value) == members) or _members(value) == members:  # mostly nothing is nested
        return ""
    return _path(_LOOKING.decode(body.decode()), "$")


def _members(value: Any) -> int:
    """Count the members of all objects in a document."""
    if type(value) is dict:
        return len(value) + sum([_members(v) for v in value.values() if type(v) is dict or type(v) is list])
    return sum([_members(v) for v in value if type(v) is dict or type(v) is list]) if type(value) is list else 0


def _looked_at(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Twice:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            return _Twice(name)
        members[name] = value
    return members


_LOOKING: Final = json.JSONDecoder(object_pairs_hook=_looked_at)


def _path(value: Any, path: str) -> str:
    if isinstance(value, _Twice):
        return f"{path}.{value.name}"
    if isinstance(value, dict):
        return next(filter(None, (_path(v, f"{path}.{name}") for name, v in value.items())), "")
    if isinstance(value, list):
        return next(filter(None, (_path(v, f"{path}[{i}]") for i, v in enumerate(value))), "")
    return ""
