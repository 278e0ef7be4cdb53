"""Presence within one process (services/socket/ports.py)."""

from __future__ import annotations

from collections.abc import Mapping

from sealwire.services.socket.hub import RoomKey


class InProcessPresence:
    """A dictionary that all socket instances of this process share: it dies with all of them."""

    def __init__(self) -> None:
        self._places: dict[RoomKey, dict[str, str]] = {}

    def enter(self, place: RoomKey, client_id: str, user_id: str) -> None:
        self._places.setdefault(place, {})[client_id] = user_id

    def leave(self, place: RoomKey, client_id: str) -> None:
        clients = self._places.get(place)
        if clients is not None and clients.pop(client_id, None) is not None and not clients:
            del self._places[place]

    async def who(self, place: RoomKey) -> Mapping[str, str]:
        return dict(self._places.get(place, {}))
