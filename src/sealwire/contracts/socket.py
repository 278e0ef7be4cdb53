"""What a socket instance promises besides `/ws`: presence, and the state of its connections."""

from __future__ import annotations

from typing import Protocol

from sealwire.kit.caller import Caller
from sealwire.kit.codec import Output
from sealwire.kit.operation import Degraded, Operation, Policy, Repeat, table

SERVICE = "socket"


class InstanceState(Output):
    """Counts of one instance, for readiness and the console."""

    instance: str
    connections: int
    sessions: int
    subscriptions: int
    feed_position: int
    slow_consumers_closed: int


STATE = Operation(
    name="state",
    service=SERVICE,
    verb="GET",
    path="/socket/internal/state",
    gives=InstanceState,
    policy=Policy.SERVICE,
    repeat=Repeat.SAFE,
    degraded=Degraded.ALLOW,
    summary="Counts of this socket instance",
)

OPERATIONS = table(STATE)


class Socket(Protocol):
    """One socket instance, in this process or another."""

    async def state(self, caller: Caller) -> InstanceState: ...
