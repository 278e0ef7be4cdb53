"""The gateway's gate: whose address counts, what is shed, what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
from prometheus_client import CollectorRegistry

from sealwire.contracts.audit_log import AuditEntry
from sealwire.kit.caller import ANONYMOUS, Caller, Principal
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App, Edge
from sealwire.kit.operation import Operation, Policy, RateClass
from sealwire.kit.permission import Permission, Role
from sealwire.services.gateway.config import GatewayConfig
from sealwire.services.gateway.gate import GatewayGate, Lag
from sealwire.services.gateway.limiter import Limiter
from sealwire.services.gateway.minute_counts import MinuteCounts
from sealwire.testing.clock import ManualClock

NONE = RateClass.NONE
PERSON = Principal(kind="user", tenant_id="acme", subject="u-1", role=Role.MEMBER)
GET = Operation(name="get", service="notes", verb="GET", path="/api/v1/notes/{note_id}", needs=Permission.READ,
                status=204, summary="")  # fmt: skip
OPEN = Operation(name="open", service="notes", verb="POST", path="/api/v1/open", policy=Policy.PUBLIC, status=204,
                 summary="")  # fmt: skip

WAIT = Operation(name="wait", service="notes", verb="POST", path="/api/v1/wait", policy=Policy.PUBLIC, status=204,
                 summary="")  # fmt: skip


class Records:
    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    def put(self, entry: AuditEntry) -> None:
        self.entries.append(entry)


def authenticate(exchange: Exchange, policy: Policy) -> Caller:
    known = exchange.header(b"authorization") is not None
    return Caller(principal=PERSON if known else ANONYMOUS, ip=exchange.ip)


async def nothing(caller: Caller, *rest: object) -> None: ...


async def page(exchange: Exchange, caller: Caller) -> None:
    await exchange.answer(204)


class Gated:
    def __init__(self, *, full: Callable[[], bool] | None = None, **config: object) -> None:
        self.records, self.lag = Records(), Lag()
        settings = GatewayConfig(**config)
        limiter = Limiter(config=settings, counts=MinuteCounts(clock=ManualClock()))
        gate = GatewayGate(
            config=settings,
            limiter=limiter,
            records=self.records,
            registry=CollectorRegistry(),
            lag=self.lag,
            full=full,
        )
        edge = Edge(authenticate=authenticate)
        self.waiting, self.both_wait, self.go_on = 0, asyncio.Event(), asyncio.Event()
        self.at_work = asyncio.Event()
        pages = [
            edge.stream("GET", path, page, policy=Policy.PUBLIC, rate=NONE, audited=False)
            for path in ("/health", "/ready", "/metrics")
        ]
        self.app = App(
            [edge.bind(GET, nothing), edge.bind(OPEN, nothing), edge.bind(WAIT, self.wait), *pages], gate=gate
        )

    async def wait(self, caller: Caller) -> None:
        self.waiting += 1
        self.at_work.set()
        if self.waiting == 2:
            self.both_wait.set()
        await self.go_on.wait()

    async def ask(self, verb: str, path: str, *, peer: str = "198.51.100.7", **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, client=(peer, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(verb, path, headers=named)


async def test_every_answer_leaves_a_record_without_query_or_secret():
    gated = Gated()
    await gated.ask("GET", "/api/v1/notes/7?token=secret", authorization="Bearer secret", user_agent="curl/8")
    assert (await gated.ask("GET", "/health")).status_code == 204
    await gated.ask("GET", "/nowhere?x=secret")
    first, second = gated.records.entries
    assert first.action == "GET_/api/v1/notes/{note_id}"
    assert (first.tenant_id, first.actor.id, first.subject_id, first.outcome) == ("acme", "u-1", "u-1", "success")
    assert first.resource_type == "api_request"
    assert first.metadata["url"] == "/api/v1/notes/7"
    assert first.metadata["status_code"] == 204
    assert first.metadata["response_time_ms"] >= 0
    assert first.personal == {"ip_address": "198.51.100.7", "user_agent": "curl/8"}
    assert (second.tenant_id, second.action, second.outcome) == ("anonymous", "GET_unmatched", "failure")
    assert "secret" not in str(gated.records.entries)


async def test_where_it_is_asked_for_nothing_is_answered_that_can_not_be_recorded():
    full = True
    gated = Gated(full=lambda: full)
    answer = await gated.ask("GET", "/api/v1/notes/7", authorization="x")
    assert (answer.status_code, answer.json()["code"]) == (503, "audit_unavailable")
    assert answer.headers["retry-after"] == "5"
    full = False
    assert (await gated.ask("GET", "/api/v1/notes/7", authorization="x")).status_code == 204
    assert (await Gated().ask("GET", "/api/v1/notes/7", authorization="x")).status_code == 204


async def test_who_watches_the_installation_sees_it_however_loaded_it_is():
    """Load balancers and operators ask when too much is asked; the API is refused then."""
    gated = Gated(per_ip_per_minute=1, per_ip_in_flight=1, max_in_flight=1)
    watched = ("/health", "/ready", "/metrics")
    wait = asyncio.create_task(gated.ask("POST", "/api/v1/wait"))
    await gated.at_work.wait()
    gated.lag.lag_s = 9.0
    for path in watched * 2:
        assert (await gated.ask("GET", path)).status_code == 204, path
        assert (await gated.ask("HEAD", path)).status_code == 204, path
    assert (await gated.ask("POST", "/api/v1/open", peer="198.51.100.8")).status_code == 503
    assert (await gated.ask("GET", "/metrics", authorization="x")).status_code == 429, "a credential costs more"
    assert (await gated.ask("GET", "/nowhere")).status_code == 429
    gated.go_on.set()
    assert (await wait).status_code == 204


@pytest.mark.parametrize(("verb", "first"), [("POST", 405), ("OPTIONS", 204), ("NONSENSE", 405)])
async def test_what_else_is_asked_of_those_pages_is_recorded_and_so_it_is_limited(verb, first):
    gated = Gated(per_ip_per_minute=2)
    asked = [(await gated.ask(verb, path)).status_code for path in ("/health", "/ready", "/metrics")]
    assert asked == [first, first, 429]
    assert len(gated.records.entries) == 3
    assert (await gated.ask("GET", "/health")).status_code == 204


async def test_a_record_can_be_stored_whatever_the_path_holds():
    gated = Gated()
    await gated.ask("GET", "/a%00b")
    assert gated.records.entries[0].metadata["url"] == "/a\ufffdb"


@pytest.mark.parametrize(
    ("peer", "forwarded", "seen"),
    [
        ("198.51.100.7", "203.0.113.5", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "192.0.2.66, 203.0.113.5, 10.0.0.2", "203.0.113.5"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ],
)
async def test_forwarded_addresses_are_believed_from_trusted_proxies_only(peer, forwarded, seen):
    gated = Gated(trusted_proxies=["10.0.0.1", "10.0.0.2"])
    await gated.ask("POST", "/api/v1/open", peer=peer, x_forwarded_for=forwarded)
    assert gated.records.entries[0].personal["ip_address"] == seen


async def test_past_its_limit_a_person_is_told_when_to_come_back():
    gated = Gated(default_per_minute=2)
    answers = [await gated.ask("GET", "/api/v1/notes/7", authorization="x") for _ in range(3)]
    assert [a.status_code for a in answers] == [204, 204, 429]
    assert answers[0].headers["ratelimit-limit"] == "2"
    assert answers[1].headers["ratelimit-remaining"] == "0"
    assert int(answers[2].headers["retry-after"]) >= 1
    assert (await gated.ask("POST", "/api/v1/open")).status_code == 204


async def test_one_address_can_not_keep_all_requests_in_work_to_itself():
    gated = Gated(per_ip_in_flight=2)
    waiting = [asyncio.create_task(gated.ask("POST", "/api/v1/wait")) for _ in range(2)]
    async with asyncio.timeout(30):
        await gated.both_wait.wait()
    answer = await gated.ask("POST", "/api/v1/open")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await gated.ask("POST", "/api/v1/open", peer="198.51.100.8")).status_code == 204
    gated.go_on.set()
    assert [a.status_code for a in await asyncio.gather(*waiting)] == [204, 204]
    assert (await gated.ask("POST", "/api/v1/open")).status_code == 204


async def test_a_late_loop_sheds_with_503_and_retry_after():
    gated = Gated(shed_above_lag_ms=100)
    gated.lag.lag_s = 0.2
    answer = await gated.ask("GET", "/api/v1/notes/7", authorization="x")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    gated.lag.lag_s = 0.0
    assert (await gated.ask("GET", "/api/v1/notes/7", authorization="x")).status_code == 204


async def test_only_listed_origins_are_allowed():
    gated = Gated(cors_origins=["https://app.example.org"])
    allowed = await gated.ask("OPTIONS", "/api/v1/open", origin="https://app.example.org")
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://app.example.org"
    assert {"authorization", "last-event-id"} <= set(allowed.headers["access-control-allow-headers"].split(", "))
    foreign = await gated.ask("OPTIONS", "/api/v1/open", origin="https://evil.example")
    assert "access-control-allow-origin" not in foreign.headers
