"""Default deny: every mounted route of every app, over http and websocket alike, declares who may use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sealwire.kit.http import App
from sealwire.kit.operation import PARAMETER, Policy
from sealwire.runtime import settings
from sealwire.runtime.assembly import Assembly
from sealwire.testing.installation import free_port_base

OPEN_PATHS = {
    "/health",
    "/ready",
    "/documentation",
    "/documentation/{asset}",
    "/.well-known/jwks.json",
    "/.well-known/openid-configuration",
}
OPEN_PREFIXES = ("/api/integration-health",)
OPEN_CALLS = {
    ("POST", "/api/v1/auth/register"),
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/mfa/verify"),
    ("POST", "/api/v1/auth/refresh"),
    ("GET", "/api/v1/auth/authorize"),
    ("POST", "/api/v1/auth/authorize"),
    ("GET", "/api/v1/auth/authorize/passkey.js"),
    ("POST", "/api/v1/auth/authorize/login"),
    ("POST", "/api/v1/auth/authorize/code"),
    ("POST", "/api/v1/auth/authorize/confirm"),
    ("POST", "/api/v1/auth/authorize/consent"),
    ("GET", "/api/v1/auth/end-session"),
    ("POST", "/api/v1/auth/end-session"),
    ("POST", "/api/v1/auth/end-session/confirm"),
    ("GET", "/api/v1/auth/apps"),
    ("POST", "/api/v1/auth/apps/withdraw"),
    ("POST", "/api/v1/auth/token"),
    ("GET", "/api/v1/auth/userinfo"),
    ("POST", "/api/v1/auth/userinfo"),
    ("GET", "/api/v1/auth/providers"),
    ("GET", "/api/v1/auth/providers/{provider}/start"),
    ("GET", "/api/v1/auth/providers/{provider}/callback"),
    ("POST", "/api/v1/auth/external/login"),
    ("POST", "/api/v1/auth/revoke"),
    ("POST", "/api/v1/auth/introspect"),
    ("POST", "/api/v1/auth/password/reset"),
    ("POST", "/api/v1/auth/password/reset/confirm"),
    ("POST", "/api/v1/auth/email/confirm"),
    ("POST", "/api/v1/auth/passkeys/login/options"),
    ("POST", "/api/v1/auth/passkeys/login"),
}


@pytest.fixture
async def assembly(tmp_path) -> AsyncIterator[Assembly]:
    flags = {
        "server": {"data": str(tmp_path / "data"), "port_base": free_port_base(), "expose_services": True},
        "gateway": {"shed_above_lag_ms": 60_000},  # what is busy beside the test is no matter here
    }
    loaded, _ = settings.load(flags=flags, env={}, file=tmp_path / "none.toml")
    made = Assembly(settings=loaded)
    for _, run, _ in made.steps():
        await run()
    yield made
    await made.stop()


def filled(path: str) -> str:
    return PARAMETER.sub(lambda m: "1" if m[2] else "x", path).replace("*", "x")


async def statuses(app: App) -> list[tuple[str, str, Policy, int]]:
    """Ask every http route without any credential."""
    transport = httpx.ASGITransport(app=app, client=("203.0.113.9", 1))
    found = []
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        for route in app.routes:
            if route.socket is None:
                answer = await client.request(route.verb, filled(route.path))
                found.append((route.verb, route.path, route.policy, answer.status_code))
    return found


async def test_every_route_of_the_gateway_keeps_its_policy(assembly):
    seen = await statuses(assembly.app)
    assert len(seen) > 60
    for verb, path, policy, status in seen:
        if policy is Policy.CALLER:
            assert status == 401, f"{verb} {path} answered {status} to nobody"
        elif policy is Policy.LOOPBACK:
            assert status in (401, 403), f"{verb} {path} answered {status} to a stranger"
        elif policy is Policy.LINK:
            assert 400 <= status < 500, f"{verb} {path} answered {status} without a link"
        else:
            assert policy is Policy.PUBLIC, f"{verb} {path} declares {policy}"
            public = path in OPEN_PATHS or path.startswith(OPEN_PREFIXES) or (verb, path) in OPEN_CALLS
            assert public or verb == "OPTIONS", f"{verb} {path} is open to everybody and not on the list"


async def test_what_watches_leaves_no_record_and_everything_else_does(assembly):
    """R2.3: health, readiness, metrics and documentation are skipped; a script of a page is no request of its own."""
    skipped = {route.path for route in assembly.app.routes if not route.audited}
    health = {path for path in skipped if path.startswith(OPEN_PREFIXES)}
    assert len(health) == 8, "all but the self-test, which somebody has run"
    assert skipped - health == {
        "/health", "/ready", "/metrics", "/documentation", "/documentation/{asset}",
        "/api/v1/auth/authorize/passkey.js",
    }  # fmt: skip


async def test_services_own_ports_are_for_services(assembly):
    apps = assembly.service_apps
    assert set(apps) == {"crypto", "compliance", "auth", "messaging", "media", "search", "socket1", "socket2"}
    for name, app in apps.items():
        for verb, path, policy, status in await statuses(app):
            pages = path in OPEN_PATHS
            if not pages and verb != "OPTIONS":
                assert status in (401, 403), f"{name}: {verb} {path} ({policy}) answered {status} to nobody"


async def speak(app: App, path: str, *sent: dict[str, Any]) -> list[dict[str, Any]]:
    """Open a WebSocket scope, send events, return what the app sent until it closed."""
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    for event in ({"type": "websocket.connect"}, *sent):
        incoming.put_nowait(event)
    outgoing: list[dict[str, Any]] = []

    async def send(event: Any) -> None:
        outgoing.append(event)

    scope = {
        "type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [],
        "client": ("203.0.113.9", 1), "scheme": "ws", "subprotocols": [], "extensions": {},
    }  # fmt: skip
    try:
        async with asyncio.timeout(8):
            await app(scope, incoming.get, send)
    except TimeoutError:
        pytest.fail(f"{path} holds a connection open for somebody unknown")
    return outgoing


async def test_websockets_declare_first_frame_and_unknown_ones_are_closed(assembly):
    sockets = [route for route in assembly.app.routes if route.socket is not None]
    assert {route.path for route in sockets} == {"/ws", "/connection/websocket"}
    assert all(route.policy is Policy.FIRST_FRAME for route in sockets)
    for path in ("/", "/health", "/api/v1/conversations", "/ws/x"):
        sent = await speak(assembly.app, path)
        assert [event["type"] for event in sent] == ["websocket.close"], path
