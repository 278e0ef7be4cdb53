"""Cursors: where the next page begins, in a form that nobody has a reason to take apart."""

from __future__ import annotations

import base64
import binascii

from sealwire.kit.problem import Invalid

_MARK = b"c:"


def write_cursor(last: str) -> str:
    """Return the cursor of a page that ends with `last`."""
    return base64.urlsafe_b64encode(_MARK + last.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> str:
    """Return what the page before ended with; empty for the first page. Raises: Invalid."""
    if not cursor:
        return ""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        if not raw.startswith(_MARK):
            raise ValueError(cursor)
        return raw[len(_MARK) :].decode()
    except (binascii.Error, ValueError):
        raise Invalid("This is no cursor of this list.", path="$.cursor") from None


def read_number(cursor: str | None) -> int:
    """Return the number that a cursor between services is as it stands; 0 for the first page. Raises: Invalid."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit()) or len(cursor) > 18:
        raise Invalid("This is no cursor of this list.", path="$.cursor")
    return int(cursor)


def number_of(cursor: str | None) -> int:
    """Return the number the page before ended with; 0 for the first page. Raises: Invalid."""
    text = read_cursor(cursor)
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 16:
        raise Invalid("This is no cursor of this list.", path="$.cursor")
    return int(text)
