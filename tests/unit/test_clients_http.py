"""One contract, three wirings: direct, guarded and over real HTTP behave alike."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from random import Random
from typing import Annotated, Any, Protocol

import msgspec
import pytest
import uvicorn

from sealwire.clients.guarded import guarded
from sealwire.clients.http import Transport, remote
from sealwire.clients.identity import ServiceAuthenticator, ServiceIdentity, ServiceVerifier
from sealwire.clients.problems import BadAnswer, read_problem
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.clock import SystemClock
from sealwire.kit.codec import Input, Output
from sealwire.kit.http import App, Edge
from sealwire.kit.jose import Algorithm, Key, KeySet
from sealwire.kit.operation import Operation, Policy, Repeat, table
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import (
    Conflict,
    DeadlineExceeded,
    Invalid,
    NotFound,
    Problem,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from sealwire.resilience import deadline
from sealwire.resilience.breaker import BreakerRules, State
from sealwire.resilience.failure import CircuitOpen, TimedOut, Unreachable
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry
from sealwire.resilience.retry import RetryRules

CLOCK = SystemClock()
ANNA = Caller(
    principal=Principal(kind="user", tenant_id="t", subject="anna", role=Role.MEMBER),
    trace_id="ab" * 16,
    ip="192.0.2.7",
)


class ShelfFull(Conflict):
    """No room."""

    code, title = "shelf_full", "The shelf is full"


class Book(Input):
    """What is put on the shelf."""

    title: Annotated[str, msgspec.Meta(max_length=100)]


class Filter(Input):
    """Which books."""

    word: str = ""
    limit: int = 50
    exact: bool = False


class Shelf(Output):
    """What stands there."""

    shelf: str
    titles: list[str]


PUT = Operation(
    name="put",
    service="shelves",
    verb="POST",
    path="/shelves/{shelf}/{place:int}",
    takes=Book,
    gives=Shelf,
    status=201,
    summary="Put",
    needs=Permission.POST,
    repeat=Repeat.NEVER,
)
LOOK = Operation(
    name="look",
    service="shelves",
    verb="GET",
    path="/shelves/{shelf}",
    takes=Filter,
    gives=Shelf,
    summary="Look",
    needs=Permission.READ,
    repeat=Repeat.SAFE,
)
CLEAR = Operation(
    name="clear",
    service="shelves",
    verb="DELETE",
    path="/shelves/{shelf}",
    status=204,
    summary="Clear",
    needs=Permission.POST,
    repeat=Repeat.IDEMPOTENT,
)
RAW = Operation(
    name="form", service="shelves", verb="POST", path="/form", takes=Book, gives=Shelf, form=True, summary="Form",
    needs=Permission.POST,
)  # fmt: skip
OPERATIONS = table(PUT, LOOK, CLEAR, RAW)


class Shelves(Protocol):
    """The contract."""

    async def put(self, caller: Caller, shelf: str, place: int, book: Book) -> Shelf: ...
    async def look(self, caller: Caller, shelf: str, query: Filter) -> Shelf: ...
    async def clear(self, caller: Caller, shelf: str) -> None: ...
    async def form(self, caller: Caller, book: Book) -> Shelf: ...


class ShelvesService:
    """Shelves in memory, with the faults the tests want."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.callers: list[Caller] = []
        self.fails: list[Exception] = []
        self.left_s: float | None = None

    def _enter(self, caller: Caller) -> None:
        self.callers.append(caller)
        self.left_s = deadline.remaining_s(CLOCK)
        if self.fails:
            raise self.fails.pop(0)

    async def put(self, caller: Caller, shelf: str, place: int, book: Book) -> Shelf:
        self._enter(caller)
        self.titles.insert(place, book.title)
        return Shelf(shelf=shelf, titles=self.titles)

    async def look(self, caller: Caller, shelf: str, query: Filter) -> Shelf:
        self._enter(caller)
        if query.word == "hang":
            await asyncio.sleep(30)
        return Shelf(shelf=shelf, titles=[t for t in self.titles if query.word in t][: query.limit])

    async def clear(self, caller: Caller, shelf: str) -> None:
        self._enter(caller)
        self.titles.clear()

    async def form(self, caller: Caller, book: Book) -> Shelf:
        self._enter(caller)
        return Shelf(shelf="form", titles=[book.title])


def guard_of(timeout_s: float | None = None) -> Guard:
    return Guard.of(
        "shelves",
        registry=Registry(clock=CLOCK),
        clock=CLOCK,
        rng=Random(1),
        timeout_s=timeout_s,
        breaker=BreakerRules(consecutive_failures=4),
        retry=RetryRules(attempts=3, base_s=0.001, cap_s=0.002),
    )


