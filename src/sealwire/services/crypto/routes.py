"""The HTTP edge of crypto: every operation of its contract, bound to its use case."""

from __future__ import annotations

from sealwire.contracts.crypto import OPERATIONS, Crypto
from sealwire.kit.http import Edge, Route


def routes(crypto: Crypto, edge: Edge) -> list[Route]:
    """Return all routes; the gateway leaves those out that are for services."""
    return [edge.bind(operation, getattr(crypto, name)) for name, operation in OPERATIONS.items()]
