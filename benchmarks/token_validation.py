"""What does it cost to know who asks: cold, cached, through the normaliser, and in an outage? Beside a bare verify.

The bare verify is one Ed25519 signature check of `cryptography`, and the guard is all that stands around it (kit/jose).
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.harness.results import Figures, comparison, run
from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.jwt_token_adapter import normalised
from sealwire.contracts.sessions import SessionState
from sealwire.kit.caller import Caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.exchange import Exchange, Headers
from sealwire.kit.ids import new_id
from sealwire.kit.jose import Algorithm, Key, KeySet, Rules, sign, verify
from sealwire.kit.operation import Policy
from sealwire.kit.problem import Unavailable
from sealwire.resilience.breaker import State
from sealwire.testing.boundary_room import BoundaryRoom, exchange_of

WINDOWS = 15
GUARD_CALLS = 300
BOUNDS = {
    "cached_us": 15.0,
    "adapter_normalises_us": 5.0,
    "validate_healthy_p99_us": 300.0,
    "validate_degraded_p99_us": 300.0,
}
HEADERS: Headers = [
    (b"host", b"chat.example.org"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"content-type", b"application/json"),
    (b"content-length", b"240"),
    (b"user-agent", b"benchmark/1.0"),
]


def request_of(token: str) -> Exchange:
    """Return a request as a client sends it."""
    return exchange_of([*HEADERS, (b"authorization", b"Bearer " + token.encode())])


class Bench:
    """A boundary on the real clock, before an authority in memory."""

    def __init__(self, folder: Path, *, sessions: int) -> None:
        self.room = BoundaryRoom(folder, clock=SystemClock(), config=BoundaryConfig(self_test_every_s=0))
        self._sessions = sessions

    async def open(self) -> None:
        """Start it and log people in."""
        self.boundary = await self.room.open()
        self.states = []
        for i in range(self._sessions):
            user = self.room.authority.add_user(f"person-{i}")
            self.states.append(self.room.authority.log_in(user.user_id))
        self.tokens = [self.room.authority.token(state) for state in self.states]
        self.requests = [request_of(token) for token in self.tokens]

    async def ask(self, request: Exchange) -> Caller:
        """Resolve the caller as the edge does."""
        found = self.boundary.authenticator(request, Policy.CALLER)
        return found if isinstance(found, Caller) else await found

    async def breathe(self) -> None:
        """Let the loop read the revocation feed, as it does between requests."""
        await asyncio.sleep(0.005)
        assert await self.boundary.coordinator.ensure_fresh()

    async def cold(self) -> None:
        """Everything anew: signature, claims, auth, journal, cache."""
        self.boundary.authenticator.clear_cache()
        self.boundary.adapter.forget()
        self.boundary.normalizer.forget()
        for state in self.states:
            await self.room.cache.delete(f"session:{state.session_id}")
        for request in self.requests:
            await self.ask(request)

    async def cached(self) -> None:
        """The short way: token, session, epoch and feed checked by one look-up. The header table is built anew."""
        authenticate = self.boundary.authenticator
        for request in self.requests:
            request._named = None
            authenticate(request, Policy.CALLER)

    async def after_a_revocation(self) -> None:
        """The first request of each token after somebody's token was revoked."""
        self.boundary.fallback.book.version += 1
        await self.cached()

    async def adapt_cold(self) -> None:
        """Signature and claims of a token never seen."""
        self.boundary.adapter.forget()
        for token in self.tokens:
            await self.boundary.adapter.adapt(token)

    async def normalise_cached(self) -> None:
        """Session and epoch of a verified token, from memory, with the whole answer."""
        adapter, normalizer = self.boundary.adapter, self.boundary.normalizer
        for token in self.tokens:
            verified = adapter.remembered(token)
            assert verified is not None
            assert normalizer.cached(verified) is not None

    async def normalise_cache(self) -> None:
        """The same by the shared cache: a look-up, unsealing, the answer."""
        self.boundary.normalizer.forget()
        adapter, normalizer = self.boundary.adapter, self.boundary.normalizer
        for token in self.tokens:
            verified = adapter.remembered(token)
            assert verified is not None
            await normalizer.validate(verified)


async def per_call_us(work: Callable[[], Coroutine[Any, Any, None]], calls: int) -> float:
    """Return the cost of one call in one window."""
    start = time.perf_counter()
    await work()
    return (time.perf_counter() - start) / calls * 1e6


