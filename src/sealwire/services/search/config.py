"""Settings of the search service."""

from __future__ import annotations

import msgspec


class SearchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[search]`."""
