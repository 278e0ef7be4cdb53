"""`sealwire check`: the whole system's self-test against a running installation, a line per check."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec

PREFIX = "/api/v1"
PATIENCE_S = 10.0
LIMITS = aiohttp.ClientTimeout(total=15)
SERVICES = ("auth", "compliance", "crypto", "gateway", "socket1", "socket2", "messaging", "media", "search")


class Failed(Exception):
    """A check did not pass; the text says what was seen and what was expected."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report."""

    name: str
    ok: bool
    ms: float
    detail: str = ""


class Person:
    """Somebody who is logged in."""

    def __init__(self, grant: dict[str, Any]) -> None:
        self.token: str = grant["access_token"]
        self.user_id: str = grant.get("user", {}).get("user_id", "")
        self.tenant_id: str = grant.get("user", {}).get("tenant_id", "")


class SelfTest:
    """Runs the checks one after another; a check may use what an earlier one made."""

    def __init__(self, *, url: str, token: str | None, http: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._http = http
        self._owner: Person | None = None
        self._friend: Person | None = None
        self._ready: dict[str, Any] = {}
        self.results: list[CheckResult] = []
        self._unreachable = False
        self._date = ""
        """When the last answer was given, by the clock over there."""

    def checks(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return every check by name, in order."""
        found: list[tuple[str, Callable[[], Awaitable[None]]]] = [("people for the test", self._people)]
        for service in ("auth", "compliance"):
            found += [(f"{service} health", self._health_of(service)), (f"{service} ready", self._ready_of(service))]
        found.append(("audit logging", self._audit_logging))
        found += [("crypto health", self._health_of("crypto")), ("crypto ready", self._ready_of("crypto"))]
        found += [
            ("encrypt/decrypt round trip", self._round_trip),
            ("gateway health", self._gateway_health),
            ("gateway audit logging", self._gateway_audit),
            ("socket 1", self._ready_of("socket1")),
            ("socket 2", self._ready_of("socket2")),
            ("messaging", self._ready_of("messaging")),
            ("media", self._ready_of("media")),
            ("search", self._ready_of("search")),
            ("end-to-end message", self._end_to_end),
            ("boundary components", self._boundary),
            ("circuit breakers", self._breakers),
        ]
        return found

    async def run(self, on_result: Callable[[CheckResult], None]) -> bool:
        """Run all checks, tell each result as it comes, clean up. Returns whether all passed."""
        try:
            for name, check in self.checks():
                started = time.perf_counter()
                detail, ok = "", True
                try:
                    await check()
                except Failed as failed:
                    ok, detail = False, str(failed)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    self._unreachable = True
                    ok, detail = False, f"{self._url} can't be reached ({type(error).__name__}); is it running?"
                except (KeyError, ValueError, TypeError, AttributeError) as error:
                    ok, detail = False, f"the answer has not the shape of the contract: {error!r}"
                ms = round((time.perf_counter() - started) * 1000, 1)
                result = CheckResult(name=name, ok=ok, ms=ms, detail=detail)
                self.results.append(result)
                on_result(result)
                if self._unreachable and len(self.results) == 1:
                    break  # every other check would say the same
        finally:
            await self._clean_up(on_result)
        return all(result.ok for result in self.results)

    # ---- calls
    async def _call(self, verb: str, path: str, person: Person | None = None, *, expect: tuple[int, ...] = (200,),
                    **options: Any) -> Any:  # fmt: skip
        headers = dict(options.pop("headers", {}))
        if person is not None:
            headers["Authorization"] = f"Bearer {person.token}"
        async with self._http.request(verb, self._url + path, headers=headers, timeout=LIMITS, **options) as answer:
            text = await answer.text()
            self._date = answer.headers.get("Date", "")
            if answer.status not in expect:
                raise Failed(f"{verb} {path} answered {answer.status}, expected {expect[0]}: {text[:200]}")
            return msgspec.json.decode(text) if text and "json" in answer.content_type else text

    async def _until(self, look: Callable[[], Awaitable[bool]], what: str) -> None:
        """Ask again until it is so, at most ten seconds."""
        deadline = time.monotonic() + PATIENCE_S
        while not await look():
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not seen within {PATIENCE_S:g} s")
            await asyncio.sleep(0.05)

    # ---- checks
    async def _people(self) -> None:
        if self._token is not None:
            me = Person({"access_token": self._token})
            user = await self._call("GET", f"{PREFIX}/auth/me", me)
            me.user_id, me.tenant_id = user["user_id"], user["tenant_id"]
            self._owner = self._friend = me
            return
        tenant = f"selftest-{secrets.token_hex(6)}"
        self._owner = await self._register(tenant, "owner")
        self._friend = await self._register(tenant, "friend")

    async def _register(self, tenant: str, name: str) -> Person:
        password = secrets.token_urlsafe(18)
        who = {"email": f"{name}@{tenant}.example", "password": password, "tenant": tenant}
        try:
            await self._call("POST", f"{PREFIX}/auth/register", expect=(201,), json={**who, "display_name": name})
        except Failed as failed:
            raise Failed(f"{failed}. Where registration is not open, give --token of an owner.") from None
        return Person(await self._call("POST", f"{PREFIX}/auth/login", json=who))

    def _someone(self) -> Person:
        if self._owner is None:
            raise Failed("nobody is logged in (see the first line)")
        return self._owner

    async def _state(self, service: str) -> dict[str, Any]:
        self._ready = await self._call("GET", "/ready", expect=(200, 503))
        check = self._ready["checks"].get(service)
        if check is None:
            raise Failed(f"/ready does not name {service}")
        return dict(check)

    def _health_of(self, service: str) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            state = await self._state(service)
            if state["status"] == "unavailable":
                raise Failed(f"{service} is unavailable: {state.get('detail', '')}")

        return check

    def _ready_of(self, service: str) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            state = await self._state(service)
            if state["status"] != "ok":
                raise Failed(f"{service} is {state['status']}: {state.get('detail', '')}")

        return check

    async def _gateway_health(self) -> None:
        health = await self._call("GET", "/health")
        if health["status"] != "ok":
            raise Failed(f"/health says {health['status']}")

    async def _audit_logging(self) -> None:
        person = self._someone()
        if self._token is None:
            path = f"{PREFIX}/compliance/audit?action=auth.user.registered"

            async def written() -> bool:
                return bool((await self._call("GET", path, person))["items"])

            await self._until(written, "the record of the registration")
        verdict = await self._call("GET", f"{PREFIX}/compliance/audit/verify", person, expect=(200, 202))
        if verdict.get("job_id"):
            verdict = await self._verified(verdict, person)
        if not verdict["ok"]:
            raise Failed(f"the chain breaks at seq {verdict['first_bad_seq']}: {verdict.get('fault')}")

    async def _verified(self, verdict: dict[str, Any], person: Person) -> dict[str, Any]:
        """Wait for the verification of a long log, for as long as it goes on."""
        path = f"{PREFIX}/compliance/audit/verify/{verdict['job_id']}"
        deadline = time.monotonic() + 10 * PATIENCE_S
        while verdict["progress"] < 1:
            if time.monotonic() > deadline:
                raise Failed(f"the verification of the log stands still behind {verdict['records']} records")
            await asyncio.sleep(0.05)
            found = dict(await self._call("GET", path, person, expect=(200, 202)))
            if found["records"] > verdict["records"]:
                deadline = time.monotonic() + 10 * PATIENCE_S
            verdict = found
        return verdict

    async def _gateway_audit(self) -> None:
        person, trace = self._someone(), secrets.token_hex(16)
        traced = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
        await self._call("GET", f"{PREFIX}/auth/me", person, headers=traced)
        path = f"{PREFIX}/compliance/audit?action=GET_{PREFIX}/auth/me&actor={person.user_id}&limit=1000"
        if self._date:  # of a log that is years long, the last minute
            since = parsedate_to_datetime(self._date) - timedelta(minutes=1)
            path += f"&from={since:%Y-%m-%dT%H:%M:%SZ}"

        async def written() -> bool:
            items = (await self._call("GET", path, person))["items"]
            return any(item["metadata"]["trace_id"] == trace for item in items)

        await self._until(written, "the record of GET /auth/me")

    async def _round_trip(self) -> None:
        person = self._someone()
        secret = base64.b64encode(secrets.token_bytes(64)).decode()
        context = {"purpose": "selftest"}
        sealed = await self._call(
            "POST", f"{PREFIX}/crypto/master/encrypt", person, json={"plaintext": secret, "context": context}
        )
        opened = await self._call(
            "POST", f"{PREFIX}/crypto/master/decrypt", person, json={**sealed, "context": context}
        )
        if opened["plaintext"] != secret:
            raise Failed("what came back is not what was sealed")
        wrong = {**sealed, "context": {"purpose": "other"}}
        await self._call("POST", f"{PREFIX}/crypto/master/decrypt", person, expect=(422,), json=wrong)

    async def _end_to_end(self) -> None:
        sender, reader = self._someone(), self._friend
        assert reader is not None
        word = f"selftest{secrets.token_hex(5)}"
        members = [reader.user_id] if reader is not sender else []
        made = await self._call(
            "POST", f"{PREFIX}/conversations", sender, expect=(200, 201),
            json={"kind": "group", "title": "self-test", "member_ids": members},
        )  # fmt: skip
        conversation = made["conversation_id"]
        async with self._http.ws_connect(self._url + "/ws", timeout=aiohttp.ClientWSTimeout(ws_close=2)) as socket:
            await socket.send_json({"id": 1, "connect": {"token": reader.token}})
            await self._reply(socket, 1, "connect")
            await socket.send_json({"id": 2, "subscribe": {"channel": f"conversation:{conversation}"}})
            await self._reply(socket, 2, "subscribe")
            draft = {"body": f"hello {word}", "client_message_id": secrets.token_hex(8)}
            sent = await self._call(
                "POST", f"{PREFIX}/conversations/{conversation}/messages", sender, expect=(201,), json=draft
            )
            await self._live(socket, sent["message_id"])

        async def found() -> bool:
            hits = await self._call("GET", f"{PREFIX}/search?q={word}", reader)
            return any(hit["message_id"] == sent["message_id"] for hit in hits["items"])

        await self._until(found, "the message in search")
        path = f"{PREFIX}/compliance/audit?action=message.created&resource_id={sent['message_id']}"

        async def audited() -> bool:
            return bool((await self._call("GET", path, sender))["items"])

        await self._until(audited, "the message in the audit log")
        await self._call("DELETE", f"{PREFIX}/conversations/{conversation}", sender, expect=(200,))

    async def _reply(self, socket: aiohttp.ClientWebSocketResponse, number: int, kind: str) -> dict[str, Any]:
        async for frame in self._frames(socket):
            if frame.get("id") == number:
                if kind not in frame:
                    raise Failed(f"{kind} over /ws answered {frame.get('error')}")
                return dict(frame[kind])
        raise Failed(f"the socket closed with {socket.close_code} before {kind} was answered")

    async def _live(self, socket: aiohttp.ClientWebSocketResponse, message_id: str) -> None:
        async for frame in self._frames(socket):
            data = frame.get("push", {}).get("pub", {}).get("data", {})
            if data.get("message", {}).get("message_id") == message_id:
                return
        raise Failed(f"the socket closed with {socket.close_code} before the message came")

    @staticmethod
    async def _frames(socket: aiohttp.ClientWebSocketResponse) -> Any:
        while True:
            message = await socket.receive(timeout=PATIENCE_S)
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            for line in message.data.split("\n"):
                if line.strip():
                    frame = msgspec.json.decode(line)
                    if frame == {}:
                        await socket.send_str("{}")
                    else:
                        yield frame

    async def _boundary(self) -> None:
        state = await self._call("GET", "/api/integration-health/")
        bad = [name for name, part in state["components"].items() if part["status"] != "healthy"]
        if bad or len(state["components"]) != 5:
            raise Failed(f"not healthy: {', '.join(bad) or 'components are missing'}")

    async def _breakers(self) -> None:
        state = await self._call("GET", "/api/integration-health/circuit-breaker-status")
        if state["summary"]["active_breakers"]:
            active = [b["name"] for b in state["breakers"] if b["state"].lower() != "closed"]
            raise Failed(f"not closed: {', '.join(active)}")
        if state["summary"]["total_breakers"] < 7:
            raise Failed(f"only {state['summary']['total_breakers']} breakers are registered, expected 7")

    async def _clean_up(self, on_result: Callable[[CheckResult], None]) -> None:
        if self._token is None and self._owner is not None:
            try:
                await self._call(
                    "DELETE", f"{PREFIX}/auth/tenants/{self._owner.tenant_id}", self._owner, expect=(200, 404)
                )
            except (Failed, aiohttp.ClientError, TimeoutError, OSError) as error:
                result = CheckResult(name="clean-up", ok=False, ms=0.0, detail=str(error))
                self.results.append(result)
                on_result(result)


async def self_test(url: str, token: str | None, on_result: Callable[[CheckResult], None]) -> bool:
    """Run the self-test. Returns whether every check passed."""
    async with aiohttp.ClientSession() as http:
        return await SelfTest(url=url, token=token, http=http).run(on_result)
