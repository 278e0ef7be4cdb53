"""Whatever is sent to a route of auth, in every member, path and query, by whoever: an answer in 4xx, never a fault of
ours (wrong types, huge numbers and texts, half characters, zero bytes, arrays, the same member twice).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import pytest
from msgspec.inspect import StructType, Type, type_info

from sealwire.clients.step_up import proofs_by
from sealwire.contracts.openid import AUTHORIZE_PATH, TOKEN_PATH, NewClient
from sealwire.contracts.sessions import SeenSession
from sealwire.kit.caller import ANONYMOUS, Caller, service_caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App, Edge, Route
from sealwire.kit.operation import Policy
from sealwire.services.auth.external_routes import external_routes
from sealwire.services.auth.openid_routes import openid_routes, with_apps
from sealwire.services.auth.routes import routes
from sealwire.testing.auth_room import CHEAP, AuthRoom

BACKGROUND: Final = msgspec.structs.replace(
    CHEAP, lockout_free=1_000_000, lockout_free_account=1_000_000, lockout_free_ip=1_000_000
)
"""No lock ends the tries."""
ODD: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 2**63, 10**400, -(10**400), 1e308, "", " ", "\x00", "a\x00b@example.org", "\ud800",
    "\ud800@example.org", "a" * 9_000, "\U0001f926" * 200, "\uff10" * 6, [], [[]], {}, {"a": {"b": []}}, ["a", "a"],
    [None], "swr1." + "0" * 36 + "." + "9" * 30 + "." + "A" * 43, "swk1_" + "a" * 16 + "_" + "A" * 43,
    "eyJhbGciOiJub25lIn0.e30.", "anna@example.org",
)  # fmt: skip
BODIES: Final = (
    b"", b"[]", b"null", b'"x"', b"{", b"\xff\xfe", b"\x00", b"[" * 5_000, b'{"a":' * 1_000, b'{"":1}', b" " * 70_000,
)  # fmt: skip
TEXTS: Final = ("", "%00", "%ff", "%ED%A0%80", "a" * 9_000, "-1", "9" * 30, "%F0%9F%A4%A6", "%", "true", "//x", "1.5")
FORM: Final = "application/x-www-form-urlencoded"
OF_APPS: Final = (
    "grant_type", "code", "client_id", "client_secret", "redirect_uri", "state", "response_type", "scope", "nonce",
    "prompt", "max_age", "code_challenge", "code_challenge_method", "code_verifier", "id_token_hint", "token",
    "post_logout_redirect_uri", "refresh_token", "email", "password", "answer", "error", "iss", "return_to",
)  # fmt: skip
HEADERS: Final = (
    (b"authorization", b"\xff"), (b"authorization", b"Basic \xff"), (b"authorization", b"Basic AAA6AAA="),
    (b"cookie", b"\xff\xfe=;;;=,\x00"), (b"cookie", b"sealwire-browser=\xff; sealwire-sso=\xff"), (b"accept", b"\xff"),
    (b"user-agent", b"\xff\x00"), (b"origin", b"\xff"), (b"x-sealwire-csrf", b"\xff"), (b"content-type", b"\xff"),
)  # fmt: skip
STAYING: Final = {"/auth/logout", "/auth/logout-all"}


class Site:
    """Every route of auth, asked by whoever `caller` is."""

    def __init__(self, room: AuthRoom, owner: Caller) -> None:
        self.room = room
        self.owner = owner
        self.caller = Caller(principal=ANONYMOUS)
        edge = Edge(authenticate=self._who, proofs=proofs_by(room.auth, service="gateway"))
        self.routes: list[Route] = [
            *with_apps(routes(room.auth, edge), room.service.openid),
            *openid_routes(room.service.openid, edge),
            *external_routes(room.service.external, edge),
        ]
        self._app = App(self.routes)
        self.asked = 0
        self.faults: list[tuple[str, str, int, bytes, str]] = []

    def _who(self, exchange: Exchange, policy: Policy) -> Caller:
        return self.caller

    def route(self, verb: str, path: str) -> Route:
        return next(route for route in self.routes if (route.verb, route.path) == (verb, path))

    async def ask(
        self, route: Route, body: bytes = b"", *, path: str = "", kind: str = "application/json", query: str = "",
        header: tuple[bytes, bytes] | None = None,
    ) -> tuple[dict[str, str], str]:  # fmt: skip
        path = path or filled(route, "0190-x")
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = ([(b"content-type", kind.encode())] if body else []) + ([header] if header else [])
        scope = {"type": "http", "method": route.verb, "path": path, "raw_path": path.encode(),
                 "query_string": query.encode(), "headers": headers, "scheme": "http",
                 "client": ("127.0.0.1", 1)}  # fmt: skip
        await self._app(scope, receive, send)
        self.asked += 1
        if sent[0]["status"] >= 500:
            self.faults.append((route.verb, path[:80], sent[0]["status"], body[:200], query[:80]))
        text = b"".join(message.get("body", b"") for message in sent[1:]).decode("utf-8", "replace")
        return {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}, text


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    room = AuthRoom(tmp_path, config=BACKGROUND)
    await room.open()
    owner, _ = await room.enter("anna")
    yield Site(room, owner)
    await room.close()


def filled(route: Route, value: str) -> str:
    return "/".join(value if part.startswith("{") else part for part in route.path.split("/"))


def plausible(kind: Type, name: str) -> Any:
    """Return what such a member could be, so that the odd one beside it is what is judged."""
    match kind:
        case StructType():
            return {f.encode_name: plausible(f.type, f.encode_name) for f in kind.fields if f.required}
        case msgspec.inspect.UnionType():
            return plausible(kind.types[0], name)
        case msgspec.inspect.LiteralType():
            return kind.values[0]
        case msgspec.inspect.IntType():
            return kind.ge or 1
        case msgspec.inspect.BoolType():
            return False
        case msgspec.inspect.ListType():
            return [plausible(kind.item_type, name)]
    return "anna@example.org" if "email" in name else "123456"


def odd_ones(kind: Type, name: str = "") -> Iterator[Any]:
    """Yield every value that is odd in one place, at any depth."""
    yield from ODD
    if isinstance(kind, StructType):
        whole = plausible(kind, name)
        yield whole
        for member in kind.fields:
            for odd in odd_ones(member.type, member.encode_name):
                yield {**whole, member.encode_name: odd}
    for one in getattr(kind, "types", ()):
        if isinstance(one, StructType):
            yield from odd_ones(one, name)
    if isinstance(kind, msgspec.inspect.ListType) and isinstance(kind.item_type, StructType):
        for odd in odd_ones(kind.item_type, name):
            yield [odd]


def callers(site: Site, route: Route) -> list[Caller]:
    operation = route.operation
    if route.policy is Policy.SERVICE:
        return [service_caller(service, "system") for service in sorted(operation.callers)[:1]] if operation else []
    return [Caller(principal=ANONYMOUS) if route.path in STAYING or route.policy is Policy.PUBLIC else site.owner]


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


async def test_no_body_is_a_fault_of_ours(site: Site) -> None:
    for route in site.routes:
        if route.verb not in ("POST", "PUT", "PATCH"):
            continue
        takes = type_info(route.operation.takes) if route.operation and route.operation.takes else None
        for caller in callers(site, route):
            site.caller = caller
            for body in BODIES:
                await site.ask(route, body)
            for kind in ("text/plain", FORM, "multipart/form-data; boundary=x", "application/json; charset=utf-16"):
                await site.ask(route, b'{"a":1}', kind=kind)
            if isinstance(takes, StructType):
                for odd in odd_ones(takes):
                    await site.ask(route, raw(odd))
                for member in takes.fields:
                    twice = raw(member.encode_name) + b":" + raw(plausible(member.type, member.encode_name))
                    await site.ask(route, b"{" + twice + b"," + raw(member.encode_name) + b":[]}")
    assert site.asked > 1_000
    assert site.faults == []


async def test_no_form_query_path_or_header_is_a_fault_of_ours(site: Site) -> None:
    for route in site.routes:
        takes = type_info(route.operation.takes) if route.operation and route.operation.takes else None
        of_operation = [f.encode_name for f in takes.fields] if isinstance(takes, StructType) else []
        names = of_operation if route.operation else list(OF_APPS)
        for caller in callers(site, route):
            site.caller = caller
            for name in names:
                for pair in (f"{name}={text}" for text in TEXTS):
                    if route.verb in ("GET", "DELETE"):
                        for query in (pair, f"{pair}&{pair}", f"{name}[]={pair}"):
                            await site.ask(route, query=query)
                    elif route.operation is None or route.operation.form:
                        await site.ask(route, pair.encode(), kind=FORM)
                        await site.ask(route, f"{pair}&{name}=x".encode(), kind=FORM)
            if "{" in route.path:
                for part in ("\x00", "%00", "a" * 5_000, "é", "\U0001f926", " ", "..", "'", "\n", "0190-x;a=b"):
                    await site.ask(route, path=filled(route, part))
            for header in HEADERS:
                await site.ask(route, header=header)
    assert site.asked > 1_000
    assert site.faults == []


async def test_nothing_odd_beside_what_is_right_for_an_app_is_a_fault_of_ours(site: Site) -> None:
    """A registered app, a page that was really shown, and one member of each request that is not as it should be."""
    back = "https://app.example/back"
    made = await site.room.auth.add_client(site.owner, NewClient(name="App", redirect_uris=[back]))
    client_id, secret = made.client.client_id, made.client_secret
    wanted = {"client_id": client_id, "redirect_uri": back, "response_type": "code", "scope": "openid", "state": "s",
              "nonce": "n", "code_challenge": "A" * 43, "code_challenge_method": "S256", "prompt": "login",
              "max_age": "60", "id_token_hint": "e30.e30.e30", "login_hint": "x"}  # fmt: skip
    begin = site.route("GET", AUTHORIZE_PATH)
    headers, page = await site.ask(begin, query=urlencode(wanted))
    cookie = (b"cookie", headers["set-cookie"].partition(";")[0].encode())
    (sealed,) = set(re.findall(r'name="request" value="([^"]+)"', page))
    token = {"grant_type": "authorization_code", "code": "swo1.x", "redirect_uri": back, "code_verifier": "v" * 43,
             "client_id": client_id, "client_secret": secret}  # fmt: skip
    again = {**token, "grant_type": "refresh_token", "scope": "openid",
             "refresh_token": "swg1." + "0" * 36 + ".1." + "A" * 43}  # fmt: skip
    answer = {"request": sealed, "email": "anna@example.org", "password": "p", "code": "123456", "mfa_token": "swm1.x",
              "decision": "allow", "method": "totp"}  # fmt: skip
    login = site.route("POST", AUTHORIZE_PATH + "/login")
    assert "password is wrong" in (await site.ask(login, urlencode(answer).encode(), kind=FORM, header=cookie))[1]
    for odd in (*TEXTS, "{" * 3_000, "null", "%7B%22id%22%3A%5B%5D%7D", sealed[:-1], sealed[::-1]):
        for name in wanted:
            query = urlencode({key: value for key, value in wanted.items() if key != name}) + f"&{name}={odd}"
            await site.ask(begin, query=query, header=cookie)
            await site.ask(begin, query=f"{query}&{name}=x", header=cookie)
        for path, form in [(TOKEN_PATH, token), (TOKEN_PATH, again)] + [
            (route.path, {**answer, **by_passkey})
            for by_passkey in ({}, {"assertion": "{}"})
            for route in site.routes
            if route.verb == "POST" and route.path.startswith(AUTHORIZE_PATH + "/")
        ]:
            for name in form:
                rest = urlencode({key: value for key, value in form.items() if key != name})
                await site.ask(site.route("POST", path), f"{rest}&{name}={odd}".encode(), kind=FORM, header=cookie)
    assert site.asked > 1_000
    assert site.faults == []


def test_numbers_that_no_storage_keeps_are_refused_at_the_door() -> None:
    for at_us in (-1, 2**63, -(2**70)):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"session_id": "s", "at_us": at_us}, SeenSession)
