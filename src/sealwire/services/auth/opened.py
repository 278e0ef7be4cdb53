"""Logins as they are told: read from auth's events, where each is stored with its session, in one transaction."""

from __future__ import annotations

from sealwire.contracts.opened import OpenedQuery, OpenedSessions
from sealwire.ports.events import EventFeed
from sealwire.services.auth.events import Kind, opened_of


async def read_opened(events: EventFeed, query: OpenedQuery) -> OpenedSessions:
    """Return the logins among the events after a position. They cost no write, and go when the events are trimmed."""
    newest = await events.newest()  # before the reading: up to here there is nothing that it could miss
    if query.after < 0:
        return OpenedSessions(items=[], upto=newest, newest=newest)
    read = await events.read(query.after, query.limit)
    upto = read[-1].position if read else newest
    items = [opened_of(event) for event in read if event.kind == Kind.LOGIN]
    return OpenedSessions(items=items, upto=upto, newest=max(newest, upto))
