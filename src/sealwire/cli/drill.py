"""`sealwire drill redis-down`: takes the session cache away from a real installation and proves what must not change.

The same steps stand in docs/life/outage.md.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.cli.live_stage import open_live_stage
from sealwire.cli.stage import PREFIX, Answer, OwnStage, Session, Socket, Stage, open_stage
from sealwire.ports.cache import CacheFault
from sealwire.testing.faults import Fault

NOTICE_S: Final = 5.0
"""How long an outage may last before the installation says so."""
RETURN_S: Final = 10.0
"""How long the way back may take: the breaker's longest rest and its probes."""
BOUND_S: Final = 1.0
"""How long a revocation may take to be in force everywhere."""
FLAP_AWAY_S: Final = 2.5
FLAP_BACK_S: Final = 0.7
FAULTS: Final = ("kill", "pause", "refuse", "latency", "half-open", "wrong", "swapped", "flapping")
_BY_PROXY: Final = {
    "refuse": Fault.REFUSE,
    "latency": Fault.LATENCY,
    "half-open": Fault.BLACK_HOLE,
    "wrong": Fault.WRONG,
    "swapped": Fault.SWAPPED,
}


PROXY_FAULTS: Final = (*_BY_PROXY, "flapping")
"""What can befall the cache of an installation that runs: nobody kills its server."""


