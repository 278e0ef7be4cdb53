"""What the socket service asks of others: where presence is kept, who counts calls, where audit records go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sealwire.contracts.audit_log import AuditEntry
from sealwire.kit.caller import Caller
from sealwire.kit.operation import RateClass
from sealwire.services.socket.hub import RoomKey


class PresenceBoard(Protocol):
    """Who listens to which channel, on any instance.

    Eventual: `enter` and `leave` show to every instance within a second, and never fail or wait. An instance that dies
    leaves its entries behind for 60 s at most. Entries of one client on one channel are one.

    Embedded: a dictionary that the instances of the process share.
    Redis, Valkey: a hash per channel, field = client id, value = user id and an expiry in Unix seconds; a background
    task of the instance writes what changed and renews its own entries every 20 s in pipelines, `who` reads the hash,
    passes over what expired, and answers from the last known state of this instance alone while Redis is out.
    """

    def enter(self, place: RoomKey, client_id: str, user_id: str) -> None:
        """Note that a client listens; kept up until `leave`."""

    def leave(self, place: RoomKey, client_id: str) -> None:
        """Note that a client does not listen any more; unknown ones are passed over."""

    async def who(self, place: RoomKey) -> Mapping[str, str]:
        """Return user ids by client id."""


class Meter(Protocol):
    """Counts what a person asks for, as the gateway does for REST."""

    def count(self, caller: Caller, rate: RateClass) -> None:
        """Count one call. Raises: RateLimited."""


class Records(Protocol):
    """Where audit records go: the crash-safe spool. Never waits."""

    def put(self, entry: AuditEntry) -> None:
        """Take one record."""
