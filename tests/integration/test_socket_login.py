"""Every way into a WebSocket, and what happens to one that is open, through the real boundary and the real server."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import httpx
import pytest

from sealwire.contracts.auth_terms import COOKIE_LOOPBACK
from sealwire.testing.held_up import HeldUp
from sealwire.testing.installation import PASSWORD, Person
from sealwire.testing.receipts import latest, slowest_s
from sealwire.testing.wire import Wire

BOUND_S = 1.0
"""By the installation's own receipts. The test's deadlines are longer: they count its turns on a busy machine."""
DEADLINE_S = 40.0


def ports(installation) -> list[str]:
    return [f"http://127.0.0.1:{installation.base + offset}" for offset in (0, 2, 3)]


def cookie_of(person: Person) -> str:
    """Log in as a browser does and return the session's cookie."""
    who = {"email": person.email, "password": PASSWORD, "cookie": True, **person.tenant}
    answer = httpx.post(f"{person.http.base_url}auth/login", json=who)
    return f"{COOKIE_LOOPBACK}={answer.cookies[COOKIE_LOOPBACK]}"


async def test_the_cookie_opens_sockets_for_our_own_pages_only(installation, person) -> None:
    ann = person("ann")
    cookie = cookie_of(ann)
    for url in ports(installation):
        async with Wire(url, additional_headers={"cookie": cookie}, origin=url) as wire:
            assert "client" in (await wire.ask(connect={}))["connect"]
    foreign: list[dict[str, Any]] = [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"http://127.0.0.1:{installation.base}.evil.example"},
        {"origin": f"http://localhost:{installation.base}"},
        {},
    ]
    for options in foreign:
        wire = await Wire(installation.url, additional_headers={"cookie": cookie}, **options).__aenter__()
        assert await wire.closed() == 4501, options
    both = {"cookie": cookie, "authorization": f"Bearer {ann.token}"}
    wire = await Wire(installation.url, additional_headers=both, origin=installation.url).__aenter__()
    assert await wire.closed() == 4501, "two different credentials"


async def test_the_token_comes_by_header_subprotocol_or_first_frame_and_never_by_the_url(installation, person) -> None:
    ann = person("ann")
    for url in ports(installation):
        async with Wire(url, additional_headers={"authorization": f"Bearer {ann.token}"}) as wire:
            assert "client" in (await wire.ask(connect={}))["connect"]
        async with Wire(url, subprotocols=["sealwire.v1", f"bearer.{ann.token}"]) as wire:
            assert "client" in (await wire.ask(connect={}))["connect"]
            assert wire._socket.subprotocol == "sealwire.v1", "the token is not echoed"
        async with Wire(url) as wire:
            assert "client" in await wire.connect(ann.token)
        in_url = Wire(url)
        in_url._url += f"?token={ann.token}"
        await in_url.__aenter__()
        in_url.post(connect={}).add_done_callback(lambda done: done.exception())
        assert await in_url.closed() == 4501


@pytest.mark.parametrize("first", [{"rpc": {"method": "history"}}, {"subscribe": {"channel": "user:x"}}, {"ping": {}}])
async def test_nothing_is_answered_before_the_first_frame_is_a_good_connect(installation, first) -> None:
    for url in ports(installation):
        wire = await Wire(url).__aenter__()
        waiting = wire.post(**first)
        assert await wire.closed() == 4501
        assert isinstance(waiting.exception(), ConnectionError)
        assert wire.pushes == []


