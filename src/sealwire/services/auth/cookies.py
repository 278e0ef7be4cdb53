"""Cookies: the access token for browsers, and what the pages of a sign-in remember; none in reach of scripts."""

from __future__ import annotations

from sealwire.contracts.auth_terms import COOKIE, COOKIE_LOOPBACK
from sealwire.kit.exchange import Exchange


def session_cookie(exchange: Exchange, token: str, max_age_s: int) -> tuple[bytes, bytes]:
    """Return the `Set-Cookie` header; with the `__Host-` name over https (RFC 6265bis section 4.1.3.2)."""
    return _header(exchange, f"{_name(exchange)}={token}; Max-Age={max_age_s}")


def clear_cookie(exchange: Exchange) -> tuple[bytes, bytes]:
    """Return the header that deletes it."""
    return _header(exchange, f"{_name(exchange)}=; Max-Age=0")


def has_cookie(exchange: Exchange) -> bool:
    """Whether the request came with the session cookie."""
    wanted = _name(exchange) + "="
    return any(
        part.strip().startswith(wanted)
        for value in exchange.header_values(b"cookie")
        for part in value.decode("latin-1").split(";")
    )


def side_cookie(exchange: Exchange, name: str, value: str) -> tuple[bytes, bytes]:
    """Return the header that sets a cookie of the sign-in pages, or deletes it (an empty value).

    Lax: such a page is reached from other sites, by a link or a redirect, and must know its browser then. No form of
    another site carries it.
    """
    pair = f"{_side_name(exchange, name)}={value}" + ("" if value else "; Max-Age=0")
    return _header(exchange, pair, same_site="Lax")


def read_cookie(exchange: Exchange, name: str) -> str:
    """Return a cookie of the sign-in pages; empty when there is none, or two."""
    wanted = _side_name(exchange, name)
    found = [
        text
        for value in exchange.header_values(b"cookie")
        for given, _, text in (part.strip().partition("=") for part in value.decode("latin-1").split(";"))
        if given == wanted
    ]
    return found[0] if len(found) == 1 else ""


def _side_name(exchange: Exchange, name: str) -> str:
    return f"{_name(exchange)}-{name}"


def _name(exchange: Exchange) -> str:
    return COOKIE if _is_https(exchange) else COOKIE_LOOPBACK


def _is_https(exchange: Exchange) -> bool:
    return exchange.scope.get("scheme") == "https"


def _header(exchange: Exchange, pair: str, *, same_site: str = "Strict") -> tuple[bytes, bytes]:
    secure = "; Secure" if _is_https(exchange) else ""
    return b"set-cookie", f"{pair}; Path=/; HttpOnly; SameSite={same_site}{secure}".encode("ascii")
