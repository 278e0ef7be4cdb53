"""The session cookie for browsers: set at login when asked for, cleared at logout."""

from __future__ import annotations

from typing import Any

from sealwire.contracts.auth import Login, LoginResult, MfaAnswer
from sealwire.kit.exchange import Exchange, Headers

SECURE_NAME = "__Host-sealwire"
PLAIN_NAME = "sealwire"


class Cookies:
    """Writes the cookie. `secure` is false only on loopback over plain http, where `__Host-` can't be set."""

    def __init__(self, *, secure: bool) -> None:
        self.name = SECURE_NAME if secure else PLAIN_NAME
        self._secure = secure

    def _header(self, value: str, max_age_s: int) -> tuple[bytes, bytes]:
        text = f"{self.name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict"
        return b"set-cookie", (text + "; Secure" if self._secure else text).encode()

    def after_login(self, exchange: Exchange, taken: Any, given: LoginResult) -> Headers:
        """Set it when the login asked for it and gave a token."""
        if isinstance(taken, (Login, MfaAnswer)) and taken.cookie and given.access_token:
            return [self._header(given.access_token, given.expires_in)]
        return []

    def after_renewal(self, exchange: Exchange, taken: Any, given: LoginResult) -> Headers:
        """Renew it when the browser sent one."""
        sent = exchange.header(b"cookie") or b""
        if given.access_token and f"{self.name}=".encode() in sent:
            return [self._header(given.access_token, given.expires_in)]
        return []

    def after_logout(self, exchange: Exchange, taken: Any, given: None) -> Headers:
        """Clear it."""
        return [self._header("", 0)]
