"""The client of media: the same contract whether the service is in this process or across HTTP."""

from __future__ import annotations

from sealwire.clients.guarded import guarded
from sealwire.clients.http import Transport, remote
from sealwire.contracts.media import OPERATIONS, Media
from sealwire.resilience.guard import Guard


def local_media(service: Media, guard: Guard) -> Media:
    """Return the service in this process behind its guard."""
    return guarded(service, OPERATIONS, guard)


def remote_media(transport: Transport, guard: Guard) -> Media:
    """Return the service at the other end of `transport`. `guard` needs a timeout."""
    client: Media = remote(OPERATIONS, transport, guard)
    return client
