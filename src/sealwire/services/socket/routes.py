"""The socket service at the edge: the WebSocket itself."""

from __future__ import annotations

from sealwire.kit.http import Edge, Route
from sealwire.services.socket.service import SocketService

WEBSOCKET_PATHS = ("/ws", "/connection/websocket")
"""The second is where `centrifuge` clients look by habit."""


def socket_routes(service: SocketService, edge: Edge) -> list[Route]:
    """Return the routes for people: they authenticate in the handshake or with the first frame."""
    return [edge.socket(path, service.serve) for path in WEBSOCKET_PATHS]
