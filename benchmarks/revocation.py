"""How long does a revocation take to close its sockets, with 1,000 of them open? Beside the bound of 200 ms.

Sessions end one after another by logout; then somebody with all sockets of the second half logs out everywhere at once.
Time counts from before the request is sent, so it holds the request, auth's commit, the feed and the close frame.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import msgspec

from benchmarks.harness.results import Figures, comparison, run
from benchmarks.harness.sealwire import API, PASSWORD, Sealwire

SOCKETS, SESSIONS = 1_000, 50
BOUND_MS = 200.0
PATIENCE_S = 30.0
COORDINATOR = "/api/integration-health/service-boundary-coordinator"


class Watched:
    """A live socket that notes when it was closed."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.code: int | None = None
        self.at_s = 0.0
        self.closed = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while True:
            message = await self._socket.receive()
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING):
                self.at_s = time.perf_counter()
                self.code = self._socket.close_code
                return
            if message.type is aiohttp.WSMsgType.TEXT and message.data == "{}":
                await self._socket.send_str("{}")


class Crowd:
    """People, their sessions and their sockets."""

    def __init__(self, server: Sealwire, http: aiohttp.ClientSession) -> None:
        self._url = f"http://127.0.0.1:{server.port}"
        self._http = http

    async def call(self, verb: str, path: str, token: str = "", json: Any = None) -> Any:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        async with self._http.request(verb, self._url + path, headers=headers, json=json) as answer:
            text = await answer.read()
            assert answer.status < 300, (answer.status, text)
            return msgspec.json.decode(text) if text else None

    async def enter(self, name: str) -> dict[str, str]:
        who = {"email": f"{name}@bench.example.org", "password": PASSWORD}
        await self.call("POST", API + "/auth/register", json={**who, "display_name": name})
        return who

    async def log_in(self, who: dict[str, str]) -> str:
        return str((await self.call("POST", API + "/auth/login", json=who))["access_token"])

    async def listen(self, token: str, count: int) -> list[Watched]:
        found = []
        for _ in range(count):
            socket = await self._http.ws_connect(self._url + "/ws")
            await socket.send_json({"id": 1, "connect": {"token": token}})
            reply = await socket.receive(timeout=PATIENCE_S)
            assert '"connect"' in str(reply.data), reply
            found.append(Watched(socket))
        return found

    async def end(self, path: str, token: str, sockets: list[Watched]) -> list[float]:
        """Ask for the end of a session, or of all; return how long each socket took, in milliseconds."""
        began = time.perf_counter()
        await self.call("POST", API + path, token)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(socket.closed for socket in sockets))
        assert {socket.code for socket in sockets} == {4502}
        return [(socket.at_s - began) * 1000 for socket in sockets]


async def measure(server: Sealwire, sockets: int) -> Figures:
    """Return both distributions, and what the installation says itself, boundary by boundary."""
    sessions = max(sockets * SESSIONS // SOCKETS // 2, 1)
    share = sockets // 2 // sessions
    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=unlimited, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as http:
        crowd = Crowd(server, http)
        owner = await crowd.log_in(await crowd.enter("owner"))
        each: list[tuple[str, list[Watched]]] = []
        for number in range(sessions):
            token = await crowd.log_in(await crowd.enter(f"person-{number}"))
            each.append((token, await crowd.listen(token, share)))
        one = await crowd.log_in(await crowd.enter("one"))
        all_of_one = await crowd.listen(one, sockets - sessions * share)
        singly = [ms for token, theirs in each for ms in await crowd.end("/auth/logout", token, theirs)]
        at_once = await crowd.end("/auth/logout-all", one, all_of_one)
        told = (await crowd.call("GET", COORDINATOR, owner))["propagation"]
    figures: Figures = {"session by session": spread(singly), f"{len(all_of_one)} at once": spread(at_once)}
    return figures | {f"in force at {name}": told[name] for name in sorted(told)}


def spread(times_ms: list[float]) -> dict[str, float]:
    """Return the distribution."""
    ordered = sorted(times_ms)
    p99 = ordered[len(ordered) * 99 // 100]
    return {
        "count": len(ordered),
        "p50_ms": round(median(ordered), 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(ordered[-1], 2),
    }


def main(quick: bool = False) -> Figures:
    """Return the distributions over 1,000 open sockets (a tenth of that for a quick look)."""
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as folder:
        limits = {"SEALWIRE_BOUNDARY__SOCKETS_PER_USER": str(SOCKETS)}
        server = Sealwire(Path(folder) / "data", env=limits)
        try:
            figures = asyncio.run(measure(server, SOCKETS // 10 if quick else SOCKETS))
        finally:
            server.stop()
    held = [
        comparison(f"{label}, p99 ms", figure["p99_ms"], BOUND_MS, 1.0, less_is_better=True)
        for label, figure in figures.items()
        if not label.startswith("in force")
    ]
    return {"figures": figures, "comparisons": held}


if __name__ == "__main__":
    sys.exit(run(main))
