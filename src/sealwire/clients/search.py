"""The client of search: the same contract whether the service is in this process or across HTTP."""

from __future__ import annotations

from sealwire.clients.guarded import guarded
from sealwire.clients.http import Transport, remote
from sealwire.contracts.search import OPERATIONS, Search
from sealwire.resilience.guard import Guard


def local_search(service: Search, guard: Guard) -> Search:
    """Return the service in this process behind its guard."""
    return guarded(service, OPERATIONS, guard)


def remote_search(transport: Transport, guard: Guard) -> Search:
    """Return the service at the other end of `transport`. `guard` needs a timeout."""
    client: Search = remote(OPERATIONS, transport, guard)
    return client
