"""Messaging at the HTTP edge."""

from __future__ import annotations

from sealwire.contracts.messaging import OPERATIONS, Messaging
from sealwire.kit.http import Edge, Route


def routes(service: Messaging, edge: Edge) -> list[Route]:
    """Return a route per operation of the contract."""
    return [edge.bind(operation, getattr(service, name)) for name, operation in OPERATIONS.items()]