async def test_a_live_socket_takes_a_fresh_token_of_its_own_session_only(installation, person) -> None:
    ann, ben = person("ann"), person("ben")
    async with Wire(installation.url) as wire:
        assert "client" in await wire.connect(ann.token)
        grant = (await asyncio.to_thread(ann.http.post, "/auth/refresh",
                                         json={"refresh_token": ann.grant["refresh_token"]})).json()  # fmt: skip
        reply = await wire.ask(refresh={"token": grant["access_token"]})
        assert reply["refresh"]["expires"]
        assert (await wire.ask(ping={}))["ping"] == {}
        other = dict(ann.grant)
        await asyncio.to_thread(ann.log_in)
        assert other["session_id"] != ann.grant["session_id"]
    for foreign in (ben.token, ann.token):
        async with Wire(installation.url) as wire:
            assert "client" in await wire.connect(grant["access_token"])
            wire.post(refresh={"token": foreign}).add_done_callback(lambda done: done.exception())
            assert await wire.closed() == 4501


async def test_a_role_change_reaches_open_sockets_within_a_second(installation, stranger) -> None:
    owner = stranger("owner")
    invited = Person(installation.url, "eve", tenant=owner.tenant["tenant"])
    chat = owner.converse(invited)
    with HeldUp(installation.pid, installation.data.parent) as held:
        await changed_and_back(installation, owner, invited, chat, held)


async def changed_and_back(installation, owner: Person, invited: Person, chat: str, held: HeldUp) -> None:
    async with Wire(ports(installation)[1]) as wire:
        assert "client" in await wire.connect(invited.token)
        draft = {"conversation_id": chat, "body": "hello"}
        assert "seq" in await wire.rpc("message.send", **draft, client_message_id=secrets.token_hex(8))
        user = f"/auth/users/{invited.user_id}"
        changed = await asyncio.to_thread(owner.http.patch, user, json={"role": "auditor"})
        assert changed.status_code == 200, changed.text
        started = time.monotonic()
        while True:
            reply = await wire.rpc("message.send", **draft, client_message_id=secrets.token_hex(8))
            if "error" in reply:
                break
            assert time.monotonic() - started < DEADLINE_S
        assert slowest_s(await asyncio.to_thread(latest, owner.http, "role")) < BOUND_S + held.up_s
        assert reply["error"]["code"] == 403
        assert "items" in await wire.rpc("history", conversation_id=chat), "the socket is the same one"
        await asyncio.to_thread(owner.http.patch, user, json={"role": "member"})
        started = time.monotonic()
        while "error" in await wire.rpc("message.send", **draft, client_message_id=secrets.token_hex(8)):
            assert time.monotonic() - started < DEADLINE_S
        assert slowest_s(await asyncio.to_thread(latest, owner.http, "role")) < BOUND_S + held.up_s


async def test_a_socket_by_cookie_ends_with_its_session(installation, owner, person) -> None:
    ann = person("ann")
    cookie = cookie_of(ann)
    wires = [
        await Wire(url, additional_headers={"cookie": cookie}, origin=url).__aenter__() for url in ports(installation)
    ]
    for wire in wires:
        assert "client" in (await wire.ask(connect={}))["connect"]
    with HeldUp(installation.pid, installation.data.parent) as held:
        left = await asyncio.to_thread(
            httpx.post, f"{installation.url}/api/v1/auth/logout", headers={"cookie": cookie, "x-sealwire-csrf": "1"}
        )
        assert left.status_code == 204
        assert [await wire.closed() for wire in wires] == [4502] * 3
        receipt = await asyncio.to_thread(latest, owner.http, "session")
        assert slowest_s(receipt) < BOUND_S + held.up_s
    assert sum(applied["sockets"] for applied in receipt["applied"].values()) == 3


def told(wire: Wire, user_id: str) -> list[dict[str, Any]]:
    """Return what a socket was told of the person's sessions and role."""
    kinds = {"session.ended", "sessions.ended", "role.changed"}
    published = [p["pub"]["data"] for p in wire.pushes if p.get("channel") == f"user:{user_id}" and "pub" in p]
    return [data for data in published if data["type"] in kinds]


