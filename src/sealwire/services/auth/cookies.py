"""The session cookie: the access token for browsers, out of reach of scripts and of other sites."""

from __future__ import annotations

from sealwire.contracts.auth import COOKIE, COOKIE_LOOPBACK
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


def _name(exchange: Exchange) -> str:
    return COOKIE if _is_https(exchange) else COOKIE_LOOPBACK


def _is_https(exchange: Exchange) -> bool:
    return exchange.scope.get("scheme") == "https"


def _header(exchange: Exchange, pair: str) -> tuple[bytes, bytes]:
    secure = "; Secure" if _is_https(exchange) else ""
    return b"set-cookie", f"{pair}; Path=/; HttpOnly; SameSite=Strict{secure}".encode("ascii")
