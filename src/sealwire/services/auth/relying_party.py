"""The relying party: the name that passkeys are made for, and the pages that may use them."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

import msgspec

from sealwire.services.auth.config import AuthConfig

_LOCAL: Final = "localhost"
_PORTS: Final = {"http": 80, "https": 443}


class Party(msgspec.Struct, frozen=True):
    """The id is a domain; an origin is scheme, host and port as browsers write them."""

    rp_id: str
    origins: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether browsers make passkeys for it: for a name, not a number, and by https unless it is this machine."""
        return not _is_address(self.rp_id) and any(_is_secure(origin) for origin in self.origins)


def party_of(config: AuthConfig, public_url: str) -> Party:
    """Return who we are: as the settings say, or else by the address that people reach us at.

    An address of this machine becomes `localhost`: browsers make no passkeys for a number, and take http there only.
    Raises: ValueError naming the setting, when an origin can't use the id (WebAuthn Level 3, section 5.1.3 step 8).
    """
    named = tuple(_origin(text, "auth.passkey_origins") for text in config.passkey_origins)
    origins = named or (_origin(_named(public_url), "server.public_url"),)
    rp_id = config.passkey_rp_id or urlsplit(origins[0]).hostname or ""
    for origin in origins:
        host = urlsplit(origin).hostname or ""
        if host != rp_id and not host.endswith("." + rp_id):
            raise ValueError(f"auth.passkey_rp_id: {origin} is not of the domain {rp_id}; see auth.passkey_origins")
        # An address that merely follows from others does not stop the start.
        if config.passkey_origins and not _is_secure(origin):
            raise ValueError(f"auth.passkey_origins: {origin} has to be https")
    return Party(rp_id, origins)


def origin_of(url: str) -> str:
    """Return the origin of a page as browsers write it; empty where the address is none of the web."""
    try:
        return _origin(url, "")
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_secure(origin: str) -> bool:
    parts = urlsplit(origin)
    host = parts.hostname or ""
    return parts.scheme == "https" or host == _LOCAL or host.endswith("." + _LOCAL)


def _named(url: str) -> str:
    """Return the URL with `localhost` for an address of this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not _is_address(host) or not ipaddress.ip_address(host).is_loopback:
        return url
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{parts.scheme}://{_LOCAL}{port}"


def _origin(url: str, setting: str) -> str:
    """Return the origin of a URL as browsers write it (RFC 6454 section 6.2). Raises: ValueError for no web address."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"{setting}: {url!r} is no web address such as https://chat.example.org")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.encode("idna").decode("ascii")
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"