async def measure(folder: Path) -> dict[str, float]:
    """Return the median cost in µs by kind, the kinds interleaved."""
    bench = Bench(folder, sessions=200)
    await bench.open()
    await bench.cold()
    key = Ed25519PrivateKey.generate()
    message = os.urandom(400)
    public, signature = key.public_key(), key.sign(message)

    async def bare() -> None:
        for _ in range(200):
            public.verify(signature, message)

    kinds = {
        "bare_ed25519_verify": bare,
        "cold": bench.cold,
        "adapter_cold": bench.adapt_cold,
        "cached": bench.cached,
        "cached_after_a_revocation": bench.after_a_revocation,
        "normaliser_from_memory": bench.normalise_cached,
        "normaliser_from_cache": bench.normalise_cache,
    }
    seen: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(WINDOWS):
        for name, work in kinds.items():
            await bench.breathe()
            seen[name].append(await per_call_us(work, 200))
    figures = {f"{name}_us": round(median(times), 2) for name, times in seen.items()}
    figures |= await outage(bench)
    await bench.room.close()
    return figures


async def outage(bench: Bench) -> dict[str, float]:
    """Return p50 and p99 of session validation in µs, healthy and with auth out past the feed's bound."""
    figures = {}
    for name in ("healthy", "degraded"):
        if name == "degraded":
            bench.room.authority.outage = Unavailable()
            await asyncio.sleep(1.2)
            with_breaker_open = bench.room.breakers.breaker("auth")
            while with_breaker_open.state is State.CLOSED:
                with_breaker_open.fail(with_breaker_open.acquire())
        times = []
        verified = [await bench.boundary.adapter.adapt(token) for token in bench.tokens]
        for _ in range(10):
            for token in verified:
                start = time.perf_counter()
                await bench.boundary.normalizer.validate(token)
                times.append((time.perf_counter() - start) * 1e6)
        cuts = quantiles(times, n=100)
        figures |= {f"validate_{name}_p50_us": round(cuts[49], 1), f"validate_{name}_p99_us": round(cuts[98], 1)}
    bench.room.authority.outage = None
    return figures


async def memory(folder: Path, sessions: int) -> dict[str, float]:
    """Return what the fallback provider's sessions weigh in memory and on disk."""
    bench = Bench(folder, sessions=1)
    await bench.open()
    state = bench.states[0]
    fallback = bench.boundary.fallback
    gc.collect()
    before = _rss_bytes()
    for i in range(sessions):
        fallback.remember(_another(state, i), 0)
    after = _rss_bytes()
    await fallback.flush()
    size = (folder / "sessions.journal").stat().st_size
    await bench.room.close()
    return {
        "fallback_session_bytes": round((after - before) / sessions),
        "journal_session_bytes": round(size / sessions),
    }


def _another(state: SessionState, number: int) -> SessionState:
    from msgspec.structs import replace

    return replace(state, session_id=f"{number:036d}", user_id=f"user-{number}", email=f"person{number}@example.org")


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def guard() -> dict[str, float]:
    """Return the median cost in µs of a token by algorithm, the kinds interleaved: what the guard adds to its check."""
    now_s = int(time.time())
    required = frozenset({"sub", "sid", "tid"})
    rules = Rules(typ=frozenset({"at+jwt"}), issuer="bench", audience="bench", required=required)
    claims: dict[str, object] = {
        "iss": "bench", "aud": "bench", "sub": new_id(), "client_id": "sealwire", "email": "someone@example.org",
        "role": "member", "tid": new_id(), "sid": new_id(), "jti": new_id(), "iat": now_s, "exp": now_s + 600,
        "auth_time": now_s, "amr": ["pwd"], "epoch": 1,
    }  # fmt: skip
    kinds: dict[str, Callable[[], object]] = {}
    for alg in (Algorithm.EDDSA, Algorithm.ES256, Algorithm.RS256):
        key = Key.generate(alg)
        token, keys = sign(claims, key, "at+jwt"), KeySet([key])
        kinds[f"verify_{alg.value}"] = partial(verify, token, keys, rules, now_us=now_s * 1_000_000)
        kinds[f"sign_{alg.value}"] = partial(sign, claims, key, "at+jwt")
        if alg is Algorithm.EDDSA:
            verified = verify(token, keys, rules, now_us=now_s * 1_000_000)
            kinds["adapter_normalises"] = partial(normalised, verified, "bench")
    seen: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(WINDOWS):
        for name, call in kinds.items():
            start = time.perf_counter()
            for _ in range(GUARD_CALLS):
                call()
            seen[name].append(time.perf_counter() - start)
    return {f"{name}_us": round(median(times) / GUARD_CALLS * 1e6, 1) for name, times in seen.items()}


def main(quick: bool = False) -> Figures:
    """Return all costs in µs and bytes, and those with a bound beside it."""
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as name:
        us = asyncio.run(guard())
        us |= asyncio.run(measure(Path(name) / "a"))
        us |= asyncio.run(memory(Path(name) / "b", 2_000 if quick else 100_000))
    us["guard_adds_us"] = round(us["verify_EdDSA_us"] - us["bare_ed25519_verify_us"], 1)
    held = [
        comparison(figure, us[figure], bound, 1.0, less_is_better=True)
        for figure, bound in BOUNDS.items()
        if figure in us
    ]
    return {"figures": us, "comparisons": held}


if __name__ == "__main__":
    sys.exit(run(main))
