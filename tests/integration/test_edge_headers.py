"""What stands around every answer of the real gateway, and which of a request's headers are believed, and from whom."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sealwire.testing.installation import Installation, Person
from sealwire.testing.wire import Wire

ALLOWED, FOREIGN = "https://app.example.org", "https://evil.example"
SECURITY = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer"}
DEADLINE_S = 40.0


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation behind a proxy on this machine, with one page that may call it from a browser."""
    env = {
        "SEALWIRE_GATEWAY__TRUSTED_PROXIES": '["127.0.0.1"]',
        "SEALWIRE_GATEWAY__CORS_ORIGINS": f'["{ALLOWED}"]',
    }
    running = Installation(tmp_path_factory.mktemp("fronted") / "data", env=env).start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def ann(fronted: Installation) -> Person:
    return Person(fronted.url, "ann")


def answers(installation: Installation, token: str) -> dict[int, httpx.Response]:
    """One answer of each kind, by its status."""
    url, known = installation.url, {"authorization": f"Bearer {token}"}
    found = [
        httpx.get(url + "/health"),
        httpx.get(url + "/api/v1/auth/me"),
        httpx.get(url + "/api/v1/nothing", headers=known),
        httpx.put(url + "/api/v1/auth/login", headers=known),
        httpx.post(url + "/api/v1/auth/login", content=b"{", headers={"content-type": "application/json"}),
        httpx.post(url + "/api/v1/auth/login", content=b"x", headers={"content-type": "text/plain"}),
        httpx.post(url + "/api/v1/conversations", json={"kind": "group", "member_ids": "x"}, headers=known),
    ]
    return {answer.status_code: answer for answer in found}


def test_every_answer_has_the_security_headers(fronted, ann):
    found = answers(fronted, ann.token)
    assert {200, 400, 401, 404, 405, 415} <= found.keys(), found.keys()
    for status, answer in found.items():
        assert SECURITY.items() <= dict(answer.headers).items(), status
        assert "server" not in answer.headers
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["trace_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/api/v1/auth/login", "/api/v1/conversations", "/api/v1/media/uploads"])
def test_a_listed_page_may_ask_and_no_other(fronted, path):
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    good = httpx.options(fronted.url + path, headers={"origin": ALLOWED, **asked})
    assert good.status_code in (200, 204)
    assert good.headers["access-control-allow-origin"] == ALLOWED
    assert "POST" in good.headers["access-control-allow-methods"]
    assert "authorization" in good.headers["access-control-allow-headers"]
    assert "origin" in good.headers["vary"].lower()
    for origin in (FOREIGN, "null", ALLOWED + ".evil.example", ALLOWED.replace("https", "http"), ALLOWED + ":8443"):
        bad = httpx.options(fronted.url + path, headers={"origin": origin, **asked})
        assert not [name for name in bad.headers if name.startswith("access-control-")], origin
    plain = httpx.get(fronted.url + "/api/v1/auth/me", headers={"origin": ALLOWED})
    assert (plain.status_code, plain.headers["access-control-allow-origin"]) == (401, ALLOWED), "a page can read why"


@pytest.mark.parametrize(
    ("parent", "kept"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", True),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", False),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e47zz-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", False),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6-00f067aa0ba902b7-01", False),
        ("x" * 4_000, False),
    ],
)
def test_a_trace_goes_on_when_its_parent_is_well_formed(fronted, parent, kept):
    answer = httpx.get(fronted.url + "/api/v1/auth/me", headers={"traceparent": parent})
    trace = answer.headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", trace)
    assert (trace == "4bf92f3577b34da6a3ce929d0e0e4736") is kept


def recorded(person: Person, action: str) -> list[dict[str, Any]]:
    """Return what the log has of an action, as soon as it has something."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = person.http.get("/compliance/audit", params={"action": action, "limit": 200}).json()["items"]
        if found:
            return list(found)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("chain", "seen"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7, 127.0.0.1"], "203.0.113.7"),
        (["203.0.113.7, nonsense"], "127.0.0.1"),
        (["2001:db8::7"], "2001:db8::7"),
        ([], "127.0.0.1"),
    ],
)
async def test_requests_and_sockets_have_the_address_nearest_to_the_trusted_proxy(fronted, chain, seen):
    who = Person(fronted.url, "carl", tenant=f"selftest-{secrets.token_hex(6)}")
    headers = [("x-forwarded-for", hop) for hop in chain]
    known = [*headers, ("authorization", f"Bearer {who.token}")]
    answer = await asyncio.to_thread(httpx.get, fronted.url + "/api/v1/auth/sessions", headers=known)
    assert answer.status_code == 200
    async with Wire(fronted.url, additional_headers=headers) as wire:
        assert "client" in await wire.connect(who.token)
    for action in ("GET_/api/v1/auth/sessions", "socket.connect"):
        assert [record["metadata"]["ip_address"] for record in recorded(who, action)] == [seen], action


# ---- what looks like a WebSocket and is more than that

OPENING = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
HIDDEN = b"GET /api/v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "upgraded"),
    [
        (OPENING + b"\r\n" + HIDDEN, True),
        (OPENING + b"Content-Length: 42\r\n\r\n" + HIDDEN, False),
        (OPENING + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN, False),
        (OPENING.replace(b"GET", b"POST") + b"\r\n" + HIDDEN, False),
        (OPENING.replace(b"Version: 13", b"Version: 12") + b"\r\n" + HIDDEN, False),
        (OPENING.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + HIDDEN, False),
        (OPENING.replace(b"Sec-WebSocket-Key", b"X-Key") + b"\r\n" + HIDDEN, False),
    ],
)
def test_nothing_is_smuggled_behind_an_upgrade(fronted, data, upgraded):
    """A proxy that believes in the upgrade passes on what follows unseen: it must never be answered as a request."""
    for offset in (0, 2, 3):
        with socket.create_connection(("127.0.0.1", fronted.base + offset)) as connection:
            connection.sendall(data)
            connection.settimeout(DEADLINE_S)
            got = connection.recv(65_536)
            connection.settimeout(1.0)  # long enough for what must not come
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while piece := connection.recv(65_536):
                    got += piece
        assert (b" 101 " in got[:20]) is upgraded, got[:200]
        if upgraded:
            assert got.count(b"HTTP/1.1 ") == 1, got[:600]
