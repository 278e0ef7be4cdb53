"""Whose address counts behind proxies: read from the right, and no further than those we know."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

MOST_HOPS: Final = 16
"""Proxies of ours in a row that are looked at: the thousands that a header may name take a tenth of a second."""


@lru_cache(maxsize=4096)
def network_of(ip: str) -> str:
    """Return what an address is counted as: itself, or its /64 for IPv6, since one host has a whole one (RFC 6177)."""
    if ":" not in ip:
        return ip
    try:
        address = ipaddress.IPv6Address(ip.partition("%")[0])
    except ValueError:
        return ip
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64))


def forwarded_for(values: Iterable[bytes], peer: str, trusted: frozenset[str]) -> str:
    """Return the address nearest to us in X-Forwarded-For that is not a trusted proxy's, or the peer's own.

    What stands left of the first address that isn't ours, or of so many that are, was written by who knows whom. A
    peer that is no trusted proxy is not asked.
    """
    if peer not in trusted:
        return peer
    left = MOST_HOPS
    for value in reversed([*values]):
        for hop in reversed(value.rsplit(b",", MOST_HOPS)):
            try:
                address = str(ipaddress.ip_address(hop.strip().decode("latin-1")))
            except ValueError:
                return peer
            if address not in trusted:
                return address
            left -= 1
            if not left:
                return peer
    return peer
