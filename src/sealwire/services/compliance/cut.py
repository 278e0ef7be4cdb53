"""Tells evidence that was cut from evidence that was changed: what is cut ends too early, and is good up to there."""

from __future__ import annotations

import msgspec

_SKIP = msgspec.json.Decoder(msgspec.Raw).decode
_ENDS_EARLY = "Input data was truncated"


def ends_early(text: bytes) -> bool:
    """Whether this is the beginning of a JSON document, and not all of it: nothing in it is wrong but its end."""
    try:
        _SKIP(text)
    except msgspec.DecodeError as error:
        said = str(error)
        in_a_number = text.endswith((b"-", b"+", b".", b"e", b"E")) and "invalid" in said
        return said == _ENDS_EARLY or (in_a_number and said.endswith(f"(byte {len(text)})"))
    except RecursionError:
        return False
    return False


def line_is_cut(line: bytes) -> bool:
    """Whether a line of JSON is a file's last and ends too early."""
    return not line.endswith(b"\n") and ends_early(line)
