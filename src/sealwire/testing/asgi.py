"""Requests to an app in this process, byte by byte: slow bodies, clients that go away, answers as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any

import msgspec

from sealwire.kit.caller import ANONYMOUS, Caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App
from sealwire.kit.operation import Policy
from sealwire.kit.problem import Unauthenticated


class ByName:
    """An `Authenticate` for tests: `Authorization: <name>` is the caller known by that name."""

    def __init__(self) -> None:
        self.callers: dict[str, Caller] = {}

    def __call__(self, exchange: Exchange, policy: Policy) -> Caller:
        """Raises: Unauthenticated for a name nobody has."""
        if policy in (Policy.PUBLIC, Policy.LINK):
            return Caller(principal=ANONYMOUS)
        try:
            return self.callers[exchange.text_header(b"authorization")]
        except KeyError:
            raise Unauthenticated from None


class Answer:
    """What came back. `complete` is false when the answer was broken off."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False

    def json(self) -> Any:
        """Return the body as JSON."""
        return msgspec.json.decode(self.body)


class Pause:
    """In a body: wait until `event` is set before going on."""

    def __init__(self, event: asyncio.Event) -> None:
        self.event = event


Piece = bytes | Pause


async def ask(
    app: App,
    verb: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | Iterable[Piece] | AsyncIterable[bytes] = b"",
    leaves: bool = False,
    gate: asyncio.Event | None = None,
) -> Answer:
    """Send a request and return its answer. `leaves`: the client goes away after its last piece, before the end.

    With `gate` the client takes nothing after the head of the answer before the event is set.
    """
    path, _, query = target.partition("?")
    pieces = _pieces(body)
    answer = Answer()

    async def receive() -> dict[str, Any]:
        async for piece in pieces:
            return {"type": "http.request", "body": piece, "more_body": True}
        if leaves:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        if gate is not None and message.get("body"):
            await gate.wait()
        answer.body += message.get("body", b"")
        answer.complete = not message.get("more_body")

    scope = {
        "type": "http",
        "method": verb,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
    }
    try:
        await app(scope, receive, send)
    except ConnectionAbortedError:
        answer.complete = False
    return answer


async def _pieces(body: bytes | Iterable[Piece] | AsyncIterable[bytes]) -> Any:
    if isinstance(body, bytes):
        if body:
            yield body
    elif isinstance(body, AsyncIterable):
        async for piece in body:
            yield piece
    else:
        for item in body:
            if isinstance(item, Pause):
                await item.event.wait()
            else:
                yield item