class Failed(Exception):
    """A step did not come out as it must; the text says what was seen."""


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. `ms` is how long the step took."""

    fault: str
    name: str
    ok: bool
    ms: float
    detail: str = ""


class Watcher:
    """Asks for somebody's own profile, on and on, through the whole outage, and counts the answers."""

    def __init__(self, stage: Stage, session: Session) -> None:
        self._stage, self._session = stage, session
        self.statuses: Counter[int] = Counter()
        self.slowest_ms = 0.0
        self._task = asyncio.create_task(self._ask_on())

    async def stop(self) -> None:
        """Stop. Raises: Failed when an answer was none that an outage may give to a good session."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if bad := {status: count for status, count in self.statuses.items() if status not in (200, 503)}:
            raise Failed(f"a good session was answered {bad}")

    async def _ask_on(self) -> None:
        while True:
            try:
                answer = await self._stage.call("GET", f"{PREFIX}/auth/me", self._session)
                self.statuses[answer.status] += 1
                self.slowest_ms = max(self.slowest_ms, answer.ms)
            except (aiohttp.ClientError, TimeoutError, OSError):
                self.statuses[0] += 1
            await asyncio.sleep(self._stage.ask_every_s)


class RedisDown:
    """One pass of the drill with one fault. A step may use what an earlier one made."""

    def __init__(self, *, stage: Stage, fault: str, owner: Session) -> None:
        self._stage = stage
        self._fault = fault
        self._owner = owner
        self._flapping: asyncio.Task[None] | None = None
        self._sockets: list[Socket] = []

    def steps(self) -> list[tuple[str, Callable[[], Awaitable[str]]]]:
        """Return every step by name, in order; each returns what it saw."""
        found: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("sessions, sockets and a revoked session", self._prepare),
            (f"the session cache is taken away ({self._fault})", self._take_away),
            ("the installation says it is degraded, and stays ready", self._says_so),
            ("known sessions go on", self._go_on),
            ("a revoked session stays dead", self._stays_dead),
            ("login and refresh are answered by auth's own store", self._logs_in),
            ("high-risk operations are confirmed by auth or refused with 503", self._high_risk),
            ("a session revoked during the outage is dead within a second", self._revoke),
            ("the other sockets stay open", self._sockets_stay),
        ]
        if self._fault == "kill":
            found.append(("a restart during the outage brings nothing back to life", self._restart))
        return [
            *found,
            ("the session cache is brought back", self._bring_back),
            ("revocations won in the cache, new sessions are there", self._reconciled),
            ("nothing answered 401 for the outage", self._nothing_401),
        ]

    async def run(self, say: Callable[[StepResult], None]) -> bool:
        """Run the steps until one fails; always brings the cache back. Returns whether all passed."""
        try:
            for name, step in self.steps():
                started = time.perf_counter()
                ok, detail = True, ""
                try:
                    detail = await step()
                except Failed as failed:
                    ok, detail = False, str(failed)
                except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError, KeyError) as error:
                    ok, detail = False, f"{type(error).__name__}: {error}"
                ms = round((time.perf_counter() - started) * 1000, 1)
                say(StepResult(fault=self._fault, name=name, ok=ok, ms=ms, detail=detail))
                if not ok:
                    return False
            return True
        finally:
            await self._restore()
            for socket in self._sockets:
                await socket.leave()

    # -- before

    async def _prepare(self) -> str:
        stage = self._stage
        await self._until(self._healthy, RETURN_S, "a healthy start")
        self._member = await stage.register("member")
        self._dead = await stage.log_in(self._member.email)
        self._doomed = await stage.log_in(self._member.email)
        made = await stage.call(
            "POST", f"{PREFIX}/conversations", self._owner, {"kind": "group", "member_ids": [self._member.user_id]}
        )
        self._conversation: str = made.body["conversation_id"]
        for session in (self._owner, self._member, self._dead, self._doomed):
            self._expect(await stage.call("GET", f"{PREFIX}/auth/me", session), 200)
        self._sockets = [await stage.listen(s, self._conversation) for s in (self._member, self._doomed)]
        self._expect(await stage.call("POST", f"{PREFIX}/auth/logout", self._dead), 204)
        await self._stays_dead()
        self._watcher = Watcher(stage, self._owner)
        return "4 sessions, 2 sockets, 1 session revoked"

    # -- away

    async def _take_away(self) -> str:
        if self._fault == "kill":
            self._stage.server.kill()
        elif self._fault == "pause":
            self._stage.server.pause()
        elif self._fault == "flapping":
            self._flapping = asyncio.create_task(self._flap())
        else:
            self._stage.proxy.set(_BY_PROXY[self._fault], latency_s=1.0)
        return ""

    async def _says_so(self) -> str:
        started = time.perf_counter()

        async def degraded() -> bool:
            ready = await self._stage.call("GET", "/ready")
            self._expect(ready, 200)
            return await self._degraded() and ready.body["checks"]["cache"]["status"] == "degraded"

        await self._until(degraded, NOTICE_S, "degraded_mode and `cache: degraded`")
        self._expect(await self._stage.call("GET", "/health"), 200)
        return f"noticed after {time.perf_counter() - started:.1f} s; /ready and /health 200"

    async def _go_on(self) -> str:
        answer = await self._stage.call("GET", f"{PREFIX}/auth/me", self._member)
        self._expect(answer, 200)
        word = secrets.token_hex(8)
        sent = await self._stage.call(
            "POST", f"{PREFIX}/conversations/{self._conversation}/messages", self._owner,
            {"body": word, "client_message_id": word},
        )  # fmt: skip
        self._expect(sent, 201)

        async def heard() -> bool:
            return all(any(word in line for line in socket.heard) for socket in self._sockets)

        await self._until(heard, 5.0, "the message on both sockets")
        return f"answered in {answer.ms:.0f} ms; a message sent in {sent.ms:.0f} ms, heard on both sockets"

    async def _stays_dead(self) -> str:
        answer = await self._stage.call("GET", f"{PREFIX}/auth/me", self._dead)
        self._expect(answer, 401)
        return str(answer.body["code"])

    async def _logs_in(self) -> str:
        self._fresh = await self._stage.log_in(self._member.email)
        answer = await self._stage.call("GET", f"{PREFIX}/auth/me", self._fresh)
        self._expect(answer, 200)
        renewed = await self._stage.call(
            "POST", f"{PREFIX}/auth/refresh", json={"refresh_token": self._member.refresh_token}
        )
        self._expect(renewed, 200)
        self._member.token = renewed.body["access_token"]
        self._member.refresh_token = renewed.body["refresh_token"]
        return "a new session, and a refreshed one"

    async def _high_risk(self) -> str:
        user = f"{PREFIX}/auth/users/{self._member.user_id}"
        asked: list[tuple[str, str, str, Any]] = [
            ("roles", "PATCH", user, {"role": "member"}),
            ("keys", "POST", f"{PREFIX}/crypto/keys", {"key_type": "hmac-sha256"}),
            ("audit", "GET", f"{PREFIX}/compliance/audit?limit=1", None),
            ("consents", "GET", f"{PREFIX}/compliance/gdpr/consents", None),
            ("search", "GET", f"{PREFIX}/search?q=drill", None),
        ]
        seen = []
        for name, verb, path, body in asked:
            answer = await self._stage.call(verb, path, self._owner, body)
            self._expect(answer, 200, 201, 204, 503)
            seen.append(f"{name} {answer.status}")
        self._expect(await self._stage.call("POST", f"{PREFIX}/crypto/keys", self._dead, asked[1][3]), 401)
        return ", ".join(seen) + "; revoked session 401"

    async def _revoke(self) -> str:
        answer = await self._stage.call("DELETE", f"{PREFIX}/auth/sessions/{self._doomed.session_id}", self._member)
        self._expect(answer, 204)
        started = time.perf_counter()

        async def dead() -> bool:
            answer = await self._stage.call("GET", f"{PREFIX}/auth/me", self._doomed)
            self._expect(answer, 200, 401)
            return answer.status == 401

        await self._until(dead, BOUND_S, "401 for the revoked session")
        took_ms = (time.perf_counter() - started) * 1000
        async with asyncio.timeout(BOUND_S):
            await self._sockets[1].closed.wait()
        if self._sockets[1].close_code != 4502:
            raise Failed(f"its socket was closed with {self._sockets[1].close_code}, not 4502")
        return f"401 within {took_ms:.0f} ms, its socket closed with 4502"

    async def _sockets_stay(self) -> str:
        if self._fault == "flapping":
            await asyncio.sleep(FLAP_AWAY_S + FLAP_BACK_S)  # through a whole turn
        if self._sockets[0].closed.is_set():
            raise Failed(f"a socket of a good session was closed with {self._sockets[0].close_code}")
        if self._fault != "flapping" and not await self._degraded():
            raise Failed("degraded_mode is false though the cache is still away")
        return "no 4001" if self._fault == "flapping" else "no 4001, degraded_mode still true"

    async def _restart(self) -> str:
        assert isinstance(self._stage, OwnStage)  # what is killed is a stage's own
        before = await self._nothing_401()
        await self._stage.kill()
        started = time.perf_counter()
        await self._stage.start()
        took_s = time.perf_counter() - started
        self._watcher = Watcher(self._stage, self._owner)
        for session in (self._dead, self._doomed):
            await self._until(partial(self._answers, session, 401), RETURN_S, "401 for a revoked session")
        for session in (self._owner, self._member, self._fresh):
            await self._until(partial(self._answers, session, 200), RETURN_S, "200 for a good session")
        return f"ready after {took_s:.1f} s without the cache; the dead stay dead, the living live ({before})"

    async def _answers(self, session: Session, status: int) -> bool:
        """Whether the session is answered so; not yet where the load is shed for a moment, as on a slow machine."""
        answer = await self._stage.call("GET", f"{PREFIX}/auth/me", session)
        self._expect(answer, status, 503)
        return answer.status == status

    async def _nothing_401(self) -> str:
        await self._watcher.stop()
        told = ", ".join(f"{status}: {count}" for status, count in sorted(self._watcher.statuses.items()))
        return f"answers by status: {told}; the slowest took {self._watcher.slowest_ms:.0f} ms"

    # -- back

    async def _bring_back(self) -> str:
        await self._restore()
        started = time.perf_counter()
        await self._until(self._healthy, RETURN_S, "degraded_mode false and `cache: ok`")
        return f"healthy after {time.perf_counter() - started:.1f} s"

    async def _reconciled(self) -> str:
        driver = RedisDriver(url=self._stage.server.url, prefix=self._stage.prefix, timeout_s=2.0, connections=1)

        async def kept(session: Session) -> bool:
            return bool(await driver.call("EXISTS", driver.key(f"session:{session.session_id}")))

        async def right() -> bool:
            try:
                return await kept(self._fresh) and not await kept(self._dead) and not await kept(self._doomed)
            except CacheFault:
                return False

        try:
            await self._until(right, RETURN_S, "the cache without revoked sessions and with the new one")
        finally:
            await driver.aclose()
        for session in (self._dead, self._doomed):
            self._expect(await self._stage.call("GET", f"{PREFIX}/auth/me", session), 401)
        for session in (self._owner, self._member, self._fresh):
            self._expect(await self._stage.call("GET", f"{PREFIX}/auth/me", session), 200)
        return "two revoked sessions gone from the cache, the new one in it"

    # -- parts

    async def _restore(self) -> None:
        if self._flapping is not None:
            self._flapping.cancel()
            await asyncio.gather(self._flapping, return_exceptions=True)
            self._flapping = None
        self._stage.proxy.set(Fault.NONE)
        if self._fault == "kill":
            self._stage.server.kill()
            self._stage.server.start()
        self._stage.server.resume()

    async def _flap(self) -> None:
        while True:
            self._stage.proxy.set(Fault.REFUSE)
            await asyncio.sleep(FLAP_AWAY_S)
            self._stage.proxy.set(Fault.NONE)
            await asyncio.sleep(FLAP_BACK_S)

    async def _degraded(self) -> bool:
        status = await self._stage.call("GET", "/api/integration-health/circuit-breaker-status")
        self._expect(status, 200)
        return bool(status.body["summary"]["degraded_mode"])

    async def _healthy(self) -> bool:
        ready = await self._stage.call("GET", "/ready")
        self._expect(ready, 200)
        return ready.body["checks"]["cache"]["status"] == "ok" and not await self._degraded()

    @staticmethod
    def _expect(answer: Answer, *statuses: int) -> None:
        if answer.status not in statuses:
            raise Failed(f"answered {answer.status} instead of {' or '.join(map(str, statuses))}: {answer.body}")

    @staticmethod
    async def _until(holds: Callable[[], Awaitable[bool]], within_s: float, what: str) -> None:
        deadline = time.monotonic() + within_s
        while not await holds():
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {within_s:g} s")
            await asyncio.sleep(0.02)


async def redis_down(flavour: str, faults: list[str], say: Callable[[StepResult], None]) -> bool:
    """Run the drill with each fault on one installation. Returns whether every step passed.

    Raises: FileNotFoundError when there is no such engine; RuntimeError when the installation does not start.
    """
    async with open_stage(flavour) as stage:
        return await _each(stage, await stage.register("owner"), faults, say)


async def live_redis_down(
    url: str, control: Path, cache_url: str, prefix: str, faults: list[str], say: Callable[[StepResult], None]
) -> bool:
    """Run the drill on an installation that runs, its cache behind a `ControlledProxy`.

    Raises: OSError, RuntimeError when it, or the proxy, is not as needed.
    """
    async with open_live_stage(url, control, cache_url, prefix) as (stage, owner):
        return await _each(stage, owner, faults, say)


async def _each(stage: Stage, owner: Session, faults: list[str], say: Callable[[StepResult], None]) -> bool:
    passed = True
    for fault in faults:
        passed = await RedisDown(stage=stage, fault=fault, owner=owner).run(say) and passed
    return passed
