"""Strict JSON for signed things: one reading or none (RFC 8259, RFC 7493, RFC 8725 section 2.4-2.6)."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"')
_BOM: Final = b"\xef\xbb\xbf"


class NotStrictJson(ValueError):
    """The bytes are not one unambiguous JSON object; `why` is a stable word for metrics."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def read_object(raw: bytes, *, max_depth: int) -> dict[str, Any]:
    """Parse `raw` as exactly one JSON object that every reader reads alike.

    Refused: anything but UTF-8 without a byte order mark, more than `max_depth` levels (found before parsing, so a
    bomb costs no stack), duplicate members, NaN and infinities (also by overflow, `1e999`), NUL or a lone surrogate in
    any string, a top level that is no object.
    Raises: NotStrictJson.
    """
    if raw.startswith(_BOM):
        raise NotStrictJson("bom")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotStrictJson("not_utf8") from error
    if "\x00" in text:
        raise NotStrictJson("nul")
    _check_depth(text, max_depth)
    try:
        value = _DECODER.decode(text)
    except NotStrictJson:
        raise
    except (ValueError, RecursionError) as error:
        raise NotStrictJson("not_json") from error
    if type(value) is not dict:
        raise NotStrictJson("not_object")
    if "\\u" in text:
        _check_strings(value)
    return value


def _check_depth(text: str, max_depth: int) -> None:
    """Count how deep brackets nest outside of strings, in one pass and without recursion."""
    if text.count("{") + text.count("[") <= max_depth:
        return
    depth = 0
    for mark in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        if mark in "[{":
            depth += 1
            if depth > max_depth:
                raise NotStrictJson("too_deep")
        else:
            depth -= 1


def _check_strings(value: object) -> None:
    """Refuse what only an escape can smuggle in: NUL and lone surrogates. Depth is bounded by the caller."""
    if type(value) is str:
        if "\x00" in value:
            raise NotStrictJson("nul")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise NotStrictJson("lone_surrogate") from error
    elif type(value) is dict:
        for name, member in value.items():
            _check_strings(name)
            _check_strings(member)
    elif type(value) is list:
        for item in value:
            _check_strings(item)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictJson("duplicate_member")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotStrictJson("not_finite")
    return number


def _no_constant(_name: str) -> NoReturn:
    raise NotStrictJson("not_finite")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_members, parse_float=_finite, parse_constant=_no_constant)
