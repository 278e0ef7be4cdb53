"""Search at the HTTP edge."""

from __future__ import annotations

from sealwire.contracts.search import OPERATIONS, Search
from sealwire.kit.http import Edge, Route


def routes(service: Search, edge: Edge) -> list[Route]:
    """Return a route per operation of the contract."""
    return [edge.bind(operation, getattr(service, name)) for name, operation in OPERATIONS.items()]
