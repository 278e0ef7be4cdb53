"""A listening port: who comes at once is taken at once, and a port that is taken says so."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import uvloop

from sealwire.kit.http import App
from sealwire.runtime.http_protocol import BoundedHttp, bounded
from sealwire.runtime.server import ACCEPTED_AT_ONCE, PortTaken, Server, listen

COMERS = 128
DEADLINE_S = 10.0


async def turns_until_all_are_taken() -> int:
    """Return how many turns the loop needs for those who came while it was busy."""
    taken: list[object] = []

    class Counting(BoundedHttp):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
            super().connection_made(transport)
            taken.append(self)

    http = type("CountingConfigured", (Counting, bounded(limit_bytes=4_000, timeout_s=5.0)), {})
    server = Server(app=App([]), sock=listen("127.0.0.1", 0), http=http, websocket=None, grace_s=1)
    await server.start()
    comers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(COMERS)]
    turns, deadline = 0, time.monotonic() + DEADLINE_S
    while len(taken) < COMERS:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)
        turns += 1
    for comer in comers:
        comer.close()
    await server.stop()
    return turns


def test_many_who_come_at_once_are_taken_in_a_few_turns() -> None:
    """On the loop that serves: libuv alone takes one a turn, and turns are long when there is much to do."""
    assert uvloop.run(turns_until_all_are_taken()) <= 2 * COMERS / ACCEPTED_AT_ONCE


async def test_a_port_that_is_taken_says_so() -> None:
    taken = listen("127.0.0.1", 0)
    with pytest.raises(PortTaken, match=str(taken.getsockname()[1])):
        listen("127.0.0.1", taken.getsockname()[1])
    taken.close()
