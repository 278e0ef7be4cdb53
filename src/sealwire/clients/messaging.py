"""The client of messaging: the same contract whether the service is in this process or across HTTP."""

from __future__ import annotations

from sealwire.clients.guarded import guarded
from sealwire.clients.http import Transport, remote
from sealwire.contracts.messaging import OPERATIONS, Messaging
from sealwire.resilience.guard import Guard


def local_messaging(service: Messaging, guard: Guard) -> Messaging:
    """Return the service in this process behind its guard."""
    return guarded(service, OPERATIONS, guard)


def remote_messaging(transport: Transport, guard: Guard) -> Messaging:
    """Return the service at the other end of `transport`. `guard` needs a timeout."""
    client: Messaging = remote(OPERATIONS, transport, guard)
    return client
