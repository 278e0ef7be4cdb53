"""Where a request goes and where it ends, read as a proxy before us has to have read it, or not at all."""

from __future__ import annotations

import re

from sealwire.kit.exchange import Headers

_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
"""RFC 9112 section 3.2 and RFC 3986 section 3.2, without the comma that joins two."""


def check_framing(version: str, url: bytes, headers: Headers, *, known: bytes) -> bytes:
    """Refuse what a proxy before us may have read in another way; return the host. `known` is one that was good before.

    RFC 9112 sections 3.2 (one Host, well formed, the target's own) and 6.1 (chunked, and nothing with it).
    Raises: ValueError.
    """
    host: bytes | None = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise ValueError("two hosts")
            host = value
        elif name == b"transfer-encoding" and (value.lower() != b"chunked" or version == "1.0"):
            raise ValueError("a transfer coding that nobody knows here")
    if host is None:
        if version == "1.1":
            raise ValueError("no host")
    elif host != known:
        host = host.strip(b" \t")  # blanks around a value are no part of it (RFC 9112 section 5)
        if _HOST.fullmatch(host) is None:
            raise ValueError("not a host")
        known = host
    if url[:1] not in (b"/", b"*"):
        scheme, _, rest = url.partition(b"://")
        named = rest.partition(b"/")[0].lower()
        if scheme.lower() not in (b"http", b"https") or not named or _HOST.fullmatch(named) is None:
            raise ValueError("a target that is not on the web")
        if host is not None and named != host.lower():
            raise ValueError("the target names another host")
    return known