async def test_the_sockets_that_stay_are_told_of_what_ended_and_what_changed(installation, stranger) -> None:
    """Front ends (R6.5): nobody has to ask again and again who is still logged in, or what one may do."""
    owner = stranger("owner")
    eve = Person(installation.url, "eve", tenant=owner.tenant["tenant"])
    first = dict(eve.grant)
    await asyncio.to_thread(eve.log_in)
    stays, goes, others = (Wire(url) for url in ports(installation))
    async with stays, others:
        await goes.__aenter__()
        assert "client" in await stays.connect(eve.token)
        assert "client" in await goes.connect(first["access_token"])
        assert "client" in await others.connect(owner.token)
        left = await asyncio.to_thread(eve.http.delete, f"/auth/sessions/{first['session_id']}")
        assert left.status_code == 204
        await stays.until(lambda: bool(told(stays, eve.user_id)))
        (ended,) = told(stays, eve.user_id)
        assert (ended["type"], ended["session_id"]) == ("session.ended", first["session_id"])
        assert ended["at"].endswith("Z")
        assert await goes.closed() == 4502
        assert told(goes, eve.user_id) == [], "who is put out is told by the close code alone"
        user = f"/auth/users/{eve.user_id}"
        assert (await asyncio.to_thread(owner.http.patch, user, json={"role": "auditor"})).status_code == 200
        await stays.until(lambda: len(told(stays, eve.user_id)) == 2)
        change = {"current_password": PASSWORD, "new_password": "quite another battery"}
        changed = await asyncio.to_thread(eve.http.post, "/auth/password/change", json=change)
        assert changed.status_code == 204, changed.text
        await stays.until(lambda: len(told(stays, eve.user_id)) == 3)
        assert [data["type"] for data in told(stays, eve.user_id)] == [
            "session.ended",
            "role.changed",
            "sessions.ended",
        ]
        assert told(stays, eve.user_id)[2]["session_id"] == eve.grant["session_id"], "the one that stays"
        assert told(others, owner.user_id) == []
        assert all(push.get("channel") != f"user:{eve.user_id}" for push in others.pushes)


async def test_the_other_sockets_of_a_person_are_told_of_a_login(installation, stranger) -> None:
    owner = stranger("owner")
    eve = Person(installation.url, "eve", tenant=owner.tenant["tenant"])
    here, there, others, own = (Wire(url) for url in (*ports(installation), installation.url))

    def opened(wire: Wire) -> list[dict[str, Any]]:
        data = [p["pub"]["data"] for p in wire.pushes if p.get("channel") == f"user:{eve.user_id}" and "pub" in p]
        return [d for d in data if d["type"] == "session.opened" and d["session_id"] == eve.grant["session_id"]]

    async with here, there, others, own:
        for wire in (here, there):
            assert "client" in await wire.connect(eve.token)
        assert "client" in await others.connect(owner.token)
        await asyncio.to_thread(eve.log_in)
        assert "client" in await own.connect(eve.token)
        for wire in (here, there):
            await wire.until(lambda wire=wire: bool(opened(wire)))
            (told,) = opened(wire)
            assert set(told) == {"type", "session_id", "reason", "change_id", "at"}, "and nothing personal"
            assert told["reason"] == "login"
            assert told["at"].endswith("Z")
            assert (await wire.ask(ping={}))["ping"] == {}, "it ends nothing"
        assert (await own.ask(ping={}))["ping"] == {}
        assert opened(own) == [], "whoever logs in knows"
        assert all(push.get("channel") != f"user:{eve.user_id}" for push in others.pushes)
        health = httpx.URL(installation.url).copy_with(path="/api/integration-health/service-boundary-coordinator")
        seen = (await asyncio.to_thread(owner.http.get, health, params={"change_id": told["change_id"]})).json()
    applied = seen["receipt"]["applied"]
    assert (seen["receipt"]["kind"], set(applied)) == ("login", {"socket1", "socket2"})
    assert sum(heard["sockets"] for heard in applied.values()) == 2
    assert not any(heard["fault"] for heard in applied.values())
