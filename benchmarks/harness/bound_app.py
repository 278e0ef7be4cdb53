"""One operation bound by our edge and answered without storage, behind the real session boundary.

Every check of a token seen before is made: its time, what was revoked, the age of the revocation feed, session, epoch.
Only auth behind the boundary is a stand-in: it knows one session and revokes nothing.

usage: python -m benchmarks.harness.bound_app PORT PUBLIC_KEY ISSUER AUDIENCE KID SESSION_JSON
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any, cast

import msgspec
import uvloop
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from sealwire.adapters.embedded.cache import ProcessCache
from sealwire.adapters.embedded.session_journal import SealedSessionJournal
from sealwire.boundary.authenticator import Authenticator
from sealwire.boundary.fallback_session_provider import FallbackSessionProvider
from sealwire.boundary.jwt_token_adapter import JwtTokenAdapter
from sealwire.boundary.legacy_log import LegacyLog
from sealwire.boundary.service_boundary_coordinator import ServiceBoundaryCoordinator
from sealwire.boundary.session_validation_normalizer import CACHE_BREAKER, SessionValidationNormalizer
from sealwire.contracts.auth import Auth
from sealwire.contracts.legacy import Legacy
from sealwire.contracts.messages import Body, Key
from sealwire.contracts.opened import OpenedQuery, OpenedSessions
from sealwire.contracts.revocations import FeedQuery, Revocations
from sealwire.contracts.sessions import Seen, SessionQuery, SessionState
from sealwire.contracts.tokens import Jwks
from sealwire.kit.caller import Caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.codec import Input, Output
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.http import App, Edge
from sealwire.kit.ids import new_id
from sealwire.kit.operation import Operation
from sealwire.kit.permission import Permission
from sealwire.resilience.registry import Registry
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


class OneSession:
    """As much of auth as the boundary asks for: one session that lives, a feed in which nothing happens."""

    def __init__(self, state: SessionState, key: Jwks) -> None:
        self._state = state
        self._key = key

    async def jwks(self) -> Jwks:
        """The key that signed the token."""
        return self._key

    async def session(self, _caller: Caller, _query: SessionQuery) -> SessionState:
        """The session."""
        return self._state

    async def revocations(self, _caller: Caller, query: FeedQuery) -> Revocations:
        """The heartbeat."""
        await asyncio.sleep(query.wait_ms / 1000)
        return Revocations(items=[], newest=0)

    async def opened(self, _caller: Caller, _query: OpenedQuery) -> OpenedSessions:
        """Nobody logs in."""
        return OpenedSessions(items=[], upto=0, newest=0)

    async def seen(self, _caller: Caller, _seen: Seen) -> None:
        """Thanks."""


def published(public_key: Path, kid: str) -> Jwks:
    """Return an Ed25519 key as auth publishes it (RFC 8037)."""
    raw = load_pem_public_key(public_key.read_bytes()).public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = msgspec.to_builtins(raw).rstrip("=").replace("+", "-").replace("/", "_")
    return Jwks(keys=[{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": "EdDSA", "use": "sig"}])


async def authenticator(auth: OneSession, issuer: str, audience: str, folder: Path) -> Authenticator:
    """Wire a boundary as the runtime does."""
    clock, rng = SystemClock(), Random(1)
    breakers = Registry(clock=clock)
    journal_key, cache_key = (SealingKey(key_id=os.urandom(16), key=os.urandom(32)) for _ in range(2))
    fallback = FallbackSessionProvider(journal=SealedSessionJournal(folder / "journal", journal_key), clock=clock)
    contract = cast(Auth, auth)
    coordinator = ServiceBoundaryCoordinator(auth=contract, fallback=fallback, breakers=breakers, clock=clock, rng=rng)
    adapter = JwtTokenAdapter(issuer=issuer, audience=audience, keys=auth.jwks, clock=clock, rng=rng)
    normalizer = SessionValidationNormalizer(
        auth=contract,
        feed=coordinator,
        fallback=fallback,
        legacy_log=LegacyLog(auth=cast(Legacy, auth), clock=clock, service="bench"),
        cache=ProcessCache(clock=clock),
        cache_breaker=breakers.breaker(CACHE_BREAKER),
        key=cache_key,
        clock=clock,
        rng=rng,
    )
    await fallback.start()
    await coordinator.start()
    made = Authenticator(
        adapter=adapter,
        normalizer=normalizer,
        coordinator=coordinator,
        book=fallback.book,
        auth=contract,
        clock=clock,
        rng=rng,
        cookie_name="sealwire",
    )
    await made.start()
    return made


async def serve(port: int, auth: OneSession, issuer: str, audience: str) -> None:
    """Serve until ended."""
    sock = listen("127.0.0.1", port)
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as folder:
        edge = Edge(authenticate=await authenticator(auth, issuer, audience, Path(folder)))
        app = App([edge.bind(POST, post)])
        http: Any = bounded(limit_bytes=32_768, timeout_s=20)
        await Server(app=app, sock=sock, http=http, websocket=None).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    _port, _public, _issuer, _audience, _kid, _session = sys.argv[1:]
    _state = msgspec.json.decode(_session.encode(), type=SessionState)
    uvloop.run(serve(int(_port), OneSession(_state, published(Path(_public), _kid)), _issuer, _audience))
