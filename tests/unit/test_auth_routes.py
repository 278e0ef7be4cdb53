"""Auth's HTTP edge: cookies for browsers, answers that nobody caches, and every operation bound."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.clients.step_up import proofs_by
from sealwire.contracts.identity import OPERATIONS
from sealwire.contracts.logins import LoginResult
from sealwire.contracts.webauthn import CreationOptions, RequestOptions
from sealwire.kit.caller import ANONYMOUS, Caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App, Edge
from sealwire.kit.operation import Policy
from sealwire.services.auth.routes import routes
from sealwire.testing.auth_room import PASSWORD, AuthRoom
from sealwire.testing.authenticator import SoftAuthenticator


class Site:
    """The routes on an app, asked as a browser would; who asks is set from outside."""

    def __init__(self, room: AuthRoom) -> None:
        self.room = room
        self.caller = Caller(principal=ANONYMOUS)
        self.routes = routes(room.auth, Edge(authenticate=self._who, proofs=proofs_by(room.auth, service="gateway")))
        self._app = App(self.routes)

    def _who(self, exchange: Exchange, policy: Policy) -> Caller:
        return self.caller

    async def ask(
        self, verb: str, path: str, body: Any = None, *, scheme: str = "http", cookie: str = ""
    ) -> tuple[int, dict[str, str], Any]:
        raw = b"" if body is None else json.dumps(body).encode()
        headers = [(b"content-type", b"application/json")] if raw else []
        if cookie:
            headers.append((b"cookie", cookie.encode()))
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": verb, "path": path, "query_string": b"", "headers": headers,
                 "scheme": scheme, "client": ("127.0.0.1", 1)}  # fmt: skip
        await self._app(scope, receive, send)
        content = b"".join(message.get("body", b"") for message in sent[1:])
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], found, json.loads(content) if content else None


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    room = AuthRoom(tmp_path)
    await room.open()
    await room.register("anna")
    yield Site(room)
    await room.close()


LOGIN = {"email": "anna@example.org", "password": PASSWORD}


def test_every_operation_is_bound() -> None:
    edge = Edge(authenticate=lambda exchange, policy: Caller(principal=ANONYMOUS))
    bound = routes(_Anything(), edge)  # type: ignore[arg-type]  # it has every method there is
    assert {route.operation for route in bound} == set(OPERATIONS.values())


class _Anything:
    def __getattr__(self, name: str) -> Any:
        async def nothing(*args: Any) -> None: ...

        return nothing


async def test_tokens_are_never_cached_and_no_cookie_comes_unasked(site: Site) -> None:
    status, headers, given = await site.ask("POST", "/auth/login", LOGIN)
    assert status == 200
    assert headers["cache-control"] == "no-store"
    assert "set-cookie" not in headers
    assert given.keys() == {"access_token", "refresh_token", "token_type", "expires_in", "session_id", "user"}
    _, headers, _ = await site.ask("POST", "/auth/refresh", {"refresh_token": given["refresh_token"]})
    assert headers["cache-control"] == "no-store"
    assert "set-cookie" not in headers


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Site) -> None:
    _, headers, given = await site.ask("POST", "/auth/login", {**LOGIN, "cookie": True})
    token = given["access_token"]
    assert headers["set-cookie"] == f"sealwire={token}; Max-Age=600; Path=/; HttpOnly; SameSite=Strict"
    _, headers, given = await site.ask("POST", "/auth/login", {**LOGIN, "cookie": True}, scheme="https")
    assert headers["set-cookie"].startswith("__Host-sealwire=")
    assert headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict; Secure")
    assert "Domain" not in headers["set-cookie"]


async def test_a_browser_that_has_the_cookie_gets_the_new_one_and_loses_it_at_logout(site: Site) -> None:
    granted = await site.room.log_in("anna")
    _, headers, given = await site.ask(
        "POST", "/auth/refresh", {"refresh_token": granted.refresh_token}, cookie="a=b; sealwire=old; c=d"
    )
    assert headers["set-cookie"].startswith(f"sealwire={given['access_token']};")
    site.caller = site.room.caller(granted)
    _, headers, _ = await site.ask("POST", "/auth/logout", cookie="sealwire=x")
    assert headers["set-cookie"] == "sealwire=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict"
    _, headers, _ = await site.ask("POST", "/auth/logout", cookie="notsealwire=x")
    assert "set-cookie" not in headers


async def test_a_failed_login_is_a_problem_with_a_challenge_and_no_cookie(site: Site) -> None:
    status, headers, given = await site.ask("POST", "/auth/login", {**LOGIN, "password": "wrong", "cookie": True})
    assert (status, given["code"]) == (401, "bad_credentials")
    assert "www-authenticate" in headers
    assert "set-cookie" not in headers


async def test_published_keys_may_be_cached_for_a_while(site: Site) -> None:
    status, headers, given = await site.ask("GET", "/.well-known/jwks.json")
    assert (status, headers["cache-control"]) == (200, "public, max-age=60")
    assert given["keys"][0].keys() == {"kty", "crv", "x", "kid", "alg", "use"}


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("POST", "/auth/users", {"email": "m@example.org", "password": PASSWORD, "display_name": "M", "role": "admin"}),
        ("PATCH", "/auth/users/somebody", {"role": "admin"}),
        ("POST", "/auth/invitations", {"email": "m@example.org", "role": "auditor"}),
        ("POST", "/auth/api-keys", {}),
        ("POST", "/auth/passkeys/register/options", None),
        ("DELETE", "/auth/passkeys/one", None),
        ("DELETE", "/auth/mfa/totp", None),
    ],
)
async def test_giving_a_role_needs_a_recent_proof_whichever_way_it_is_given(
    site: Site, verb: str, path: str, body: Any
) -> None:
    """Who makes an administrator, a key or a passkey can be somebody from then on without this session."""
    caller = site.room.caller(await site.room.log_in("anna"))
    long_ago = msgspec.structs.replace(caller.principal, auth_time_s=int(time.time()) - 3_600)
    site.caller = msgspec.structs.replace(caller, principal=long_ago)
    status, _, given = await site.ask(verb, path, body)
    assert (status, given["code"]) == (403, "step_up_required")
    assert given["methods"] == ["password"], "that is all she has"


async def test_a_passkey_by_http_from_the_first_to_the_last_step(site: Site) -> None:
    caller = site.room.caller(await site.room.log_in("anna"))
    site.caller = caller
    device = SoftAuthenticator("https://sealwire.local")
    status, headers, begun = await site.ask("POST", "/auth/passkeys/register/options")
    assert (status, headers["cache-control"]) == (200, "no-store")
    made = device.create(msgspec.convert(begun, CreationOptions))
    document = {**msgspec.to_builtins(made), "clientExtensionResults": {"credProps": {"rk": True}}}
    status, headers, added = await site.ask("POST", "/auth/passkeys/register", document)
    assert (status, headers["cache-control"], len(added["recovery_codes"])) == (200, "no-store", 10)
    status, _, refused = await site.ask("POST", "/auth/passkeys/register", document)
    assert (status, refused["code"]) == (403, "step_up_required"), "from now on the password alone proves nothing"

    _, headers, asked = await site.ask("POST", "/auth/passkeys/login/options", {})
    assert headers["cache-control"] == "no-store"
    login = {**msgspec.to_builtins(device.get(msgspec.convert(asked, RequestOptions))), "cookie": True}
    status, headers, granted = await site.ask("POST", "/auth/passkeys/login", login)
    assert status == 200
    assert headers["cache-control"] == "no-store"
    assert headers["set-cookie"].startswith(f"sealwire={granted['access_token']};")
    assert granted["token_type"] == "Bearer"
    site.caller = site.room.caller(msgspec.convert(granted, LoginResult))
    for sent, code in ((document, "passkey_invalid"), ({**document, "rawId": "ö"}, "invalid"), ({}, "invalid")):
        status, _, refused = await site.ask("POST", "/auth/passkeys/register", sent)
        assert (status, refused["code"]) == (422, code)
    status, headers, refused = await site.ask("POST", "/auth/passkeys/login", login)
    assert (status, refused["code"]) == (401, "passkey_refused")
    assert "set-cookie" not in headers

    long_ago = msgspec.structs.replace(caller.principal, auth_time_s=int(time.time()) - 3_600)
    site.caller = msgspec.structs.replace(caller, principal=long_ago)
    own = f"/auth/passkeys/{added['passkey']['passkey_id']}"
    status, _, wanted = await site.ask("DELETE", own)
    assert (status, wanted["code"], wanted["methods"]) == (403, "step_up_required", ["passkey", "recovery"])
    _, _, asked = await site.ask("POST", "/auth/passkeys/step-up/options")
    proof = msgspec.to_builtins(device.get(msgspec.convert(asked, RequestOptions)))
    status, _, risen = await site.ask("POST", "/auth/step-up", {"method": "passkey", "code": proof})
    assert status == 200
    site.caller = site.room.caller(msgspec.convert(risen, LoginResult))
    assert (await site.ask("PATCH", own, {"name": "Blue"}))[2]["name"] == "Blue"
    assert (await site.ask("GET", "/auth/passkeys"))[2]["items"][0]["name"] == "Blue"
    assert (await site.ask("DELETE", own))[0] == 200
    assert (await site.ask("DELETE", own))[2]["code"] == "passkey_not_found"
