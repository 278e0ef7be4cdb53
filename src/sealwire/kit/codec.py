"""Structs and JSON: strict on the way in, told apart by kind of fault; one encoder on the way out."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar, dataclass_transform

import msgspec

from sealwire.kit.allowed import allowed_at
from sealwire.kit.doubles import double_path
from sealwire.kit.problem import Invalid, Malformed

T = TypeVar("T")

encode = msgspec.json.Encoder().encode
_ANY = msgspec.json.Decoder()
MAX_DEPTH = 32
_MEMBER: Final = re.compile(r"(Object (?:contains unknown|missing required) field) `(.*)`", re.DOTALL)
_LONGEST_NAME: Final = 64

_ASKED: Final[dict[str, str]] = {}


def form(pattern: str, asked: str) -> str:
    """Return a pattern, noted with what it asks for: a refusal says that, for people read no regular expressions."""
    _ASKED[f"Expected `str` matching regex {pattern!r}"] = asked
    return pattern


_ID = form(r"^[A-Za-z0-9._:-]+$", "An id is made of letters, digits and the signs . _ : - alone.")
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=_ID)]
ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=200)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class FrozenMeta(msgspec.StructMeta):
    """Makes every subclass frozen and keyword-only, at run time and for type checkers, without saying it each time."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> FrozenMeta:
        return super().__new__(mcls, name, bases, namespace, **{"frozen": True, "kw_only": True, **options})


class Input(msgspec.Struct, metaclass=FrozenMeta, forbid_unknown_fields=True):
    """What a caller sends: an unknown member is refused, so that a typing error is not silently dropped."""


class Output(msgspec.Struct, metaclass=FrozenMeta):
    """What we answer: members may be added later, readers pass over those they don't know."""


class RuleBroken(ValueError):
    """Raised by a struct whose members don't fit: `member` is the one at fault, which the refusal names."""

    def __init__(self, text: str, member: str) -> None:
        super().__init__(text)
        self.member = member


class Page(Input):
    """The paging members of every list."""

    limit: Limit = 50
    cursor: Annotated[str, msgspec.Meta(max_length=512)] | None = None


_PARENTHESES: Final = bytes.maketrans(b"[{]}", b"(())")
_NO_MARKS: Final = bytes(set(range(256)) - set(b'[{]}"'))


def fault_path(value: Any, path: str = "$") -> str:
    """Return where in a decoded document a string holds NUL, or an empty string."""
    if isinstance(value, str):
        return path if "\0" in value else ""
    if isinstance(value, dict):
        for key, item in value.items():
            if found := (path if "\0" in key else fault_path(item, f"{path}.{key}")):
                return found
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if found := fault_path(item, f"{path}[{i}]"):
                return found
    return ""


def too_deep(body: bytes) -> bool:
    """Whether the brackets of a JSON document nest deeper than MAX_DEPTH; for what is no JSON, an upper bound.

    At the speed of `bytes` methods, in time linear in the body: byte by byte in Python it took 4 ms for 100 KB, on the
    loop. All but quotes and brackets is dropped, then what stands in strings, then innermost pairs, level by level.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = body.translate(_PARENTHESES, _NO_MARKS)
    rest = b"".join(marks.replace(b'""', b"").split(b'"')[::2])
    for _ in range(MAX_DEPTH):
        shorter = rest.replace(b"()", b"")
        if len(shorter) == len(rest):
            break
        rest = shorter
    return b"()" in rest or rest.count(b"(") > MAX_DEPTH


def invalid(error: msgspec.ValidationError, kind: Any) -> Invalid:
    """Turn a validation error into a problem that names the path of the fault and, of an enumeration, what is allowed.

    The text is the rule that was broken, never the value that broke it. `kind` is the type that was read.
    """
    text, _, at = str(error).rpartition(" - at `")
    if not text:
        text, at = at, "$"
    key = at.startswith("key` in `")
    path = at.removeprefix("key` in `").rstrip("`")
    if isinstance(rule := error.__cause__, RuleBroken):
        return Invalid(text, path=f"{path}.{rule.member}")
    if member := _MEMBER.fullmatch(text):
        fault, name = member.groups()
        name = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"
        return Invalid(f"{fault} `{name}`", path=f"{path}.{name}")
    no_value = text.startswith(("Invalid enum value", "Invalid value"))
    allowed = allowed_at(kind, path, key=key, solely=not no_value) if no_value or ", got `" in text else []
    if allowed:
        return Invalid(f"Expected one of {', '.join(f'`{value}`' for value in allowed)}.", path=path, allowed=allowed)
    return Invalid("Invalid value" if no_value else _ASKED.get(text, text), path=path)


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes, *, once: bool = True) -> T:
    """Read a request body; `once`: no member may stand in it twice.

    Raises: Malformed for what is no JSON in UTF-8, Invalid with `path` for what breaks a rule or stands there twice.
    """
    if too_deep(body):
        raise Malformed(f"The document nests deeper than {MAX_DEPTH} levels.", path="$")
    try:
        value = decoder.decode(body)
        if b"\\" in body and b"\\u0000" in body and (path := fault_path(_ANY.decode(body))):
            raise Invalid("Text must not hold the character NUL.", path=path)
        if once and (path := double_path(body)):
            raise Invalid("This member stands there twice.", path=path)
    except msgspec.ValidationError as error:
        raise invalid(error, decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"The body is not JSON in UTF-8: {error}", path="$") from None
    return value


def convert_query(value: dict[str, Any], type_: type[T]) -> T:
    """Read query parameters (all strings) into a struct. Raises: Invalid with `path`."""
    for name, text in value.items():
        if "\0" in name or "\0" in text:
            raise Invalid("Text must not hold the character NUL.", path="$" if "\0" in name else f"$.{name}")
    try:
        return msgspec.convert(value, type_, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, type_) from None