class Wiring:
    """A way to reach the service, and what a test needs to look behind it."""

    def __init__(self, service: ShelvesService, client: Shelves, guard: Guard, transport: Transport | None) -> None:
        self.service, self.client, self.guard, self.transport = service, client, guard, transport


async def serve(app: App) -> tuple[uvicorn.Server, asyncio.Task[None], int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", loop="asyncio")  # type: ignore[arg-type]  # ASGI3
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    async with asyncio.timeout(30):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
    return server, task, listener.getsockname()[1]


@pytest.fixture(params=["guarded", "network"])
async def wiring(request: pytest.FixtureRequest) -> AsyncIterator[Wiring]:
    service = ShelvesService()
    if request.param == "guarded":
        guard = guard_of()
        yield Wiring(service, guarded(service, OPERATIONS, guard), guard, None)
        return
    key = Key.generate(Algorithm.EDDSA, kid="gateway.1")
    verifier = ServiceVerifier(
        audience="shelves",
        keys={"gateway": KeySet([Key.from_public_jwk(key.public_jwk())])},
        clock=CLOCK,
        rng=Random(1),
    )
    edge = Edge(authenticate=ServiceAuthenticator(verifier=verifier, clock=CLOCK))
    server, task, port = await serve(App([edge.bind(op, getattr(service, name)) for name, op in OPERATIONS.items()]))
    transport = Transport(
        service="shelves",
        base_url=f"http://127.0.0.1:{port}",
        identity=ServiceIdentity(service="gateway", key=key, clock=CLOCK, rng=Random(1)),
        clock=CLOCK,
    )
    guard = guard_of(timeout_s=5)
    yield Wiring(service, remote(OPERATIONS, transport, guard), guard, transport)
    await transport.close()
    server.should_exit = True
    server.force_exit = True
    await task


async def test_what_goes_in_comes_out(wiring: Wiring) -> None:
    shelf = "a b ü%&?#+"
    assert (await wiring.client.put(ANNA, shelf, 0, Book(title="Émile & Ω"))).titles == ["Émile & Ω"]
    assert await wiring.client.look(ANNA, shelf, Filter()) == Shelf(shelf=shelf, titles=["Émile & Ω"])
    assert (await wiring.client.look(ANNA, shelf, Filter(word="Ω & +", limit=3, exact=True))).titles == []
    assert (await wiring.client.form(ANNA, Book(title="a=b&c"))).titles == ["a=b&c"]
    assert await wiring.client.clear(ANNA, shelf) is None  # type: ignore[func-returns-value]  # that is the point


async def test_the_service_sees_the_end_caller(wiring: Wiring) -> None:
    await wiring.client.look(ANNA, "x", Filter())
    seen = wiring.service.callers[0]
    assert (seen.principal, seen.ip, seen.trace_id, seen.confirmed) == (ANNA.principal, ANNA.ip, ANNA.trace_id, True)


async def test_the_deadline_travels(wiring: Wiring) -> None:
    with deadline.within(5, CLOCK):
        await wiring.client.look(ANNA, "x", Filter())
    assert wiring.service.left_s is not None
    assert 0 < wiring.service.left_s <= 5


@pytest.mark.parametrize(
    "problem",
    [
        ShelfFull("no room", limit=3),
        NotFound("nothing here"),
        Invalid("bad", path="$.title"),
        RateLimited("slow down", retry_after_s=7),
    ],
)
async def test_a_refusal_is_the_same_exception_everywhere(wiring: Wiring, problem: Problem) -> None:
    wiring.service.fails = [problem]
    with pytest.raises(type(problem)) as raised:
        await wiring.client.put(ANNA, "x", 0, Book(title="t"))
    assert type(raised.value) is type(problem)
    assert (raised.value.detail, raised.value.extra) == (problem.detail, problem.extra)
    assert raised.value.retry_after_s == problem.retry_after_s
    assert wiring.guard.breaker.counts().failures == 0


async def test_only_what_is_safe_is_repeated(wiring: Wiring) -> None:
    wiring.service.fails = [DeadlineExceeded("once")]
    await wiring.client.look(ANNA, "x", Filter())
    assert len(wiring.service.callers) == 2
    wiring.service.fails = [DeadlineExceeded("once")]
    with pytest.raises(DeadlineExceeded):
        await wiring.client.put(ANNA, "x", 0, Book(title="t"))
    assert wiring.service.titles == []


async def test_a_bug_says_nothing_and_shuts_nobody_out(wiring: Wiring) -> None:
    """One input that finds a bug must not close the part for all who send other ones."""
    wiring.service.fails = [RuntimeError("secret") for _ in range(20)]
    for _ in range(20):
        with pytest.raises((RuntimeError, Problem)) as raised:
            await wiring.client.put(ANNA, "x", 0, Book(title="t"))
        if isinstance(raised.value, Problem):
            assert (raised.value.status, "secret" in raised.value.detail) == (500, False)
    client: Any = wiring.client
    assert client.get_circuit_breaker_state().state is State.CLOSED
    await client.look(ANNA, "x", Filter())


async def test_an_outage_opens_the_breaker(wiring: Wiring) -> None:
    wiring.service.fails = [Unavailable() for _ in range(9)]
    for _ in range(4):
        with pytest.raises(Unavailable):
            await wiring.client.put(ANNA, "x", 0, Book(title="t"))
    client: Any = wiring.client
    assert client.get_circuit_breaker_state().state is State.OPEN
    assert not client.is_healthy()
    with pytest.raises(CircuitOpen):
        await client.look(ANNA, "x", Filter())
    client.clear_cache()


@pytest.mark.parametrize("wiring", ["network"], indirect=True)
async def test_without_an_identity_nobody_gets_in(wiring: Wiring) -> None:
    assert wiring.transport is not None
    import httpx

    async with httpx.AsyncClient() as stranger:
        answer = await stranger.get(wiring.transport._base_url + "/shelves/x")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        answer = await stranger.get(
            wiring.transport._base_url + "/shelves/x", headers={"Authorization": "Bearer e30.e30.e30"}
        )
        assert answer.status_code == 401
    assert wiring.service.callers == []
    wrong = wiring.transport._identity.token(ANNA, audience="shelves", operation="clear")
    async with httpx.AsyncClient() as stranger:
        answer = await stranger.get(
            wiring.transport._base_url + "/shelves/x", headers={"Authorization": f"Bearer {wrong}"}
        )
        assert answer.status_code == 401


@pytest.mark.parametrize("wiring", ["network"], indirect=True)
async def test_a_hanging_service_is_not_waited_for(wiring: Wiring) -> None:
    assert wiring.transport is not None
    hurried: Shelves = remote(OPERATIONS, wiring.transport, guard_of(timeout_s=0.1))
    with pytest.raises(TimedOut):
        await hurried.look(ANNA, "x", Filter(word="hang"))


async def test_nobody_there_is_told_apart_from_a_broken_call() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    key = Key.generate(Algorithm.EDDSA, kid="gateway.1")
    transport = Transport(
        service="shelves",
        base_url=f"http://127.0.0.1:{port}",
        identity=ServiceIdentity(service="gateway", key=key, clock=CLOCK, rng=Random(1)),
        clock=CLOCK,
    )
    client: Shelves = remote(OPERATIONS, transport, guard_of(timeout_s=1))
    with pytest.raises(Unreachable):
        await client.put(ANNA, "x", 0, Book(title="t"))
    await transport.close()
    await transport.close()


def test_odd_answers_become_problems_too() -> None:
    assert type(read_problem(503, b"<html>", 3.0)).code == "unavailable"
    assert type(read_problem(302, b"", None)) is BadAnswer
    assert type(read_problem(401, b'{"code":"shelf_full","detail":""}', None)) is Unauthenticated
    assert read_problem(500, b"[" * 100_000, None).status == 500


def test_calls_that_leave_the_process_need_a_timeout() -> None:
    with pytest.raises(ValueError):
        remote(OPERATIONS, None, guard_of())  # type: ignore[arg-type]  # refused before it is looked at


async def test_a_wrong_number_of_arguments_is_a_bug_told_at_once() -> None:
    key = Key.generate(Algorithm.EDDSA, kid="gateway.1")
    identity = ServiceIdentity(service="gateway", key=key, clock=CLOCK, rng=Random(1))
    transport = Transport(service="shelves", base_url="http://127.0.0.1:9", identity=identity, clock=CLOCK)
    client: Any = remote(OPERATIONS, transport, guard_of(timeout_s=1))
    with pytest.raises(TypeError):
        await client.look(ANNA, "x")


def test_public_ports_do_not_mount_internal_operations() -> None:
    internal = msgspec.structs.replace(LOOK, policy=Policy.SERVICE, callers=frozenset({"gateway"}))
    edge = Edge(authenticate=None)  # type: ignore[arg-type]  # never called
    with pytest.raises(ValueError, match="is for services"):
        App([edge.bind(internal, ShelvesService().look)], public=True)
