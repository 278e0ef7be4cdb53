"""Canonical JSON (RFC 8785): the one sequence of bytes a value has, so that hashes of it mean something.

orjson and msgspec write the same bytes where a value holds only strings, booleans, nulls, safe integers, plain decimals
and objects whose keys are ASCII; every other value goes through the `rfc8785` package.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import orjson
import rfc8785

MAX_DEPTH = 32
SAFE_INTEGER = 2**53 - 1
"""The largest integer an IEEE 754 double holds exactly (RFC 7493 section 2.2)."""

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_dumps = orjson.dumps
_write_sorted = msgspec.json.Encoder(order="sorted").encode  # for small objects many times as quick as orjson
_NO_NUMBERS = frozenset({str, bool, type(None)})
SCALARS = _NO_NUMBERS | {int, float}


class NotCanonical(ValueError):
    """The value has no canonical form: not JSON, not Unicode, an unsafe number, or nested too deeply."""


def canonical(value: object) -> bytes:
    """Return the RFC 8785 bytes of a value made of dict, list, tuple, str, int, float, bool and None.

    Raises: NotCanonical when the value has none.
    """
    try:
        if _is_plain(value, MAX_DEPTH):
            return _dumps(value, option=_OPTIONS)
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # refuses what is not JSON by itself
    except (TypeError, ValueError, RecursionError) as error:
        raise NotCanonical(str(error)) from None


def canonical_members(members: Mapping[str, object], sealed: Mapping[str, object]) -> bytes:
    """Return the bytes of one object made of `members`, all scalars, and `sealed`, whose keys and values are ASCII.

    The same as `canonical({**members, **sealed})`, without looking into `sealed`.
    Raises: NotCanonical; also for a member that is no scalar, that stands in both, or that is a number too large for
    readers of JSON to agree on (RFC 7493 section 2.2).
    """
    kinds = set(map(type, members.values()))
    if not kinds <= SCALARS:
        raise NotCanonical("metadata: a text, a number, true, false or null is needed under each name")
    plain = "".join(members).isascii()
    if not kinds <= _NO_NUMBERS:
        plain = _numbers_are_plain(members) and plain
    whole = members
    if sealed:
        if not sealed.keys().isdisjoint(members):
            raise NotCanonical("a name stands in both")
        whole = {**members, **sealed}
    try:
        return _write_sorted(whole) if plain else rfc8785.dumps(whole)  # type: ignore[arg-type]  # scalars
    except (TypeError, ValueError) as error:
        raise NotCanonical(str(error)) from None


def _numbers_are_plain(members: Mapping[str, object]) -> bool:
    """Say whether every writer gives the numbers among scalars the digits that RFC 8785 wants.

    Raises: NotCanonical for a fraction that is too large to be read as the same number everywhere.
    """
    plain = True
    for name, value in members.items():
        kind = type(value)
        if kind is int:
            plain = plain and -SAFE_INTEGER <= value <= SAFE_INTEGER  # type: ignore[operator]  # `kind` says it is an int
        elif kind is float and not is_plain_decimal(value):  # type: ignore[arg-type]  # `kind` says it is a float
            plain = False
            if not -SAFE_INTEGER <= value <= SAFE_INTEGER:  # type: ignore[operator]  # a float
                raise NotCanonical(f"{name}: JSON does not carry this number exactly")
    return plain


def _is_plain(value: object, depth: int) -> bool:
    """Say whether orjson writes this value as RFC 8785 wants it.

    Sorting by UTF-8 bytes (orjson) and by UTF-16 code units (RFC 8785 section 3.2.3) agree for ASCII keys.
    Raises: NotCanonical past the depth allowed.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return -SAFE_INTEGER <= value <= SAFE_INTEGER  # type: ignore[operator]  # `kind` says it is an int
    if kind is float:
        return is_plain_decimal(value)  # type: ignore[arg-type]  # `kind` says it is a float
    if depth == 0:
        raise NotCanonical(f"nested deeper than {MAX_DEPTH}")
    if kind is dict:
        plain = True
        for key, member in value.items():  # type: ignore[attr-defined]  # `kind` says it is a dict
            if type(key) is not str or not key.isascii():
                plain = False
            if type(member) is not str and not _is_plain(member, depth - 1):
                plain = False
        return plain
    if kind is list or kind is tuple:
        plain = True
        for member in value:  # type: ignore[attr-defined]  # `kind` says it is iterable
            if not _is_plain(member, depth - 1):
                plain = False
        return plain
    return False


def is_plain_decimal(value: float) -> bool:
    """Say whether every writer gives this number the same digits: a fraction, and no exponent on either side.

    ECMAScript writes 5.0 as 5 and turns to exponents below 1e-6 and from 1e21; others turn at 1e-4 and 1e16.
    """
    size = abs(value)
    return 1e-4 <= size < 1e15 and value != int(value)
