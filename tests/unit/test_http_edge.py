"""The typed edge: what it lets in, what it refuses, and that every refusal is a problem document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

import httpx
import pytest
from msgspec import Meta

from sealwire.kit.caller import ANONYMOUS, Caller, Principal, Proofs
from sealwire.kit.codec import Input, Output
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App, Edge, mount
from sealwire.kit.operation import Degraded, Operation, Policy, Repeat
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Conflict, Unauthenticated, Unavailable


class Note(Input):
    text: Annotated[str, Meta(min_length=1, max_length=100)]
    tags: list[str] = []


class Filter(Input):
    limit: Annotated[int, Meta(ge=1, le=10)] = 5
    word: str | None = None


class Answer(Output):
    who: str
    folder: str
    text: str = ""
    limit: int = 0


COMMON = {"service": "notes", "needs": Permission.READ}
PUT = Operation(name="put", verb="POST", path="/folders/{folder}/notes", takes=Note, gives=Answer, status=201,
                summary="", **COMMON)  # fmt: skip
LIST = Operation(name="list", verb="GET", path="/folders/{folder}/notes", takes=Filter, gives=Answer,
                 degraded=Degraded.ALLOW, repeat=Repeat.SAFE, summary="", **COMMON)  # fmt: skip
WIPE = Operation(name="wipe", verb="DELETE", path="/drawers/{number:int}", status=204, step_up=True, summary="",
                 service="notes", needs=Permission.MANAGE_USERS)  # fmt: skip
CLEAR = Operation(name="clear", verb="DELETE", path="/folders/{folder}", summary="", **COMMON)
BROKEN = Operation(name="broken", verb="GET", path="/broken", gives=Answer, summary="", **COMMON)
SLOW = Operation(name="slow", verb="GET", path="/slow", gives=Answer, summary="", **COMMON)
TAKEN = Operation(name="taken", verb="GET", path="/taken", gives=Answer, summary="", **COMMON)
OPEN = Operation(name="open", verb="GET", path="/open", gives=Answer, policy=Policy.PUBLIC, summary="", service="notes")


def person(role: Role, *, confirmed: bool = True, auth_time_s: int = 0, amr: tuple[str, ...] = ("pwd",)) -> Caller:
    principal = Principal(kind="user", tenant_id="t", subject=f"a-{role}", role=role, auth_time_s=auth_time_s, amr=amr)
    return Caller(principal=principal, confirmed=confirmed)


PEOPLE = {
    b"Bearer member": person(Role.MEMBER),
    b"Bearer unconfirmed": person(Role.MEMBER, confirmed=False),
    b"Bearer admin": person(Role.ADMIN),
    b"Bearer fresh": person(Role.ADMIN, auth_time_s=2**40),
    b"Bearer proved": person(Role.ADMIN, auth_time_s=2**40, amr=("pwd", "otp", "mfa")),
}


def authenticate(exchange: Exchange, policy: Policy) -> Caller:
    caller = PEOPLE.get(exchange.header(b"authorization") or b"")
    if caller is None:
        if policy is Policy.PUBLIC:
            return Caller(principal=ANONYMOUS)
        raise Unauthenticated
    return caller


class Notes:
    async def put(self, caller: Caller, folder: str, note: Note) -> Answer:
        return Answer(who=caller.user_id, folder=folder, text=note.text)

    async def list(self, caller: Caller, folder: str, query: Filter) -> Answer:
        return Answer(who=caller.user_id, folder=folder, limit=query.limit)

    async def wipe(self, caller: Caller, number: int) -> None:
        assert isinstance(number, int)

    async def clear(self, caller: Caller, folder: str) -> None:
        """Leave nothing to tell."""

    async def broken(self, caller: Caller) -> Answer:
        raise RuntimeError("the secret is 42")

    async def slow(self, caller: Caller) -> Answer:
        await asyncio.sleep(60)
        raise AssertionError

    async def taken(self, caller: Caller) -> Answer:
        raise Conflict("There is one already.", holder="x")

    async def open(self, caller: Caller) -> Answer:
        return Answer(who=caller.principal.kind, folder="")


@pytest.fixture
async def call() -> AsyncIterator[Callable[..., Awaitable[httpx.Response]]]:
    edge, notes = Edge(authenticate=authenticate), Notes()
    operations = [PUT, LIST, WIPE, CLEAR, BROKEN, SLOW, TAKEN, OPEN]
    routes = mount("/api", [edge.bind(o, getattr(notes, o.name)) for o in operations])
    app = App(routes, headers=((b"x-content-type-options", b"nosniff"),), timeout_s=0.4)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/api") as client:

        async def send(verb: str, path: str, who: str | None = "member", **options: object) -> httpx.Response:
            headers = {**({"authorization": f"Bearer {who}"} if who else {}), **options.pop("headers", {})}  # type: ignore[dict-item]  # options are whatever httpx takes
            return await client.request(verb, path, headers=headers, **options)  # type: ignore[arg-type]  # the same

        yield send


async def test_body_path_and_caller_reach_the_use_case(call):
    answer = await call("POST", "/folders/blue/notes", json={"text": "hi"})
    assert answer.status_code == 201
    assert answer.json() == {"who": "a-member", "folder": "blue", "text": "hi", "limit": 0}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(answer.headers["x-request-id"]) == 32


async def test_an_answer_that_tells_nothing_is_an_empty_object(call):
    answer = await call("DELETE", "/folders/blue")
    assert (answer.status_code, answer.headers["content-type"], answer.json()) == (200, "application/json", {})


async def test_query_is_read_by_type(call):
    assert (await call("GET", "/folders/blue/notes?limit=7")).json()["limit"] == 7


@pytest.mark.parametrize(
    ("body", "status", "code", "path"),
    [
        (b"{", 400, "malformed", "$"),
        (b"\xff\xfe{}", 400, "malformed", "$"),
        (b'{"text":"\xff"}', 400, "malformed", "$"),
        (b"[" * 200 + b"]" * 200, 400, "malformed", "$"),
        (b'{"text":"\\ud800"}', 400, "malformed", "$"),
        (b"{}", 422, "invalid", "$.text"),
        (b'{"text":""}', 422, "invalid", "$.text"),
        (b'{"text":1}', 422, "invalid", "$.text"),
        (b'{"text":"a","extra":1}', 422, "invalid", "$.extra"),
        (b'{"text":"a","tags":["b",3]}', 422, "invalid", "$.tags[1]"),
        (b'{"text":"a","tags":["b","\\u0000"]}', 422, "invalid", "$.tags[1]"),
        (b"null", 422, "invalid", "$"),
        (b'{"text":"a","tags":[],"text":"b"}', 422, "invalid", "$.text"),
        (b'{"text":"' + b"a" * 300_000 + b'"}', 413, "too_large", None),
    ],
)
async def test_bad_bodies_are_refused_with_the_path_of_the_fault(call, body, status, code, path):
    answer = await call("POST", "/folders/blue/notes", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["code"] == code
    assert document["status"] == status
    assert document.get("path") == path
    assert document["instance"] == "/api/folders/blue/notes"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml", "application/json; charset=utf-16"])
async def test_bodies_of_other_types_are_refused(call, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await call("POST", "/folders/blue/notes", content=b'{"text":"a"}', headers=headers)
    assert answer.status_code == 415


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1&limit=2", "other=1", "word=%00", "word=%ff", "a;b"])
async def test_bad_queries_are_refused(call, query):
    assert (await call("GET", f"/folders/blue/notes?{query}")).status_code in (400, 422)


async def test_what_has_no_route_is_not_found_and_other_verbs_are_named(call):
    assert (await call("GET", "/nowhere")).status_code == 404
    assert (await call("GET", "/folders/%00/notes")).status_code == 404
    assert (await call("DELETE", "/drawers/12x")).status_code == 404
    answer = await call("PUT", "/folders/blue/notes")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST, GET"
    assert (await call("OPTIONS", "/folders/blue/notes")).status_code == 204


async def test_nobody_gets_in_without_a_credential(call):
    for verb, path in [("POST", "/folders/b/notes"), ("GET", "/folders/b/notes"), ("DELETE", "/drawers/1")]:
        answer = await call(verb, path, None)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert (await call("GET", "/open", None)).json()["who"] == "anonymous"


async def test_permission_confirmation_and_step_up_are_checked_before_the_body_is_read(call):
    assert (await call("DELETE", "/drawers/1")).json()["code"] == "forbidden"
    unconfirmed = await call("POST", "/folders/blue/notes", "unconfirmed", content=b"{")
    assert unconfirmed.status_code == 503
    assert unconfirmed.json()["code"] == "session_unconfirmed"
    assert unconfirmed.headers["retry-after"] == "1"
    assert (await call("GET", "/folders/blue/notes", "unconfirmed")).status_code == 200
    stale = await call("DELETE", "/drawers/1", "admin")
    assert (stale.status_code, stale.json()["code"]) == (403, "step_up_required")
    assert "password" in stale.json()["methods"]
    assert (await call("DELETE", "/drawers/1", "fresh")).status_code == 204


async def test_how_to_step_up_is_asked_for_only_when_it_is_wanted() -> None:
    asked: list[str] = []

    async def proofs(caller: Caller) -> Proofs:
        asked.append(caller.user_id)
        if len(asked) == 2:
            raise Unavailable("Auth is out.")
        return Proofs(["passkey", "recovery"], True)

    edge, notes = Edge(authenticate=authenticate, proofs=proofs), Notes()
    app = App([edge.bind(o, getattr(notes, o.name)) for o in (WIPE, LIST)])
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        async def wipe(who: str) -> httpx.Response:
            return await client.delete("/drawers/1", headers={"authorization": f"Bearer {who}"})

        assert (await wipe("proved")).status_code == 204
        assert (await wipe("member")).json()["code"] == "forbidden"
        assert asked == []
        stale = await wipe("admin")
        assert (stale.status_code, stale.json()["code"]) == (403, "step_up_required")
        assert stale.json()["methods"] == ["passkey", "recovery"]
        out = await wipe("admin")
        assert (out.status_code, out.json()["code"]) == (503, "unavailable"), "stepping up is not possible either"
        lacking = await wipe("fresh")
        assert (lacking.status_code, lacking.json()["code"]) == (403, "step_up_required"), "there is a factor by now"
        assert lacking.json()["methods"] == ["passkey", "recovery"]
    assert asked == ["a-admin"] * 3


async def test_a_bug_tells_nothing_but_the_trace_id(call):
    answer = await call("GET", "/broken", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    assert answer.status_code == 500
    assert "42" not in answer.text
    assert answer.json()["trace_id"] == "a" * 32 == answer.headers["x-request-id"]


async def test_a_problem_carries_its_own_members(call):
    assert (await call("GET", "/taken")).json()["holder"] == "x"


async def test_a_request_without_an_answer_in_time_ends_with_504(call):
    answer = await asyncio.wait_for(call("GET", "/slow"), 5)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_a_public_app_does_not_mount_internal_routes():
    edge = Edge(authenticate=authenticate)
    about = {"name": "i", "verb": "GET", "path": "/i", "policy": Policy.SERVICE, "service": "notes", "summary": ""}
    with pytest.raises(ValueError, match="names those that call it"):
        Operation(**about)
    internal = Operation(**about, callers=frozenset({"gateway"}))
    with pytest.raises(ValueError, match="is for services"):
        App([edge.bind(internal, Notes().open)], public=True)


def test_an_operation_for_callers_must_name_a_permission():
    with pytest.raises(ValueError, match="permission"):
        Operation(name="x", service="notes", verb="GET", path="/x", summary="")


class Streaming:
    """An answer without end to who may read; whoever is struck off the list may not any more."""

    def __init__(self, *, service: str = "") -> None:
        self.principal = person(Role.MEMBER).principal
        self.service = service
        self.gone = False
        edge = Edge(authenticate=self.authenticate)
        route = edge.stream("GET", "/stream", self.stream, policy=Policy.CALLER, needs=Permission.READ)
        self.app = App([route], timeout_s=0.2)
        self.chunks = 0

    def authenticate(self, exchange: Exchange, policy: Policy) -> Caller:
        if self.gone:
            raise Unauthenticated
        return Caller(principal=self.principal, service=self.service)

    async def stream(self, exchange: Exchange, caller: Caller) -> None:
        await exchange.start(200)
        while self.chunks < 40:
            await exchange.write(b"more")
            await asyncio.sleep(0.02)
        await exchange.finish()

    async def ask(self) -> None:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            self.chunks += message["type"] == "http.response.body"

        scope = {"type": "http", "method": "GET", "path": "/stream", "query_string": b"", "headers": []}
        await self.app(scope, receive, send)


async def test_an_answer_under_way_ends_with_the_session() -> None:
    streaming = Streaming()
    asked = asyncio.create_task(streaming.ask())
    await asyncio.sleep(0.1)
    streaming.gone = True
    with pytest.raises(ConnectionAbortedError, match="unauthenticated"):
        await asked
    assert 0 < streaming.chunks < 40


async def test_an_answer_under_way_ends_with_the_role() -> None:
    streaming = Streaming()
    asked = asyncio.create_task(streaming.ask())
    await asyncio.sleep(0.1)
    streaming.principal = person(Role.OPERATOR).principal
    with pytest.raises(ConnectionAbortedError, match="forbidden"):
        await asked


@pytest.mark.parametrize("service", ["", "gateway"])
async def test_an_answer_under_way_goes_on_while_its_caller_may_have_it(service: str) -> None:
    """A service's statement lives for a minute: what it asked for it watches over itself."""
    streaming = Streaming(service=service)
    asked = asyncio.create_task(streaming.ask())
    await asyncio.sleep(0.1)
    streaming.gone = bool(service)
    await asked
    assert streaming.chunks == 41
