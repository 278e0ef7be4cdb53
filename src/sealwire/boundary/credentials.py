"""Credentials in a request's headers: one or none; two different ones are refused."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sealwire.kit.problem import Unauthenticated

MAX_CREDENTIAL_BYTES = 8_192 + 7
Header = tuple[bytes, bytes]


class Credential(msgspec.Struct, frozen=True):
    """A token and where it stood. `ambient` is one the browser sends by itself: a cookie."""

    token: str
    ambient: bool


class TwoCredentials(Unauthenticated):
    """The request carries two different credentials: whose is it?"""

    def __init__(self) -> None:
        super().__init__("Send one credential, not two different ones.")


def read(headers: Iterable[Header], *, cookie_name: bytes) -> Credential | None:
    """Return the request's credential: from `Authorization: Bearer`, or from the session cookie.

    Raises: Unauthenticated for another scheme, for what is no token, and for two that differ.
    """
    tokens: set[str] = set()
    explicit = False
    for name, value in headers:
        if name == b"authorization":
            tokens.add(bearer(value))
            explicit = True
        elif name == b"cookie" and cookie_name in value:
            tokens.update(_from_cookie(value, cookie_name))
    if not tokens:
        return None
    if len(tokens) > 1:
        raise TwoCredentials
    return Credential(tokens.pop(), not explicit)


def bearer(value: bytes) -> str:
    """Return the token of an Authorization header (RFC 6750). Raises: Unauthenticated."""
    scheme, _, token = value.partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated("Send the token as `Authorization: Bearer <token>`.")
    return as_text(token.strip(b" "))


def as_text(token: bytes) -> str:
    """Return a token as text. Raises: Unauthenticated for what can be none."""
    if not 0 < len(token) <= MAX_CREDENTIAL_BYTES or not token.isascii() or any(c <= 0x20 for c in token):
        raise Unauthenticated
    return token.decode("ascii")


def _from_cookie(value: bytes, cookie_name: bytes) -> Iterable[str]:
    for part in value.split(b";"):
        name, equals, text = part.strip(b" \t").partition(b"=")
        if equals and name == cookie_name and text:
            yield as_text(text)
