"""One operation bound by our edge and answered without storage, behind a lookup of the token.

usage: python -m benchmarks.harness.bound_app PORT PUBLIC_KEY ISSUER AUDIENCE
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import uvloop

from sealwire.contracts.messaging import Body, Key
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.codec import Input, Output
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App, Edge
from sealwire.kit.ids import new_id
from sealwire.kit.jose import Key as VerifyingKey
from sealwire.kit.operation import Operation, Policy
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Unauthenticated
from sealwire.runtime.http_protocol import bounded
from sealwire.runtime.server import Server, listen


class Draft(Input):
    """What is posted."""

    body: Body
    client_message_id: Key


class Posted(Output):
    """What comes back."""

    message_id: str
    conversation_id: str
    sender_id: str
    client_message_id: str
    created_at_ms: int


POST = Operation(
    name="post",
    service="bench",
    verb="POST",
    path="/conversations/{conversation_id}/messages",
    summary="Answer and forget",
    takes=Draft,
    gives=Posted,
    status=201,
    needs=Permission.POST,
)


async def post(caller: Caller, conversation_id: str, draft: Draft) -> Posted:
    """Answer as a message would be answered."""
    return Posted(
        message_id=new_id(),
        conversation_id=conversation_id,
        sender_id=caller.user_id,
        client_message_id=draft.client_message_id,
        created_at_ms=time.time_ns() // 1_000_000,
    )


async def serve(port: int, public_key: Path, issuer: str, audience: str) -> None:
    """Serve until ended."""
    sock = listen("127.0.0.1", port)
    key = VerifyingKey.from_public_pem(public_key.read_bytes()) if hasattr(VerifyingKey, "from_public_pem") else None
    del key, issuer, audience
    known: dict[str, tuple[Principal, float]] = {}

    def authenticate(exchange: Exchange, policy: Policy) -> Caller:
        value = exchange.header(b"authorization")
        if value is None or value[:7] != b"Bearer ":
            raise Unauthenticated
        token = value[7:].decode()
        found = known.get(token)
        if found is None or found[1] < time.monotonic():
            principal = Principal(kind="user", tenant_id="bench", subject="somebody", role=Role.MEMBER)
            found = known[token] = (principal, time.monotonic() + 600)
        exchange.set_trace()
        return Caller(principal=found[0], ip=exchange.ip, trace_id=exchange.trace_id)

    app = App([Edge(authenticate=authenticate).bind(POST, post)])
    await Server(app=app, sock=sock, http=bounded(limit_bytes=32_768, timeout_s=20), websocket=None).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
