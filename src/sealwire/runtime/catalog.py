"""The one table of services: name, port, and the order in which they start."""

from __future__ import annotations

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One service instance. Its port is the base plus `offset`; `always_open` ports need no --expose-services."""

    name: str
    offset: int
    always_open: bool = False


CATALOG: tuple[Entry, ...] = (
    Entry(name="crypto", offset=9),
    Entry(name="compliance", offset=8),
    Entry(name="auth", offset=7),
    Entry(name="messaging", offset=4),
    Entry(name="media", offset=5),
    Entry(name="search", offset=6),
    Entry(name="socket1", offset=2, always_open=True),
    Entry(name="socket2", offset=3, always_open=True),
    Entry(name="gateway", offset=0, always_open=True),
)
