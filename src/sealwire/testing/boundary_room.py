"""A session boundary with an authority, a shared cache and a journal that tests can take away and bring back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any, cast

from sealwire.adapters.embedded.cache import ProcessCache
from sealwire.adapters.embedded.session_journal import SealedSessionJournal
from sealwire.boundary.boundary import Boundary
from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.jwt_token_adapter import LegacyRule
from sealwire.clients.guarded import guarded
from sealwire.contracts.auth_terms import COOKIE_LOOPBACK
from sealwire.contracts.identity import OPERATIONS, Identity
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.exchange import Exchange, Headers
from sealwire.kit.http import Edge
from sealwire.ports.cache import CacheFault
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry
from sealwire.resilience.retry import RetryRules
from sealwire.testing.authority import AUDIENCE, ISSUER, MemoryAuthority

KEY = bytes(range(32))


class LosableCache(ProcessCache):
    """A shared cache that can be out, and can come back with what it held at another time."""

    out = False

    async def get(self, key: str) -> bytes | None:
        self._enter()
        return await super().get(key)

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        self._enter()
        await super().put(key, value, ttl_s=ttl_s)

    async def delete(self, key: str) -> None:
        self._enter()
        await super().delete(key)

    async def check(self) -> None:
        self._enter()

    def snapshot(self) -> Any:
        """Return all that is stored, for `restore`."""
        return self._values.copy()

    def restore(self, snapshot: Any) -> None:
        """Hold what was stored then, as a server restored from a backup would."""
        self._values = snapshot.copy()

    def _enter(self) -> None:
        if self.out:
            raise CacheFault("the cache is out")


class BoundaryRoom:
    """A boundary before `authority` (or another Auth). `open` again on the same folder is a restart."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        auth: Identity | None = None,
        issuer: str = ISSUER,
        audience: str = AUDIENCE,
        config: BoundaryConfig | None = None,
        legacy: Iterable[LegacyRule] = (),
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.authority = MemoryAuthority(clock=clock)
        self.auth = auth or cast(Identity, self.authority.contract)
        self.cache = LosableCache(clock=clock)
        self.config = config or BoundaryConfig(self_test_every_s=0)
        self._issuer, self._audience = issuer, audience
        self._legacy = tuple(legacy)

    def build(self) -> Boundary:
        """Put a boundary together, not started: its memory is new, folder, cache and authority are the same."""
        self.breakers = Registry(clock=self.clock)
        rng = Random(7)  # noqa: S311 - jitter in tests, not a secret
        once = RetryRules(attempts=1)
        guard = Guard.of("auth", registry=self.breakers, clock=self.clock, rng=rng, retry=once)
        offered = {name: operation for name, operation in OPERATIONS.items() if hasattr(self.auth, name)}
        self.boundary = Boundary.build(
            auth=guarded(self.auth, offered, guard),
            feed=self.auth,
            cache=self.cache,
            journal=SealedSessionJournal(
                self.folder / "sessions.journal", SealingKey(key_id=b"boundary-testing", key=KEY)
            ),
            key=SealingKey(key_id=b"boundary-testing", key=KEY),
            breakers=self.breakers,
            clock=self.clock,
            rng=rng,
            issuer=self._issuer,
            audience=self._audience,
            cookie_name=COOKIE_LOOPBACK,
            config=self.config,
            legacy=self._legacy,
            trusted_proxies=["192.0.2.9", "192.0.2.10"],
        )
        return self.boundary

    async def open(self) -> Boundary:
        """Build and start."""
        boundary = self.build()
        await boundary.start()
        return boundary

    async def close(self) -> None:
        """Stop."""
        await self.boundary.stop()


def exchange_of(headers: Headers, *, method: str = "GET", path: str = "/x", ip: str = "192.0.2.1") -> Exchange:
    """Return a request with these headers, as a server would hand it over. Its answer goes nowhere."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(_: Any) -> None:
        return None

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": headers,
        "client": (ip, 4711),
    }
    return Exchange(scope, receive, send)


def bearer(token: str) -> Headers:
    """Return the header that carries a token."""
    return [(b"host", b"localhost"), (b"authorization", b"Bearer " + token.encode()), (b"user-agent", b"tests")]


def edge_of(boundary: Boundary) -> Edge:
    """Return an edge that asks the boundary who asks."""
    return Edge(authenticate=boundary.authenticator)


__all__ = ["BoundaryRoom", "LosableCache", "bearer", "edge_of", "exchange_of"]
